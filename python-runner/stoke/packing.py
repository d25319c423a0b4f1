"""A folder of Python modules and packages as a zip."""
import os
import zipfile

from .errors import Wrong


def pack(folder, output):
    """Writes the folder's modules and packages into the file object `output`, with all files in these; nothing else of it."""
    with zipfile.ZipFile(output, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in files(folder):
            archive.write(path, os.path.relpath(path, folder))
        if not archive.namelist():
            raise Wrong("%s has no Python module or package" % folder)


def files(folder):
    """Yields the paths, in order."""
    for name in sorted(os.listdir(folder)):
        top = os.path.join(folder, name)
        if name.endswith(".py") and os.path.isfile(top):
            yield top
        elif os.path.isfile(os.path.join(top, "__init__.py")):
            for root, folders, names in os.walk(top):
                folders[:] = sorted(each for each in folders if each != "__pycache__")
                yield from (os.path.join(root, each) for each in sorted(names))
