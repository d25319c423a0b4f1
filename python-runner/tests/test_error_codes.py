"""The table of codes in docs/errors.md and the codes in the sources are the same, and agree on what a retry can do."""

import os
import re

import pytest

from stoker_runner import failure, verdicts

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def read(*path):
    with open(os.path.join(ROOT, *path)) as f:
        return f.read()


def sources(folder, ending):
    return '\n'.join(read(folder, name) for name in sorted(os.listdir(os.path.join(ROOT, folder))) if name.endswith(ending))


def documented():
    """{code: set of retry verdicts}"""
    rows = re.findall(r'^\| (`[A-Z_]+`(?:, `[A-Z_]+`)*) \|.*\| ([a-z, -]+) \|$', read('docs', 'errors.md'), re.MULTILINE)
    return {code: set(retry.split(', ')) for codes, retry in rows for code in re.findall('[A-Z_]+', codes)}


def of_c():
    text = sources('jobs', '.c')
    calls = re.findall(r'(?:failure_text|context_log_error)\((?:ctx, )?((?:starting \? )?"[A-Z_]+"(?: : "[A-Z_]+")?)', text)
    return {code for call in calls for code in re.findall('[A-Z_]+', call)}


def of_verdicts():
    tables = [verdicts._ERRNO, verdicts._PYTHON, verdicts._PYTHON_CONDITIONS, verdicts._JAVA_OUTER, verdicts._JAVA,
              verdicts._CONDITIONS]
    written = re.findall(r"erdict\('([A-Z_]+)'|return '([A-Z_]+)'|else '([A-Z_]+)'|\('([A-Z_]+)' if",
                         read('python-runner', 'stoker_runner', 'verdicts.py'))
    return ({code for table in tables for code in table.values()}
            | {code for _, _, code in verdicts._TEXTS + verdicts._OUTER_TEXTS} | {each for groups in written for each in groups if each})


def of_python():
    text = sources('python-runner/stoker_runner', '.py')
    calls = re.findall(r"""(?:JobError|_not_found)\(\s*['"]([A-Z_]+)['"]|self\.fail\("\w+", "([A-Z_]+)"|code = "([A-Z_]+)\"""", text)
    return {code for groups in calls for code in groups if code} | {phase[0] for phase in failure.PHASES.values()} | {'KILLED'}


def test_every_code_is_documented_and_every_documented_code_is_used():
    assert len(of_c()) > 12 and len(of_verdicts()) > 14 and len(of_python()) > 12
    assert of_c() | of_verdicts() | of_python() == set(documented())


def test_the_corpus_has_only_documented_verdicts():
    cases = re.findall(r'^@fails\("([A-Z_]+)"(?:, "([a-z-]+)")?', read('test', 'spark', 'jobs', 'failing', 'corpus.py'), re.MULTILINE)
    assert len(cases) >= 40
    for code, retry in cases:
        assert (retry or verdicts.NEVER) in documented()[code], code
    assert f'{len(cases)} jobs that fail' in read('docs', 'errors.md')


@pytest.mark.parametrize('code', sorted(of_verdicts() | of_python()))
def test_the_runner_and_the_table_agree_on_a_retry(code):
    assert verdicts.retry_of(code) in documented()[code]


def test_the_server_and_the_table_agree_on_a_retry():
    helps = re.search(r'helps\[\] = \{(.*?)\};', read('jobs', 'failure.c'), re.DOTALL).group(1)
    helps = set(re.findall('[A-Z_]+', helps))
    for code in of_c():
        default = ('may-help' if code in helps else 'with-more-memory' if code == 'DRIVER_OUT_OF_MEMORY' else 'never')
        assert default in documented()[code], code


def test_the_page_is_linked():
    for path in (('README.md',), ('docs', 'dialects', 'native.md'), ('docs', 'dialects', 'sjs.md'), ('python-runner', 'PROTOCOL.md')):
        assert 'errors.md' in read(*path), path
