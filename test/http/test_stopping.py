"""DELETE while the server stops: what it answers is still true when the next server has started.

The zygote of a context is held up, so that the stop of that context takes as long as the test likes.
"""

import contextlib
import json
import os
import signal

import pytest

from kit import wait_for


def stopping_server(daemon, **config):
    return daemon(stop_grace="20s", **config).start()


@contextlib.contextmanager
def held(server, name):
    """Within, the zygote of this context takes no notice of a stop."""
    path = server.path("contexts", server.context_row(name)[0], "hold")
    open(path, "w").close()
    try:
        yield
    finally:
        os.unlink(path)


@contextlib.contextmanager
def slow_stop(server, name):
    """SIGTERM; within, this context is STOPPING. After it the server has ended as it should."""
    context = server.context_row(name)[0]
    with held(server, name):
        server.send_signal(signal.SIGTERM)
        wait_for(lambda: server.rows("SELECT 1 FROM contexts WHERE id = ? AND state = 2", context), "STOPPING of it")
        yield
    assert server.wait() == 0


def stopping(reply):
    """It refuses, and says why."""
    return reply.status == 503 and "the server is stopping" in reply.result and reply.headers["Retry-After"]


@pytest.fixture
def jobs(flags):
    """A function that gives a context with one slot a job that runs and one that waits."""

    def make(server, app, context):
        log = flags.path("log")
        running = server.start_job(context, app, {"append": log, "touch": flags.path("on"), "wait": flags.path("go")})
        flags.wait("on")
        waiting = server.start_job(context, app, {"append": log, "result": "waited"})
        assert server.job_row(waiting)[0] == "QUEUED"
        return running, waiting

    return make


def test_delete_of_a_context_whose_jobs_wait(daemon, flags, jobs):
    """The next server starts it again for them: it is not said to be stopped."""
    server = stopping_server(daemon)
    app = server.upload("app")
    server.create("c", **{"max-jobs-per-context": 1})
    _, waiting = jobs(server, app, "c")
    with slow_stop(server, "c"):
        assert stopping(server.delete("/contexts/c"))
        assert stopping(server.delete("/contexts/c?force=true"))
    server.start()
    assert server.get("/contexts").json == ["c"]
    assert server.wait_job(waiting, "FINISHED")["result"] == "waited"


def test_delete_of_a_context_that_ends_with_the_server(daemon):
    """Nothing waits in it: it is stopped, and the client is told when it is."""
    server = stopping_server(daemon)
    server.create("c")
    with slow_stop(server, "c"):
        deleting = server.background("DELETE", "/contexts/c")
        assert server.context_row("c")[1] == "STOPPING" and not deleting.done()
    assert deleting().status == 200
    assert server.context_row("c")[1] == "STOPPED"
    server.start()
    assert server.get("/contexts").json == []


def test_cancel_of_jobs_in_a_context_that_is_started_again(daemon, flags, jobs):
    """KILLED stays KILLED: the one that waited does not run after the next start, nor the other a second time."""
    server = stopping_server(daemon)
    app = server.upload("app")
    server.create("c", **{"max-jobs-per-context": 1})
    running, waiting = jobs(server, app, "c")
    last = server.start_job("c", app, {"append": flags.path("log"), "result": "last"})
    with slow_stop(server, "c"):
        for job in (waiting, running):
            reply = server.delete("/jobs/" + job)
            assert (reply.status, reply.json) == (200, {"status": "KILLED"})
            assert server.job_row(job)[0] == "KILLED"
    server.start()
    server.wait_job(last, "FINISHED")
    assert [server.job(job)["status"] for job in (running, waiting)] == ["KILLED"] * 2
    assert flags.lines("log") == [running + " 1", last + " 1"]


def test_cancel_of_a_job_that_ends_with_its_context(daemon, flags):
    """The stop has reached it before: the client is told what it has ended with."""
    server = stopping_server(daemon)
    app = server.upload("app")
    server.create("c")
    job = server.start_job("c", app, {"touch": flags.path("on"), "wait": "/nowhere"})
    flags.wait("on")
    with slow_stop(server, "c"):
        cancelling = server.background("DELETE", "/jobs/" + job)
    reply = cancelling()
    assert (reply.status, reply.json["status"]) == (200, "ERROR")
    state, _, _, error = server.job_row(job)
    assert (state, error["code"]) == ("ERROR", "SERVER_STOPPED")
    assert error["message"] in json.dumps(reply.json)


def test_what_was_put_down_for_the_next_server(daemon, flags, jobs):
    """One context is down already, with a job that waits for the next server, while another still stops: neither that job
    nor its context is said to have ended, and who waits for it is told that it goes on."""
    server = stopping_server(daemon)
    app = server.upload("app")
    server.create("c", **{"max-jobs-per-context": 1})
    server.create("slow")
    jobs(server, app, "c")
    once = {"headers": {"Idempotency-Key": "once"}}
    path = "/jobs?appName=%s&classPath=app.Job&context=c" % app
    body = {"fake": {"append": flags.path("log"), "result": "waited"}}
    waiting = server.post(path, body, **once).json["jobId"]
    c = server.context_row("c")[0]
    with slow_stop(server, "slow"):
        server.wait_log("context=%s .*from=STOPPING to=CREATING" % c)
        wait_for(lambda: server.context_row("c")[1] == "CREATING", "its last row")
        assert stopping(server.delete("/jobs/" + waiting))
        assert stopping(server.delete("/contexts/c"))
        again = server.post(path + "&sync=true&timeout=10", body, **once)
        assert again.status == 500 and again.json["jobId"] == waiting and "timed out" in again.text
        assert server.get("/jobs/" + "0" * 8 + "-0000-4000-8000-" + "0" * 12).status == 404
    server.start()
    assert server.get("/contexts").json == ["c"]
    assert server.wait_job(waiting, "FINISHED")["result"] == "waited"


