"""Runner processes that misbehave: the job's fate is right, the server goes on, and the slot is free again."""

import os
import signal
import struct

import pytest

from kit import link, make_zip, unique, wait_for


@pytest.fixture
def narrow(own_context):
    """A context with one slot: the next job shows that it is free again."""
    return own_context(**{"max-jobs-per-context": 1})


def next_job_runs(server, context, app):
    assert server.run(context, app, {"result": "next"}).result == "next"


# ---- the end of a worker


@pytest.mark.parametrize(
    "fake, texts",
    [
        ({"do": "exit", "status": 5}, ["exit status 5"]),
        ({"do": "exit", "status": 0}, ["exit status 0"]),
        ({"do": "signal", "signal": 9}, ["signal 9", "Killed"]),
        ({"do": "signal", "signal": 15}, ["signal 15", "Terminated"]),
        ({"do": "segfault"}, ["signal 11", "Segmentation fault"]),
    ],
)
def test_worker_that_ends_says_how(server, narrow, app, fake, texts):
    """The job is an ERROR that says exactly what happened, with the last lines of what it wrote to stderr."""
    body = server.run(narrow, app, {"print": "first line\nlast line", **fake}).json
    assert body["status"] == "ERROR"
    for text in [*texts, "first line\nlast line"]:
        assert text in body["result"]["message"]
    assert server.job(body["jobId"])["result"] == body["result"]
    next_job_runs(server, narrow, app)


@pytest.mark.parametrize(
    "exited, code, retry, message",
    [
        (
            {"code": "OUT_OF_MEMORY", "reason": "used 70 MiB, max-memory = 64 MiB", "retry": "with-more-memory"},
            "OUT_OF_MEMORY",
            "with-more-memory",
            "used 70 MiB, max-memory = 64 MiB",
        ),
        (
            {"reason": "nobody sent it", "retry": "with-more-memory"},
            "SIGNALLED",
            "with-more-memory",
            "the job's process was ended by signal 9 (Killed): nobody sent it",
        ),
        ({"code": "OTHER", "reason": 7}, "SIGNALLED", "may-help", "the job's process was ended by signal 9 (Killed)"),
    ],
)
def test_worker_that_was_killed_for_its_memory(server, narrow, app, exited, code, retry, message):
    """The zygote says in `exited` why it ended a job, or what it knows of an end that nobody wanted."""
    body = server.run(narrow, app, {"print": "last line", "do": "signal", "exited": exited}).json
    error = server.get("/v1/jobs/" + body["jobId"]).json["error"]
    assert {key: value for key, value in error.items() if value is not None} == {
        "code": code, "message": message, "retry": retry, "exit_code": 137, "signal": 9, "stderr_tail": "last line\n"
    }
    assert body["result"]["errorClass"] == code and message in body["result"]["message"]
    next_job_runs(server, narrow, app)


def test_only_the_last_lines_of_stderr_are_shown(server, narrow, app):
    """At most 4 KiB, beginning with a whole line."""
    lines = "\n".join("line %06d" % i for i in range(3000))
    body = server.run(narrow, app, {"print": lines, "do": "exit"}).json
    message = body["result"]["message"]
    assert "line 002999" in message and "line 000000" not in message
    assert len(message) < 4500
    first = message[message.index("\nline") + 1 :].split("\n")[0]
    assert len(first) == len("line 000000")


def test_a_crash_report_does_not_hide_the_last_words(server, narrow, app):
    """Python's fault handler ends with the names of all extension modules, which can be kilobytes."""
    report = "Fatal Python error: Segmentation fault\n\nExtension modules: %s (total: 500)" % ", ".join(["numpy"] * 1200)
    body = server.run(narrow, app, {"print": "last words\n" + report, "do": "segfault"}).json
    assert "last words\nFatal Python error" in body["result"]["message"]
    assert "numpy" not in body["result"]["message"]


def test_stderr_that_is_not_text_is_shown_all_the_same(server, narrow, app):
    body = server.run(narrow, app, {"print_hex": "ff00fe68656c6c6f0a", "do": "exit"}).json
    assert "hello" in body["result"]["message"]


