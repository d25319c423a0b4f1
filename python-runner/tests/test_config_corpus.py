"""Configs of the HOCON corpus (test/hocon) as jobs get them: the types that pyhocon gives, and the values that it reads."""

import json
import os
import re
import sys

import pyhocon
import pytest

from stoker_runner import loading

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.append(os.path.join(TOP, 'test', 'hocon'))
import corpus  # noqa: E402

VALUES = {b.name: b.value for b in corpus.read()[1] if b.value is not None}
TEXTS = {name: json.dumps(value, ensure_ascii=False) for name, value in VALUES.items()}

# pyhocon leaves these escapes of a JSON text as they are (jobs of Stoker get the character), and has no empty keys.
FOREIGN = re.compile(r'\\[bfu]|"[^"]*\\n[^"]*":|"":')


def shape(value):
    """What a value of pyhocon's is, all the way down."""
    if isinstance(value, dict):
        return type(value), {key: shape(each) for key, each in dict.items(value)}
    return type(value), [shape(each) for each in value] if isinstance(value, list) else repr(value)


def expected(value):
    """shape() of the config that this JSON value is."""
    if isinstance(value, dict):
        quoted = '$}[]:=+#`^?!@*&.'
        return pyhocon.ConfigTree, {
            f'"{key}"' if any(c in quoted for c in key) else key: expected(each) for key, each in value.items()}
    return type(value), [expected(each) for each in value] if isinstance(value, list) else repr(value)


@pytest.mark.parametrize('name', VALUES)
def test_a_config_has_the_types_of_pyhocon(name):
    tree = loading.config_tree(TEXTS[name])
    assert shape(tree) == expected(VALUES[name])
    if not FOREIGN.search(TEXTS[name]):
        assert shape(tree) == shape(pyhocon.ConfigFactory.parse_string(TEXTS[name]))


def test_few_configs_are_foreign_to_pyhocon():
    foreign = [name for name, text in TEXTS.items() if FOREIGN.search(text)]
    assert len(VALUES) >= 350 and len(foreign) <= 12, foreign
