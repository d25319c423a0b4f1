"""Named objects on real Spark: shared by the workers of a context, longer lived than who made them, and gone when dropped."""
import json
import os
import signal
import urllib.parse
import uuid
import zipfile

import pytest
from conftest import FLAGS, wait_until
from harness import JOBS, FakeContext, make_binary

HEAD = """
from pyspark import StorageLevel
from sparkjobserver.api import NamedObject
import pyspark.sql.functions as F
sc, names = context.sparkContext, runtime.named_objects
def said(f):
    try:
        return f()
    except Exception as e:
        return "%s: %s" % (type(e).__name__, e)
"""
PERSISTENT = HEAD + "result = len(sc._jsc.getPersistentRDDs())"
LEFT = """
from stoker_runner import jvm
shared = context.sparkContext._jvm
result = {key: dict(jvm.shared_map(shared, key)) for key in (jvm.SETS, jvm.TEMP_DIRS, jvm.BORROWED)}
"""


class Own:
    """A context of the test module's own: what is persisted in it is counted. Objects are asked for as the server does."""

    def __init__(self, context):
        self.context = context
        self.made = []

    def worker(self):
        self.made.append(self.context.worker())
        return self.made[-1]

    def ask(self, kind, answer, **fields):
        request, since = str(uuid.uuid4()), self.context.server.mark()
        self.context.send("k", type=kind, request=request, **fields)
        found = [self.context.wait("k", answer, since=since, request=request)]
        while found[-1].get("more"):
            since = self.context.server.mark()
            found.append(self.context.wait("k", answer, since=since, request=request))
        assert not any("error" in each for each in found), found
        return found

    def list(self):
        return {each["name"]: each for frame in self.ask("objects", "objects") for each in frame["objects"]}

    def drop(self, name):
        return self.ask("drop", "dropped", name=name)[0]["object"]

    def left(self, watcher):
        return watcher.value(HEAD + LEFT)


@pytest.fixture(scope="module")
def shared(server):
    context = FakeContext(server)
    context.start()
    yield context
    assert context.end() == 0, context.log()


@pytest.fixture
def own(shared):
    own = Own(shared)
    yield own
    for name in own.list():
        own.drop(name)
    for worker in own.made:
        if not shared.seen("z", "exited", process=worker.name):
            worker.kill()


def persistent(worker):
    return worker.value(PERSISTENT)


# ---------------------------------------------------------------- sharing

MAKE = HEAD + """
names.update("df", NamedObject(context.range(1000).withColumn("x", F.udf(lambda n: n + 1, "long")("id")), True,
                               StorageLevel.MEMORY_AND_DISK))
bonus = sc.broadcast(7)
names.update("rdd", lambda: NamedObject(sc.parallelize(range(100), 4).map(lambda x: (x % 3, {"n": x + bonus.value})), True,
                                        StorageLevel.MEMORY_ONLY))
names.update("plain", context.range(3))
names.getOrElseCreate("text", lambda: sc.parallelize(["a", "b"], 2))
names.get_or_create("value", lambda: {"rates": [1, 2.5, None]})
result = names.get_names()
"""
READ = HEAD + """
rdd = names.get("rdd").obj
result = [
    names.get("df").obj.agg(F.sum("x")).collect()[0][0],
    rdd.map(lambda kv: kv[1]["n"]).sum(), sorted(rdd.mapValues(lambda v: v["n"]).reduceByKey(max).collect()),
    rdd.zipWithIndex().count(), names.get("plain").obj.join(names.get("df").obj, "id").count(),
    names.getNames(), sorted(names.get("text").obj.map(str.upper).collect()), names.get("value").obj,
    rdd.is_cached, str(names.get("rdd").storage_level), names.get("text").storage_level, names.get("nothing"),
    rdd.toDF(["k", "v"]).count(), names.get("df").obj.rdd.map(lambda row: row.x).max(),
    names is runtime.namedObjects,
]
"""
SEEN = [500500, 5650, [[0, 106], [1, 104], [2, 105]], 100, 3, ["df", "plain", "rdd", "text", "value"], ["A", "B"],
        {"rates": [1, 2.5, None]}, True, "Memory Serialized 1x Replicated", None, None, 100, 1000, True]