def test_worker_killed_from_outside(server, narrow, app, flags):
    """SIGKILL while it runs: the job says so, and a sync client gets its answer."""
    reply = server.background(
        "POST",
        "/jobs?appName=%s&classPath=a.B&context=%s&sync=true&timeout=30" % (app, narrow),
        {"fake": {"touch": flags.path("on"), "wait": "/nowhere"}},
    )
    flags.wait("on")
    job = server.get("/jobs?limit=1").json[0]["jobId"]
    os.kill(server.pid(narrow, server.job_row(job)[2]), signal.SIGKILL)
    body = reply().json
    assert body["jobId"] == job and "signal 9" in body["result"]["message"]
    next_job_runs(server, narrow, app)


def test_idle_worker_killed_from_outside(server, narrow, app):
    """Nobody is told; the next job gets another worker."""
    first = server.run(narrow, app).json["jobId"]
    process = server.job_row(first)[2]
    os.kill(server.pid(narrow, process), signal.SIGKILL)
    wait_for(lambda: server.pid(narrow, process) is None, "end of the record")
    second = server.run(narrow, app).json["jobId"]
    assert server.job_row(second)[2] != process


def test_worker_that_retires_after_its_job(server, narrow, app):
    """The result counts, the worker is gone, the next job runs in another one."""
    body = server.run(narrow, app, {"result": 1, "retire": "threads are left"}).json
    process = server.job_row(body["jobId"])[2]
    assert body["result"] == 1
    wait_for(lambda: server.pid(narrow, process) is None, "end of the worker")
    second = server.run(narrow, app).json["jobId"]
    assert server.job_row(second)[2] != process


def test_worker_is_used_again(server, narrow, app):
    """Jobs of one binary set share a worker; this is what the tests above are measured against."""
    first, second = (server.run(narrow, app).json["jobId"] for _ in range(2))
    assert server.job_row(first)[2] == server.job_row(second)[2]


def test_jobs_of_another_set_get_another_worker(server, narrow, app):
    """A worker that has run a job of one binary never gets one of another."""
    other = server.upload(data=make_zip({"app.py": "other = %r\n" % unique()}))
    seen = {}
    for _ in range(3):
        for name in (app, other):
            run = server.run(narrow, name, {"do": "echo"}).result
            seen.setdefault(server.job_row(run["job"])[2], set()).add(run["set"])
    assert all(len(sets) == 1 for sets in seen.values()) and len(seen) >= 2


# ---- broken frames and lies


@pytest.mark.parametrize(
    "do, result",
    [
        ("torn_frame", "after a torn frame"),
        ("garbage", "after garbage"),
        ("oversize_frame", "after an oversize frame"),
        ("unknown_type", "after an unknown type"),
        ("wrong_job", "the truth"),
        ("done_twice", "first"),
    ],
)
def test_broken_protocol(server, narrow, app, do, result):
    """The connection may end, the job's own end counts, once."""
    body = server.run(narrow, app, {"do": do}).json
    assert body["result"] == result
    assert server.job_row(body["jobId"])[:2] == ("FINISHED", 1)
    next_job_runs(server, narrow, app)


def frame(payload):
    return struct.pack(">I", len(payload)) + payload


@pytest.mark.parametrize(
    "data",
    [
        struct.pack(">I", 0),
        frame(b"[]"),
        frame(b'"text"'),
        frame(b"{}"),
        frame(b'{"type": 7}'),
        frame(b'{"type": "ready"} more'),
        frame(b'{"type": "done", "type": "done"}'),
        frame(b'{"type": "\xff"}'),
        struct.pack(">I", 0xFFFFFFFF),
        frame(b'{"type": "hello"}'),
        frame(b'{"type": "forked", "process": "k"}'),
    ],
    ids=[
        "empty",
        "list",
        "text",
        "no-type",
        "type-number",
        "trailing",
        "twice",
        "utf8",
        "4GiB",
        "second-hello",
        "not-a-zygote",
    ],
)
def test_frames_that_close_the_connection(server, narrow, app, data):
    """The worker loses its connection, dials again and still delivers its result."""
    assert server.run(narrow, app, {"do": "bytes", "hex": data.hex()}).result == "after bytes"
    next_job_runs(server, narrow, app)


