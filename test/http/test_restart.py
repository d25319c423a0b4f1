"""kill -9 of the server while it works, then a new start: every job is accounted for and none runs twice.

The append log that the jobs write themselves, a line "<job> <attempt>" each time one begins, is the proof.
"""

import os
import signal
import subprocess

import pytest

from kit import kill_hard, link, make_zip, ps, wait_for


pytestmark = pytest.mark.own_server


def alive(pid):
    words = ps(pid).split()
    return words != ["gone"] and words[2] not in "ZX"


def gone(pid):
    return lambda: not alive(pid)


def ends_alone(server):
    """All processes of the server's contexts end without its help."""
    wait_for(lambda: not server.pids(), lambda: "end of %s" % [ps(p) for p in server.pids()])


def test_running_jobs_end_with_their_results_and_queued_ones_run(server, app, flags):
    """kill -9 with two jobs running and three waiting: each of the five runs once, in the same processes."""
    server.create("c", **{"max-jobs-per-context": 2})
    log = flags.path("log")
    running = [
        server.start_job(
            "c", app, {"append": log, "touch": flags.path("on%d" % i), "wait": flags.path("go"), "result": i}
        )
        for i in range(2)
    ]
    queued = [server.start_job("c", app, {"append": log, "result": i}) for i in (2, 3, 4)]
    flags.wait("on0")
    flags.wait("on1")
    before = {p: server.pid("c", p) for p in ("z", "k", "jvm")}
    assert all(before.values())
    server.restart()
    assert server.get("/contexts").json == ["c"]
    assert [server.job(j)["status"] for j in running + queued] == ["RUNNING"] * 5
    flags.up("go")
    for number, job in enumerate(running + queued):
        assert server.wait_job(job, "FINISHED")["result"] == number
    assert sorted(flags.lines("log")) == sorted("%s 1" % j for j in running + queued)
    assert {p: server.pid("c", p) for p in before} == before
    assert server.run("c", app, {"result": "new"}).result == "new"


def test_result_that_came_while_no_server_was_there_is_kept(server, app, flags):
    """The worker spools the result; the next server commits it, and the spool file goes."""
    server.create("c")
    job = server.start_job(
        "c", app, {"append": flags.path("log"), "touch": flags.path("on"), "wait": flags.path("go"), "result": 42}
    )
    flags.wait("on")
    server.kill()
    flags.up("go")
    wait_for(lambda: os.path.exists(server.path("spool", job + ".1")), "spool file")
    server.start()
    assert server.wait_job(job, "FINISHED")["result"] == 42
    wait_for(lambda: os.listdir(server.path("spool")) == [], "empty spool")
    assert flags.lines("log") == [job + " 1"]


def test_spooled_result_counts_although_its_worker_died(server, app, flags):
    """The result is in the spool, its worker was killed before the next server came: the job has finished."""
    server.create("c")
    job = server.start_job("c", app, {"touch": flags.path("on"), "wait": flags.path("go"), "result": [1, 2]})
    flags.wait("on")
    worker = server.pid("c", server.job_row(job)[2])
    server.kill()
    flags.up("go")
    wait_for(lambda: os.path.exists(server.path("spool", job + ".1")), "spool file")
    os.kill(worker, signal.SIGKILL)
    wait_for(gone(worker), "worker's end")
    server.start()
    assert server.wait_job(job, "FINISHED")["result"] == [1, 2]


def test_worker_that_died_while_no_server_was_there(server, app, flags):
    """Its zygote keeps the exit status: the job is an ERROR that names the signal, and is not run again."""
    server.create("c")
    job = server.start_job(
        "c", app, {"append": flags.path("log"), "touch": flags.path("on"), "print": "last words", "wait": "/nowhere"}
    )
    flags.wait("on")
    process = server.job_row(job)[2]
    worker = server.pid("c", process)
    server.kill()
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: [n for n in os.listdir(server.path("spool")) if n.endswith("." + process)], "spooled exit")
    server.start()
    ended = server.wait_job(job, "ERROR")
    assert "signal 9" in ended["result"]["message"]
    assert "last words" in ended["result"]["message"]
    assert flags.lines("log") == [job + " 1"]
    assert server.run("c", app).status == 200
    wait_for(lambda: os.listdir(server.path("spool")) == [], "empty spool")


