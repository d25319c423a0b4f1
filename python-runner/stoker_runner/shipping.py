"""What executors need of a binary set (rule A10): its modules on their path, and processes that share none with others.

In local mode executors see this machine's folders. On a cluster each binary travels as a file named by its digest and
the use of the set (sets.py), so that no two contents ever meet under one name (K4) and a file can be removed for good
when the use has ended; zip import takes eggs, zips and, as a zip, wheels.
"""
import hashlib
import os
import shutil
import zipfile

from . import launch, sets

RUNNER_DIR = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
RUNNER_PACKAGES = ("stoker_runner", "sparkjobserver")     # a job class can be pickled, and refers to its base class


class Shipping:
    """binaries: the list of the `run` frame. folder: where copies for the cluster are made; the keeper removes them."""

    def __init__(self, binary_set, binaries, python_paths, folder):
        self.binary_set, self._folder = binary_set, folder
        self._binaries = [b for b in binaries if b.get("type") != "jar"]
        self._python_paths = list(python_paths) + [RUNNER_DIR]

    def environment(self, sc, use):
        """What executor-side Python gets in its environment. Spark keeps one pool of processes for each such dict, so it
        names the binaries only where they do not come as files."""
        local = launch.is_local(sc.master)
        binaries = [b.get("unpacked") or b["path"] for b in self._binaries] if local else []
        return {"STOKER_BINARIES": sets.environment_name(self.binary_set, use, local),
                "PYTHONPATH": os.pathsep.join(binaries + self._python_paths)}

    def send(self, sc, use):
        """Adds the files to the context when its executors are elsewhere. Their names, as executors know them."""
        if launch.is_local(sc.master):
            return []
        os.makedirs(self._folder, exist_ok=True)
        files = [self._copy(b, use) for b in self._binaries] + [self._runner_zip()]
        for path in files:
            sc.addPyFile(path)
        return [os.path.basename(path) for path in files]

    def _copy(self, binary, use):
        path = os.path.join(self._folder, sets.file_name(binary["digest"], use))
        if os.path.exists(path):
            return path
        source = binary["path"]
        if zipfile.is_zipfile(source):
            return _publish(path, lambda temp: _link(source, temp))
        return _publish(path, lambda temp: _zip(temp, [(source, "%s.py" % binary["name"])]))

    def _runner_zip(self):
        members = [(os.path.join(root, name), os.path.relpath(os.path.join(root, name), RUNNER_DIR))
                   for package in RUNNER_PACKAGES for root, _, names in os.walk(os.path.join(RUNNER_DIR, package))
                   for name in sorted(names) if name.endswith(".py")]
        digest = hashlib.sha256()
        for source, name in members:
            with open(source, "rb") as f:
                digest.update(name.encode() + b"\0" + f.read())
        path = os.path.join(self._folder, "stoker-%s.zip" % digest.hexdigest()[:16])
        return path if os.path.exists(path) else _publish(path, lambda temp: _zip(temp, members))


def _zip(path, members):
    with zipfile.ZipFile(path, "w") as z:
        for source, name in members:
            z.write(source, name)


def _link(source, path):
    """A second name where the file system has that: a stored binary never changes."""
    try:
        os.link(source, path)
    except OSError:
        shutil.copyfile(source, path)


def _publish(path, write):
    """Two workers may make the same file at one moment: each writes its own and renames."""
    temp = "%s.%d" % (path, os.getpid())
    write(temp)
    os.rename(temp, path)
    return path