def test_what_one_worker_names_all_workers_have_whoever_dies(own):
    maker = own.worker()
    assert maker.value(MAKE, binary_set="maker") == ["df", "plain", "rdd", "text", "value"]
    assert own.worker().value(READ, binary_set="other") == SEEN
    maker.kill()
    assert own.worker().value(READ, binary_set="third") == SEEN


def test_they_are_listed_with_what_they_hold(own):
    job = own.worker().start(MAKE)
    job.done()
    found = wait_until(lambda: (lambda o: o["rdd"]["cached_partitions"] == 4 and o["df"]["memory_bytes"] and o)(own.list()),
                       what="Spark's account of what is cached")
    assert all(each["job"] == job.id and each["named_at"] > 1.6e9 for each in found.values())
    assert {name: (each["kind"], each["storage_level"]) for name, each in found.items()} == {
        "df": ("dataframe", "MEMORY_AND_DISK"), "rdd": ("rdd", "MEMORY_ONLY"), "plain": ("dataframe", None),
        "text": ("rdd", None), "value": ("value", None)}
    assert found["rdd"]["partitions"] == 4 and found["rdd"]["memory_bytes"] > 0 and found["rdd"]["disk_bytes"] == 0
    assert found["df"]["partitions"] == found["df"]["cached_partitions"] > 0
    assert found["plain"]["memory_bytes"] is None and found["value"]["memory_bytes"] > 10


def test_an_rdd_that_is_persisted_and_was_not_computed_yet(own):
    """It is not computed to be listed, not even its partitions: the input of this one is missing."""
    own.worker().value(HEAD + """
names.update("missing", NamedObject(sc.textFile("file:///not/there"), False, StorageLevel.DISK_ONLY))
names.update("lazy", NamedObject(context.range(5), False, StorageLevel.MEMORY_ONLY))
    """)
    found = own.list()
    assert (found["missing"]["storage_level"], found["missing"]["memory_bytes"]) == ("DISK_ONLY", 0)
    assert (found["lazy"]["storage_level"], found["lazy"]["memory_bytes"]) == ("MEMORY_ONLY", 0)


# ---------------------------------------------------------------- dropping

@pytest.mark.parametrize("how", ["destroy", "update", "keeper"])
def test_memory_of_what_is_dropped_is_freed(own, how):
    worker, other = own.worker(), own.worker()
    before = persistent(worker)
    worker.value(MAKE)
    assert persistent(other) == before + 2
    for name in ("df", "rdd", "value", "plain", "text"):
        if how == "keeper":
            assert own.drop(name)["name"] == name
            assert own.drop(name) is None
        else:
            other.value(HEAD + ("names.destroy(args), names.destroy(args)" if how == "destroy" else "names.update(args, 1)"), name)
    wait_until(lambda: persistent(worker) == before, what="freed memory")
    assert worker.value(HEAD + "result = names.get_names()") == ([] if how != "update" else ["df", "plain", "rdd", "text", "value"])


def test_what_is_forgotten_stays_cached_for_who_has_it(own):
    worker = own.worker()
    assert worker.value(HEAD + """
df = names.update("df", NamedObject(context.range(10), True, StorageLevel.MEMORY_ONLY)).obj
names.forget("df"), names.forget("df")
result = [names.get("df"), df.storageLevel.useMemory]
df.unpersist()
    """) == [None, True]


def test_one_object_with_two_names_is_freed_with_the_last(own):
    worker = own.worker()
    before = persistent(worker)
    worker.value(HEAD + """
rdd = sc.parallelize(range(10), 2).map(str)
names.update("one", NamedObject(rdd, True, StorageLevel.MEMORY_ONLY)), names.update("two", rdd)
names.update("df1", NamedObject(context.range(10), True, StorageLevel.MEMORY_ONLY))
names.update("df2", lambda: names.get("df1"))
names.destroy("one"), names.destroy("df1")
    """)
    assert persistent(worker) == before + 2
    worker.value(HEAD + "names.destroy('two'), names.destroy('df2')")
    wait_until(lambda: persistent(worker) == before, what="freed memory")


def test_what_cannot_be_computed_gets_no_name_and_no_memory(own):
    worker = own.worker()
    before = persistent(worker)
    assert worker.value(HEAD + """
names.update("old", 1)
bad = sc.parallelize([1], 1).map(lambda x: x / 0)
result = [said(lambda: names.update("old", NamedObject(bad, True, StorageLevel.MEMORY_ONLY)))[:15],
          said(lambda: names.get_or_else_create("new", lambda: 1 / 0)), names.get_or_else_create("new", lambda: 2).obj,
          names.get("old").obj]
    """) == ["PythonException", "ZeroDivisionError: division by zero", 2, 1]
    assert persistent(worker) == before


