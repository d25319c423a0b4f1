"""The server dies, is stopped and comes back, on real Spark: nothing that was accepted is lost, and nothing runs twice.

Jobs keep the account themselves: each attempt appends one line, "JOB PID", to a file. One server folder and one
context, `py` with three slots, go through all of it in order; the last tests end them.
"""
import os
import random
import signal
import time
from collections import Counter

import pytest
from server import COUNTS, STRINGS, Background, end, process, wait_until

ADOPTED = ("id", "name", "startTime", "endTime", "state", "applicationId")
STOKER = {"stop_grace": "5s"}
PY = {"max-jobs": 3}

pytestmark = pytest.mark.usefixtures("nothing_runs_on")


@pytest.fixture
def jobs(stoker, py, files):
    """The jobs of one test, on one account."""
    return Jobs(stoker, files)


class Jobs:
    def __init__(self, stoker, files):
        self.stoker, self.files = stoker, files

    def start(self, go=None, beat=None, context="py"):
        """Starts a job that writes its line, and waits for the file `go`; with `beat`, in Spark tasks. Its id."""
        config = {"file": self.files.path("account")}
        if go:
            config["go"] = self.files.path(go)
        if beat:
            config["beat"] = self.files.path(beat)
        return self.stoker.submit("stoker_jobs.process." + ("AppendsInTasks" if beat else "Appends"), config, context)

    def account(self):
        """{job: how many attempts there were}."""
        return Counter(line.split()[0] for line in self.files.lines("account"))

    def pid(self, job):
        """The process of the job's last attempt."""
        return [int(line.split()[1]) for line in self.files.lines("account") if line.split()[0] == job][-1]

    def wait(self, *jobs):
        """Until each of these has written its line."""
        wait_until(lambda: set(jobs) <= set(self.account()), "the lines of the jobs")

    def wait_beat(self, beat):
        """Until Spark tasks have run on for a while from now."""
        size = self.files.size(beat)
        wait_until(lambda: self.files.size(beat) >= size + 10, "heart beat of the tasks")

    def is_still(self, beat):
        """Whether Spark tasks add nothing for twenty times as long as they take to add something."""
        size = self.files.size(beat)
        time.sleep(1)
        return self.files.size(beat) == size

    def assert_finished_once(self, *jobs):
        for job in jobs:
            assert self.stoker.result(job) == job
        account = self.account()
        assert {job: account[job] for job in jobs} == {job: 1 for job in jobs}


def assert_adopted(stoker, before, processes):
    """The context is the same one, with all its processes."""
    assert {key: stoker.context("py")[key] for key in ADOPTED} == {key: before[key] for key in ADOPTED}
    assert set(processes) <= set(stoker.processes(before["id"]))
    kinds = Counter(each.kind for each in stoker.processes(before["id"]))
    assert kinds["java"] == 1, kinds


def in_spool(stoker, job):
    return os.path.exists(stoker.path("spool", job + ".1"))


# ---------------------------------------------------------------- kill -9

def test_kill_9_while_jobs_run_and_wait(stoker, py, jobs):
    """One ends while no server is there, two go on until after the start (one of them in Spark), two wait."""
    away, python, spark = jobs.start("away"), jobs.start("go"), jobs.start("go", "beat")
    jobs.wait(away, python, spark)
    jobs.wait_beat("beat")
    waiting = [jobs.start() for _ in range(2)]
    assert stoker.queued() == set(waiting)
    before = [each for each in stoker.processes(py["id"]) if each.kind in ("java", "python")]
    caller = Background(stoker.run, "stoker_jobs.process.Nothing")
    wait_until(lambda: len(stoker.queued()) == 3, "third waiting job")

    stoker.kill()
    with pytest.raises(ConnectionError):
        caller.value()
    jobs.wait_beat("beat")
    jobs.files.make("away")
    wait_until(lambda: in_spool(stoker, away), "result in the spool")
    assert set(jobs.account()) == {away, python, spark}

    stoker.start()
    assert_adopted(stoker, py, [each for each in before if process(each.pid) == each])
    assert jobs.pid(python) in {each.pid for each in before} and process(jobs.pid(python))
    jobs.assert_finished_once(away, *waiting)
    wait_until(lambda: not in_spool(stoker, away), "removal of the spool file")
    jobs.wait_beat("beat")
    assert [stoker.job(job)["status"] for job in (python, spark)] == ["RUNNING", "RUNNING"]
    jobs.files.make("go")
    jobs.assert_finished_once(away, python, spark, *waiting)
    nothing = [job for job in stoker.get("/jobs") if job["classPath"].endswith(".Nothing")]
    assert stoker.ended(nothing[0]["jobId"])["status"] == "FINISHED" and len(nothing) == 1
    assert os.listdir(stoker.path("spool")) == []
    assert stoker.value("stoker_jobs.word_count.SessionCount", STRINGS) == COUNTS