def test_attempt_that_a_live_worker_denies_is_run_again(server, app, flags):
    """STARTING was committed and `run` was lost with the server: the worker denies it, and it runs as attempt 2."""
    server.create("c")
    job = server.start_job("c", app, {"deny": True, "append": flags.path("log"), "do": "echo"})
    server.wait_running(job)
    assert server.job_row(job)[:2] == ("STARTING", 1)
    server.restart()
    run = server.wait_job(job, "FINISHED")["result"]
    assert run["attempt"] == 2
    assert flags.lines("log") == [job + " 2"]
    assert server.job_row(job)[:2] == ("FINISHED", 2)


def test_denied_attempt_goes_before_younger_jobs(server, app, flags):
    """It had its turn: a job that was submitted later and waits in the queue comes after it."""
    server.create("c", **{"max-jobs-per-context": 1})
    first = server.start_job("c", app, {"deny": True, "append": flags.path("log")})
    server.wait_running(first)
    second = server.start_job("c", app, {"append": flags.path("log")})
    server.restart()
    server.wait_job(first, "FINISHED")
    server.wait_job(second, "FINISHED")
    assert flags.lines("log") == [first + " 2", second + " 1"]


def test_silent_worker_is_adopted_by_record(server, app, flags):
    """A worker that cannot dial (stopped, as in a long C call) is waited for; its result comes when it wakes."""
    server.create("c", **{"max-jobs-per-context": 1})
    job = server.start_job(
        "c", app, {"append": flags.path("log"), "touch": flags.path("on"), "wait": flags.path("go"), "result": 7}
    )
    flags.wait("on")
    process = server.job_row(job)[2]
    worker = server.pid("c", process)
    os.kill(worker, signal.SIGSTOP)
    try:
        server.restart()
        queued = server.start_job("c", app, {"append": flags.path("log")})
        server.wait_log("context adopted")
        flags.up("go")
        assert server.submit("c", app, sync="true", timeout=1).status == 500  # the slot is taken: nothing else runs
        assert server.job(job)["status"] == "RUNNING" and server.job(queued)["status"] == "RUNNING"
        assert server.job_row(job)[0] == "STARTING"
    finally:
        os.kill(worker, signal.SIGCONT)
    assert server.wait_job(job, "FINISHED")["result"] == 7
    server.wait_job(queued, "FINISHED")
    assert flags.lines("log")[:2] == [job + " 1", queued + " 1"]
    assert server.pid("c", process) == worker


def test_silent_worker_that_is_killed_settles_its_job(server, app, flags):
    """To give up on a silent process it must be dead: then its job ends with what the zygote says."""
    server.create("c")
    job = server.start_job("c", app, {"touch": flags.path("on"), "wait": "/nowhere"})
    flags.wait("on")
    worker = server.pid("c", server.job_row(job)[2])
    os.kill(worker, signal.SIGSTOP)
    server.restart()
    server.wait_log("context adopted")
    assert server.job(job)["status"] == "RUNNING"
    os.kill(worker, signal.SIGKILL)
    assert "signal 9" in server.wait_job(job, "ERROR")["result"]["message"]


def test_zygote_that_died_while_no_server_was_there(server, app, flags):
    """The context is LOST with all its processes; what ran and what waited is an error; the name is free."""
    server.create("c", **{"max-jobs-per-context": 1})
    job = server.start_job("c", app, {"append": flags.path("log"), "touch": flags.path("on"), "wait": "/nowhere"})
    queued = server.start_job("c", app, {"append": flags.path("log")})
    flags.wait("on")
    zygote, jvm = server.pid("c", "z"), server.pid("c", "jvm")
    server.kill()
    os.kill(zygote, signal.SIGKILL)
    wait_for(gone(zygote), "zygote's end")
    assert alive(jvm)  # nobody but the next server ends it
    server.start()
    for j in (job, queued):
        assert "Unexpected termination of context" in server.wait_job(j, "ERROR")["result"]["message"]
    wait_for(gone(jvm), "JVM's end")
    wait_for(lambda: server.get("/contexts").json == [], "end of the context")
    assert server.context_row("c")[1] == "LOST"
    assert flags.lines("log") == [job + " 1"]
    server.create("c")
    assert server.run("c", app).status == 200


