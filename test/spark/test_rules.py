"""The rules of docs on sharing one JVM (K1-K7, A1-A10), each on real PySpark; every test fails without its rule."""
import glob
import json
import os
import signal
import time

import pytest
from conftest import FLAGS, wait_until
from harness import make_binary

COUNT = "result = context.sparkContext.parallelize(range(1000), 2).count()"
UDF = """
import pyspark.sql.functions as F
add = F.udf(lambda x: x + 1, "long")
result = context.range(10).select(add("id")).collect()[-1][0]
"""
# A Spark job of two tasks that sleep in Python on the executor; args: [path that says it runs, seconds].
SLOW = FLAGS + """
path, seconds = args
def slow(x):
    raise_flag(path)
    time.sleep(seconds)
    return x
"""


def jvm_pid(context):
    return context.seen("k", "started")[0]["jvm_pid"]


# ---------------------------------------------------------------- the keeper

@pytest.mark.parametrize("how", ["sc._gateway.shutdown()", "type(client).shutdown_gateway(client)"])
def test_k1_a_job_that_shuts_its_gateway_down_harms_only_itself(workers, how):
    one, two = workers(), workers()
    assert two.value(COUNT) == 1000
    done = one.run("""
        sc = context.sparkContext
        result = sc.parallelize(range(3)).count()
        client = sc._gateway._gateway_client
        """ + how)
    assert json.loads(done["result"]) == 3
    assert done["retire"]
    assert two.value(COUNT) == 1000
    assert workers().value(COUNT) == 1000


def test_k1_nothing_of_dead_workers_stays_in_the_jvm(workers, context):
    """Their gateways are shut: the JVM's number of listening sockets does not grow."""
    def sockets():
        fds = glob.glob("/proc/%d/fd/*" % jvm_pid(context))
        return sum("socket:" in os.readlink(fd) for fd in fds if os.path.islink(fd))
    first = workers()
    first.kill()
    before = sockets()
    for _ in range(5):
        worker = workers()
        worker.value(COUNT)
        worker.kill()
    wait_until(lambda: sockets() <= before + 1, what="closed gateways")


CANCEL_ME = SLOW + """
sc = context.sparkContext
ended = []
def thread():
    sc.setJobGroup("mine", "my words")
    sc.clearJobTags()
    sc.addJobTag("my-tag")
    try:
        sc.parallelize(range(1), 1).map(slow).count()
    except Exception as e:
        ended.append(str(e))
t = threading.Thread(target=thread)
t.start()
t.join()
result = ended
"""


def test_k2_cancel_stops_what_the_jobs_threads_run_under_groups_and_tags_of_their_own(workers, flag):
    worker, neighbour = workers(), workers()
    job = worker.start(CANCEL_ME, [flag.path("runs"), 60])
    flag.wait("runs")
    other = neighbour.start(SLOW + "result = context.sparkContext.parallelize(range(1), 1).map(slow).count()",
                            [flag.path("other"), 2])
    flag.wait("other")
    cancelled = job.cancel()
    assert cancelled["jobs"] == 1
    done = job.done(timeout=10)
    assert "cancelled" in json.loads(done["result"])[0]
    assert json.loads(other.done()["result"]) == 1


def test_k2_a_late_cancel_does_not_hit_the_next_attempt(workers, flag):
    worker = workers()
    job = worker.start(COUNT)
    job.done()
    following = worker.start(SLOW + "result = context.sparkContext.parallelize(range(1), 1).map(slow).count()",
                             [flag.path("runs"), 1])
    flag.wait("runs")
    assert job.cancel()["jobs"] == 0
    assert json.loads(following.done()["result"]) == 1


HEARTBEAT = FLAGS + """
path, = args
def beat(x):
    end = time.time() + 60
    while time.time() < end:
        with open(path + ".new", "w") as f:
            f.write(repr(time.time()))
        os.replace(path + ".new", path)
        time.sleep(0.02)
    return x
context.sparkContext.parallelize(range(1), 1).map(beat).count()
"""