@pytest.mark.parametrize(
    "done",
    [
        {},
        {"outcome": "no-such-outcome"},
        {"outcome": 7},
        {"outcome": "error"},
        {"outcome": "error", "error": "text"},
        {"outcome": "error", "error": {}},
        {"outcome": "error", "error": {"code": 1, "message": [], "traceback": {}}},
        {"outcome": "invalid"},
        {"outcome": "invalid", "error": {"code": "VALIDATION_FAILED", "problems": 7}},
    ],
    ids=[
        "nothing",
        "unknown",
        "number",
        "no-error",
        "error-text",
        "error-empty",
        "error-types",
        "invalid",
        "problems",
    ],
)
def test_done_without_sense(server, narrow, app, done):
    """Whatever `done` holds, the job ends as failed, with an error object of three texts."""
    outcome = {"outcome": "none", **done}
    body = server.run(narrow, app, {"do": "raw", "done": outcome}).json
    assert body["status"] in ("ERROR", "VALIDATION FAILED")
    assert sorted(body["result"]) == ["errorClass", "message", "stack"]
    assert all(isinstance(v, str) for v in body["result"].values())
    assert body["result"]["message"]
    next_job_runs(server, narrow, app)


def test_interrupted_though_nobody_asked(server, narrow, app):
    """It was asked for by a server that died before it had written that down: the cancel is done again."""
    reply = server.run(narrow, app, {"do": "raw", "done": {"outcome": "interrupted"}})
    assert reply.json["status"] == "KILLED"
    assert server.get("/v1/jobs/%s/receipt" % reply.json["jobId"]).json["outcome"] == "KILLED"
    next_job_runs(server, narrow, app)


@pytest.mark.parametrize(
    "done",
    [
        {"outcome": "finished"},
        {"outcome": "finished", "result": 7},
        {"outcome": "finished", "result_file": "../token", "result_bytes": 64},
        {"outcome": "finished", "result_file": ".", "result_bytes": 1},
        {"outcome": "finished", "result_file": "x" * 300, "result_bytes": 1},
    ],
    ids=["nothing", "number", "escape", "dot", "long"],
)
def test_finished_without_a_result(server, narrow, app, done):
    """No result, or a file that is not in results/: the job has failed, and nothing else is read."""
    job = server.start_job(narrow, app, {"do": "raw", "done": done})
    ended = server.wait_job(job, "ERROR")
    assert ended["result"]["errorClass"] == "RESULT_NOT_JSON"
    next_job_runs(server, narrow, app)


@pytest.mark.parametrize("name", ["%s.1.json", "%s.1.csv"])
def test_result_file_that_is_not_there(server, narrow, app, flags, name):
    """The job has failed. A link out of results/ is not followed."""
    job = server.start_job(narrow, app, {"do": "dictated_file", "name": flags.path("name")})
    if name.endswith(".csv"):
        os.symlink("../token", server.path("results", name % job))
    with open(flags.path("tmp"), "w") as f:
        f.write(name % job)
    os.rename(flags.path("tmp"), flags.path("name"))
    ended = server.wait_job(job, "ERROR")
    assert ended["result"]["errorClass"] == "RESULT_LOST"
    assert name % job in ended["result"]["message"]
    error = server.get("/v1/jobs/" + job).json["error"]
    assert (error["code"], error["retry"]) == ("RESULT_LOST", "may-help")
    next_job_runs(server, narrow, app)


@pytest.mark.parametrize("claim", [-1, 10**12, "many", 0, 99, 101])
def test_result_file_of_another_size_than_claimed(server, narrow, app, claim):
    """It is not whole, or not what the job wrote: no job ends as FINISHED with it."""
    job = server.start_job(narrow, app, {"do": "big_result", "bytes": 100, "claim": claim})
    assert server.wait_job(job, "ERROR")["result"]["errorClass"] == "RESULT_LOST"
    next_job_runs(server, narrow, app)