def test_result_of_a_context_that_died_afterwards(server, app, flags):
    """The result was spooled, then the whole context died: the job has finished."""
    server.create("c")
    job = server.start_job("c", app, {"touch": flags.path("on"), "wait": flags.path("go"), "result": "saved"})
    flags.wait("on")
    zygote = server.pid("c", "z")
    server.kill()
    flags.up("go")
    wait_for(lambda: os.path.exists(server.path("spool", job + ".1")), "spool file")
    os.kill(zygote, signal.SIGKILL)
    wait_for(gone(zygote), "zygote's end")
    server.start()
    assert server.wait_job(job, "FINISHED")["result"] == "saved"
    wait_for(lambda: server.context_row("c")[1] == "LOST", "end of the context")


def test_spool_is_empty_after_a_context_was_lost(server, app, flags):
    """Exit statuses that a dead zygote left in the spool are read and removed, with and without a job."""
    server.create("c")
    job = server.start_job("c", app, {"touch": flags.path("on"), "wait": "/nowhere"})
    flags.wait("on")
    zygote, worker = server.pid("c", "z"), server.pid("c", server.job_row(job)[2])
    server.kill()
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: len(os.listdir(server.path("spool"))) == 1, "spooled exit")
    os.kill(zygote, signal.SIGKILL)
    wait_for(gone(zygote), "zygote's end")
    server.start()
    server.wait_job(job, "ERROR")
    wait_for(lambda: server.context_row("c")[1] == "LOST", "end of the context")
    wait_for(
        lambda: os.listdir(server.path("spool")) == [],
        lambda: "empty spool, not %s" % os.listdir(server.path("spool")),
        5,
    )
    assert server.job_row(job)[3]["code"] == "CONTEXT_LOST"


def test_keeper_that_died_while_no_server_was_there(server, app, flags):
    """The zygote ends the context and reports it: jobs end with an error, the name is free."""
    server.create("c")
    job = server.start_job("c", app, {"append": flags.path("log"), "touch": flags.path("on"), "wait": "/nowhere"})
    flags.wait("on")
    keeper = server.pid("c", "k")
    server.kill()
    os.kill(keeper, signal.SIGKILL)
    wait_for(gone(keeper), "keeper's end")
    server.start()
    assert "Unexpected termination of context" in server.wait_job(job, "ERROR")["result"]["message"]
    wait_for(lambda: server.context_row("c")[1] == "LOST", "end of the context")
    assert flags.lines("log") == [job + " 1"]
    ends_alone(server)


def test_kill_while_a_context_is_created(server, app):
    """Its zygote and keeper go on; the next server brings the context up, once."""
    reply = server.background("POST", "/contexts/c?spark.fake.keeper=late")
    wait_for(lambda: server.pid("c", "k"), "keeper")
    keeper = server.pid("c", "k")
    server.kill()
    with pytest.raises(OSError):
        reply()
    server.start()
    wait_for(lambda: server.get("/contexts/c").json["state"] == "RUNNING", "context")
    assert server.pid("c", "k") == keeper
    assert server.run("c", app).status == 200


def test_kill_before_the_zygote_has_dialled(server, app):
    """The zygote is on its way when the server dies: the next one gives it its keeper."""
    reply = server.background("POST", "/contexts/c?spark.fake.zygote=slow_hello")
    wait_for(lambda: server.pid("c", "z"), "zygote")
    zygote = server.pid("c", "z")
    server.kill()
    with pytest.raises(OSError):
        reply()
    server.start()
    wait_for(lambda: server.get("/contexts/c").json["state"] == "RUNNING", "context")
    assert server.pid("c", "z") == zygote
    assert server.run("c", app).status == 200


def test_context_whose_creation_was_lost_is_started_anew(server, app):
    """kill -9 of the server and of the zygote in CREATING: the next server starts it again."""
    reply = server.background("POST", "/contexts/c?spark.fake.zygote=slow_hello")
    wait_for(lambda: server.pid("c", "z"), "zygote")
    zygote = server.pid("c", "z")
    server.kill()
    with pytest.raises(OSError):
        reply()
    os.kill(zygote, signal.SIGKILL)
    wait_for(gone(zygote), "zygote's end")
    server.start()
    wait_for(lambda: server.get("/contexts/c").json["state"] == "RUNNING", "context")
    assert server.pid("c", "z") != zygote
    assert server.run("c", app).status == 200