def test_k3_a_confirmed_cancel_is_never_early(workers, flag):
    worker = workers()
    job = worker.start(HEARTBEAT, [flag.path("heart")])
    flag.wait("heart")
    job.cancel()
    confirmed = time.time()
    done = job.done(timeout=10)
    assert done["outcome"] == "interrupted"
    time.sleep(1.5)     # for a heart that goes on beating, as it does for 2-3 s without the rule
    with open(flag.path("heart")) as f:
        last = float(f.read())
    assert last <= confirmed, "code of the executor ran %.2f s longer" % (last - confirmed)


def test_k4_two_files_of_one_name_do_not_poison_the_context(workers, tmp_path):
    paths = []
    for version in (1, 2):
        binary = make_binary(str(tmp_path), "v%d" % version, {"k4_module.py": "V = %d\n" % version})
        os.makedirs(tmp_path / str(version))
        paths.append(str(tmp_path / str(version) / "same_name.zip"))
        os.link(binary["path"], paths[-1])
    code = """
        context.sparkContext._jsc.sc().conf().set("spark.files.overwrite", args[1])
        try:
            context.sparkContext.addPyFile(args[0])
            result = "added"
        except Exception:
            result = len([f for f in context.sparkContext.listFiles if args[0] in f])
        """
    worker = workers()
    assert worker.value(code, [paths[0], "false"]) == "added"
    # With the setting off the second is refused. As shipped it stays listed, and no task of anybody runs again.
    assert workers().value(code, [paths[1], "false"]) == 0
    assert workers().value(COUNT) == 1000
    assert workers().value(code, [paths[1], "true"]) == "added"
    assert workers().value(COUNT) == 1000


def test_k6_the_users_java_options_join_ours_and_required_settings_stand(workers):
    value = workers().value("""
        sc = context.sparkContext
        runtime = sc._jvm.java.lang.management.ManagementFactory.getRuntimeMXBean()
        result = [list(runtime.getInputArguments()), sc.getConf().get("spark.ui.liveUpdate.period"),
                  sc.getConf().get("spark.task.maxFailures"), sc.getConf().get("spark.scheduler.mode")]
        """)
    assert "-Dstoker.test=yes" in value[0] and "-XX:-UsePerfData" in value[0]
    assert value[1:] == ["0", "1", "FAIR"]


IDLE_STREAM = FLAGS + """
query = context.newSession().readStream.format("rate").load().writeStream.format("noop") \\
    .trigger(processingTime="1 hour").start()
while not query.lastProgress:
    time.sleep(0.01)
raise_flag(args[0])
time.sleep(60)
"""
STREAMS = "result = context._jsparkSession.sharedState().activeStreamingQueries().size()"


def test_k7_a_stream_that_waits_for_its_trigger_ends_with_its_worker(workers, context, flag):
    worker, other = workers(), workers()
    worker.start(IDLE_STREAM, [flag.path("idle")])
    flag.wait("idle")
    assert other.value(STREAMS) == 1
    worker.kill()
    wait_until(lambda: other.value(STREAMS) == 0, what="end of the stream")


def test_k7_cancel_stops_the_streams_of_the_attempt(workers, flag):
    worker, other = workers(), workers()
    job = worker.start(IDLE_STREAM, [flag.path("idle")])
    flag.wait("idle")
    job.cancel()
    assert other.value(STREAMS) == 0
    job.interrupt()
    assert job.done()["outcome"] == "interrupted"


# ---------------------------------------------------------------- attaching

INTERRUPTED = SLOW + """
sc = context.sparkContext
try:
    sc.parallelize(range(1), 1).map(slow).count()
    result = "not interrupted"
except KeyboardInterrupt as e:      # e keeps the traceback, and with it the lost connection
    parse = sc._jvm.java.lang.Integer.parseInt
    result = [[parse(str(i)) for i in range(40, 44)], sc.getLocalProperty("spark.jobGroup.id"),
              sc.getLocalProperty("spark.job.tags")]
"""


