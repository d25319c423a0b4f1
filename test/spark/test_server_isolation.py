"""isolation, max-memory, jobs that take their process along, the attached spare: real Spark through the real server."""
import os
import shutil
import signal
import time

import pytest
from server import JOBS, wait_until

SPOILS = "stoker_jobs.isolation.Spoils"
TAKES = "stoker_jobs.isolation.Takes"
STOKER = {"context_create_timeout": "5min"}


@pytest.fixture(scope="module")
def alone(stoker):
    """A context whose jobs are isolated unless they say otherwise."""
    return stoker.create_running("alone", isolation="process")


def native(stoker, job):
    return stoker.get("/v1/jobs/" + job)


def run(stoker, cls, config="", **terms):
    """Runs a job to its end: (result or None, what /v1 shows of it)."""
    reply = stoker.post_job(cls, config, terms.pop("context", "py"), terms.pop("app", "jobs"), sync="true", timeout=240,
                            **terms)
    shown = native(stoker, reply.body["jobId"])
    return (reply.body["result"] if shown["state"] == "FINISHED" else None), shown


# ---------------------------------------------------------------- isolation

def test_isolated_jobs_share_nothing(stoker, py):
    found = [run(stoker, SPOILS, isolation="process")[0] for _ in range(3)]
    assert len({each["pid"] for each in found}) == 3
    first = found[0]["seen"]
    assert first[:3] == [0, None, False] and first[4] is False
    assert [each["seen"] for each in found] == [first] * 3


def test_shared_jobs_share_the_modules_of_their_set(stoker, py):
    """And nothing else that the runner knows of."""
    found = [run(stoker, SPOILS, {"keep": True})[0] for _ in range(3)]
    assert len({each["pid"] for each in found}) == 1
    start = found[0]["seen"][0]
    assert [each["seen"][0] for each in found] == [start, start + 1, start + 2]
    assert [each["seen"][1:4] for each in found] == [found[0]["seen"][1:4]] * 3
    assert found[0]["seen"][1:3] == [None, False]


def test_a_shared_job_that_replaces_a_function_is_the_last_of_its_process(stoker, py, good_after):
    one, two = run(stoker, SPOILS)[0], run(stoker, SPOILS, {"keep": True})[0]
    assert one["pid"] != two["pid"] and two["seen"][0] == 0


def test_isolation_of_a_context_and_of_its_jobs(stoker, alone):
    found = [run(stoker, SPOILS, context="alone") for _ in range(3)]
    assert len({each["pid"] for each, _ in found}) == 3
    assert {shown["isolation"] for _, shown in found} == {"process"}
    assert [each["seen"][0] for each, _ in found] == [0, 0, 0]
    shared = [run(stoker, SPOILS, {"keep": True}, context="alone", isolation="shared")[0] for _ in range(2)]
    assert shared[0]["pid"] == shared[1]["pid"] and [each["seen"][0] for each in shared] == [0, 1]
    isolated = run(stoker, SPOILS, context="alone")[0]
    assert isolated["pid"] != shared[0]["pid"] and isolated["seen"][0] == 0


# ---------------------------------------------------------------- max-memory

@pytest.mark.parametrize("how, mib", [("python", 512), ("child", 96), ("swallow", 0)])
def test_a_job_over_its_memory(stoker, py, good_after, how, mib):
    _, shown = run(stoker, TAKES, {"how": how, "mib": mib}, max_memory="128m")
    assert (shown["state"], shown["error"]["code"]) == ("ERROR", "OUT_OF_MEMORY"), shown
    assert "max-memory = 128 MiB" in shown["error"]["message"] and shown["error"]["retry"] == "with-more-memory"
    if how == "python":
        assert shown["error"]["file"] == "stoker_jobs/isolation.py" and "bytearray" in shown["error"]["source"]
    left = [p for p in stoker.processes(py["id"]) if p.pid == shown["process"]["pid"]]
    assert how == "python" or not left


def test_the_same_job_with_enough_memory(stoker, py):
    assert run(stoker, TAKES, {"how": "python", "mib": 512}, max_memory="1g")[0] == 512 << 20
    assert run(stoker, TAKES, {"how": "python", "mib": 512})[0] == 512 << 20


