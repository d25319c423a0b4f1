"""A disk that is full, or that fails: what is new is refused, what was accepted is kept, and everything goes on when there is room."""

import contextlib
import errno
import os
import signal
import subprocess

import pytest

import kit
from kit import wait_for
from shim import Shim


def test_next_job_waits_for_the_end_of_the_one_before(daemon, flags):
    """A full disk refuses the long end of one job and takes the short start of the next: that one is not sent until the
    end is written, so a crash in between does not leave two jobs in one worker's hand."""
    server = daemon()
    shim = Shim(server)
    assert shim.start()
    app = server.upload("app")
    server.create("c", **{"max-jobs-per-context": 1})
    log = flags.path("log")
    assert server.run("c", app).status == 200
    big = server.start_job(
        "c", app, {"append": log, "touch": flags.path("on"), "wait": flags.path("go"), "result": "y" * 60000}
    )
    flags.wait("on")
    small = server.start_job("c", app, {"append": log, "result": "small"})
    shim.fail("stoker.db-wal", "write", longer_than=50000)
    flags.up("go")
    server.wait_log("transition not written.*job=" + big)
    server.wait_log("job=%s from=QUEUED to=STARTING" % small)
    wait_for(lambda: server.log().count("transition not written") >= 2, "a second attempt")
    assert server.job_row(big)[0] == "STARTING" and server.job_row(small)[0] == "STARTING"
    assert flags.lines("log") == [big + " 1"]
    server.kill()
    shim.heal()
    server.start()
    assert server.wait_job(small, "FINISHED")["result"] == "small"
    assert server.wait_job(big, "FINISHED")["result"] == "y" * 60000
    assert [line.split()[0] for line in flags.lines("log")] == [big, small]


# ---- no room, for everything at once


def test_full_disk_refuses_what_is_new_and_keeps_what_runs(daemon, flags):
    """While nothing can be written: submits, uploads and contexts are refused with 507, reads are answered, a running job
    ends and its result stays with its worker; a cancel stops its job. With room again all of it is recorded."""
    server = daemon()
    shim = Shim(server)
    assert shim.start()
    app = server.upload("app")
    server.create("c", **{"max-jobs-per-context": 3})
    done = server.run("c", app, {"result": "before"}).json["jobId"]
    log = flags.path("log")
    running = server.start_job(
        "c", app, {"append": log, "touch": flags.path("on"), "wait": flags.path("go"), "result": "kept"}
    )
    stuck = server.start_job("c", app, {"touch": flags.path("stuck"), "wait": "/nowhere"})
    flags.wait("on")
    flags.wait("stuck")
    with shim.failing("/", longer_than=1):  # every file of the state directory
        refused = [
            server.submit("c", app, {"append": log}),
            server.post("/contexts/d"),
            server.post("/binaries/new", kit.make_zip(), headers={"Content-Type": "application/zip"}),
        ]
        assert [r.status for r in refused] == [507] * 3, refused
        assert server.job(done)["result"] == "before"
        assert server.get("/contexts").json == ["c"] and list(server.get("/binaries").json) == ["app"]
        killing = server.background("DELETE", "/jobs/" + stuck)
        server.wait_log("job=%s from=CANCELLING to=KILLED" % stuck)
        flags.up("go")
        server.wait_log("transition not written.*job=" + running)
        assert server.job(running)["status"] == "RUNNING"
        assert server.running
    assert server.wait_job(running, "FINISHED")["result"] == "kept"
    server.wait_job(stuck, "KILLED")
    killing()
    assert flags.lines("log") == [running + " 1"]
    server.create("d")
    assert server.run("d", app).status == 200
    assert server.get("/contexts/d").json["state"] == "RUNNING"
    assert os.listdir(server.path("tmp")) == []


def test_crash_on_a_full_disk(daemon, flags):
    """kill -9 while the disk is full and the result is not recorded: the worker has kept it for the next server."""
    server = daemon()
    shim = Shim(server)
    assert shim.start()
    app = server.upload("app")
    server.create("c")
    job = server.start_job("c", app, {"touch": flags.path("on"), "wait": flags.path("go"), "result": "kept"})
    flags.wait("on")
    shim.fail("stoker.db-wal")
    flags.up("go")
    server.wait_log("transition not written.*job=" + job)
    server.kill()
    shim.heal()
    server.start()
    assert server.wait_job(job, "FINISHED")["result"] == "kept"