def test_a1_a4_interrupt_hits_one_attempt_and_later_calls_get_their_own_answers(workers, flag):
    worker, neighbour = workers(), workers()
    other = neighbour.start(SLOW + "result = context.sparkContext.parallelize(range(1), 1).map(slow).count()",
                            [flag.path("other"), 2])
    flag.wait("other")
    job = worker.start(INTERRUPTED, [flag.path("runs"), 60])
    flag.wait("runs")
    job.interrupt()
    value = json.loads(job.done(timeout=10)["result"])
    assert job.interrupted()["current"] is True
    assert value == [[40, 41, 42, 43], job.id, "stoker-%s,stoker-%s.1" % (worker.name, job.id)]
    assert json.loads(other.done()["result"]) == 1, "the neighbour's Spark job was hit"
    job.cancel()


def test_a1_an_interrupted_call_takes_no_other_threads_connection_along(workers, flag):
    """As shipped, py4j closes every idle connection of the process, and the JVM threads' properties go with them."""
    worker = workers()
    job = worker.start(FLAGS + """
sc = context.sparkContext
seen = []
def thread():
    sc.setLocalProperty("mine", "1")
    raise_flag(args[0])
    wait_flag(args[1])
    seen.append(sc.getLocalProperty("mine"))
t = threading.Thread(target=thread)
t.start()
wait_flag(args[0])
try:
    sc._jvm.java.lang.Thread.sleep(60000)
except KeyboardInterrupt as e:
    kept = e
raise_flag(args[1])
t.join()
result = [seen, sc._jvm.java.lang.Integer.parseInt("7")]
""", [flag.path("runs"), flag.path("go")])
    flag.wait("runs")
    wait_until(lambda: sleeping_in_jvm(worker), what="call into the JVM")
    job.interrupt()
    assert json.loads(job.done(timeout=10)["result"]) == [["1"], 7]


def sleeping_in_jvm(worker):
    """The main thread waits for bytes from a TCP socket: it is in a call of py4j's."""
    with open("/proc/%d/syscall" % worker.pid) as f:
        call = f.read().split()
    if len(call) < 2 or call[0] not in ("45", "207"):     # recvfrom: x86_64, aarch64
        return False
    return os.readlink("/proc/%d/fd/%d" % (worker.pid, int(call[1], 16))).startswith("socket:")


def test_a1_a_late_interrupt_is_a_no_op(workers, flag):
    worker = workers()
    job = worker.start("result = 1")
    job.done()
    job.interrupt()
    assert job.interrupted()["current"] is False
    following = worker.start(FLAGS + "raise_flag(args[0]); wait_flag(args[1]); result = 2",
                             [flag.path("runs"), flag.path("go")])
    flag.wait("runs")
    since = worker.server.mark()
    job.interrupt()
    worker.wait("interrupted", since=since, job=job.id, current=False)
    os.kill(worker.pid, signal.SIGINT)
    flag.raise_("go")
    assert json.loads(following.done()["result"]) == 2


def test_a2_stop_is_ignored(workers, context):
    worker = workers()
    assert worker.value("context.sparkContext.stop(); context.stop()\n" + COUNT) == 1000
    assert worker.value(COUNT) == 1000
    assert not context.seen("k", "ended")


def test_a2_a_failed_attach_harms_nobody(workers, context, server):
    """A gateway that refuses the secret: the worker answers `failed`, and does not stop the shared context."""
    since = server.mark()
    context.send("k", type="admit", worker="w-0000bad1")
    gateway = context.wait("k", "admitted", since=since, worker="w-0000bad1")
    context.fork("w-0000bad1", "worker", gateway={"port": gateway["port"], "secret": "wrong"})
    failed = context.wait("w-0000bad1", "failed", since=since)
    assert failed["error"]["code"] == "CONTEXT_FAILED"
    assert context.wait("z", "exited", since=since, process="w-0000bad1")["status"] == 1
    context.gone("w-0000bad1")
    assert workers().value(COUNT) == 1000


