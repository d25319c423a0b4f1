"""Fixtures of the tests that need no Spark."""

import os
import sys
import textwrap

import pytest

from stoker_runner import failure, loading


@pytest.fixture
def binaries(tmp_path):
    """Returns open(files, ...): makes one unpacked binary of each dict {path: source} and opens them as a run does.

    It returns their folders. sys.path, sys.modules, the environment and failure.code_roots are put back afterwards.
    """
    path, modules, environment, roots = list(sys.path), dict(sys.modules), dict(os.environ), list(failure.code_roots)

    def open_all(*contents):
        folders = []
        for number, files in enumerate(contents):
            folder = tmp_path / f'binary{number}'
            for name, source in files.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_text(textwrap.dedent(source).lstrip('\n'))
            folders.append(str(folder))
        loading.open_binaries({'binaries': [
            {'name': f'b{number}', 'digest': f'd{number}', 'type': 'egg', 'path': f'/store/{number}.egg',
             'unpacked': folder}
            for number, folder in enumerate(folders)]})
        return folders

    yield open_all
    sys.path[:] = path
    sys.modules.clear()
    sys.modules.update(modules)
    os.environ.clear()
    os.environ.update(environment)
    failure.code_roots[:] = roots