def with_a_job(daemon, flags, result):
    """A server, its shim, and in a context of one slot a job that waits for the flag `go`, with its binary and its process."""
    server = daemon()
    shim = Shim(server)
    assert shim.start()
    app = server.upload("app")
    server.create("c", **{"max-jobs-per-context": 1})
    job = server.start_job("c", app, {"touch": flags.path("on"), "wait": flags.path("go"), "result": result})
    flags.wait("on")
    return server, shim, app, job, server.job_row(job)[2]


def test_worker_that_dies_while_the_end_of_its_job_cannot_be_written(daemon, flags):
    """How it ended stays with the zygote until the job's row is written, so a crash in between has that to tell."""
    server, shim, app, job, process = with_a_job(daemon, flags, "lost")
    worker = server.pid("c", process)
    shim.fail("stoker.db-wal")
    flags.up("go")
    server.wait_log("transition not written.*job=" + job)
    os.kill(worker, signal.SIGKILL)
    server.wait_log("ended .*process=" + process)
    server.kill()
    shim.heal()
    server.start()
    error = server.wait_job(job, "ERROR")["result"]
    assert server.job_row(job)[3]["code"] == "SIGNALLED", error
    assert server.run("c", app).status == 200


def test_worker_that_dies_meanwhile_is_forgotten_when_the_end_of_its_job_is_written(daemon, flags):
    server, shim, app, job, process = with_a_job(daemon, flags, "kept")
    worker = server.pid("c", process)
    with shim.failing("stoker.db-wal"):
        flags.up("go")
        server.wait_log("transition not written.*job=" + job)
        os.kill(worker, signal.SIGKILL)
        server.wait_log("ended .*process=" + process)
    assert server.wait_job(job, "FINISHED")["result"] == "kept"
    assert server.run("c", app).status == 200
    after = len(server.log())
    server.restart()
    assert server.run("c", app).status == 200
    assert process not in server.log()[after:], "the zygote still speaks of it"


def test_rows_of_processes_are_written_when_there_is_room(daemon, flags):
    """Of one that has come while the disk was full, and of one that has gone. Nobody waits for them, and nothing else is written."""
    server = daemon()
    shim = Shim(server)
    assert shim.start()
    app = server.upload("app")
    server.create("c", **{"max-jobs-per-context": 1})
    assert server.run("c", app).status == 200

    def workers():
        return {row[0] for row in server.rows("SELECT process FROM processes WHERE role = 'worker'")}
    wait_for(lambda: len(workers()) == 2, "the spare worker")
    before, pids = workers(), set(server.pids())
    with shim.failing("stoker.db-wal"):
        for process in before:
            os.kill(server.pid("c", process), signal.SIGKILL)
            server.wait_log("ended .*process=" + process)
        wait_for(lambda: set(server.pids()) - pids, "another worker")
        assert workers() == before
    wait_for(lambda: workers() and not workers() & before, "rows of the workers")


@pytest.mark.parametrize("call", ["write", "sync"])
def test_io_error_ends_the_server_and_the_next_one_has_everything(daemon, flags, call):
    """EIO of the database's files: logged, exit status 70; nothing that was answered is lost and nothing runs twice."""
    server = daemon()
    shim = Shim(server)
    assert shim.start()
    app = server.upload("app")
    server.create("c", **{"max-jobs-per-context": 2})
    log = flags.path("log")
    done = server.run("c", app, {"append": log, "result": 1}).json["jobId"]
    running = server.start_job("c", app, {"append": log, "touch": flags.path("on"), "wait": flags.path("go"), "result": 2})
    flags.wait("on")
    shim.fail("stoker.db", call, errno.EIO)
    with pytest.raises(OSError):
        server.submit("c", app, {"append": log})
    assert server.wait() == 70
    assert "database failed, leaving" in server.log()
    shim.heal()
    server.start()
    flags.up("go")
    assert server.wait_job(running, "FINISHED")["result"] == 2
    assert server.job(done)["result"] == 1
    for job in server.get("/jobs").json:  # the last was not answered: it is there, or it is not
        server.wait_job(job["jobId"], "FINISHED")
    lines = flags.lines("log")
    assert len(set(lines)) == len(lines) and lines[:2] == [done + " 1", running + " 1"]
    assert server.run("c", app).status == 200


