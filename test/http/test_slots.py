"""Slots do not leak, and the limit on contexts holds, whatever comes at once.

STOKER_SLOT_JOBS=10000 runs the first test with as many jobs; the default keeps `make check` short.
"""

import collections
import os
import random
import signal
import threading

import pytest

from kit import JOB_STATES, kill_hard, make_zip, ps, wait_for
from shim import Shim

JOBS = int(os.environ.get("STOKER_SLOT_JOBS") or 1200)
SLOTS, CLIENTS = 8, 24


def free_slots(server, context, app, flags):
    """How many jobs run at the same time: each tells that it is there, and none ends before all are."""
    go = flags.path("go-" + context)
    jobs = [
        server.start_job(context, app, {"append": flags.path("there-" + context), "wait": go}) for _ in range(SLOTS)
    ]
    wait_for(lambda: len(flags.lines("there-" + context)) == SLOTS, lambda: "%d of %d slots\n%s" % (
        len(flags.lines("there-" + context)), SLOTS, [server.job_row(job) for job in jobs]))
    flags.up("go-" + context)
    for job in jobs:
        server.wait_job(job, "FINISHED")


def killed(server, context, app, rng):
    """Sometimes it waits in the queue then, sometimes it runs, sometimes it ignores the interrupt."""
    job = server.start_job(context, app, {"do": "hang"} if rng.random() < 0.05 else {"sleep": 600})
    if rng.random() < 0.7:
        threading.Event().wait(rng.uniform(0, 0.03))  # any moment will do
    reply = server.delete("/jobs/" + job)
    assert reply.json == {"status": "KILLED"}, reply


def crashes(server, context, app, rng):
    wish = rng.choice([{"do": "exit"}, {"do": "exit", "status": 0}, {"do": "signal"}, {"do": "signal", "signal": 11}])
    reply = server.run(context, app, wish, timeout=300)
    assert reply.status == 200 and reply.json["status"] == "ERROR", reply


def times_out(server, context, app, rng):
    terms = {rng.choice(["run-timeout", "run-timeout", "queue-timeout"]): "%dms" % rng.randrange(1, 40)}
    terms.setdefault("run-timeout", "1ms")
    reply = server.run(context, app, {"sleep": 600}, timeout=300, **terms)
    assert reply.status == 200 and reply.json["status"] == "ERROR", reply


def test_slots_never_leak(daemon, flags):
    """A third is killed, a third crashes, a third times out: each ends as it should, and all slots are free again."""
    server = daemon(log_level="info", max_jobs=SLOTS, cancel_grace="100ms").start()
    app = server.upload("app")
    contexts = [server.create("a"), server.create("b")]
    todo, lock, failures = collections.deque(range(JOBS)), threading.Lock(), []

    def client(number):
        rng = random.Random(number)
        while not failures:
            with lock:
                if not todo:
                    return
                index = todo.popleft()
            try:
                (killed, crashes, times_out)[index % 3](server, contexts[index % 2], app, rng)
            except Exception as e:  # noqa: BLE001 - told below
                failures.append(e)

    clients = [threading.Thread(target=client, args=(n,), daemon=True) for n in range(CLIENTS)]
    for each in clients:
        each.start()
    for each in clients:
        each.join()
    assert not failures, failures

    third = [len(range(i, JOBS, 3)) for i in range(3)]
    found = {JOB_STATES[state]: n for state, n in server.rows("SELECT state, count(*) FROM jobs GROUP BY state")}
    assert found == {"KILLED": third[0], "ERROR": third[1], "TIMED_OUT": third[2]}
    codes = {row[0] for row in server.rows("SELECT DISTINCT json_extract(error, '$.code') FROM jobs WHERE state = 5")}
    assert codes <= {"EXITED", "SIGNALLED"}
    for context in contexts:
        free_slots(server, context, app, flags)


def test_the_limit_on_contexts_holds_under_a_hundred_creations(daemon):
    """Five are made; the others are refused and leave nothing; the place of one that has ended is free again."""
    server = daemon(max_contexts=5).start()
    together = threading.Barrier(100)
    replies = {}

    def create(name):
        together.wait()
        replies[name] = server.post("/contexts/" + name)

    clients = [threading.Thread(target=create, args=("c%d" % i,), daemon=True) for i in range(100)]
    for each in clients:
        each.start()
    for each in clients:
        each.join()
    assert collections.Counter(reply.status for reply in replies.values()) == {200: 5, 503: 95}
    refused = [reply for reply in replies.values() if reply.status == 503]
    assert all("max-contexts" in reply.result and reply.headers["Retry-After"] for reply in refused)
    made = {name for name, reply in replies.items() if reply.status == 200}
    assert set(server.get("/contexts").json) == made
    assert len(os.listdir(server.path("contexts"))) == 5
    assert server.rows("SELECT count(*) FROM contexts") == [(5,)]
    assert server.post("/contexts/late").status == 503
    server.delete("/contexts/" + made.pop())
    wait_for(lambda: len(server.get("/contexts").json) == 4, "end of the context")
    assert server.post("/contexts/late").status == 200


