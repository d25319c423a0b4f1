"""Named objects of a context: values that outlive their job, in a map inside the JVM that all workers share.

A DataFrame or an RDD is kept as what the JVM has of it, with its cached blocks; any other value as a pickle. What a
worker has named outlives the worker, kill -9 included (rules A3 and A9 see to it).
"""
import pickle
import time

from pyspark import RDD, cloudpickle
from pyspark.sql import DataFrame
from sparkjobserver.api import NamedObject, NamedObjects

from . import jvm

CREATE_SECONDS = 60.0       # how long callers wait for the one that creates, as in Spark Job Server
LOOK_SECONDS = 0.05


class JvmNamedObjects(NamedObjects):
    """For the jobs of one worker. Any thread."""

    def __init__(self, attachment):
        self._attachment = attachment

    def _shared(self, key):
        return jvm.shared_map(self._attachment.sc._jvm, key)

    def get(self, name):
        entry = self._shared(jvm.NAMED).get(name)
        return None if entry is None else NamedObject(self._load(entry), False, None)

    def get_or_else_create(self, name, obj_gen):
        """One caller of all workers creates; the others wait for it, at most CREATE_SECONDS (TimeoutError)."""
        locks, end = self._shared(jvm.NAMED_LOCKS), time.monotonic() + CREATE_SECONDS
        while True:
            found = self.get(name)
            if found is not None:
                return found
            if locks.putIfAbsent(name, self._attachment.process) is None:
                break
            if time.monotonic() > end:
                raise TimeoutError("named object '%s' was not created within %g s" % (name, CREATE_SECONDS))
            time.sleep(LOOK_SECONDS)
        try:
            return self.get(name) or self.update(name, obj_gen)
        finally:
            locks.remove(name)

    def update(self, name, obj_gen):
        named = obj_gen()
        if not isinstance(named, NamedObject):
            named = NamedObject(named, False, None)
        self._shared(jvm.NAMED).put(name, self._store(named))
        return named

    def forget(self, name):
        self._shared(jvm.NAMED).remove(name)

    def destroy(self, name):
        found = self.get(name)
        self.forget(name)
        if found is not None and isinstance(found.obj, (RDD, DataFrame)):
            found.obj.unpersist()

    def get_names(self):
        return sorted(self._shared(jvm.NAMED).keySet())

    def _store(self, named):
        """A Java map: `df`; `rdd` and `serializer`; or `value`."""
        entry, obj = self._attachment.sc._jvm.java.util.HashMap(), named.obj
        if isinstance(obj, (RDD, DataFrame)):
            if named.storage_level is not None:
                obj.persist(named.storage_level)
            if named.forceComputation:
                obj.count()
            self._attachment.keep()
        if isinstance(obj, DataFrame):
            entry.put("df", obj._jdf)
        elif isinstance(obj, RDD):
            entry.put("rdd", obj._jrdd)
            entry.put("serializer", bytearray(cloudpickle.dumps(obj._jrdd_deserializer)))
        else:
            entry.put("value", bytearray(cloudpickle.dumps(obj)))
        return entry

    def _load(self, entry):
        jdf, jrdd = entry.get("df"), entry.get("rdd")
        if jdf is not None:
            return DataFrame(jdf, self._attachment.spark)
        if jrdd is not None:
            rdd = RDD(jrdd, self._attachment.sc, pickle.loads(bytes(entry.get("serializer"))))
            rdd.is_cached = jrdd.rdd().getStorageLevel().useMemory() or jrdd.rdd().getStorageLevel().useDisk()
            return rdd
        return pickle.loads(bytes(entry.get("value")))
