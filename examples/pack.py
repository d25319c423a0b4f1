#!/usr/bin/env python3
"""Packs a folder of Python packages and modules as an egg, a zip or a wheel.

    python3 examples/pack.py examples/wordcount build/wordcount.egg
    python3 examples/pack.py --name wordcount --version 2.1 examples/wordcount build/wordcount.whl

The end of the output's name decides: .egg (the packages and EGG-INFO), .zip (the packages) or .whl (the packages and
NAME-VERSION.dist-info). Taken are the folder's modules and packages with all the files in them, and nothing else of it.
The same files give the same bytes, whenever and wherever they are packed. Needs Python's standard library only.
"""

import argparse
import base64
import hashlib
import pathlib
import zipfile


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', type=pathlib.Path, help='with the packages and modules')
    parser.add_argument('output', type=pathlib.Path, help='NAME.egg, NAME.zip or NAME.whl')
    parser.add_argument('--name', help="of the distribution; the folder's name unless given")
    parser.add_argument('--version', default='1.0')
    given = parser.parse_args()
    try:
        pack(given.folder, given.output, given.name, given.version)
    except (OSError, ValueError) as problem:
        parser.exit(1, f'pack.py: {problem}\n')
    print(f'{given.output}: {given.output.stat().st_size} bytes')


def pack(folder, output, name=None, version='1.0'):
    """Packs what is in `folder` into the file `output`; makes the output's folder too.

    name: of the distribution, the folder's name unless given. Raises ValueError when the output's name has another end
    than .egg, .zip and .whl, or when the folder has no Python module; OSError when a file cannot be read or written.
    """
    folder, output = pathlib.Path(folder), pathlib.Path(output)
    files = modules(folder)
    if not files:
        raise ValueError(f'{folder} has no Python module or package')
    name = (name or folder.resolve().name).replace('-', '_')
    extra = {'.egg': egg_info, '.zip': no_info, '.whl': wheel_info}.get(output.suffix)
    if extra is None:
        raise ValueError(f'{output} must end in .egg, .zip or .whl')
    files.update(extra(files, name, version))
    output.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(output, 'w', zipfile.ZIP_DEFLATED) as archive:
        for path, content in files.items():
            entry = zipfile.ZipInfo(path)  # of 1 January 1980
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3  # Unix
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, content)


def modules(folder):
    """Returns {path in the archive: bytes} of a folder's modules and packages, in order."""
    if not folder.is_dir():
        raise NotADirectoryError(f'{folder} is not a folder')
    files = {}
    for top in sorted(folder.iterdir()):
        if top.suffix == '.py' and top.is_file():
            files[top.name] = top.read_bytes()
        elif (top / '__init__.py').is_file():
            for path in sorted(top.rglob('*')):
                if path.is_file() and '__pycache__' not in path.parts:
                    files[path.relative_to(folder).as_posix()] = path.read_bytes()
    return files


def metadata(name, version):
    return f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n'.encode()


def no_info(files, name, version):
    return {}


def egg_info(files, name, version):
    tops = sorted({path.partition('/')[0].removesuffix('.py') for path in files})
    return {'EGG-INFO/PKG-INFO': metadata(name, version), 'EGG-INFO/top_level.txt': ('\n'.join(tops) + '\n').encode(),
            'EGG-INFO/zip-safe': b'\n'}


def wheel_info(files, name, version):
    folder = f'{name}-{version}.dist-info'
    added = {f'{folder}/METADATA': metadata(name, version),
             f'{folder}/WHEEL': b'Wheel-Version: 1.0\nGenerator: pack.py\nRoot-Is-Purelib: true\nTag: py3-none-any\n'}
    lines = [f'{path},sha256={digest(content)},{len(content)}\n' for path, content in {**files, **added}.items()]
    return {**added, f'{folder}/RECORD': ''.join([*lines, f'{folder}/RECORD,,\n']).encode()}


def digest(content):
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip('=')


if __name__ == '__main__':
    main()
