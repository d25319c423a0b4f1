"""Cancels on real Spark, through the real server: when DELETE says KILLED, nothing of the job runs any more.

What runs of a job beats: it adds its process id to a file (stoker_jobs/stuck.py). One server and one context serve most
tests, with a neighbour in each: a job that runs Spark tasks all the while and must end well.
"""
import collections
import os
import random
import signal
import sqlite3
import time

import pytest
from server import SPARK, WAIT, Background, process, wait_until

MOST_SECONDS = 20       # of a cancel, on a machine that does other things too. Alone it takes less than three

IN_PYTHON = ["sleep", "busy", "swallow", "cleans_up", "c_lock", "c_with_gil", "thread"]
IN_TASKS = ["rdd", "shuffle", "udf", "pandas_udf", "swallows_in_spark", "in_tasks", "spark_threads", "spark_group"]
IN_JVM = ["in_the_jvm"]
STREAMS = ["stream", "idle_stream", "new_stream", "two_streams"]
PROCESSES = ["child", "child_in_a_session_of_its_own", "child_without_an_environment", "multiprocess", "fork_bomb"]
# (jobs, streams) that the keeper meets. The stream that waits is ended by its interrupted worker too, maybe before that.
MET = {"rdd": [(1, 0)], "shuffle": [(1, 0)], "spark_threads": [(3, 0)], "busy": [(0, 0)], "idle_stream": [(0, 1), (0, 0)]}
AT_ONCE = {"spark_threads": 3, "two_streams": 2, "multiprocess": 3, "fork_bomb": 100}   # processes that beat
STOKER = {"spark_conf": ["%s=%s" % pair for pair in {**SPARK, "spark.master": "local[8]"}.items()],
          "context_create_timeout": "10min"}

pytestmark = pytest.mark.usefixtures("nothing_runs_on")


@pytest.fixture
def neighbour(stoker, py, files):
    """A job with a Spark stage that runs all through the test, and ends well after it."""
    job = stoker.submit("stoker_jobs.process.AppendsInTasks", {
        "file": files.path("neighbour"), "go": files.path("neighbour-go"), "beat": files.path("neighbour-beat")})
    files.wait("neighbour-beat")
    yield job
    files.make("neighbour-go")
    assert stoker.result(job) == job


def pids_of(stoker, context, role):
    """The processes of a context (an id) that have that role, from the server's database."""
    database = sqlite3.connect("file:%s?mode=ro" % stoker.path("stoker.db"), uri=True, timeout=10)
    try:
        return [row[0] for row in database.execute("SELECT pid FROM processes WHERE context_id = ? AND role = ?",
                                                   (context, role))]
    finally:
        database.close()


class Stopped:
    """Processes that are stopped by SIGSTOP, until they are let go on."""

    def __init__(self, pids):
        self.processes = [process(pid) for pid in pids]
        for each in self.processes:
            os.kill(each.pid, signal.SIGSTOP)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        stopped, self.processes = self.processes, []
        for each in stopped:
            if process(each.pid) == each:
                os.kill(each.pid, signal.SIGCONT)


def is_cancelling(stoker, job):
    return "job=%s from=RUNNING to=CANCELLING" % job in stoker.log()


