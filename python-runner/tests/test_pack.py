"""examples/pack.py, and the examples as far as they work without Spark."""

import importlib.util
import pathlib
import subprocess
import sys
import zipfile

import pytest

from stoker_runner import loading

ROOT = pathlib.Path(__file__).resolve().parents[2]
SPEC = importlib.util.spec_from_file_location('stoker_pack', ROOT / 'examples' / 'pack.py')
pack = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(pack)


@pytest.fixture
def folder(tmp_path):
    """A folder with a package (data file and cached bytecode in it), a module, and what must not be packed."""
    source = tmp_path / 'my-jobs'
    for name, text in {'jobs/__init__.py': 'x = 1\n', 'jobs/data/rows.csv': '1,2\n', 'jobs/__pycache__/a.pyc': 'no',
                       'single.py': '', 'README.md': 'no', 'data/loose.txt': 'no', '.git/config': 'no'}.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(text)
    return source


PACKED = ['jobs/__init__.py', 'jobs/data/rows.csv', 'single.py']


@pytest.mark.parametrize('end,added', [
    ('.zip', []), ('.egg', ['EGG-INFO/PKG-INFO', 'EGG-INFO/top_level.txt', 'EGG-INFO/zip-safe']),
    ('.whl', ['my_jobs-2.1.dist-info/METADATA', 'my_jobs-2.1.dist-info/WHEEL', 'my_jobs-2.1.dist-info/RECORD'])])
def test_contents_and_same_bytes_again(folder, tmp_path, end, added):
    outputs = [tmp_path / 'made' / f'{number}{end}' for number in (1, 2)]
    pack.pack(folder, outputs[0], version='2.1')
    (folder / 'single.py').touch()
    pack.pack(folder, outputs[1], version='2.1')
    assert zipfile.ZipFile(outputs[0]).namelist() == PACKED + added
    assert outputs[0].read_bytes() == outputs[1].read_bytes()


def test_wheel_can_be_installed(folder, tmp_path):
    wheel = tmp_path / 'my_jobs-1.0-py3-none-any.whl'
    pack.pack(folder, wheel)
    subprocess.run([sys.executable, '-m', 'pip', 'install', '--quiet', '--no-deps', '--no-index', '--target',
                    str(tmp_path / 'target'), str(wheel)], check=True)
    assert (tmp_path / 'target' / 'jobs' / 'data' / 'rows.csv').read_text() == '1,2\n'
    record = zipfile.ZipFile(wheel).read('my_jobs-1.0.dist-info/RECORD').decode().splitlines()
    assert record[0] == 'jobs/__init__.py,sha256=nia_NpkRxFwkPGhBR7I_yeHc_PJX0pmhxjIBam_NM_Q,6'
    assert record[-1] == 'my_jobs-1.0.dist-info/RECORD,,'


def test_wrong_end(folder, tmp_path):
    with pytest.raises(ValueError, match='must end in .egg, .zip or .whl'):
        pack.pack(folder, tmp_path / 'x.tar')


def test_folder_without_python(tmp_path):
    with pytest.raises(ValueError, match='has no Python module or package'):
        pack.pack(tmp_path, tmp_path / 'x.egg')
    with pytest.raises(NotADirectoryError):
        pack.pack(tmp_path / 'missing', tmp_path / 'x.egg')


@pytest.mark.parametrize('example,path,config,problem', [
    ('wordcount', 'jobs.WordCount', '{}', 'config input.strings not found'),
    ('wordcount', 'jobs.WordCount', '{"input":{"strings":[1]}}', 'config input.strings is not a list of strings'),
    ('sql_average', 'averages.SQLAverage', '{}', 'config input.data not found'),
    ('sql_average', 'averages.SQLAverage', '{"input":{"data":[[1]]}}', '[1] is not a row [name, age, salary]'),
    ('pi', 'pi.Pi', '{"tasks":0}', 'tasks is 0: it must be 1 or more')])
def test_examples_validate(binaries, monkeypatch, example, path, config, problem):
    monkeypatch.setattr(sys, 'dont_write_bytecode', True)
    binaries()
    folder = str(ROOT / 'examples' / example)
    loading.open_binaries({'binaries': [{'path': folder, 'unpacked': folder}]})
    assert loading.run_class_job(loading.load_job(path), None, lambda: None, config) == ('invalid', None, [problem])
