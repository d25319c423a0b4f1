"""What the corpus expects is what Typesafe Config says, and random texts mean the same to both parsers."""

import json
import random

import pytest

import corpus
import differ
import texts

BLOCKS = corpus.read()[1]
REFUSED = ("NUL", "surrogate", "beyond a double")  # in the names of blocks of which docs/dialects/sjs.md says why


@pytest.fixture(scope="module")
def pair():
    with differ.Pair("release") as sides:
        yield sides


@pytest.fixture(scope="module")
def oracle(pair):
    """The oracle's answers by the blocks' names."""
    return dict(zip((b.name for b in BLOCKS), pair.oracle.ask([b.text.encode() for b in BLOCKS])))


def test_the_corpus_is_a_corpus():
    assert len({b.name for b in BLOCKS}) == len({b.text for b in BLOCKS}) == len(BLOCKS) >= 650
    assert sum(b.expected.startswith("error ") for b in BLOCKS) >= 200
    assert all(any(words in b.name for words in REFUSED) for b in BLOCKS if b.expected.startswith("refused "))


@pytest.mark.parametrize("block", BLOCKS, ids=lambda b: b.name)
def test_the_oracle_agrees(block, oracle):
    """Types count. An error is expected in the line that the oracle names, if it names one (a value that does not go with its
    neighbour: it names the line of the neighbour, we that of the value)."""
    said = oracle[block.name]
    if block.expected.startswith("error "):
        assert not said.ok, said.line
        if said.place and "WrongType" not in said.rest:
            assert block.expected.split()[1].split(":")[0] == said.place, said.line
    else:
        assert said.ok, said.line
        if block.value is not None:
            assert said.typed == json.dumps(block.value, sort_keys=True)


def test_random_texts_mean_the_same(pair):
    """The same ones each time, and whatever is added to the corpus."""
    r, seeds = random.Random(3), [b.text for b in BLOCKS[:300] if len(b.text) < 400]
    batch = [texts.generated(r) for _ in range(10000)] + [texts.mutated(r, seeds) for _ in range(10000)]
    assert [(text, theirs.line, mine.line) for text, theirs, mine in pair.differences(batch)] == []
    assert min(pair.counts["values"], pair.counts["errors"]) > 4000, pair.counts
