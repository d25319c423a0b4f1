"""The named objects of a context, as they lie in a map of its JVM: what workers and keeper both know of them.

An entry is a Java map that never changes once it is in the map `jvm.NAMED`:

    id      a text that no other entry of the context has
    about   JSON text: kind "dataframe", "rdd" or "value"; job; named_at (seconds since 1970); level (below);
            rdd (Spark's number of it) or bytes (of a value)
    needs   whose files it needs (needs.py)
    df      of a dataframe: the Java DataFrame
    rdd, serializer     of an RDD: the JavaRDD; the pickled serializer of its Python side
    value   of a value: its pickle

A level is null or the five fields of a StorageLevel.
"""
import json
import traceback

from pyspark import StorageLevel

from . import jvm, needs

LEVEL_FIELDS = ("useDisk", "useMemory", "useOffHeap", "deserialized", "replication")
NO_LEVEL = StorageLevel(False, False, False, False)


def level_of(java):
    """A StorageLevel of a Java one, None for NONE."""
    level = StorageLevel(*(getattr(java, field)() for field in LEVEL_FIELDS))
    return None if level == NO_LEVEL else level


def level_name(level):
    """What pyspark calls a level, else what Spark says of it. None for None."""
    if level is None:
        return None
    names = [name for name in dir(StorageLevel) if name.isupper() and getattr(StorageLevel, name) == level]
    return min(names, key=len) if names else str(level)


def java_object(entry):
    """The Java DataFrame or JavaRDD of an entry, None of a value."""
    return entry.get("df") or entry.get("rdd")


def unpersist(named, entry):
    """Frees what Spark holds of an entry that has left the map, unless another name stands for the same. named: the map."""
    mine, kind = java_object(entry), "df" if entry.get("df") else "rdd"
    if mine is None:
        return
    for other in list(named.values()):
        theirs = other.get(kind)
        if theirs is not None and (mine.sameSemantics(theirs) if kind == "df" else mine.id() == theirs.id()):
            return
    mine.unpersist(False)


class Shelf:
    """The keeper's side. Any thread."""

    def __init__(self, sc, spark):
        self._sc, self._spark = sc._jsc.sc(), spark
        self._named = jvm.shared_map(sc._jvm, jvm.NAMED)

    def list(self):
        """What there is, by name: dicts as `objects` has them (PROTOCOL.md section 5)."""
        stored = self._stored()
        found = ((name, self._named.get(name)) for name in sorted(self._named.keySet()))
        return [self._describe(name, entry, stored) for name, entry in found if entry is not None]

    def drop(self, name):
        """Drops the object of that name and frees its memory. What it was, as list() has it; None when there is none."""
        entry = self._named.get(name)
        if entry is None or not self._named.remove(name, entry):
            return None         # or another has come in its place just now
        described = self._describe(name, entry, self._stored())
        unpersist(self._named, entry)
        return described

    def needed(self):
        """The workers whose files named objects need."""
        return set().union(*(needs.parse(entry.get("needs")) for entry in list(self._named.values())))

    def _describe(self, name, entry, stored):
        found = {"name": name, "kind": "value", "job": None, "named_at": None, "storage_level": None, "partitions": None,
                 "cached_partitions": None, "memory_bytes": None, "disk_bytes": None}
        try:
            about = json.loads(entry.get("about"))
            found.update((key, about[key]) for key in ("kind", "job", "named_at"))
            if found["kind"] == "value":
                found["memory_bytes"] = about["bytes"]
                return found
            java = java_object(entry)
            level = level_of(java.storageLevel() if found["kind"] == "dataframe" else java.getStorageLevel())
            found["storage_level"] = level_name(level)
            if level is not None:
                number = about["rdd"] if found["kind"] == "rdd" else self._rdd_of(java)
                found.update(cached_partitions=0, memory_bytes=0, disk_bytes=0)
                found.update(stored.get(number, {}))
        except Exception:       # the others are listed all the same
            traceback.print_exc()
        return found

    def _stored(self):
        """Spark's number of an RDD -> what it holds of it, of those of which it holds something. By its status store: to
        ask the RDDs themselves would compute their partitions, which may take long or fail."""
        listed = self._sc.statusStore().rddList(True)
        infos = [listed.apply(n) for n in range(listed.size())]
        return {info.id(): {"partitions": info.numPartitions(), "cached_partitions": info.numCachedPartitions(),
                            "memory_bytes": info.memoryUsed(), "disk_bytes": info.diskUsed()} for info in infos}

    def _rdd_of(self, jdf):
        """The number of the RDD in which a DataFrame is cached, None before its first use."""
        cached = self._spark._jsparkSession.sharedState().cacheManager().lookupCachedData(jdf)
        if not cached.isDefined():
            return None
        builder = cached.get().cachedRepresentation().cacheBuilder()
        field = builder.getClass().getDeclaredField("_cachedColumnBuffers")     # its getter would compute it
        field.setAccessible(True)
        rdd = field.get(builder)
        return rdd.id() if rdd is not None else None
