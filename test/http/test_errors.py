"""The error object in the native API: one shape, at most 8 KiB where a job or a context is shown, the whole one link away."""

import json
import os
import signal
import urllib.parse

import pytest

from kit import unique, wait_for

FIELDS = {
    "code", "message", "class", "file", "line", "source", "traceback", "cause", "raised_by", "exit_code", "exit_status",
    "signal", "stderr_tail", "log_tail", "problems", "retry",
}
LIMIT = 8192


def failed(server, context, app, **fake):
    """(The job's id, its error as it is shown, the whole of it)."""
    job = server.run(context, app, fake).json["jobId"]
    return job, server.get("/v1/jobs/" + job).json["error"], server.get("/v1/jobs/%s/error" % job).json


@pytest.mark.parametrize(
    "fake, known",
    [
        ({"do": "error"}, {"code": "USER_EXCEPTION", "line": 3, "exit_code": 4, "retry": "never"}),
        ({"do": "invalid"}, {"code": "VALIDATION_FAILED", "problems": ["no input.string", "bad weather"]}),
        ({"do": "exit", "status": 5}, {"code": "EXITED", "exit_status": 5, "signal": None, "retry": "may-help"}),
        ({"do": "signal", "signal": 15}, {"code": "SIGNALLED", "exit_status": None, "signal": 15, "exit_code": 143}),
    ],
)
def test_every_error_has_every_field(server, context, app, fake, known):
    job, shown, whole = failed(server, context, app, **fake)
    assert set(whole) == FIELDS and set(shown) == FIELDS | {"full"}
    assert shown == {**whole, "full": None}
    assert {key: shown[key] for key in known} == known


@pytest.mark.parametrize("char", ["x", "\n", "\u00e9", "\U0001f600", "\x01", '"'])
@pytest.mark.parametrize("name", ["traceback", "message", "cause"])
def test_a_long_error_is_cut(server, context, app, name, char):
    text = "begin " + char * 60000 + " end"
    job, shown, whole = failed(server, context, app, do="error", error={name: {"of": char, "times": 60000}, "stderr_tail": "y" * 4000})
    assert whole[name] == text
    assert len(json.dumps(shown, ensure_ascii=False, separators=(",", ":")).encode()) <= LIMIT
    assert shown[name].startswith("begin ") and shown[name].endswith(" end") and "bytes cut" in shown[name]
    assert len(shown[name].encode()) > 400
    assert shown["source"] == whole["source"] and shown["code"] == whole["code"]
    assert server.get(shown["full"]).json == whole


def test_many_problems_are_cut(server, context, app):
    problems = ["problem %d %s" % (n, "x" * 400) for n in range(100)]
    job, shown, whole = failed(server, context, app, do="invalid", error={"problems": problems})
    assert whole["problems"] == problems and server.get(shown["full"]).json == whole
    assert len(json.dumps(shown)) <= LIMIT
    assert 0 < len(shown["problems"]) < 100 and shown["problems"] == problems[: len(shown["problems"])]


def test_what_has_no_error(server, context, app):
    job = server.run(context, app).json["jobId"]
    assert server.get("/v1/jobs/" + job).json["error"] is None
    for path in ("/v1/jobs/%s/error" % job, "/v1/jobs/nobody/error", "/v1/contexts/%s/error" % context, "/v1/contexts/x/error"):
        reply = server.get(path)
        assert (reply.status, reply.json["error"]["code"]) == (404, "NOT_FOUND"), path


def test_the_error_of_a_context(server):
    """Its link names it as a path does, whatever is in its name."""
    name = unique() + " %\u00e9"
    path = urllib.parse.quote(name, safe="")
    settings = {"spark.fake.keeper": "fail", "spark.fake.error": json.dumps({"cause": {"of": "c", "times": 60000}})}
    assert server.post("/contexts/" + path, **settings).status == 500
    whole = server.get("/v1/contexts/%s/error" % path).json
    shown = server.get("/v1/contexts/" + path).json["error"]
    assert set(whole) == FIELDS and len(whole["cause"]) == 60010 and whole["log_tail"] == shown["log_tail"]
    assert len(json.dumps(shown)) <= LIMIT and server.get(shown["full"]).json == whole


def test_a_driver_that_runs_out_of_memory(server, own_context, app, flags):
    """Its jobs say so; clients of Spark Job Server see the end of the context as they always did."""
    context = own_context(**{"spark.fake.keeper": "out_of_memory", "max-jobs-per-context": 1})
    runs, waits = (server.start_job(context, app, {"touch": flags.path("on"), "wait": "/nowhere"}) for _ in range(2))
    flags.wait("on")
    os.kill(server.pid(context, "k"), signal.SIGUSR1)
    for job in (runs, waits):
        result = server.wait_job(job, "ERROR")["result"]
        assert result["errorClass"] == "spark.jobserver.JobManagerActor$ContextTerminatedException"
        assert result["message"].startswith("Unexpected termination of context ")
        error = server.get("/v1/jobs/" + job).json["error"]
        assert (error["code"], error["retry"]) == ("DRIVER_OUT_OF_MEMORY", "with-more-memory")
        assert "ran out of memory" in error["message"]
    wait_for(lambda: server.get("/v1/contexts/" + context).json["state"] == "LOST", "end of the context")
    assert server.get("/v1/contexts/" + context).json["error"]["code"] == "DRIVER_OUT_OF_MEMORY"
