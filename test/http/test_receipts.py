"""Receipts: what a cancel did, kept and served, over a restart too."""

import pytest

from kit import unique, wait_for


@pytest.fixture
def app(server):
    return server.upload()


@pytest.fixture
def context(server):
    name = unique("c")
    server.create(name, **{"max-jobs-per-context": 1})
    yield name
    server.delete("/contexts/" + name)


def receipt(server, job):
    reply = server.get("/v1/jobs/%s/receipt" % job)
    assert reply.status == 200, reply
    return reply.json


def steps(found):
    return [step["step"] for step in found["steps"]]


def running(server, context, app, flags, fake):
    job = server.start_job(context, app, {"touch": flags.path("on"), **fake})
    flags.wait("on")
    return job


@pytest.mark.parametrize(
    "fake, stopped_by, expected",
    [
        ({"sleep": 600}, "interrupt", ["requested", "interrupted", "spark asked", "python ended", "spark asked again", "confirmed"]),
        ({"do": "hang"}, "kill", ["requested", "interrupted", "spark asked", "worker killed", "process ended", "spark asked again", "confirmed"]),
    ],
)
def test_what_stopped_it(server, context, app, flags, fake, stopped_by, expected):
    job = running(server, context, app, flags, fake)
    assert server.delete("/jobs/" + job).json == {"status": "KILLED"}
    found = receipt(server, job)
    assert (found["job"], found["attempt"], found["reason"]) == (job, 1, "user")
    assert (found["stopped_by"], found["outcome"]) == (stopped_by, "KILLED")
    assert found["process"] == server.job_row(job)[2]
    assert found["requested_at"] <= found["confirmed_at"] and found["elapsed_ms"] >= 0
    assert [step for step in steps(found) if step not in ("spark stopped", "spark confirmed")] == expected
    assert steps(found)[-2] == "spark confirmed", "Spark was asked before the worker had ended"
    confirmed = next(step for step in found["steps"] if step["step"] == "spark confirmed")
    assert confirmed["jobs"] == 0 and confirmed["elapsed_ms"] >= 0
    times = [step["ms"] for step in found["steps"]]
    assert times == sorted(times)
    assert server.get("/v1/jobs/" + job).json["has_receipt"] is True


def test_a_job_that_waits(server, context, app, flags):
    held = running(server, context, app, flags, {"wait": flags.path("go")})
    job = server.start_job(context, app)
    assert server.delete("/jobs/" + job).json == {"status": "KILLED"}
    found = receipt(server, job)
    assert (found["stopped_by"], found["outcome"], found["attempt"]) == ("not started", "KILLED", 0)
    assert steps(found) == ["requested", "confirmed"]
    flags.up("go")
    server.wait_job(held, "FINISHED")


def test_a_job_that_ends_by_itself_meanwhile(server, context, app, flags):
    job = running(server, context, app, flags, {"do": "finish_when_interrupted", "result": 3})
    server.delete("/jobs/" + job)
    assert server.wait_job(job, "FINISHED")
    found = receipt(server, job)
    assert (found["stopped_by"], found["outcome"]) == ("itself", "FINISHED")


def test_a_result_that_the_cancel_has_made(server, app, flags):
    """What a job returns when its Spark jobs were stopped under it, and it took no notice, is no result."""
    name = unique("c")
    server.create(name, wish={"keeper": "meets_jobs"})
    job = running(server, name, app, flags, {"do": "finish_when_interrupted", "result": 3})
    assert server.delete("/jobs/" + job).json == {"status": "KILLED"}
    found = receipt(server, job)
    assert (found["stopped_by"], found["outcome"]) == ("interrupt", "KILLED")
    assert server.job(job)["status"] == "KILLED" and "made it" not in str(server.job(job))
    server.delete("/contexts/" + name)


def test_no_receipt_without_a_cancel(server, context, app):
    reply = server.run(context, app)
    assert server.get("/v1/jobs/%s/receipt" % reply.json["jobId"]).status == 404
    assert server.get("/v1/jobs/nobody/receipt").json["error"]["code"] == "NOT_FOUND"


def test_it_goes_on_after_a_crash_of_the_server(daemon, flags):
    server = daemon().start()
    app = server.upload()
    server.create("c", wish={"keeper": "slow_cancel"})
    job = running(server, "c", app, flags, {"do": "hang"})
    asked = server.background("DELETE", "/jobs/" + job)
    wait_for(lambda: server.job_row(job)[0] == "CANCELLING", "cancel")
    assert receipt(server, job)["reason"] == "user"
    server.restart()
    with pytest.raises(Exception):
        asked()
    server.wait_job(job, "KILLED")
    found = receipt(server, job)
    assert steps(found).count("requested") == 1 and "server restarted" in steps(found)
    assert (found["stopped_by"], found["outcome"], found["reason"]) == ("kill", "KILLED", "user")


def test_a_time_out_stays_one_after_a_crash(daemon, flags):
    server = daemon().start()
    app = server.upload()
    server.create("c", wish={"keeper": "slow_cancel"})
    job = server.start_job("c", app, {"do": "hang"}, **{"run-timeout": "50ms"})
    wait_for(lambda: server.job_row(job)[0] == "CANCELLING", "cancel")
    server.restart()
    server.wait_job(job, "ERROR")
    assert server.job_row(job)[0] == "TIMED_OUT"
    assert receipt(server, job)["reason"] == "run-timeout"


def test_jobs_of_a_deleted_context(server, app, flags):
    name = unique("c")
    server.create(name, **{"max-jobs-per-context": 1})
    job = running(server, name, app, flags, {"sleep": 600})
    waits = server.start_job(name, app)
    assert server.delete("/contexts/" + name).status == 200
    assert (receipt(server, job)["reason"], receipt(server, job)["stopped_by"]) == ("context", "context")
    assert receipt(server, waits)["stopped_by"] == "not started"
    assert server.job(job)["status"] == server.job(waits)["status"] == "ERROR"
