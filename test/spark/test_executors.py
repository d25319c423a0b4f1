"""Executor processes of local contexts: they end when they are idle, when their binary set is out of use, and with Spark.

What the same looks like on a cluster is in test_cluster.py.
"""
import json
import os

import pytest
from conftest import wait_until
from harness import WAIT, FakeContext
from measure import daemons
from server import process

IDLE = 0.25     # seconds after which daemons without a worker leave
ROUNDS = int(os.environ.get("ROUNDS", 20))
SPARK = {"spark.executorEnv.STOKER_DAEMON_IDLE": str(IDLE), "spark.python.worker.reuse": "false",
         "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1"}
PARENTS = """
import os
result = context.sparkContext.parallelize(range(2), 2).map(lambda _: os.getppid()).distinct().collect()
"""
# Threads of the JVM, one for each pool of executor processes.
MONITORS = """
jvm = context.sparkContext._jvm
result = len([t for t in jvm.Thread.getAllStackTraces().keySet() if t.getName().startswith("Idle Worker Monitor")])
"""
SETS = "result = dict(context.sparkContext._jvm.System.getProperties().get('stoker.sets'))"
LINGER = 2      # of sets.py: so many sets without a worker keep what they have
MODULE = "import pyspark.daemon\nimport os\nos.environ['WHOSE_DAEMON'] = 'mine'\npyspark.daemon.manager()\n"


@pytest.fixture(scope="module")
def idle(server):
    """A context whose daemons leave soon, and whose executors keep no idle workers."""
    context = FakeContext(server, spark_conf=SPARK)
    try:
        context.start()
        yield context
    finally:
        context.end()


@pytest.fixture
def workers(server, idle):
    made = []

    def make(context=idle):
        made.append(context.worker())
        return made[-1]
    yield make
    for worker in made:
        if not worker.context.seen("z", "exited", process=worker.name):
            worker.kill()


def jvm_pid(context):
    return context.seen("k", "started")[0]["jvm_pid"]


def test_a_daemon_leaves_when_it_is_idle_and_another_comes(workers):
    worker = workers()
    first, = worker.value(PARENTS)
    wait_until(lambda: process(first) is None, what="end of an idle daemon")
    second, = worker.value(PARENTS)
    assert second != first


def test_no_task_fails_because_its_daemon_leaves(workers):
    """Spark jobs that come around the moment at which the daemon leaves, by steps of a few milliseconds."""
    job = workers().start("""
        import os, time
        sc, (limit, rounds) = context.sparkContext, args
        seen = []
        for n in range(rounds):
            seen += sc.parallelize(range(2), 2).map(lambda _: os.getppid()).collect()
            time.sleep(max(0, limit + (n % 20 - 15) * 0.005))
        result = seen
        """, [IDLE, ROUNDS])
    seen = json.loads(job.done(WAIT + 5 * ROUNDS)["result"])
    assert len(seen) == 2 * ROUNDS
    assert len(set(seen)) > ROUNDS / 10, "the daemon hardly ever left"


def test_executor_processes_of_a_set_out_of_use_end(own_context, workers):
    """Spark would keep them, its workers for a minute and a thread for ever."""
    context = own_context()
    context.start()
    watcher = workers(context)
    pair, other = [workers(context), workers(context)], workers(context)
    mine = {p for w in pair for p in w.value(PARENTS, binary_set="mine")}
    others = set(other.value(PARENTS, binary_set="other"))
    assert len(mine) == len(others) == 1 and mine != others
    assert watcher.value(MONITORS) == 2
    for worker in pair:
        end_of(worker, "mine", watcher)
    third = workers(context)
    assert third.value(PARENTS, binary_set="mine") == list(mine), "a set that is used again has its processes"
    end_of(third, "mine", watcher)
    use_others(workers, context, watcher, LINGER)
    wait_until(lambda: not any(map(process, mine)), what="end of the executor processes of the set")
    wait_until(lambda: watcher.value(MONITORS) == 1, what="end of their thread")
    assert set(other.value(PARENTS, binary_set="other")) == others
    again = workers(context)
    assert not set(again.value(PARENTS, binary_set="mine")) & (mine | others)
    assert "Idle Worker Monitor" not in context.log()
    left = daemons(jvm_pid(context))
    assert len(left) == 2
    assert context.end() == 0
    assert not any(map(process, left)), "executor processes outlive their context"


def end_of(worker, binary_set, watcher):
    """Ends a worker; returns when the keeper has dealt with its set."""
    worker.kill()
    wait_until(lambda: worker.name not in (watcher.value(SETS).get(binary_set) or "").split()[1:],
               what="end of the set's worker")


def use_others(workers, context, watcher, number):
    """Sets that come and go after the one that is looked at."""
    for n in range(number):
        worker = workers(context)
        worker.value("", binary_set="passing-%d" % n)
        end_of(worker, "passing-%d" % n, watcher)


LEAVE = {
    "udf": "context.udf.register('kept_udf', lambda x: x + 1, 'long')",
    "view": "context.range(2).rdd.map(lambda r: (r[0] + 1,)).toDF(['id']).createOrReplaceTempView('kept_view')",
    "nothing": "context.range(2).rdd.map(lambda r: (r[0] + 1,)).toDF(['id']).count()",
}
USE = {"udf": "select kept_udf(1)", "view": "select max(id) from kept_view", "nothing": "select 2"}


@pytest.mark.parametrize("left", LEAVE)
def test_what_a_job_leaves_in_the_session_keeps_its_set(workers, idle, left):
    """Its code is still called when all workers of its set have gone."""
    maker, other = workers(), workers()
    maker.value(LEAVE[left], binary_set="set-" + left)
    end_of(maker, "set-" + left, other)
    use_others(workers, idle, other, LINGER + 1)
    wait_until(lambda: "passing-0" not in other.value(SETS), what="end of a later set")
    assert (other.value(SETS).get("set-" + left) or "").split()[1:] == ([] if left == "nothing" else ["(kept)"])
    assert other.value("result = context.sql(args).collect()[0][0]", USE[left]) == 2


def test_a_daemon_module_of_the_users_own_wins(own_context, workers, tmp_path):
    name = "users_daemon"
    (tmp_path / (name + ".py")).write_text(MODULE)
    context = own_context(spark_conf=dict(SPARK, **{"spark.python.daemon.module": name}),
                          env={"PYTHONPATH": str(tmp_path)})
    context.start()
    seen = workers(context).value("""
        import os
        result = context.sparkContext.parallelize([1], 1).map(lambda _: os.environ.get("WHOSE_DAEMON")).collect()
        """)
    assert seen == ["mine"]