def test_io_error_of_a_read_ends_the_server(daemon):
    """What cannot be read must not be answered as if it were not there."""
    server = daemon()
    shim = Shim(server)
    assert shim.start()
    app = server.upload("app")
    server.create("c")
    job = server.run("c", app, {"result": 1}).json["jobId"]
    assert server.stop(signal.SIGUSR2) == 0  # so that its pages are in the database and in no cache
    assert shim.start()
    shim.fail("stoker.db", "read", errno.EIO)
    with pytest.raises(OSError):
        server.get("/jobs/" + job)
    assert server.wait() == 70
    shim.heal()
    server.start()
    assert server.job(job)["result"] == 1
    assert server.run("c", app).status == 200


def test_damaged_database_is_refused_and_left_alone(daemon):
    """A page that is not what it was: the server says so at the start or when it meets it, and what to do; bytes stay."""
    server = daemon().start()
    app = server.upload("app")
    server.create("c")
    for i in range(20):
        server.run("c", app, {"result": "r%d" % i * 100})
    assert server.delete("/contexts/c").status == 200
    assert server.stop() == 0
    with open(server.path("stoker.db"), "r+b") as f:
        f.seek(4096)
        f.write(b"\xff" * (os.path.getsize(f.name) - 4096))
    with open(server.path("stoker.db"), "rb") as f:
        before = f.read()
    with pytest.raises(AssertionError):
        server.start()
    assert server.wait() in (1, 70)
    assert "damaged" in server.log() and "restore it from a backup" in server.log()
    with open(server.path("stoker.db"), "rb") as f:
        assert f.read() == before


def test_create_that_cannot_be_recorded_while_a_delete_waits(daemon):
    """Both clients are answered, nothing was started or is left, and the name is free."""
    server = daemon()
    shim = Shim(server)
    assert shim.start()
    with server.frozen_store():
        creating = server.background("POST", "/contexts/c")
        wait_for(lambda: os.listdir(server.path("contexts")), "begin of the create")
        deleting = server.background("DELETE", "/contexts/c")
        wait_for(lambda: "to=STOPPING" in server.log() or deleting.done(), "delete")
        shim.fail("stoker.db-wal")
    assert creating().status == 507
    assert deleting().status in (200, 404)
    shim.heal()
    assert server.get("/contexts").json == [] and server.pids() == []
    wait_for(lambda: os.listdir(server.path("contexts")) == [], "removal of its folder")
    server.create("c")
    assert server.run("c", server.upload("app")).status == 200


def test_context_whose_start_cannot_be_recorded(daemon):
    """RUNNING finds the disk full: it is written when there is room, only then is the client answered; nothing is killed for it."""
    server = daemon()
    shim = Shim(server)
    assert shim.start()
    creating = server.background("POST", "/contexts/c?spark.fake.zygote=slow_hello")
    zygote = wait_for(lambda: server.pid("c", "z"), "zygote")
    os.kill(zygote, signal.SIGSTOP)
    context = server.context_row("c")[0]
    with shim.failing("stoker.db-wal"):
        os.kill(zygote, signal.SIGCONT)
        server.wait_log("transition not written.*context=" + context)
        seen = server.log().count("transition not written")
        wait_for(lambda: server.log().count("transition not written") > seen, "a second attempt")
        assert server.context_row("c")[1] == "CREATING" and not creating.done()
    wait_for(lambda: server.context_row("c")[1] == "RUNNING", "its row")
    assert creating().status == 200
    app = server.upload("app")
    assert server.run("c", app).status == 200
    server.restart()
    assert server.pid("c", "z") == zygote
    assert server.run("c", app).status == 200


def test_no_retry_of_a_row_that_was_written_anew(daemon, flags):
    """The start of a job could not be recorded, and before that is tried again the job is put back, and started in another worker:
    what is recorded of it is the last, and nothing is written behind it."""
    server = daemon()
    shim = Shim(server)
    assert shim.start()
    app = server.upload("app")
    server.create("c", **{"max-jobs-per-context": 1})
    server.create("d")
    log = flags.path("log")
    first = server.start_job("c", app, {"append": log, "touch": flags.path("on"), "wait": flags.path("end")})
    job = server.start_job("c", app, {"append": log, "touch": flags.path("job"), "wait": flags.path("go")})
    flags.wait("on")
    process = server.job_row(first)[2]
    worker = server.pid("c", process)
    with shim.failing("stoker.db-wal"):
        flags.up("end")
        server.wait_log("transition not written.*job=" + job)
    os.kill(worker, signal.SIGKILL)
    flags.wait("job")
    server.wait_job(first, "FINISHED")  # tried again as long after its failure as the other would be
    assert server.run("d", app).status == 200
    state, _, other, _ = server.job_row(job)
    assert state == "STARTING" and other != process
    flags.up("go")
    server.wait_job(job, "FINISHED")
    states = [kit.JOB_STATES[row[0]] for row in server.rows("SELECT state FROM events WHERE job_id = ? ORDER BY seq", job)]
    assert "RUNNING" not in states and states[-2:] == ["STARTING", "FINISHED"], states
    assert [line.split()[0] for line in flags.lines("log")] == [first, job]