def test_workers_of_isolated_jobs_make_room(daemon):
    """Whatever the worker says of it itself, the server lets none that has had an isolated job stand in the way."""
    server = daemon().start()
    app = server.upload("app")
    server.create("c", **{"max-jobs-per-context": 1})
    for number in range(4):
        assert server.run("c", app, {"result": number}, isolation="process").result == number


# ---- workers that hang

GIVEN_UP_S = 130  # after this the server has no more patience with a worker that comes or goes


@pytest.fixture
def stopped():
    """A function that stops processes as if they hung; what is left of them is ended after the test."""
    pids = []

    def stop(pid):
        os.kill(pid, signal.SIGSTOP)
        pids.append(pid)

    yield stop
    kill_hard(pid for pid in pids if ps(pid).split()[2:3] == ["T"])


def waits_first(server, job):
    """It is in the queue, and the server has looked for a worker for it."""
    wait_for(lambda: server.get("/v1/jobs/" + job).json["position"] == 0, "its place in the queue")


def test_hung_worker_that_retires_makes_room(daemon, stopped):
    """It was asked to leave for a job of other binaries and does not: it is killed, and that job has its place. Its time
    counts from when it was asked, however long it was idle before."""
    server = daemon(worker_idle_timeout="%ds" % (GIVEN_UP_S + 10))
    shim = Shim(server)
    assert shim.start()
    apps = [server.upload("app%d" % i, make_zip({"app.py": "n = %d\n" % i})) for i in range(3)]
    server.create("c", **{"max-jobs-per-context": 1})
    server.create("d")
    process, idle = (server.job_row(server.run(name, apps[0]).json["jobId"])[2] for name in "cd")
    hung = server.pid("c", process)
    stopped(hung)
    assert server.run("c", apps[1]).status == 200  # in the spare worker, which is of this set now
    shim.forward(GIVEN_UP_S)
    job = server.start_job("c", apps[2], {"result": "at last"})
    waits_first(server, job)
    shim.forward(15)
    wait_for(lambda: server.pid("d", idle) is None, "the end of an idle worker, which shows that all were looked at")
    assert "not gone in time" not in server.log() and ps(hung).split()[2] == "T"
    shim.forward(GIVEN_UP_S)
    assert server.wait_job(job, "FINISHED")["result"] == "at last"
    assert ps(hung) == "gone" and server.pid("c", process) is None
    server.wait_log("not gone in time.*process=" + process)


def test_workers_that_stay_silent_after_a_restart_make_room(daemon, stopped):
    """They have no job in hand and never dial: they are killed, and jobs are run by others."""
    server = daemon()
    shim = Shim(server)
    assert shim.start()
    app = server.upload("app")
    server.create("c", **{"max-jobs-per-context": 1})
    assert server.run("c", app).status == 200
    workers = wait_for(lambda: (lambda rows: rows if len(rows) == 2 else None)(
        server.rows("SELECT pid FROM processes WHERE process LIKE 'w-%'")), "a spare worker")
    server.kill()
    for (pid,) in workers:
        stopped(pid)
    assert shim.start()
    job = server.start_job("c", app, {"result": "at last"})
    waits_first(server, job)
    shim.forward(GIVEN_UP_S)
    assert server.wait_job(job, "FINISHED")["result"] == "at last"
    assert [ps(pid) for (pid,) in workers] == ["gone"] * 2


def test_worker_that_never_gets_its_gateway_makes_room(daemon):
    """The keeper does not answer for it: another is asked for, as often as it takes."""
    server = daemon()
    shim = Shim(server)
    assert shim.start()
    app = server.upload("app")
    server.create("c", wish={"keeper": "no_admit"})
    job = server.start_job("c", app)
    waits_first(server, job)
    for _ in range(2):
        start = len(server.log())
        shim.forward(GIVEN_UP_S)
        server.wait_log("not ready in time", after=start)
    assert server.delete("/jobs/" + job).json == {"status": "KILLED"}