# ---------------------------------------------------------------- jobs that take their process along

@pytest.mark.parametrize("how, code, exit_code, text", [
    ("exit", "EXITED", 3, "exit status 3"), ("segfault", "SIGNALLED", 139, "Segmentation fault"),
    ("kill", "SIGNALLED", 137, "out-of-memory")])
def test_a_job_that_ends_its_process_fails_alone(stoker, py, good_after, files, how, code, exit_code, text):
    neighbour = stoker.submit("stoker_jobs.process.Counts", {"on": files.path("on"), "go": files.path("go"), "n": 1000})
    files.wait("on")
    _, shown = run(stoker, "stoker_jobs.isolation.Dies", {"how": how})
    assert (shown["error"]["code"], shown["error"]["exit_code"]) == (code, exit_code), shown
    assert text in shown["error"]["message"]
    files.make("go")
    assert stoker.result(neighbour) == sum(range(1000))


def test_a_job_that_deletes_its_working_directory(stoker, py, good_after, files):
    assert run(stoker, "stoker_jobs.isolation.Dies", {"how": "rmtree"})[0] == "survived"
    places = [run(stoker, SPOILS, {"keep": True}, isolation=isolation)[0]["seen"][3]
              for isolation in ("shared", "process")]
    assert places == [stoker.path("contexts", py["id"], "work")] * 2
    assert os.path.isdir(places[0])


def test_a_worker_killed_from_outside(stoker, py, good_after, files):
    job = stoker.submit("stoker_jobs.isolation.HoldsPid", {"on": files.path("pid"), "go": files.path("never")})
    files.wait("pid")
    os.kill(int(files.lines("pid")[0]), signal.SIGKILL)
    assert stoker.ended(job)["status"] == "ERROR"
    error = native(stoker, job)["error"]
    assert error["code"] == "SIGNALLED" and error["retry"] == "with-more-memory"
    assert "signal 9" in error["message"] and "out-of-memory killer" in error["message"]


# ---------------------------------------------------------------- the attached spare

def workers(stoker, context):
    """pid -> start time, in clock ticks since boot, of the context's workers: the kernel shall take them first."""
    found = {}
    for each in stoker.processes(context["id"]):
        try:
            with open("/proc/%d/oom_score_adj" % each.pid) as f:
                if int(f.read()) >= 500:
                    found[each.pid] = each.start
        except OSError:
            continue
    return found


def spare(stoker, context, used):
    """The one worker that has run nothing, attached: it has opened its logs. (pid, start time)."""
    def attached():
        live = workers(stoker, context)
        new = [pid for pid in live if pid not in used]
        logs = {os.path.realpath("/proc/%d/fd/1" % pid) for pid in new}
        return len(new) == 1 and "/logs/w-" in logs.pop() and (new[0], live[new[0]])
    return wait_until(attached, "attached spare")


def ticks():
    return time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK")


def test_an_attached_spare_runs_the_first_job_of_a_new_set(stoker, files, tmp_path):
    """The worker of a new binary set was forked and attached before anybody asked for it; and another one takes its
    place while that job still runs."""
    context = stoker.create_running("spares")
    used = {}
    for number in range(3):
        app = "set-%d" % number
        folder = tmp_path / app
        shutil.copytree(os.path.join(JOBS, "suite"), folder)
        (folder / "stoker_jobs" / "number.py").write_text("NUMBER = %d\n" % number)
        stoker.upload_jobs(app, str(folder))
        pid, start = spare(stoker, context, used)
        submitted = ticks()
        job = stoker.submit("stoker_jobs.isolation.HoldsPid", {"on": files.path("pid-" + app), "go": files.path("go")},
                            context="spares", app=app)
        files.wait("pid-" + app)
        assert int(files.lines("pid-" + app)[0]) == pid and start < submitted
        used[pid] = job
    spare(stoker, context, used)
    files.make("go")
    assert {stoker.result(job): job for job in used.values()} == used
    stoker.delete_context("spares")