def test_cancel_that_needs_the_kill_on_a_full_disk(daemon, flags):
    """Neither CANCELLING nor KILLED can be written: both clocks run side by side, the grace and the next attempt to write.
    The worker is killed all the same, and the end is recorded when there is room."""
    server = daemon()
    shim = Shim(server)
    assert shim.start()
    app = server.upload("app")
    server.create("c", **{"max-jobs-per-context": 1})
    job = server.start_job("c", app, {"touch": flags.path("on"), "do": "hang"})
    flags.wait("on")
    with shim.failing("stoker.db-wal"):
        killing = server.background("DELETE", "/jobs/" + job)
        server.wait_log("job=%s from=CANCELLING to=KILLED" % job)
        seen = server.log().count("transition not written")
        wait_for(lambda: server.log().count("transition not written") >= seen + 2, "attempts to write")
        assert server.job_row(job)[0] == "STARTING"
    server.wait_job(job, "KILLED")
    killing()
    assert server.run("c", app).status == 200


# ---- descriptors


def test_no_descriptors_to_watch_processes_with(daemon, flags):
    """A start that cannot watch what it adopts keeps it all the same; when it can, it learns who has ended meanwhile."""
    server = daemon()
    shim = Shim(server)
    assert shim.start()
    app = server.upload("app")
    for name in "cd":
        server.create(name)
    job = server.start_job("c", app, {"touch": flags.path("on"), "wait": flags.path("go"), "result": 1})
    flags.wait("on")
    server.kill()
    with shim.failing("pidfd", "pidfd", errno.EMFILE):
        assert shim.start()
        server.wait_log("cannot watch a process")
        flags.up("go")
        assert server.wait_job(job, "FINISHED")["result"] == 1
        assert server.run("d", app).status == 200
        os.kill(server.pid("d", "z"), signal.SIGKILL)
        assert server.run("c", app).status == 200
    wait_for(lambda: server.context_row("d")[1] == "LOST", "end of the context", 60)
    assert server.run("c", app).status == 200


# ---- a real disk that is full


@pytest.fixture
def small_disk(flags):
    """A folder on a file system of 3 MiB, or None where nothing may be mounted."""
    folder = os.path.join(flags.folder, "small")
    os.mkdir(folder)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder], capture_output=True).returncode == 0
    yield folder if mounted else None
    if mounted:
        subprocess.run(["umount", "-l", folder], check=True)


def test_a_disk_that_is_really_full(daemon, flags, small_disk):
    """Filled to the last byte and emptied again, with jobs at work. Where nothing may be mounted, writes fail instead."""
    server = daemon(disk_reserve="0B")
    shim = Shim(server)
    if small_disk:
        os.symlink(small_disk, server.state)
        server.env["STOKER_SHIM_STATE"] = os.path.realpath(server.state)
    assert shim.start()
    app = server.upload("app")
    server.create("c", **{"max-jobs-per-context": 2})
    log = flags.path("log")
    job = server.start_job("c", app, {"append": log, "touch": flags.path("on"), "wait": flags.path("go"), "result": "z" * 9000})
    flags.wait("on")
    filler = os.path.join(small_disk, "filler") if small_disk else None
    if filler:
        with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as f:
            while True:
                f.write(b"x" * 4096)
    else:
        shim.fail("/", "write", longer_than=1)
    try:
        statuses = {server.submit("c", app, config={"x": "y" * 5000}).status for _ in range(400)}
        assert 507 in statuses and statuses <= {202, 507}, statuses
        flags.up("go")
        server.wait_log("transition not written")
        assert server.get("/jobs?limit=1").status == 200
        assert server.running
    finally:
        if filler:
            os.unlink(filler)
        shim.heal()
    assert server.wait_job(job, "FINISHED")["result"] == "z" * 9000
    accepted = [row[0] for row in server.rows("SELECT id FROM jobs")]
    for one in accepted:
        server.wait_job(one, "FINISHED")
    assert flags.lines("log") == [job + " 1"]
    assert server.run("c", app).status == 200
    assert server.delete("/contexts/c").status == 200
