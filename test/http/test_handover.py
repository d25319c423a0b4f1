"""A server that is replaced while clients are at work, and callers with little time."""

import http.client
import os
import signal
import threading

import pytest

from kit import wait_for


pytestmark = pytest.mark.own_server


def test_sigusr2_under_load(server, app, flags):
    """Requests in flight do not disturb the handover, and who waits for a job learns its id."""
    server.create("c")
    sync = server.background(
        "POST", "/jobs?appName=%s&classPath=jobs.Job&context=c&sync=true&timeout=600" % app,
        '{"fake": {"touch": "%s", "wait": "%s", "result": 6}}' % (flags.path("on"), flags.path("go")),
    )
    flags.wait("on")
    over = threading.Event()

    def read():
        while not over.is_set():
            try:
                server.get("/jobs")
            except (OSError, http.client.HTTPException):  # it is going down
                return

    readers = [threading.Thread(target=read) for _ in range(8)]
    for reader in readers:
        reader.start()
    try:
        assert server.stop(signal.SIGUSR2) == 0
    finally:
        over.set()
        for reader in readers:
            reader.join()
    job = sync().json["jobId"]
    server.start()
    flags.up("go")
    assert server.wait_job(job, "FINISHED")["result"] == 6


def test_no_time_at_all_still_tells_the_id(server, app, flags):
    """timeout=0: the job is accepted, so the caller has to learn which it is."""
    server.create("c")
    reply = server.submit("c", app, {"wait": flags.path("go"), "result": 1}, sync="true", timeout="0")
    assert reply.status == 500
    flags.up("go")
    assert server.wait_job(reply.json["jobId"], "FINISHED")["result"] == 1


@pytest.mark.parametrize("moment", ["z", "k"])
def test_sigusr2_while_a_context_starts(server, app, moment):
    """Who waits for the context is sent away; the context keeps its directory and comes up."""
    creating = server.background("POST", "/contexts/c?spark.fake.keeper=late")
    wait_for(lambda: server.context_row("c") and server.pid("c", moment), "process " + moment)
    context = server.context_row("c")[0]
    assert server.stop(signal.SIGUSR2) == 0
    assert creating().status == 500
    assert os.path.exists(server.path("contexts", context, "spec.json"))
    server.start()
    wait_for(lambda: server.context_row("c")[1] != "CREATING", "end of the start")
    assert server.context_row("c") == (context, "RUNNING", None)
    assert server.run("c", app).status == 200
