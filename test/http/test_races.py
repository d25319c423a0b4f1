"""What happens between a transition and its commit.

frozen_store() holds the database's lock: everything that waits for a commit waits, as on a slow disk, and each race can
be brought about at leisure.
"""

import os
import signal
import time

import pytest

from kit import make_zip, wait_for


pytestmark = pytest.mark.own_server


@pytest.fixture
def ready(server, app):
    """A context with one slot whose worker has run a job and is idle: the worker's (process, pid)."""
    server.create("c", **{"max-jobs-per-context": 1})
    job = server.run("c", app).json["jobId"]
    process = server.job_row(job)[2]
    return process, server.pid("c", process)


def submit(server, app, fake=None, **query):
    """A job whose row cannot be committed yet; returns the function that waits for the reply."""
    path = "/jobs?appName=%s&classPath=a.B&context=c&timeout=30" % app
    return server.background("POST", path + "".join("&%s=%s" % q for q in query.items()), {"fake": fake or {}})


def settle():
    """Long enough for requests to get as far as they can while nothing is committed."""
    time.sleep(0.3)


def test_nothing_runs_before_its_row_is_committed(server, app, ready, flags):
    """`run` is sent, and the client is answered, only after the commit."""
    with server.frozen_store():
        reply = submit(server, app, {"append": flags.path("log")})
        settle()
        assert flags.lines("log") == [] and not reply.done()
    job = reply().json["jobId"]
    server.wait_job(job, "FINISHED")
    assert flags.lines("log") == [job + " 1"]


def test_crash_before_the_commit_is_no_job(server, app, ready, flags):
    """kill -9 while the row waits: the client has no answer, the next server knows nothing of it, nothing ran."""
    before = server.get("/jobs").json
    with server.frozen_store():
        reply = submit(server, app, {"append": flags.path("log")})
        settle()
        server.kill()
    with pytest.raises(OSError):
        reply()
    server.start()
    assert server.get("/jobs").json == before
    assert server.run("c", app).status == 200
    assert flags.lines("log") == []


def test_result_is_told_only_after_its_commit(server, app, ready, flags):
    """A sync client waits for the commit of the end; kill -9 before it: the worker has kept the result."""
    job = server.start_job(
        "c", app, {"touch": flags.path("on"), "wait": flags.path("go"), "result": 9, "append": flags.path("log")}
    )
    flags.wait("on")
    with server.frozen_store():
        flags.up("go")
        server.wait_log("job=%s from=RUNNING to=FINISHED" % job)
        settle()
        assert server.job(job)["status"] == "RUNNING"
        server.kill()
    server.start()
    assert server.wait_job(job, "FINISHED")["result"] == 9
    assert flags.lines("log") == [job + " 1"]


def test_worker_that_dies_before_run_is_sent(server, app, ready, flags):
    """The job was assigned, its worker is killed before the commit: it was never sent, so it runs in another worker."""
    process, pid = ready
    with server.frozen_store():
        reply = submit(server, app, {"append": flags.path("log")})
        settle()
        os.kill(pid, signal.SIGKILL)
        server.wait_log("ended.*process=" + process)
    job = reply().json["jobId"]
    server.wait_job(job, "FINISHED")
    assert [line.split()[0] for line in flags.lines("log")] == [job]
    assert server.job_row(job)[2] != process


def test_context_deleted_before_run_is_sent(server, app, ready, flags):
    """Assigned, not committed, and its context goes: the job is an error, did not run, and the context ends."""
    with server.frozen_store():
        reply = submit(server, app, {"append": flags.path("log")}, sync="true")
        settle()
        deleted = server.background("DELETE", "/contexts/c?force=true")
        settle()
    assert deleted().status == 200
    assert reply().json["status"] == "ERROR" and "terminated" in reply().json["result"]["message"]
    assert flags.lines("log") == []
    assert server.context_row("c")[1] == "STOPPED"


def test_zygote_dies_before_run_is_sent(server, app, ready, flags):
    """The same when the context is lost: it must not wait for ever for a job that nobody settles."""
    zygote = server.pid("c", "z")
    with server.frozen_store():
        reply = submit(server, app, {"append": flags.path("log")}, sync="true")
        settle()
        os.kill(zygote, signal.SIGKILL)
        server.wait_log("process ended.*process=z")
        settle()
    assert reply().json["status"] == "ERROR"
    wait_for(lambda: server.context_row("c")[1] == "LOST", "end of the context")
    assert flags.lines("log") == []


def test_queued_job_whose_context_goes_before_its_commit(server, app, ready, flags):
    """Accepted while the context was up, committed after it went: an error, no job that hangs."""
    server.start_job("c", app, {"touch": flags.path("on"), "wait": "/nowhere"})
    flags.wait("on")
    with server.frozen_store():
        reply = submit(server, app, {"append": flags.path("log")}, sync="true")
        settle()
        deleted = server.background("DELETE", "/contexts/c")
        settle()
    assert reply().json["status"] == "ERROR"
    assert deleted().status == 200
    assert flags.lines("log") == []