# ---------------------------------------------------------------- what cannot be

def test_what_cannot_be_shared_says_why(own):
    found = own.worker().value(HEAD + """
import threading
class Row: pass
acc = sc.accumulator(0)
result = [said(lambda: names.update("x", NamedObject(v, False, None))) for v in (
    sc.broadcast(1), acc, sc, context, threading.Lock(), {"df": context.range(1)})]
result += [said(lambda: names.update(n, 1)) for n in ("", "a\\nb", "x" * 256, ".", "\\ud800", 5)]
result.append(names.get_names())
    """)
    for said, text in zip(found, ["Broadcast cannot be shared as 'x': name the value", "Accumulator cannot be shared",
                                  "SparkContext cannot be shared as 'x': each job is given it", "SparkSession cannot be shared",
                                  "lock cannot be shared as 'x': TypeError: cannot pickle", "dict cannot be shared"]):
        assert said.startswith("TypeError: an object of class ") and text in said, said
    assert all(said.startswith(("ValueError: the name", "TypeError: the name")) for said in found[6:12]), found
    assert found[12] == []


def test_a_class_that_the_reader_does_not_have(own, server):
    app = make_binary(server.state, "app", {"named_app.py": "class P:\n    def __init__(self, x):\n        self.x = x\n"})
    job = own.worker().start(HEAD + """
from named_app import P
names.update("value", P(1)), names.update("rdd", sc.parallelize([1, 2], 2).map(P))
""", binaries=[app], binary_set="app")
    job.done()
    read = HEAD + "result = [said(lambda: names.get('value').obj.x), said(lambda: sum(p.x for p in names.get('rdd').obj.collect()))]"
    assert own.worker().value(read, binaries=[app], binary_set="app") == [1, 3]
    value, rdd = own.worker().value(read, binary_set="without")
    assert value == ("RuntimeError: named object 'value' is of a class that this job's binaries do not have (No module named "
                     "'named_app'); job %s has made it" % job.id)
    assert rdd == "ModuleNotFoundError: No module named 'named_app'"


def test_a_job_with_its_own_copy_of_the_api(own, server):
    copy = make_binary(server.state, "copy", {"empty.py": ""})
    folder = os.path.join(copy["unpacked"], "sparkjobserver")
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "__init__.py"), "w"), open(os.path.join(folder, "api.py"), "w") as f:
        f.write("class NamedObject(object):\n    def __init__(self, obj, forceComputation, storage_level):\n"
                "        self.obj, self.forceComputation, self.storage_level = obj, forceComputation, storage_level\n")
    assert own.worker().value(HEAD + """
import sparkjobserver.api
names.update("rdd", lambda: NamedObject(sc.parallelize([1, 2], 2), True, StorageLevel.DISK_ONLY))
result = [len(NamedObject.__mro__), names.get("rdd").obj.sum(), names.get("rdd").storage_level.useDisk,
          isinstance(names.get("rdd"), NamedObject)]
""", binaries=[copy], binary_set="copy") == [2, 3, True, False]
    assert own.list()["rdd"]["kind"] == "rdd"


# ---------------------------------------------------------------- who creates

CREATE = FLAGS + HEAD + """
def make():
    raise_flag(args[0])
    wait_flag(args[1])
    return 1
result = names.get_or_else_create("slow", make).obj
"""


def test_who_waits_for_one_that_is_being_created_waits_for_a_time(own, flag):
    maker, other = own.worker(), own.worker()
    job = maker.start(CREATE, [flag.path("on"), flag.path("go")])
    flag.wait("on")
    texts = other.value(HEAD + """
result = [said(lambda: names.get("slow", timeout=0.1)), said(lambda: names.get_or_else_create("slow", lambda: 2, timeout=0)),
          said(lambda: names.update("slow", 3, timeout=0.1)), names.get_names(), names.get("other", timeout=0)]
    """)
    assert texts == ["TimeoutError: named object 'slow' is still being created after %s s" % s for s in ("0.1", "0", "0.1")] + [[], None]
    getter = other.start(FLAGS + HEAD + "raise_flag(args)\nresult = names.get('slow').obj", flag.path("waits"))
    flag.wait("waits")
    flag.raise_("go")
    assert json.loads(getter.done()["result"]) == json.loads(job.done()["result"]) == 1