class Job:
    """A job of stuck.py."""

    def __init__(self, stoker, files, how, context="py", cls="Stuck"):
        self.stoker, self.files, self.how, self.context = stoker, files, how, context
        self.beat = "beat-%s-%d" % (how, random.getrandbits(32))
        self.id = stoker.submit("stoker_jobs.stuck." + cls, {"how": how, "beat": files.path(self.beat)}, context)

    def ran_in(self):
        """(pid, start time) of the processes in which it has run code."""
        return {tuple(map(int, line.split())) for line in self.files.lines(self.beat)}

    def alive(self):
        """Those of them that still are; a pid alone may be another's by now, or a thread's."""
        found = [(process(pid), start) for pid, start in self.ran_in()]
        return [each for each, start in found if each and each.start == start]

    def wait(self):
        """Until it runs, in all its parts."""
        def stuck():
            assert self.stoker.job(self.id)["status"] == "RUNNING", self.stoker.job(self.id)
            return len(self.ran_in()) >= (AT_ONCE.get(self.how) or 1)
        wait_until(stuck, "beat of " + self.how, 3 * WAIT)
        return self

    def assert_killed(self):
        """Cancels it. The seconds it took, and what was on its file then."""
        began = time.monotonic()
        reply = self.stoker.delete(self.id)
        size = self.files.size(self.beat)
        took = time.monotonic() - began
        assert (reply.status, reply.body) == (200, {"status": "KILLED"}), reply
        self.assert_nothing_runs(size)
        self.assert_shown()
        return took

    def assert_shown(self):
        """What is told of it from then on."""
        ended = self.stoker.job(self.id)
        assert ended["status"] == "KILLED"
        assert ended["result"]["message"] == "Job %s killed" % self.id
        assert ended["result"]["errorClass"] == "spark.jobserver.JobManagerActor$JobKilledException"
        again = self.stoker.delete(self.id)
        assert (again.status, again.body) == (404, {"status": "ERROR", "result": "No running job with ID " + self.id})

    def assert_nothing_runs(self, size):
        """Neither in Spark, nor in processes: not now, and not later. size: of its file at the end of the cancel."""
        seen = self.stoker.value("stoker_jobs.stuck.Looks", {"job": self.id}, self.context)
        assert (seen["jobs"], seen["tasks"], seen["streams"], seen["calls"]) == (0, 0, 0, 0), seen
        if self.how != "new_stream":    # whose first batch may have come, or not
            assert (seen["known"] > 0) == (self.how in IN_TASKS + ["stream", "two_streams"]), seen
        if self.files.exists("neighbour-beat"):     # what else would show that Looks() sees anything?
            assert seen["all_tasks"] == 2, seen
            other = self.files.size("neighbour-beat")
            wait_until(lambda: self.files.size("neighbour-beat") >= other + 20, "neighbour's heart beat")
        assert self.files.size(self.beat) == size, "%s: its code has run on" % self.how
        # its own process may be taken up again, or on its way out; all others are gone
        wait_until(lambda: not self.alive(), lambda: "end of %s" % self.alive())


@pytest.mark.parametrize("how", IN_PYTHON + IN_TASKS + IN_JVM + STREAMS + PROCESSES)
def test_cancel(stoker, py, files, neighbour, good_after, how):
    job = Job(stoker, files, how).wait()
    took = job.assert_killed()
    steps = stoker.get("/v1/jobs/%s/receipt" % job.id)["steps"]
    print("cancel of %s: %.2f s" % (how, took), steps)
    met = next(step for step in steps if step["step"] == "spark confirmed")
    assert how not in MET or (met["jobs"], met["streams"]) in MET[how]
    assert took < MOST_SECONDS


@pytest.mark.parametrize("how", ["sleep", "swallow", "rdd"])
def test_cancel_in_validate(stoker, py, files, neighbour, good_after, how):
    job = Job(stoker, files, how, cls="StuckInValidate").wait()
    assert job.assert_killed() < MOST_SECONDS


# ---------------------------------------------------------------- cancels at odd moments

@pytest.fixture(scope="module")
def one(stoker):
    """A context with one slot."""
    stoker.create_running("one", **{"max-jobs": 1})
    yield "one"
    stoker.request("DELETE", "/contexts/one")


def test_a_job_that_waits(stoker, one, files):
    running = Job(stoker, files, "sleep", one).wait()
    config = {"file": files.path("log")}
    first, second = [stoker.submit("stoker_jobs.process.Appends", config, one) for _ in range(2)]
    reply = stoker.delete(first)
    assert (reply.status, reply.body) == (200, {"status": "KILLED"}), reply
    assert stoker.job(running.id)["status"] == "RUNNING"
    assert running.assert_killed() < MOST_SECONDS
    assert stoker.result(second) == second
    assert [line.split()[0] for line in files.lines("log")] == [second]


