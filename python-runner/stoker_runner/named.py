"""Named objects for jobs: DataFrames, RDDs and plain values that outlive their job and are shared in its context.

A DataFrame or an RDD is kept as what the JVM has of it (objects.py), with its cached blocks; any other value as a pickle.
What a worker has named outlives the worker, kill -9 included.
"""
import contextlib
import json
import pickle
import re
import threading
import time
import unicodedata
import uuid

from pyspark import RDD, Accumulator, Broadcast, SparkContext, cloudpickle
from pyspark.sql import DataFrame, SparkSession
from sparkjobserver.api import NamedObject, NamedObjects

from . import jvm, needs, objects

TIMEOUT_SETTING = "named-object-creation-timeout"
TIMEOUT_SECONDS = 60.0      # how long callers wait for one that is being created, as in Spark Job Server
LOOK_SECONDS = 0.05
NAME_BYTES = 255
UNITS = {"ms": 0.001, "": 1, "s": 1, "second": 1, "seconds": 1, "m": 60, "min": 60, "minute": 60, "minutes": 60,
         "h": 3600, "hour": 3600, "hours": 3600}
UNSHARED = {
    Broadcast: "name the value, and broadcast it in the job that uses it",
    Accumulator: "it counts for the job that has made it",
    SparkContext: "each job is given it",
    SparkSession: "each job is given it",
}