def test_who_creates_an_object_cannot_wait_for_it(own):
    assert own.worker().value(HEAD + """
inner = lambda: names.get_or_else_create("x", lambda: 1)
result = [said(lambda: names.get_or_else_create("x", inner)), names.get_or_else_create("x", lambda: 2).obj]
    """) == ["RuntimeError: named object 'x' is created by the code that asks for it", 2]


def test_an_interrupted_creation_leaves_the_name_free(own, flag):
    maker, other = own.worker(), own.worker()
    job = maker.start(CREATE, [flag.path("on"), flag.path("never")])
    flag.wait("on")
    job.interrupt()
    assert job.done()["outcome"] == "interrupted"
    assert other.value(HEAD + "result = names.get_or_else_create('slow', lambda: 2, timeout=60).obj") == 2


# ---------------------------------------------------------------- what they need, and for how long

NEEDS_MAKER = HEAD + """
bonus = sc.broadcast(list(range(1000)))
names.update("it", NamedObject(sc.parallelize(range(10), 2).map(lambda x: x + len(bonus.value)), False, None))
result = sc._temp_dir
"""


def members(own, watcher, binary_set):
    """Of a set's use: the workers bound to it, dead ones too while something needs them, and marks."""
    return (own.left(watcher)["stoker.sets"].get(binary_set) or "").split()[1:]


def needs_nothing(own, watcher, worker, folder, binary_set):
    """What a dead worker has left is gone, and its set is as good as unused."""
    wait_until(lambda: not os.path.exists(folder), what="removal of %s" % folder)
    wait_until(lambda: worker.name not in members(own, watcher, binary_set), what="end of the use of " + binary_set)


def kept(own, watcher, worker, folder, binary_set):
    return os.path.exists(folder) and worker.name in members(own, watcher, binary_set)


@pytest.mark.parametrize("how", ["keeper", "destroy", "forget", "update"])
def test_files_of_a_dead_maker_stay_until_its_object_is_dropped(own, how):
    watcher, maker, marker = own.worker(), own.worker(), own.worker()
    folder = maker.value(NEEDS_MAKER, binary_set="needed")
    since = own.context.server.mark()
    maker.kill()
    own.context.wait("k", "keeps", since=since, any=True)
    marker.value("", binary_set="marker")
    marker.kill()
    wait_until(lambda: marker.name not in members(own, watcher, "marker"), what="the end of another worker")
    assert kept(own, watcher, maker, folder, "needed")
    reader = own.worker()
    assert reader.value(HEAD + "result = names.get('it').obj.sum()", binary_set="reader") == 10045
    reader.kill()
    if how == "keeper":
        own.drop("it")
    else:
        watcher.value(HEAD + {"update": "names.update('it', 1)"}.get(how, "names.%s('it')" % how))
    needs_nothing(own, watcher, maker, folder, "needed")
    own.context.wait("k", "keeps", since=since, any=False)


def test_files_stay_for_who_has_read_the_object_and_for_what_was_made_of_it(own):
    watcher, maker, reader = own.worker(), own.worker(), own.worker()
    folder = maker.value(NEEDS_MAKER, binary_set="made")
    maker.kill()
    reader.value(HEAD + "names.update('derived', names.get('it').obj.map(lambda x: x * 2))", binary_set="read")
    own.drop("it")
    reader.kill()
    assert own.worker().value(HEAD + "result = names.get('derived').obj.sum()") == 20090
    assert kept(own, watcher, maker, folder, "made")
    own.drop("derived")
    assert kept(own, watcher, maker, folder, "made"), "a worker that has read it lives"
    own.made.pop().kill()
    needs_nothing(own, watcher, maker, folder, "made")
    needs_nothing(own, watcher, reader, folder, "read")


def test_a_view_of_an_object_needs_what_the_object_needs(own):
    watcher, maker, reader = own.worker(), own.worker(), own.worker()
    folder = maker.value(HEAD + """
table = list(range(1000))
bonus = sc.broadcast(table)
names.update("it", context.range(10).select(F.udf(lambda x: x + len(bonus.value), "long")("id").alias("x")))
result = sc._temp_dir
""", binary_set="viewed")
    maker.kill()
    reader.value(HEAD + "names.get('it').obj.createOrReplaceTempView('of_it')", binary_set="viewer")
    reader.kill()
    own.drop("it")
    wait_until(lambda: reader.name not in members(own, watcher, "viewer"), what="the reader's end")
    assert watcher.value("result = context.sql('select sum(x) from of_it').collect()[0][0]") == 10045
    assert os.path.exists(folder)
    assert "(kept)" in members(own, watcher, "viewed")