def test_result_file_of_another_job(server, narrow, app):
    """A job names its own file only."""
    other = server.run(narrow, app, {"do": "big_result", "bytes": 100}).json["jobId"]
    fields = {"outcome": "finished", "result_file": other + ".1.json", "result_bytes": 100}
    job = server.start_job(narrow, app, {"do": "raw", "done": fields})
    assert server.wait_job(job, "ERROR")["result"]["errorClass"] == "RESULT_NOT_JSON"
    assert server.get("/jobs/" + other).result == "x" * 98


def test_error_texts_with_nul(server, narrow, app):
    """A NUL in what a job says does not hide the rest of it."""
    body = server.run(narrow, app, {"do": "nul_error"}).json
    assert body["status"] == "ERROR"
    assert "before" in body["result"]["message"] and "after" in body["result"]["message"]


def test_result_text_that_is_not_json(server, narrow, app):
    """What the server sends is JSON whatever a worker calls a result."""
    reply = server.run(narrow, app, {"do": "raw", "done": {"outcome": "finished", "result": '{"a": '}})
    assert isinstance(reply.json, dict)


# ---- workers that do not come up


def test_attach_that_fails_again_and_again_ends_the_context(server, app):
    """After three workers that could not attach the context has FAILED, with their error; its jobs are told."""
    name = unique("ctx")
    server.create(name, wish={"worker": "fail_attach"})
    wait_for(lambda: server.context_row(name)[1] == "FAILED", "end of the context")
    assert server.context_row(name)[2]["message"] == "fake: cannot attach"
    assert "cannot attach" in server.get("/contexts/" + name).json["error"]


def test_workers_that_exit_before_they_are_ready_end_the_context(daemon):
    """The same for workers that say nothing: no endless row of forks, no job that waits for ever."""
    server = daemon().start()
    app = server.upload()
    server.post("/contexts/c?spark.fake.worker=exit_before_ready")
    server.submit("c", app)
    wait_for(
        lambda: server.context_row("c")[1] in ("FAILED", "LOST"),
        lambda: "end of the context after %d workers" % server.log().count("worker  ended"),
        5,
    )
    assert server.log().count("worker  ended") < 20
    assert all(j["status"] == "ERROR" for j in server.get("/jobs").json)


def test_slow_attach_makes_the_job_wait(server, own_context, app):
    """The job is accepted at once and runs when a worker is ready."""
    name = own_context(wish={"worker": "slow_attach"})
    assert server.run(name, app).result == "ok"


def test_fork_that_is_told_late(server, own_context, app, flags):
    """A worker is ready before the zygote has told of its fork: what is recorded of its job names a real process."""
    name = own_context(wish={"zygote": "late_forked"})
    job = server.start_job(name, app, {"touch": flags.path("on"), "wait": flags.path("go")})
    flags.wait("on")
    ((pid, boot),) = server.rows("SELECT worker_pid, worker_boot FROM jobs WHERE id = ?", job)
    assert pid and boot == link.boot_id()
    flags.up("go")
    server.wait_job(job, "FINISHED")


# ---- the keeper and the zygote of a context that runs


@pytest.mark.parametrize("process", ["k", "z"])
def test_context_process_that_dies(server, app, process):
    """Keeper or zygote killed: the context is LOST, its jobs are errors, nothing is left, the name is free."""
    name = unique("ctx")
    server.create(name, **{"max-jobs-per-context": 1})
    jobs = [server.start_job(name, app, {"wait": "/nowhere"}) for _ in range(2)]
    server.wait_running(jobs[0])
    context = server.context_row(name)[0]
    os.kill(server.pid(name, process), signal.SIGKILL)
    for job in jobs:
        assert "Unexpected termination of context " + context in server.wait_job(job, "ERROR")["result"]["message"]
    wait_for(lambda: server.context_row(name)[1] == "LOST", "end of the context")
    wait_for(lambda: not os.path.exists(server.path("contexts", context)), "removal of its folder")
    assert server.submit(name, app).status == 404
    server.create(name)
    assert server.run(name, app).status == 200
    assert server.delete("/contexts/" + name).status == 200