class JvmNamedObjects(NamedObjects):
    """For the jobs of one worker. Any thread.

    Beyond the methods of its base: `update` and the creating ones take the object itself in the place of a function that makes it,
    a NamedObject of anybody's `sparkjobserver` or the plain object; a time-out (seconds) may be given.
    """

    def __init__(self, attachment, settings):
        """settings: of the context."""
        self._attachment, self._settings = attachment, settings
        self._creating = threading.local()      # .names: that this thread creates

    def _shared(self, key):
        return jvm.shared_map(self._attachment.sc._jvm, key)

    def get(self, name, timeout=None):
        """The NamedObject, or None. Waits for one that another job creates just now (TimeoutError)."""
        for _ in self._tries(name, timeout):
            found = self._find(name)
            if found is not None or not self._shared(jvm.NAMED_LOCKS).containsKey(name):
                return found or self._find(name)

    def get_or_else_create(self, name, obj_gen, timeout=None):
        """One caller of all workers creates; the others wait for it (TimeoutError)."""
        for _ in self._tries(name, timeout):
            found = self._find(name)
            if found is not None:
                return found
            if self._lock(name):
                with self._locked(name):
                    return self._find(name) or self._put(name, obj_gen)

    def update(self, name, obj_gen, timeout=None):
        """The one that was there is destroyed. Waits for who creates it just now (TimeoutError)."""
        for _ in self._tries(name, timeout):
            if self._lock(name):
                with self._locked(name):
                    return self._put(name, obj_gen)

    def forget(self, name):
        if self._shared(jvm.NAMED).remove(name) is not None:
            self._tell()

    def destroy(self, name):
        named = self._shared(jvm.NAMED)
        entry = named.remove(name)
        if entry is not None:
            objects.unpersist(named, entry)
            self._tell()

    def get_names(self):
        return sorted(self._shared(jvm.NAMED).keySet())

    getOrElseCreate = get_or_create = getOrCreate = get_or_else_create
    getNames = get_names

    # -- who creates

    def _tries(self, name, timeout):
        """Goes on until the time is over."""
        _check_name(name)
        seconds = self._timeout() if timeout is None else timeout
        end = time.monotonic() + seconds
        while True:
            yield
            if time.monotonic() >= end:
                raise TimeoutError("named object '%s' is still being created after %g s" % (name, seconds))
            time.sleep(LOOK_SECONDS)

    def _lock(self, name):
        if name in self._names():
            raise RuntimeError("named object '%s' is created by the code that asks for it" % name)
        return self._shared(jvm.NAMED_LOCKS).putIfAbsent(name, self._attachment.process) is None

    @contextlib.contextmanager
    def _locked(self, name):
        self._names().add(name)
        try:
            yield
        finally:
            self._names().discard(name)
            self._shared(jvm.NAMED_LOCKS).remove(name)

    def _names(self):
        if not hasattr(self._creating, "names"):
            self._creating.names = set()
        return self._creating.names

    def _timeout(self):
        text = self._settings.get(TIMEOUT_SETTING, TIMEOUT_SECONDS)
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", str(text))
        if not match or match[2] not in UNITS:
            raise ValueError("the context's setting %s is no time: %r" % (TIMEOUT_SETTING, text))
        return float(match[1]) * UNITS[match[2]]

    # -- the map

    def _put(self, name, obj_gen):
        made = obj_gen() if callable(obj_gen) and not _is_named(obj_gen) else obj_gen
        named = NamedObject(made.obj, bool(getattr(made, "forceComputation", False)),
                            getattr(made, "storage_level", None)) if _is_named(made) else NamedObject(made, False, None)
        entry = self._store(name, named)
        shared = self._shared(jvm.NAMED)
        with self._attachment.interrupts.shield():
            old = shared.put(name, entry)
            if old is not None:
                objects.unpersist(shared, old)
                self._tell()
        return named

    def _tell(self):
        """The keeper may remove files that nothing needs any more."""
        self._shared(jvm.NEWS).put(jvm.DROPPED, True)

    def _store(self, name, named):
        """The entry of an object, which is persisted and computed as it says."""
        entry, obj = self._attachment.sc._jvm.java.util.HashMap(), named.obj
        about = {"job": self._attachment.job, "named_at": time.time(), "level": None}
        if isinstance(obj, (RDD, DataFrame)):
            about.update(self._prepare(name, named))
            if isinstance(obj, DataFrame):
                entry.put("df", obj._jdf)
            else:
                entry.put("rdd", obj._jrdd)
                entry.put("serializer", bytearray(cloudpickle.dumps(obj._jrdd_deserializer)))
            entry.put("needs", needs.text(self._attachment.needs.of_new()))
        else:
            value = bytearray(_pickled(name, obj))
            about.update(kind="value", bytes=len(value))
            entry.put("value", value)
            entry.put("needs", "")
        entry.put("id", uuid.uuid4().hex)
        entry.put("about", json.dumps(about))
        return entry

    @staticmethod
    def _prepare(name, named):
        """Persists and computes an RDD or a DataFrame; what fails is not persisted any more. Fields of `about`."""
        obj, level, persisted = named.obj, named.storage_level, False
        try:
            if isinstance(obj, RDD):
                if not obj.name():
                    obj.setName(name)
                if obj._jrdd.rdd().getStorageLevel().isValid():
                    level = None        # Spark does not change one that was given
            if level is not None:
                obj.persist(level)
                persisted = True
            if named.forceComputation:
                obj.count()
        except BaseException:
            if persisted:
                obj.unpersist()
            raise
        about = {"kind": "rdd", "rdd": obj._jrdd.id()} if isinstance(obj, RDD) else {"kind": "dataframe"}
        if named.storage_level is not None:
            is_level = obj.getStorageLevel() if isinstance(obj, RDD) else obj.storageLevel
            about["level"] = [getattr(is_level, field) for field in objects.LEVEL_FIELDS]
        return about

    def _find(self, name):
        """The NamedObject, or None."""
        while True:
            entry = self._shared(jvm.NAMED).get(name)
            if entry is None:
                return None
            if not self._attachment.needs.borrow(needs.parse(entry.get("needs"))):
                return self._load(name, entry)
            again = self._shared(jvm.NAMED).get(name)
            if again is not None and again.get("id") == entry.get("id"):
                return self._load(name, entry)      # it was not dropped before it was borrowed

    def _load(self, name, entry):
        about = json.loads(entry.get("about"))
        level = about["level"] and objects.StorageLevel(*about["level"])
        if about["kind"] == "dataframe":
            return NamedObject(DataFrame(entry.get("df"), self._attachment.spark), False, level)
        if about["kind"] == "rdd":
            jrdd = entry.get("rdd")
            rdd = RDD(jrdd, self._attachment.sc, pickle.loads(bytes(entry.get("serializer"))))
            rdd.is_cached = jrdd.rdd().getStorageLevel().isValid()
            return NamedObject(rdd, False, level)
        try:
            return NamedObject(pickle.loads(bytes(entry.get("value"))), False, None)
        except (ImportError, AttributeError) as e:
            raise RuntimeError("named object '%s' is of a class that this job's binaries do not have (%s); job %s has "
                               "made it" % (name, e, about["job"])) from e


def _is_named(value):
    """A NamedObject, ours or one of a copy of `sparkjobserver` that a binary brings."""
    return isinstance(value, NamedObject) or (
        any(kind.__name__ == "NamedObject" for kind in type(value).__mro__) and hasattr(value, "obj"))


def _check_name(name):
    """Every name can be said in the path of a request."""
    if not isinstance(name, str):
        raise TypeError("the name of a named object must be a str, not %s" % type(name).__name__)
    try:
        length = len(name.encode())
    except UnicodeEncodeError:
        raise ValueError("the name of a named object must be text: %r" % name) from None
    if name in (".", "..") or not 0 < length <= NAME_BYTES or any(unicodedata.category(c) == "Cc" for c in name):
        raise ValueError("the name of a named object must have 1 to %d bytes, no control characters, and not be a dot or two: %.300r"
                         % (NAME_BYTES, name))


def _pickled(name, value):
    reason = next((why for kind, why in UNSHARED.items() if isinstance(value, kind)), None)
    try:
        if reason is None:
            return cloudpickle.dumps(value)
    except Exception as e:
        reason = "%s: %s" % (type(e).__name__, e)
    raise TypeError("an object of class %s cannot be shared as '%s': %s. DataFrames, RDDs and values that can be pickled "
                    "can be" % (type(value).__qualname__, name, reason))