# ---------------------------------------------------------------- through the server

def path(name=None):
    return "/v1/contexts/py/objects" + ("" if name is None else "/" + urllib.parse.quote(name, safe=""))


def run(stoker, code, args=None):
    """A job of the context `py` that executes code: (its id, its result)."""
    reply = stoker.run("stoker_test_jobs.Code", {"code": HEAD + code, "args": args}, app="code")
    assert set(reply.body) == {"jobId", "result"}, reply
    return reply.body["jobId"], reply.body["result"]


@pytest.fixture
def code(stoker, py, tmp_path):
    with zipfile.ZipFile(tmp_path / "code.zip", "w") as z:
        z.writestr("stoker_test_jobs.py", JOBS)
    stoker.upload("code", str(tmp_path / "code.zip"))


def test_jobs_name_objects_and_clients_list_and_drop_them(stoker, py, code):
    odd = "a/b ä%2F?#"
    job, before = run(stoker, """
result = len(sc._jsc.getPersistentRDDs())
names.update(args, NamedObject(context.range(100, numPartitions=3), True, StorageLevel.MEMORY_ONLY))
names.update("numbers", NamedObject(sc.parallelize(range(10), 2).map(str), True, StorageLevel.DISK_ONLY))
names.update("rates", {"a": 1.5})
""", odd)
    stoker.kill()
    stoker.start()
    found = wait_until(lambda: (lambda r: r.status == 200 and {o["name"]: o for o in r.body["objects"]})(
        stoker.request("GET", path())), what="the keeper's return")
    assert list(found) == sorted(["rates", "numbers", odd])
    assert {each["job"] for each in found.values()} == {job}
    assert [found[name]["kind"] for name in (odd, "numbers", "rates")] == ["dataframe", "rdd", "value"]
    assert (found[odd]["storage_level"], found[odd]["cached_partitions"]) == ("MEMORY_ONLY", 3)
    assert (found["numbers"]["storage_level"], found["numbers"]["memory_bytes"]) == ("DISK_ONLY", 0)
    assert found["numbers"]["disk_bytes"] > 0
    dropped = stoker.request("DELETE", path(odd))
    assert (dropped.status, dropped.body["name"]) == (200, odd)
    assert stoker.request("DELETE", path(odd)).status == 404
    assert stoker.request("DELETE", path("numbers")).status == 200
    assert run(stoker, "result = [names.get_names(), names.get(args), len(sc._jsc.getPersistentRDDs())]", odd)[1] == [
        ["rates"], None, before]
    assert stoker.get(path())["objects"] == [found["rates"]]


def test_objects_end_with_their_context(stoker, py, code):
    run(stoker, "names.update('last', context.range(3))")
    stoker.delete_context("py")
    gone = stoker.request("GET", path())
    assert (gone.status, gone.body["error"]["code"]) == (404, "NOT_FOUND")
    stoker.create_running("py")
    assert stoker.get(path()) == {"objects": []}
    assert run(stoker, "result = names.get('last')")[1] is None


def test_a_jvm_that_does_not_answer(stoker, code):
    """It is stopped by a signal: who asks is told, and afterwards all is as it was."""
    run(stoker, "names.update('it', 1)")
    java = next(p.pid for p in stoker.processes(stoker.context("py")["id"]) if p.kind == "java")
    os.kill(java, signal.SIGSTOP)
    try:
        late = stoker.request("GET", path() + "?wait=1s")
        assert (late.status, late.body["error"]["code"]) == (504, "TIMEOUT")
        refused = wait_until(lambda: (lambda r: r.status == 500 and r)(stoker.request("GET", path() + "?wait=100ms")),
                             what="a refusal")
        assert "has not answered 8 earlier questions for named objects yet" in refused.body["error"]["message"]
    finally:
        os.kill(java, signal.SIGCONT)
    listed = wait_until(lambda: (lambda r: r.status == 200 and r)(stoker.request("GET", path())), what="an answer")
    assert "it" in [each["name"] for each in listed.body["objects"]]