def test_a_caller_that_waits_for_a_killed_job_is_answered(stoker, py, files, good_after):
    caller = Background(stoker.run, "stoker_jobs.stuck.Stuck", {"how": "sleep", "beat": files.path("beat")})
    files.wait("beat")
    job = next(o["jobId"] for o in stoker.get("/jobs", status="running") if o["classPath"].endswith(".Stuck"))
    assert stoker.delete(job).body == {"status": "KILLED"}
    reply = caller.value()
    assert (reply.status, reply.body["jobId"], reply.body["status"]) == (200, job, "KILLED")
    assert reply.body["result"]["message"] == "Job %s killed" % job


def test_a_late_cancel(stoker, py):
    job = stoker.submit("stoker_jobs.process.Nothing")
    assert stoker.result(job) is None
    reply = stoker.delete(job)
    assert (reply.status, reply.body) == (404, {"status": "ERROR", "result": "No running job with ID " + job})
    assert stoker.job(job)["status"] == "FINISHED"
    reply = stoker.delete("no-such-job")
    assert (reply.status, reply.body) == (404, {"status": "ERROR", "result": "No such job ID no-such-job"})


def test_a_cancel_never_hits_the_next_job(stoker, one):
    """Two hundred short jobs, each cancelled at some moment; the one that waits behind it must come out right."""
    ends, seed = collections.Counter(), random.randrange(1 << 30)
    print("seed", seed)
    moments = random.Random(seed)
    for n in range(200):
        spark = n % 3 == 0
        victim = stoker.submit("stoker_jobs.stuck.Short", {"seconds": 0.05, "spark": spark, "n": n}, one)
        after = stoker.submit("stoker_jobs.stuck." + ("Sum" if n % 2 else "Short"),
                              {"seconds": 0.01, "spark": n % 4 == 0, "n": n}, one)
        time.sleep(moments.uniform(0, 0.3 if spark else 0.1))
        reply = stoker.delete(victim)
        end = stoker.ended(victim)["status"]
        assert (reply.status, end) in ((200, "KILLED"), (404, "FINISHED"), (200, "FINISHED")), (reply, end, n)
        ends[end] += 1
        assert stoker.result(after) == (n * (n - 1) // 2 if n % 2 else n), n
    print("cancels:", dict(ends))
    assert ends["KILLED"] > 10 and ends["FINISHED"] > 10, ends


@pytest.mark.parametrize("how", ["swallow", "swallows_in_spark", "two_streams"])
def test_the_server_dies_in_the_middle(stoker, py, files, neighbour, good_after, how):
    """The next one goes on where it was."""
    job = Job(stoker, files, how).wait()
    caller = Background(stoker.delete, job.id)
    wait_until(lambda: stoker.get("/v1/jobs/" + job.id)["state"] == "CANCELLING", "begin of the cancel")
    stoker.kill()
    with pytest.raises(ConnectionError):
        caller.value()
    stoker.start()
    ended = stoker.ended(job.id)
    size = files.size(job.beat)
    assert ended["status"] == "KILLED"
    job.assert_nothing_runs(size)
    job.assert_shown()


def test_the_server_dies_before_it_has_written_down_that_it_cancels(stoker, py, files, neighbour, good_after):
    """Nobody was told that the job is killed. It goes on, or it is killed, but it has not failed."""
    job = Job(stoker, files, "sleep").wait()
    caller = Background(stoker.delete, job.id)
    wait_until(lambda: is_cancelling(stoker, job.id), "begin of the cancel")
    stoker.kill()
    with pytest.raises(ConnectionError):
        caller.value()
    stoker.start()
    reply = stoker.delete(job.id)
    assert reply.status in (200, 404), reply
    job.assert_shown()


@pytest.mark.parametrize("role", ["jvm", "keeper", "zygote"])
def test_a_cancel_is_not_confirmed_by_who_does_not_answer(stoker, py, files, neighbour, good_after, role):
    job = Job(stoker, files, "swallows_in_spark").wait()
    with Stopped(pids_of(stoker, py["id"], role)) as stopped:
        assert stopped.processes
        reply = stoker.delete(job.id)
        assert (reply.status, reply.body) == (202, {"status": "KILLED", "result": "the job is still being stopped"})
        assert stoker.job(job.id)["status"] == "RUNNING"
        assert stoker.get("/v1/jobs/" + job.id)["state"] == "CANCELLING"
        again = Background(stoker.delete, job.id)
    assert again.value().body == {"status": "KILLED"}
    size = files.size(job.beat)
    job.assert_nothing_runs(size)
    job.assert_shown()


# ---------------------------------------------------------------- the end of a context

def listeners(pids):
    """{(port, inode)} of the sockets on which these processes listen."""
    inodes = set()
    for pid in pids:
        for fd in os.listdir("/proc/%d/fd" % pid):
            target = os.readlink("/proc/%d/fd/%s" % (pid, fd))
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    return {each for each in listening() if each[1] in inodes}


def listening():
    found = set()
    for path in ("/proc/net/tcp", "/proc/net/tcp6"):
        with open(path) as f:
            for fields in map(str.split, f.readlines()[1:]):
                if fields[3] == "0A":
                    found.add((int(fields[1].rpartition(":")[2], 16), fields[9]))
    return found


@pytest.mark.parametrize("role", [None, "jvm", "keeper", "zygote", "worker"])
def test_a_context_is_deleted_with_all_that_runs_in_it(stoker, py, files, neighbour, good_after, role):
    """role: whose processes are stopped by SIGSTOP before."""
    hows = ["c_with_gil", "swallows_in_spark", "two_streams", "child_without_an_environment"]
    context = stoker.create_running("goes", **{"max-jobs": len(hows)})
    jobs = [Job(stoker, files, how, "goes") for how in hows]
    waits = stoker.submit("stoker_jobs.process.Nothing", context="goes")
    for job in jobs:
        job.wait()
    ports = listeners(p.pid for p in stoker.processes(context["id"]) if p.kind == "java")
    assert ports
    with Stopped(pids_of(stoker, context["id"], role) if role else []):
        began = time.monotonic()
        reply = stoker.request("DELETE", "/contexts/goes")
        if reply.status != 200:     # the machine is slow: it goes on, and ends all the same
            assert reply.status == 202, reply
            wait_until(lambda: stoker.context("goes")["state"] == "FINISHED", "end of the context")
        sizes = [files.size(job.beat) for job in jobs]
        print("cancel of a context, stopped: %s: %.2f s" % (role, time.monotonic() - began))
    wait_until(lambda: stoker.left_of(context["id"]) == [], lambda: "end of %s" % stoker.left_of(context["id"]))
    assert [each for job in jobs for each in job.alive()] == []
    assert not ports & listening()
    assert [stoker.job(job)["status"] for job in [*(job.id for job in jobs), waits]] == ["ERROR"] * (len(jobs) + 1)
    other = files.size("neighbour-beat")
    wait_until(lambda: files.size("neighbour-beat") >= other + 20, "neighbour's heart beat")
    assert [files.size(job.beat) for job in jobs] == sizes


def test_temporary_files_are_the_contexts_own(stoker, py):
    """So they go with it: those of the JVM and those of jobs."""
    folders = stoker.value("stoker_jobs.stuck.Temporary")     # by another name where that is short
    assert [os.path.realpath(f) for f in folders] == [os.path.realpath(stoker.path("contexts", py["id"], "tmp"))] * 2