STALL = SLOW + """
import ctypes
import pyspark.sql.functions as F
acc = context.sparkContext.accumulator(0)
def count(x):
    raise_flag(path)
    time.sleep(0.05)
    acc.add(1)
    return x
if seconds:
    t = threading.Thread(target=lambda: context.sparkContext.parallelize(range(60), 30).map(count).count(), daemon=True)
    t.start()
    wait_flag(path)
    ctypes.PyDLL(None).sleep(seconds)      # holds the GIL
else:
    context.range(0, 60, 1, 30).select(F.udf(count, "long")("id")).collect()
"""


@pytest.mark.parametrize("how", ["stopped", "GIL"])
def test_a3_a_worker_that_does_not_answer_stalls_nobody(workers, flag, how):
    other, worker = workers(), workers()
    other.value(UDF)
    began = time.monotonic()
    other.value(COUNT), other.value(UDF)
    alone = time.monotonic() - began
    worker.start(STALL, [flag.path("runs"), 6 if how == "GIL" else 0])
    flag.wait("runs")
    if how == "stopped":
        os.kill(worker.pid, signal.SIGSTOP)
    began = time.monotonic()
    assert other.value(COUNT) == 1000
    assert other.value(UDF) == 10
    took = time.monotonic() - began
    worker.kill()
    assert took < 3 + 5 * alone, "the neighbour's jobs took %.1f s, and %.1f s alone" % (took, alone)


ACCUMULATE = """
import pyspark.sql.functions as F
sc = context.sparkContext
acc, acc2 = sc.accumulator(0), sc.accumulator(0)
sc.parallelize(range(1000), 4).foreach(lambda x: acc.add(x))
one, two = F.udf(lambda x: x + 1, "long"), F.udf(lambda x: (acc2.add(1), x)[1], "long")
context.range(0, 100, 1, 2).select(one("id"), two("id")).collect()
first = acc2.value
acc2.value = 0
context.range(0, 100, 1, 2).select(two(one("id"))).collect()
result = [acc.value, first, acc2.value]
"""


def test_a3_accumulators_count_right_in_two_workers_and_again(workers):
    pair = workers(), workers()
    for _ in range(2):
        jobs = [w.start(ACCUMULATE) for w in pair]
        assert [json.loads(j.done()["result"]) for j in jobs] == [[499500, 100, 100]] * 2


def test_a3_a_udf_outlives_its_maker(workers, server):
    maker = workers()
    maker.value("""
        acc = context.sparkContext.accumulator(0)
        context.udf.register("a3_udf", lambda x: (acc.add(1), x + 1)[1], "long")
        """)
    maker.kill()
    other = workers()
    other.value("context.sparkContext._jvm.java.lang.System.gc()")
    assert other.value("result = context.sql('select a3_udf(1)').collect()[0][0]") == 2


PROPERTIES = """
import threading
sc = context.sparkContext
keys = ["spark.jobGroup.id", "spark.scheduler.pool", "spark.job.description", "spark.job.tags",
        "spark.job.interruptOnCancel"]
seen = []
def look():
    seen.append([sc.getLocalProperty(k) for k in keys])
look()
t = threading.Thread(target=look)
t.start()
t.join()
result = seen
"""


def test_a4_properties_stand_in_every_thread_of_a_job(workers):
    worker = workers()
    job = worker.start(PROPERTIES, pool="gold", description="my job")
    want = [job.id, "gold", "my job", "stoker-%s,stoker-%s.1" % (worker.name, job.id), "true"]
    assert json.loads(job.done()["result"]) == [want, want]


