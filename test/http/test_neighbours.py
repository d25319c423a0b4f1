"""More than one server, and a state directory that was moved or copied: each has its own processes, and touches no others."""

import os
import shutil
import signal
import subprocess
import time

import pytest

import kit
from kit import wait_for


pytestmark = pytest.mark.own_server


def test_fresh_state_directory_touches_nobody_elses_processes(server, app, daemon, flags):
    """A second server comes, works and ends beside the first, dead or alive: the first one's contexts go on."""
    server.create("c")
    job = server.start_job("c", app, {"touch": flags.path("on"), "wait": flags.path("go"), "result": 1})
    flags.wait("on")
    before = set(server.pids())
    other = daemon().start()
    assert other.get("/contexts").json == [] and other.get("/jobs").json == []
    other.create("c")
    assert other.run("c", other.upload("app")).status == 200
    assert other.stop() == 0
    assert set(server.pids()) >= before
    server.kill()
    third = daemon().start()
    third.create("c")
    third.kill()
    third.start()
    assert third.delete("/contexts/c", force="true").status == 200
    assert third.stop() == 0
    assert set(server.pids()) >= before
    server.start()
    flags.up("go")
    assert server.wait_job(job, "FINISHED")["result"] == 1
    assert set(server.pids()) >= before


def test_second_server_on_one_state_directory_is_refused(server, app):
    """It ends at once, names the first, and has touched nothing."""
    server.create("c")
    before = set(server.pids())
    second = subprocess.run(
        [server.binary, "--config", server.config_path], capture_output=True, text=True, timeout=60, env=server.env
    )
    assert second.returncode == 1
    assert "in use by another server (pid %d)" % server.process.pid in second.stderr
    assert set(server.pids()) >= before
    assert server.run("c", app).status == 200


def copy_of(server, daemon):
    """A server, not started, whose state is a copy of the other's."""
    other = daemon()
    shutil.copytree(server.state, other.state, ignore=lambda folder, names: [n for n in names if n == "runner.sock"])
    return other


@pytest.mark.parametrize("first", ["alive", "dead"])
def test_copied_state_directory_has_no_processes(server, app, daemon, flags, first):
    """The processes that the copy names are those of the original: they are neither adopted nor killed. Its context is LOST,
    what ran there too, while the original goes on."""
    server.create("c", **{"max-jobs-per-context": 1})
    done = server.run("c", app, {"result": 0}).json["jobId"]
    job = server.start_job("c", app, {"touch": flags.path("on"), "wait": flags.path("go"), "result": 1})
    flags.wait("on")
    before = set(server.pids())
    if first == "dead":
        server.kill()
    else:
        server.send_signal(signal.SIGSTOP)  # so that the files of one moment are copied
    other = copy_of(server, daemon)
    server.send_signal(signal.SIGCONT) if first == "alive" else server.start()
    other.start()
    for _ in range(2):
        other.wait_job(job, "ERROR")
        wait_for(lambda: other.context_row("c")[1] == "LOST", "end of the context in the copy")
        assert other.job(done)["result"] == 0
        other.restart()  # and it does not think better of it
    other.create("c")
    assert other.run("c", app, {"result": 2}).result == 2
    assert other.delete("/contexts/c", force="true").status == 200
    assert other.stop() == 0
    assert set(server.pids()) >= before
    flags.up("go")
    assert server.wait_job(job, "FINISHED")["result"] == 1
    assert server.run("c", app).status == 200


def test_moved_state_directory_keeps_its_processes(server, app, daemon, flags):
    """Renamed while no server is there: the directory is the same, and its processes are adopted."""
    server.create("c")
    worker = server.job_row(server.run("c", app).json["jobId"])[2]
    pid = server.pid("c", "z"), server.pid("c", worker)
    server.kill()
    other = daemon()
    os.rename(server.state, other.state)
    os.symlink(other.state, server.state)  # the fake processes dial by the path they were given
    other.start()
    assert (other.pid("c", "z"), other.pid("c", worker)) == pid
    assert other.run("c", app).status == 200
    assert other.delete("/contexts/c").status == 200
    os.unlink(server.state)


def test_new_binary_takes_over(server, app, flags):
    """SIGUSR2, and another file is started: jobs go on in their processes, a waiting one runs, nothing runs twice."""
    server.create("c", **{"max-jobs-per-context": 1})
    log = flags.path("log")
    job = server.start_job("c", app, {"append": log, "touch": flags.path("on"), "wait": flags.path("go"), "result": 1})
    flags.wait("on")
    queued = server.start_job("c", app, {"append": log, "result": 2})
    before = set(server.pids())
    assert server.stop(signal.SIGUSR2) == 0
    server.binary = shutil.copy(kit.STOKERD, os.path.join(server.folder, "stokerd-next"))
    server.start()
    assert os.readlink("/proc/%d/exe" % server.process.pid) == server.binary
    flags.up("go")
    assert server.wait_job(job, "FINISHED")["result"] == 1
    assert server.wait_job(queued, "FINISHED")["result"] == 2
    assert flags.lines("log") == [job + " 1", queued + " 1"]
    assert set(server.pids()) >= before


def test_adoption_is_quick(server, app):
    """Three contexts with eight workers each: soon after `listening`, the old workers take jobs again. All of them or, where
    it dialled first, the spare one of a context."""
    for name in "abc":
        server.create(name, **{"max-jobs-per-context": 8})
    fill(server, app)
    before = {row[0] for row in server.rows("SELECT process FROM processes WHERE role = 'worker'")}
    server.restart()
    start = time.monotonic()
    after = fill(server, app)
    seconds = time.monotonic() - start
    print("adopted in %.2f s" % seconds)
    assert len(before) >= 24 and after <= before and seconds < 20


def fill(server, app):
    """Eight jobs at once in each of three contexts, every worker has one: the workers."""
    with kit.scratch() as folder:
        flags = kit.Flags(folder)
        jobs = [
            server.start_job(name, app, {"touch": flags.path(name + str(i)), "wait": flags.path("go")})
            for name in "abc"
            for i in range(8)
        ]
        wait_for(lambda: len(os.listdir(folder)) == 24, lambda: "24 jobs at work, not %s" % os.listdir(folder), 60)
        flags.up("go")
        for job in jobs:
            server.wait_job(job, "FINISHED")
        return {server.job_row(job)[2] for job in jobs}