def test_kill_in_the_middle_of_an_upload(server):
    """Half of the body has come: nothing of it is left after the next start, and it can be uploaded again."""
    data = make_zip({"app.py": "x = 1\n", "data": os.urandom(300_000)})
    with server.connect() as sock:
        sock.sendall(
            b"POST /binaries/half HTTP/1.1\r\nHost: x\r\nContent-Type: application/zip\r\nContent-Length: %d\r\n\r\n"
            % len(data)
        )
        sock.sendall(data[: len(data) // 2])
        wait_for(lambda: any(os.path.getsize(server.path("tmp", n)) for n in os.listdir(server.path("tmp"))), "bytes")
        server.kill()
    server.start()
    assert server.get("/binaries").json == {}
    wait_for(lambda: not any(os.listdir(server.path(f)) for f in ("tmp", "blobs", "unpacked")), "empty folders")
    server.upload("half", data, media="application/zip")


def test_kill_during_a_cancel_by_interrupt(server, app, flags):
    """The ladder is resumed: the keeper confirms late, after the next start, and the job is KILLED."""
    server.create("c", wish={"keeper": "slow_cancel"})
    job = server.start_job("c", app, {"touch": flags.path("on"), "wait": "/nowhere"})
    flags.wait("on")
    reply = server.background("DELETE", "/jobs/" + job)
    wait_for(lambda: server.job_row(job)[0] == "CANCELLING", "cancel")
    server.kill()
    with pytest.raises(OSError):
        reply()
    server.start()
    assert server.wait_job(job, "KILLED")["result"]["message"] == "Job %s killed" % job
    assert server.run("c", app).status == 200


def test_kill_during_a_cancel_that_needs_the_kill(server, app, flags):
    """The job ignores interrupts: the next server's grace ends with SIGKILL of the worker."""
    server.create("c")
    job = server.start_job("c", app, {"touch": flags.path("on"), "do": "hang"})
    flags.wait("on")
    worker = server.pid("c", server.job_row(job)[2])
    reply = server.background("DELETE", "/jobs/" + job)
    wait_for(lambda: server.job_row(job)[0] == "CANCELLING", "cancel")
    server.kill()
    with pytest.raises(OSError):
        reply()
    server.start()
    server.wait_job(job, "KILLED")
    wait_for(gone(worker), "worker's end")
    assert server.run("c", app).status == 200


def test_kill_of_a_worker_waits_for_its_zygote(server, app, flags):
    """The zygote cannot be told to kill when the grace is over; it is told when it has dialled again."""
    server.create("c")
    job = server.start_job("c", app, {"touch": flags.path("on"), "do": "hang"})
    flags.wait("on")
    zygote = server.pid("c", "z")
    reply = server.background("DELETE", "/jobs/" + job)
    wait_for(lambda: server.job_row(job)[0] == "CANCELLING", "cancel")
    server.kill()
    with pytest.raises(OSError):
        reply()
    os.kill(zygote, signal.SIGSTOP)
    try:
        start = len(server.log())
        server.start()
        server.wait_log("interrupt had no effect", after=start)
    finally:
        os.kill(zygote, signal.SIGCONT)
    server.wait_job(job, "KILLED", 6)


def test_cancelled_job_whose_worker_died_while_no_server_was_there(server, app, flags):
    """It is KILLED as was asked, once the keeper has confirmed."""
    server.create("c")
    job = server.start_job("c", app, {"touch": flags.path("on"), "do": "hang"})
    flags.wait("on")
    worker = server.pid("c", server.job_row(job)[2])
    reply = server.background("DELETE", "/jobs/" + job)
    wait_for(lambda: server.job_row(job)[0] == "CANCELLING", "cancel")
    server.kill()
    with pytest.raises(OSError):
        reply()
    os.kill(worker, signal.SIGKILL)
    wait_for(gone(worker), "worker's end")
    server.start()
    server.wait_job(job, "KILLED")


def test_kill_while_a_context_is_stopped(server, app, flags):
    """The next server goes on stopping it, and nothing is left."""
    server.create("c", wish={"keeper": "ignore_sigterm"})
    job = server.start_job("c", app, {"touch": flags.path("on"), "wait": "/nowhere"})
    flags.wait("on")
    reply = server.background("DELETE", "/contexts/c")
    wait_for(lambda: server.context_row("c")[1] == "STOPPING", "stop")
    server.kill()
    with pytest.raises(OSError):
        reply()
    server.start()
    wait_for(lambda: server.get("/contexts/c").json["state"] == "FINISHED", "end of the context")
    assert server.wait_job(job, "ERROR")
    ends_alone(server)


def test_sigterm_leaves_queued_jobs_queued(server, app, flags):
    """SIGTERM ends what runs, with status 0 and no process left; what had not started runs after the next start."""
    server.create("c", **{"max-jobs-per-context": 1})
    log = flags.path("log")
    running = server.start_job("c", app, {"append": log, "touch": flags.path("on"), "wait": "/nowhere"})
    queued = [server.start_job("c", app, {"append": log, "result": i}) for i in range(2)]
    flags.wait("on")
    old = server.context_row("c")[0]
    assert server.stop() == 0
    assert server.pids() == []
    assert [server.job_row(j)[0] for j in queued] == ["QUEUED"] * 2
    state, _, _, error = server.job_row(running)
    assert (state, error["code"]) == ("ERROR", "SERVER_STOPPED")
    server.start()
    for i, job in enumerate(queued):
        assert server.wait_job(job, "FINISHED")["result"] == i
    assert flags.lines("log") == [running + " 1", queued[0] + " 1", queued[1] + " 1"]
    assert server.context_row("c")[:2] == (old, "RUNNING")  # started again under the same id
    assert "stopped" in server.job(running)["result"]["message"]


def test_sigterm_ends_contexts_without_waiting_jobs(server, app):
    """A context that has nothing to do is STOPPED and is not there after the next start."""
    server.create("c")
    assert server.run("c", app).status == 200
    assert server.stop() == 0
    assert server.pids() == []
    assert server.context_row("c")[1] == "STOPPED"
    server.start()
    assert server.get("/contexts").json == []
    assert server.get("/contexts/c").json["state"] == "FINISHED"


def test_sigusr2_leaves_everything_running(server, app, flags):
    """SIGUSR2 ends the server with 0 and leaves contexts and jobs for the next one."""
    server.create("c")
    job = server.start_job(
        "c", app, {"append": flags.path("log"), "touch": flags.path("on"), "wait": flags.path("go"), "result": 5}
    )
    flags.wait("on")
    before = sorted(server.pids())
    assert server.stop(signal.SIGUSR2) == 0
    assert sorted(server.pids()) == before
    server.start()
    flags.up("go")
    assert server.wait_job(job, "FINISHED")["result"] == 5
    assert flags.lines("log") == [job + " 1"]
    assert set(before) <= set(server.pids())


@pytest.fixture
def innocent():
    """A process that has nothing to do with the server."""
    process = subprocess.Popen(["sleep", "600"])
    yield process
    assert process.poll() is None, "the server killed a stranger"
    process.kill()
    process.wait()


def test_reused_pid_is_neither_adopted_nor_killed(server, app, flags, innocent):
    """The recorded pid is another process by now (start time differs): the context is LOST, the stranger lives."""
    server.create("c")
    job = server.start_job("c", app, {"touch": flags.path("on"), "wait": "/nowhere"})
    flags.wait("on")
    context, zygote = server.context_row("c")[0], server.pid("c", "z")
    server.kill()
    os.kill(zygote, signal.SIGKILL)
    wait_for(gone(zygote), "zygote's end")
    with server.db() as db:
        worker = server.job_row(job)[2]
        for process in ("z", "k", "jvm", worker):
            db.execute(
                "UPDATE processes SET pid = ?, start_time = ? WHERE context_id = ? AND process = ?",
                (innocent.pid, link.start_time(innocent.pid) - 1, context, process),
            )
        db.execute(
            "UPDATE jobs SET worker_pid = ?, worker_start = ? WHERE id = ?",
            (innocent.pid, link.start_time(innocent.pid) - 1, job),
        )
    orphans = server.pids()
    server.start()
    server.wait_job(job, "ERROR")
    wait_for(lambda: server.context_row("c")[1] == "LOST", "end of the context")
    kill_hard(orphans)  # the JVM, which the edited record does not name any more
    assert innocent.poll() is None


def test_record_of_another_boot_is_settled(server, app, flags):
    """After a reboot no recorded process can be alive, whatever its pid: jobs and context are settled at once."""
    server.create("c")
    job = server.start_job("c", app, {"append": flags.path("log"), "touch": flags.path("on"), "wait": "/nowhere"})
    flags.wait("on")
    jvm = server.pid("c", "jvm")
    server.kill()
    boot = "11111111-2222-4333-8444-555555555555"
    assert boot != link.boot_id()
    with server.db() as db:
        db.execute("UPDATE processes SET boot_id = ?", (boot,))
        db.execute("UPDATE jobs SET worker_boot = ?", (boot,))
    server.start()
    server.wait_job(job, "ERROR")
    wait_for(lambda: server.context_row("c")[1] == "LOST", "end of the context")
    assert flags.lines("log") == [job + " 1"]
    server.create("c")
    assert server.run("c", app).status == 200
    # what in truth was alive is refused when it dials, and ends its context
    wait_for(gone(jvm), "end of the old context")


def test_keeper_that_dials_before_its_zygote(server, app):
    """After a restart the keeper admits a worker that nobody can fork yet: it is forked when the zygote has dialled."""
    server.create("c", **{"max-jobs-per-context": 2})
    assert server.run("c", app).status == 200
    zygote = server.pid("c", "z")
    server.kill()
    os.kill(zygote, signal.SIGSTOP)
    try:
        start = len(server.log())
        server.start()
        others = [server.upload("app%d" % i, make_zip({"app.py": "n = %d\n" % i})) for i in range(2)]
        jobs = [server.start_job("c", other, {"result": 1}) for other in others]
        server.wait_log("worker.*admitted before its zygote", after=start)
    finally:
        os.kill(zygote, signal.SIGCONT)
    for job in jobs:
        assert server.wait_job(job, "FINISHED")["result"] == 1


def test_history_survives(server, app):
    """Jobs, results, configs, binaries and ended contexts are the same after kill -9."""
    server.create("c")
    job = server.run("c", app, {"result": {"a": [1, 2.50, None, "ü"]}}).json["jobId"]
    assert server.delete("/contexts/c").status == 200
    before = [
        server.get(p).json for p in ("/jobs", "/jobs/" + job, "/jobs/%s/config" % job, "/binaries", "/contexts/c")
    ]
    server.restart()
    assert [
        server.get(p).json for p in ("/jobs", "/jobs/" + job, "/jobs/%s/config" % job, "/binaries", "/contexts/c")
    ] == before
    assert before[1]["result"] == {"a": [1, 2.50, None, "ü"]}


def test_two_crashes_in_a_row(server, app, flags):
    """A second kill -9 right after the first start changes nothing."""
    server.create("c")
    job = server.start_job(
        "c", app, {"append": flags.path("log"), "touch": flags.path("on"), "wait": flags.path("go"), "result": 1}
    )
    flags.wait("on")
    for _ in range(3):
        server.restart()
    flags.up("go")
    assert server.wait_job(job, "FINISHED")["result"] == 1
    assert flags.lines("log") == [job + " 1"]


def test_many_jobs_over_many_crashes(server, app, flags):
    """The server is killed again and again: each job that was accepted ran once and has its result."""
    server.create("c", **{"max-jobs-per-context": 4})
    accepted = []
    for round_ in range(6):
        for i in range(12):
            accepted.append(
                server.start_job("c", app, {"append": flags.path("log"), "sleep": 0.02, "result": len(accepted)})
            )
        server.restart()
    for number, job in enumerate(accepted):
        assert server.wait_job(job, "FINISHED")["result"] == number
    lines = flags.lines("log")
    assert sorted(line.split()[0] for line in lines) == sorted(accepted)