DIRTY = """
import os, signal, sys, threading
sc = context.sparkContext
sc.setJobGroup("mine", "words")
sc.setLocalProperty("spark.scheduler.pool", "p")
sc.addJobTag("t")
sc.environment["FOO"] = "1"
sc.accumulator(1)
other = context.newSession()
sc._jvm.org.apache.spark.sql.classic.SparkSession.setActiveSession(other._jsparkSession)
os.chdir("/")
os.environ["DIRTY"] = "1"
os.environ.pop("HOME", None)
sys.path.append("/nowhere")
os.umask(0)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGALRM, lambda *a: None)
signal.setitimer(signal.ITIMER_REAL, 0.3)
sys.stdout = open(os.devnull, "w")
sys.setrecursionlimit(5000)
"""
CLEAN = """
import os, signal, sys, time
from pyspark import accumulators
from pyspark.sql import SparkSession
sc = context.sparkContext
mask = os.umask(0o22)
active = sc._jvm.org.apache.spark.sql.classic.SparkSession.getActiveSession()
result = {
    "properties": [sc.getLocalProperty(k) for k in ("spark.scheduler.pool", "spark.job.description")],
    "tags": len(sc.getLocalProperty("spark.job.tags").split(",")),
    "active": active.isDefined() and not active.get().equals(context._jsparkSession),
    "environment": sorted(set(sc.environment) & {"FOO"}),
    "accumulators": [a for a in accumulators._accumulatorRegistry if a >= 0],
    "cwd": os.getcwd(), "environ": [os.environ.get("DIRTY"), "HOME" in os.environ], "path": "/nowhere" in sys.path,
    "umask": mask, "signals": [signal.getsignal(n) == signal.SIG_DFL for n in (signal.SIGTERM, signal.SIGALRM)],
    "timer": signal.getitimer(signal.ITIMER_REAL)[0], "recursion": sys.getrecursionlimit()}
print("seen")
"""


def test_a5_a_reused_worker_has_nothing_of_the_job_before(workers, context):
    worker = workers()
    clean = worker.value(CLEAN)
    done = worker.run(DIRTY)
    assert done["outcome"] == "finished" and "retire" not in done, done.get("retire")
    job = worker.start(CLEAN)
    again = json.loads(job.done()["result"])
    assert again == clean
    assert again["cwd"] == os.path.join(context.folder, "work") and again["properties"] == [None, None] and again["tags"] == 2
    assert job.log() == "seen\n"


def test_a5_streams_of_a_job_end_with_it(workers):
    worker = workers()
    code = """
        context.readStream.format("rate").load().writeStream.format("noop").trigger(processingTime="1 hour").start()
        result = len(context.streams.active)
        """
    assert worker.value(code) == 1
    assert worker.value("result = len(context.streams.active)") == 0


def test_a6_driver_and_executors_hash_alike(workers):
    code = """
        rdd = context.sparkContext.parallelize([(k, len(k)) for k in ("a", "bb", "ccc", "dddd")], 2).partitionBy(3)
        result = [rdd.lookup(k) for k in ("a", "bb", "ccc", "dddd")]
        """
    assert workers().value(code) == [[1], [2], [3], [4]]


def test_a7_the_zygote_has_everything_loaded_and_one_thread(context, workers):
    with open("/proc/%d/status" % context.zygote.pid) as f:
        assert "Threads:\t1\n" in f.readlines()
    with open("/proc/%d/maps" % context.zygote.pid) as f:
        maps = f.read()
    assert all(name in maps for name in ("numpy", "pandas", "pyarrow"))
    worker = workers()
    ready = worker.seen("ready")
    assert ready and ready[0]["attach_ms"] < 250    # 340-400 ms when the worker has to import them


@pytest.mark.parametrize("code", ["from pyspark import SparkContext; SparkContext('local[1]', 'mine')",
                                  "from pyspark.sql import SparkSession; SparkSession.builder.remote('sc://x')"])
def test_a8_a_context_of_the_jobs_own_is_refused_with_advice(workers, code):
    error = workers().run(code)["error"]
    assert error["code"] == "USER_EXCEPTION" and "use the one it was given" in error["message"]


def test_a8_get_or_create_gives_the_shared_one(workers):
    assert workers().value("""
        from pyspark import SparkContext
        from pyspark.sql import SparkSession
        result = [SparkContext.getOrCreate() is context.sparkContext,
                  SparkSession.builder.master("local[7]").getOrCreate().sparkContext is context.sparkContext]
        """) == [True, True]