def test_workers_that_die_while_no_server_is_there(stoker, py, jobs):
    """One has left its result, one has not, one had a Spark stage at work; whatever killed them is told."""
    left, lost, spark = jobs.start("left"), jobs.start("never"), jobs.start("never", "beat")
    jobs.wait(left, lost, spark)
    jobs.wait_beat("beat")
    waiting = jobs.start()
    stoker.kill()
    jobs.files.make("left")
    wait_until(lambda: in_spool(stoker, left), "result in the spool")
    pids = [jobs.pid(job) for job in (left, lost, spark)]
    for pid in pids:
        end(pid)
    wait_until(lambda: not any(map(process, pids)), "end of the workers")

    stoker.start()
    jobs.assert_finished_once(left, waiting)
    for job in (lost, spark):
        ended = stoker.ended(job)
        assert ended["status"] == "ERROR", ended
        assert ended["result"]["message"].startswith(
            "Python job failed with error code 137 and standard err [the job's process was ended by signal 9 (Killed)")
    wait_until(lambda: jobs.is_still("beat"), "end of the Spark tasks of the worker that is dead")
    assert jobs.account() == {job: 1 for job in (left, lost, spark, waiting)}
    assert stoker.value("stoker_jobs.word_count.SessionCount", STRINGS) == COUNTS
    assert stoker.context("py") == py
    wait_until(lambda: os.listdir(stoker.path("spool")) == [], "an empty spool")


def test_a_cancel_that_the_server_did_not_see_the_end_of(stoker, py, jobs):
    """The job swallows interrupts, so that the server dies in the middle of the ladder; the next one climbs on."""
    on = jobs.files.path("on")
    job = stoker.submit("stoker_jobs.process.Swallows", {"on": on, "seconds": 600})
    pid = int(wait_until(lambda: jobs.files.lines("on"), "start of the job")[0])
    caller = Background(stoker.delete, job)
    wait_until(lambda: "to=CANCELLING" in stoker.log(), "begin of the cancel")
    stoker.kill()
    with pytest.raises(ConnectionError):
        caller.value()
    stoker.start()
    ended = stoker.ended(job)
    assert (ended["status"], ended["result"]["message"]) == ("KILLED", "Job %s killed" % job)
    assert process(pid) is None
    assert stoker.value("stoker_jobs.process.Nothing") is None


def test_kill_9_at_any_moment(stoker, py, jobs):
    """Jobs are submitted all the while. Each that was accepted ends well, and none has run twice."""
    seed = random.randrange(1 << 30)
    print("seed", seed)     # shown when it fails
    chance, accepted, rounds = random.Random(seed), [], 6

    def submit_until_refused():
        """The ids, until the server is gone. The last job may have been accepted without our knowing."""
        ids = []
        try:
            while len(ids) < 300:
                ids.append(jobs.start())
        except (OSError, AssertionError):
            pass
        return ids

    for _ in range(rounds):
        submitter = Background(submit_until_refused)
        time.sleep(chance.uniform(0.02, 0.3))       # the moment is what is tested
        stoker.kill()
        accepted += submitter.value()
        stoker.start()
    jobs.assert_finished_once(*accepted)
    unsure = set(jobs.account()) - set(accepted)
    assert len(accepted) > rounds and len(unsure) <= rounds
    jobs.assert_finished_once(*unsure)
    assert_adopted(stoker, py, [])


# ---------------------------------------------------------------- other ends

def test_sigusr2_leaves_the_contexts(stoker, py, jobs):
    job, spark = jobs.start("go"), jobs.start("go", "beat")
    jobs.wait(job, spark)
    jobs.wait_beat("beat")
    before = [each for each in stoker.processes(py["id"]) if each.kind in ("java", "python")]
    assert stoker.end(signal.SIGUSR2) == 0
    jobs.wait_beat("beat")
    jobs.files.make("go")
    wait_until(lambda: in_spool(stoker, job) and in_spool(stoker, spark), "results in the spool")
    stoker.start()
    assert_adopted(stoker, py, [each for each in before if process(each.pid) == each])
    jobs.assert_finished_once(job, spark)


