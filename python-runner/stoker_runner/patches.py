"""Functions and classes of the standard library and of pyspark that a job has replaced by its own.

They are not put back: a module of the binary set may have done it while it was imported, and would not do it again. The
worker retires, and the next one imports what it needs anew. Only what was there at the last note counts: names that are
added harm nobody, unless they hide an inherited one; in builtins they are seen by all.
"""
import ctypes
import gc
import sys

_MODULES = ("builtins", "io", "json", "logging", "math", "os", "os.path", "pickle", "random", "re", "shutil", "socket",
            "subprocess", "tempfile", "threading", "time", "urllib.request", "warnings", "pyspark",
            "pyspark.cloudpickle",
            "pyspark.sql.functions", "pyspark.sql.functions.builtin", "pyspark.serializers", "pandas", "numpy",
            "sparkjobserver.api")
_CLASSES = (("pyspark.sql", "SparkSession"), ("pyspark.sql", "DataFrame"), ("pyspark.sql", "Column"),
            ("pyspark.sql", "DataFrameReader"), ("pyspark.sql", "DataFrameWriter"), ("pyspark.sql", "Row"),
            ("pyspark.sql.classic.dataframe", "DataFrame"), ("pyspark.sql.classic.column", "Column"),
            ("pyspark", "SparkContext"), ("pyspark", "RDD"), ("pyspark", "Broadcast"), ("pyspark", "SparkConf"),
            ("pandas", "DataFrame"), ("pandas", "Series"), ("sparkjobserver.api", "SparkJob"))
NAMES = {*_MODULES, *(module for module, _ in _CLASSES)}


def _tag_of(names):
    """A view of the number that CPython changes with every change of a dict (ma_version_tag, up to Python 3.13)."""
    return ctypes.c_uint64.from_address(id(names) + 24)


def _tags_work():
    """True when this interpreter has that number."""
    names = {"a": 1}
    tag, seen = _tag_of(names), set()
    for change in (lambda: names.update(b=1), lambda: names.update(a=2), lambda: names.pop("b")):
        before = tag.value
        if before != tag.value:
            return False
        change()
        seen.add(before)
    return len(seen | {tag.value}) == 4


class _Watched:
    """One dict of names: those of a module or a class."""

    def __init__(self, title, names, bases=()):
        """bases: where else the names are looked up, when they are not in the dict; None: everywhere."""
        self.title, self.names, self.bases = title, names, bases
        self.tag = _tag_of(names)
        self.note()

    def note(self):
        self.known = {name: value for name, value in self.names.items() if callable(value)}
        self.all = set(self.names)
        self.seen = self.tag.value

    def found(self):
        """The name of something that was replaced, or None; then the change was harmless and is not looked at again."""
        get = self.names.get
        for name, value in self.known.items():
            if get(name) is not value:
                return "%s.%s" % (self.title, name)
        for name in self.names.keys() - self.all:
            if self.bases is None or any(name in vars(base) for base in self.bases):
                return "%s.%s" % (self.title, name)
        self.seen = self.tag.value
        return None


class Patches:
    def __init__(self):
        self._use_tags = _tags_work()
        self._modules_tag = _tag_of(sys.modules)
        self._watched = []

    def note(self):
        """Begins anew, with nothing watched but which modules there are."""
        self._watched = []
        self._note_modules()

    def watch(self, new):
        """Those of the modules, by name, that are loaded, as they are now."""
        self._watched += [_Watched(name, vars(sys.modules[name]), None if name == "builtins" else ()) for name in _MODULES
                          if name in new and name in sys.modules]
        for module, name in _CLASSES:
            cls = getattr(sys.modules.get(module), name, None) if module in new else None
            if cls is not None:
                self._watched.append(_Watched("%s.%s" % (cls.__module__, name), _dict_of(cls), cls.__mro__[1:]))

    def _note_modules(self):
        self._modules = dict(sys.modules)
        self._modules_seen = self._modules_tag.value

    def found(self):
        """Why the worker retires, or None."""
        use_tags = self._use_tags
        for each in self._watched:
            if use_tags and each.tag.value == each.seen:
                continue
            name = each.found()
            if name:
                return "its job replaced %s" % name
        if not use_tags or self._modules_tag.value != self._modules_seen:
            return self._module_replaced()
        return None

    def _module_replaced(self):
        get = sys.modules.get
        for name, module in self._modules.items():
            if get(name) is not module:
                return "its job replaced module %s" % name
        self._note_modules()
        return None


def _dict_of(cls):
    """The dict behind a class's read-only view."""
    return next((each for each in gc.get_referents(cls.__dict__) if type(each) is dict), {})