def test_a9_the_temp_directory_of_a_dead_worker_goes(workers):
    worker = workers()
    folder = worker.value("""
        context.sparkContext.broadcast(list(range(1000)))
        result = context.sparkContext._temp_dir
        """)
    assert os.path.isdir(folder)
    worker.kill()
    wait_until(lambda: not os.path.exists(folder), what="removal of %s" % folder)


VERSIONS = """
import a10_app
import pyspark.sql.functions as F
sc = context.sparkContext
result = [a10_app.V,
          sc.parallelize(range(2), 2).map(lambda _: __import__("a10_app").V).distinct().collect(),
          [r[0] for r in context.range(1).select(F.udf(lambda x: a10_app.V)("id")).collect()],
          [r[0] for r in context.range(1).select(
              F.pandas_udf(lambda s: s.map(lambda _: __import__("a10_app").V), "string")("id")).collect()]]
"""


def test_a10_two_versions_of_a_module_side_by_side(workers, server):
    pair, binaries = (workers(), workers()), []
    for version in ("one", "two"):
        binaries.append(make_binary(server.state, "app", {"a10_app.py": "V = %r\n" % version}))
    for _ in range(2):
        jobs = [w.start(VERSIONS, binaries=[b], binary_set=b["digest"]) for w, b in zip(pair, binaries)]
        values = [json.loads(j.done()["result"]) for j in jobs]
        assert values == [["one", ["one"], ["one"], ["one"]], ["two", ["two"], ["two"], ["two"]]]


NAME = """
from sparkjobserver.api import NamedObject
import pyspark.sql.functions as F
from pyspark import StorageLevel
sc, names = context.sparkContext, runtime.namedObjects
bonus = sc.broadcast(7)
names.update("a9_df", lambda: NamedObject(
    context.range(1000).select(F.udf(lambda x: x + 1, "long")("id").alias("u")), True, StorageLevel.MEMORY_ONLY))
names.update("a9_rdd", lambda: NamedObject(sc.parallelize(range(100), 4).map(lambda x: x + bonus.value), False, None))
names.update("a9_value", lambda: {"one": 1})
"""
USE_NAMED = """
import pyspark.sql.functions as F
names = runtime.namedObjects
def made():
    raise AssertionError("it is there already")
df, rdd = names.get("a9_df").obj, names.get_or_else_create("a9_rdd", made).obj
result = [df.agg(F.sum("u")).collect()[0][0], rdd.sum(), names.get("a9_value").obj, names.get("nothing")]
df.unpersist()
result += [df.agg(F.sum("u")).collect()[0][0], [n for n in names.get_names() if n.startswith("a9")]]
for name in ("a9_df", "a9_rdd"):
    names.destroy(name)
names.forget("a9_value")
result.append([n for n in names.get_names() if n.startswith("a9")])
"""


def test_a3_a9_named_objects_outlive_their_maker(workers):
    maker = workers()
    maker.value(NAME)
    maker.kill()
    assert workers().value(USE_NAMED) == [500500, 5650, {"one": 1}, None, 500500, ["a9_df", "a9_rdd", "a9_value"], []]


CREATE = FLAGS + """
def make():
    raise_flag(args[0])
    wait_flag(args[1])
    return args[2]
raise_flag(args[3])
result = runtime.namedObjects.get_or_else_create(args[4], make).obj
"""


def test_named_objects_are_created_once_and_by_another_when_the_maker_dies(workers, context, flag):
    one, two, three = workers(), workers(), workers()
    args = [flag.path("making"), flag.path("go"), "one", flag.path("x"), "once"]
    one.start(CREATE, args)
    flag.wait("making")
    others = [w.start(CREATE, [flag.path("made by " + w.name), flag.path("go"), w.name, flag.path(w.name), "once"])
              for w in (two, three)]
    flag.wait(two.name), flag.wait(three.name)
    flag.raise_("go")
    one.kill()
    values = {json.loads(job.done()["result"]) for job in others}
    assert len(values) == 1 and values <= {"one", two.name, three.name}