@pytest.mark.parametrize("moment", ["zygote", "java"])
def test_kill_9_while_a_context_starts(stoker, py, jobs, moment):
    """It goes on to start, or starts again, and in the end there is one of it."""
    name = "late-" + moment
    caller = Background(stoker.create, name)

    def begun():
        reply = stoker.request("GET", "/contexts/" + name)
        kinds = [each.kind for each in stoker.processes(reply.body["id"])] if reply.status == 200 else []
        return kinds and (moment == "zygote" or "java" in kinds)

    wait_until(begun, "begin of the context")
    assert stoker.context(name)["state"] == "STARTED"
    stoker.kill()
    with pytest.raises(ConnectionError):
        caller.value()
    stoker.start()
    wait_until(lambda: stoker.context(name)["state"] != "STARTED", "end of the start")
    context = stoker.context(name)
    assert context["state"] == "RUNNING", context
    assert Counter(each.kind for each in stoker.processes(context["id"]))["java"] == 1
    assert stoker.value("stoker_jobs.word_count.SessionCount", STRINGS, name) == COUNTS
    assert stoker.create(name).status == 400
    stoker.delete_context(name)
    assert stoker.left_of(context["id"]) == []
    assert stoker.context("py") == py


def test_adoption_is_quick(stoker, py, jobs):
    """Three contexts with eight workers each: soon after `listening`, the old workers take jobs again. All of them or, where it
    dialled first, the spare one of a context."""
    names = ["py8-%d" % i for i in range(3)]
    for name in names:
        stoker.create_running(name, **{"max-jobs": 8})

    def fill(account):
        """Eight jobs at once in each context: the pids of the workers."""
        go = account + ".go"
        mine = Jobs(stoker, jobs.files)
        ids = []
        for name in names:
            for _ in range(8):
                ids.append(mine.start(go, context=name))
        mine.wait(*ids)
        jobs.files.make(go)
        mine.assert_finished_once(*ids)
        return {mine.pid(job) for job in ids}

    assert len(fill("first")) == 24
    before = {row[0] for row in stoker.rows("SELECT pid FROM processes WHERE role = 'worker'")}
    stoker.kill()
    stoker.start()
    start = time.monotonic()
    after = fill("second")
    print("24 workers adopted and at work again after %.2f s" % (time.monotonic() - start))
    assert len(after) == 24 and after <= before
    for name in names:
        stoker.delete_context(name)
    assert time.monotonic() - start < 120


def test_sigterm_while_jobs_wait(stoker, py, jobs):
    """What runs ends with an error; what waits runs at the next start, in a context started anew."""
    running = [jobs.start("never"), jobs.start("never"), jobs.start("never", "beat")]
    jobs.wait(*running)
    jobs.wait_beat("beat")
    waiting = [jobs.start() for _ in range(3)]
    assert stoker.queued() == set(waiting)
    stoker.stop()
    assert stoker.processes() == []
    size = jobs.files.size("beat")

    stoker.start()
    jobs.assert_finished_once(*waiting)
    context = wait_until(lambda: (lambda c: c["state"] == "RUNNING" and c)(stoker.context("py")), "the context")
    assert context["id"] == py["id"] and context["applicationId"] != py["applicationId"]
    assert jobs.account() == {job: 1 for job in running + waiting} and jobs.files.size("beat") == size
    assert stoker.value("stoker_jobs.word_count.SessionCount", STRINGS) == COUNTS
    for job in running:
        ended = stoker.job(job)
        assert ended["status"] == "ERROR", ended
        assert "the server was stopped while the job ran" in ended["result"]["message"]


def test_sigterm_leaves_nothing(stoker, py):
    assert stoker.context("py")["state"] == "RUNNING"
    stoker.stop()
    assert stoker.processes() == []
    assert os.listdir(stoker.path("contexts")) == os.listdir(stoker.path("spool")) == []
    stoker.start()
    assert stoker.get("/contexts") == []
    ended = stoker.context("py")
    assert (ended["state"], ended["id"]) == ("FINISHED", py["id"])
    assert stoker.processes() == []