def test_cancel_before_run_is_sent(server, app, ready, flags):
    """Killed between its assignment and the commit: it never starts, and its worker takes the next job."""
    busy = server.start_job("c", app, {"touch": flags.path("on"), "wait": flags.path("go")})
    flags.wait("on")
    queued = server.start_job("c", app, {"append": flags.path("log")})
    with server.frozen_store():
        flags.up("go")  # ends the first: the second is assigned, its STARTING waits for the commit
        server.wait_log("job=%s from=QUEUED to=STARTING" % queued)
        killed = server.background("DELETE", "/jobs/" + queued)
        server.wait_log("job=%s from=STARTING to=CANCELLING" % queued)
        settle()
    assert killed().json == {"status": "KILLED"}
    server.wait_job(busy, "FINISHED")
    assert server.job(queued)["status"] == "KILLED"
    assert flags.lines("log") == []
    assert server.run("c", app).status == 200


def test_context_that_is_gone_before_its_stop_is_committed(server, app, ready):
    """All processes of a context have ended while its STOPPING still waits for the commit: it ends once."""
    with server.frozen_store():
        deleted = server.background("DELETE", "/contexts/c?force=true")
        server.wait_log("from=RUNNING to=STOPPING")
        os.kill(server.pid("c", "z"), signal.SIGKILL)
        wait_for(lambda: not server.pids(), "end of the processes")
        settle()
        assert not deleted.done()
    assert deleted().status == 200
    assert server.context_row("c")[1] == "STOPPED"
    server.create("c")
    assert server.run("c", app).status == 200


def test_context_deleted_before_its_create_is_committed(server):
    """Both clients are answered and nothing was started."""
    with server.frozen_store():
        creating = server.background("POST", "/contexts/c")
        settle()
        deleting = server.background("DELETE", "/contexts/c")
        settle()
    assert deleting().status == 200
    answer = creating()
    assert answer.status >= 400 and "exists" not in answer.text
    assert server.pids() == [] and server.get("/contexts").json == []
    wait_for(lambda: os.listdir(server.path("contexts")) == [], "removal of its folder")
    assert server.get("/contexts/c").json["state"] == "FINISHED"


def test_crash_before_a_create_is_committed(server):
    """No context, no process, and the folder that was made for it is swept."""
    with server.frozen_store():
        creating = server.background("POST", "/contexts/c")
        settle()
        server.kill()
    with pytest.raises(OSError):
        creating()
    server.start()
    assert server.get("/contexts/c").status == 404
    wait_for(lambda: os.listdir(server.path("contexts")) == [], "removal of its folder")


def test_crash_during_an_upload(server):
    """Bytes that no row names are gone after the next start."""
    with server.frozen_store():
        upload = server.background(
            "POST", "/binaries/x", make_zip({"x.py": "x"}), headers={"Content-Type": "application/zip"}
        )
        wait_for(lambda: os.listdir(server.path("tmp")) or os.listdir(server.path("blobs")), "bytes")
        settle()
        server.kill()
    with pytest.raises(OSError):
        upload()
    server.start()
    assert server.get("/binaries/x").status == 404
    wait_for(lambda: not any(os.listdir(server.path(f)) for f in ("tmp", "blobs", "unpacked")), "empty folders")


def test_binary_deleted_while_a_job_is_submitted(server, app, ready):
    """Either the job has it or the client is told; the server does not lose count."""
    with server.frozen_store():
        deleting = server.background("DELETE", "/binaries/" + app)
        settle()
        submitting = submit(server, app, {"result": 1}, sync="true")
        settle()
    assert deleting().status in (200, 403)
    answer = submitting()
    if deleting().status == 200:
        assert (answer.status, answer.json["result"]) == (404, "appName app not found")
    else:
        assert answer.json["result"] == 1
    server.upload("app")
    assert server.run("c", "app").status == 200


def test_sigterm_while_a_job_is_being_submitted(server, app, ready):
    """The client is told one thing and it is true: the job is there, or it is not."""
    with server.frozen_store():
        reply = submit(server, app)
        settle()
        server.send_signal(signal.SIGTERM)
        settle()
    assert server.wait() == 0
    assert server.pids() == []
    try:
        answer = reply()
    except OSError:
        return
    known = {row[0] for row in server.rows("SELECT id FROM jobs")}
    assert (answer.status == 202) == (answer.json.get("jobId") in known)


def test_a_late_kill_does_not_hit_the_next_job(server, app, ready, flags):
    """A job ends while the kill of its worker is on its way to the zygote: nothing else is run in that worker."""
    stubborn = {"touch": flags.path("on"), "do": "stubborn", "until": flags.path("end")}
    job = server.start_job("c", app, stubborn)
    flags.wait("on")
    process, zygote = server.job_row(job)[2], server.pid("c", "z")
    os.kill(zygote, signal.SIGSTOP)
    try:
        killed = server.background("DELETE", "/jobs/" + job)
        server.wait_log("interrupt had no effect, killing the worker.*job=" + job)
        flags.up("end")
        assert killed().status == 404  # it has finished
        go = {"append": flags.path("log"), "wait": flags.path("go"), "result": 3}
        after = [server.start_job("c", app, go) for _ in range(2)]
        settle()
    finally:
        os.kill(zygote, signal.SIGCONT)
    wait_for(lambda: server.pid("c", process) is None, "end of the worker")
    flags.up("go")
    for each in after:
        assert server.wait_job(each, "FINISHED")["result"] == 3
    assert sorted(flags.lines("log")) == sorted(each + " 1" for each in after)