def test_delete_while_contexts_are_left_to_the_next_server(daemon, flags):
    """SIGUSR2, and the server has to wait for its own clearing away: nothing is stopped any more that was to go on."""
    server = daemon(keep_jobs="2s").start()
    app = server.upload("app")
    server.create("c")
    job = server.start_job("c", app, {"touch": flags.path("on"), "wait": flags.path("go"), "result": "kept"})
    flags.wait("on")
    with server.frozen_store():
        server.wait_log("another program holds the database's lock")  # retention's next command meets it
        server.send_signal(signal.SIGUSR2)
        server.wait_log("main.*stopping")
        assert stopping(server.delete("/jobs/" + job, http_timeout=15))
        assert stopping(server.delete("/contexts/c", http_timeout=15))
        assert server.running
    assert server.wait() == 0
    server.start()
    assert server.job(job)["status"] == "RUNNING"
    flags.up("go")
    assert server.wait_job(job, "FINISHED")["result"] == "kept"


def test_kill_in_the_middle_of_a_stop(daemon, flags, jobs):
    """SIGTERM, and kill -9 before the contexts have ended, as service managers do it: what had not started runs all the
    same, in the same context, which the next server starts again."""
    server = stopping_server(daemon)
    app = server.upload("app")
    server.create("c", **{"max-jobs-per-context": 1})
    running, waiting = jobs(server, app, "c")
    context, zygote = server.context_row("c")[0], server.pid("c", "z")
    with held(server, "c"):
        server.send_signal(signal.SIGTERM)
        wait_for(lambda: server.context_row("c")[1] == "STOPPING", "STOPPING of it")
        server.kill()
        server.start()
    assert server.wait_job(waiting, "FINISHED")["result"] == "waited"
    assert server.context_row("c") == (context, "RUNNING", None) and server.pid("c", "z") != zygote
    state, _, _, error = server.job_row(running)
    assert (state, error["code"]) == ("ERROR", "SERVER_STOPPED")
    assert flags.lines("log") == [running + " 1", waiting + " 1"]


def test_sigterm_after_sigusr2(daemon, flags):
    """What was to go on without the server is stopped after all, as long as that one is there to stop it."""
    server = daemon(keep_jobs="2s").start()
    app = server.upload("app")
    server.create("c")
    job = server.start_job("c", app, {"touch": flags.path("on"), "wait": "/nowhere"})
    flags.wait("on")
    with server.frozen_store():
        server.wait_log("another program holds the database's lock")
        server.send_signal(signal.SIGUSR2)
        server.wait_log("main.*stopping")
        server.send_signal(signal.SIGTERM)
        server.wait_log("from=RUNNING to=STOPPING")
    assert server.wait() == 0
    assert server.pids() == []
    assert server.context_row("c")[1] == "STOPPED"
    state, _, _, error = server.job_row(job)
    assert (state, error["code"]) == ("ERROR", "SERVER_STOPPED")


def test_sigusr2_and_sigterm_at_once(daemon, flags):
    """The second comes too late: what the first has left goes on."""
    server = daemon().start()
    app = server.upload("app")
    server.create("c")
    job = server.start_job("c", app, {"touch": flags.path("on"), "wait": flags.path("go"), "result": "kept"})
    flags.wait("on")
    before = sorted(server.pids())
    server.send_signal(signal.SIGSTOP)
    server.send_signal(signal.SIGUSR2)
    server.send_signal(signal.SIGTERM)
    server.send_signal(signal.SIGCONT)
    assert server.wait() == 0
    assert "contexts=\"left running\"" in server.log()
    assert sorted(server.pids()) == before
    server.start()
    flags.up("go")
    assert server.wait_job(job, "FINISHED")["result"] == "kept"


def test_sigusr2_after_sigterm(daemon, flags, jobs):
    """The server does not wait for what it has begun to stop. The next one goes on with it: a context for which jobs wait is
    started again, another ends."""
    server = stopping_server(daemon)
    app = server.upload("app")
    for name in "cd":
        server.create(name, **{"max-jobs-per-context": 1})
    running, waiting = jobs(server, app, "c")
    (context, *_), (other, *_), zygote = server.context_row("c"), server.context_row("d"), server.pid("c", "z")
    with held(server, "c"), held(server, "d"):
        server.send_signal(signal.SIGTERM)
        for name in "cd":
            wait_for(lambda name=name: server.context_row(name)[1] == "STOPPING", "STOPPING of it")
        server.send_signal(signal.SIGUSR2)
        assert server.wait() == 0
        assert zygote in server.pids() and [server.context_row(name)[1] for name in "cd"] == ["STOPPING"] * 2
        server.start()
    assert server.wait_job(waiting, "FINISHED")["result"] == "waited"
    assert server.context_row("c") == (context, "RUNNING", None) and server.pid("c", "z") != zygote
    wait_for(lambda: server.context_row("d")[1] == "STOPPED", "end of the other")
    assert server.context_row("d")[0] == other and server.get("/contexts").json == ["c"]
    state, _, _, error = server.job_row(running)
    assert (state, error["code"]) == ("ERROR", "SERVER_STOPPED")
    assert flags.lines("log") == [running + " 1", waiting + " 1"]
