"""Jobs that name no context: each gets one of its own, which ends after it."""

import json
import re

import pytest

from kit import wait_for

UUID = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"


def post(server, app, fake=None, settings=None, headers=None, **query):
    config = {**({"fake": fake} if fake else {}), **({"spark": {"context-settings": settings}} if settings else {})}
    return server.post("/jobs", config, appName=app, classPath="app.Job", headers=headers, **query)


def contexts(server):
    return server.rows("SELECT name, state FROM contexts ORDER BY started_us")


def all_ended(server, number):
    """They have ended as by request (3 is STOPPED), and nothing of them is left."""
    wait_for(lambda: [s for _, s in contexts(server)] == [3] * number, lambda: "end of contexts: %s" % contexts(server))
    assert server.get("/contexts").json == []


@pytest.mark.own_server
@pytest.mark.parametrize("sync", [True, False])
def test_a_job_with_a_context_of_its_own(server, app, sync):
    reply = post(server, app, {"result": [1]}, sync=str(sync).lower(), timeout=30)
    if sync:
        assert reply.status == 200 and reply.result == [1], reply
    else:
        assert (reply.status, reply.json["status"]) == (202, "STARTED")
    job = server.wait_job(reply.json["jobId"], "FINISHED")
    assert re.fullmatch(UUID + re.escape("-app.Job"), job["context"]) and job["result"] == [1]
    all_ended(server, 1)
    assert server.get("/contexts/" + job["context"]).json["state"] == "FINISHED"


@pytest.mark.own_server
def test_its_settings_stand_in_the_config(server, app):
    """spark.context-settings of the posted config; the job sees them, and that its context is ad-hoc."""
    job = post(server, app, {"sleep": 0.1}, {"spark.x": "mine", "num-cpu-cores": 3}, sync="true", timeout=30).json["jobId"]
    (name,) = [name for name, _ in contexts(server)]
    spec = json.loads(server.rows("SELECT spec FROM contexts")[0][0])
    assert (spec["spark_conf"]["spark.x"], spec["spark_conf"]["spark.cores.max"]) == ("mine", "3")
    assert spec["settings"]["is-adhoc"] == "true" and spec["settings"]["context"]["name"] == name
    assert server.get("/jobs/" + job).json["context"] == name


@pytest.mark.own_server
def test_each_has_its_own(server, app, flags):
    """Three at once in three contexts; killing one leaves the others alone, and its context ends too."""
    jobs = [
        post(server, app, {"touch": flags.path("on%d" % i), "wait": flags.path("go")}).json["jobId"] for i in range(3)
    ]
    for i in range(3):
        flags.wait("on%d" % i)
    assert len(server.get("/contexts").json) == 3
    assert server.delete("/jobs/" + jobs[1]).json == {"status": "KILLED"}
    flags.up("go")
    assert [server.wait_job(job)["status"] for job in jobs] == ["FINISHED", "KILLED", "FINISHED"]
    all_ended(server, 3)


@pytest.mark.own_server
def test_a_context_that_does_not_start(server, app):
    """The job is there, with the cause; nothing is left."""
    reply = post(server, app, settings={"spark.fake.keeper": "fail"}, sync="true", timeout=30)
    assert (reply.status, reply.json["status"]) == (200, "ERROR") and "asked to fail" in reply.result["message"]
    assert server.get("/jobs/" + reply.json["jobId"]).json["status"] == "ERROR"
    wait_for(lambda: [s for _, s in contexts(server)] == [4], "failed context")
    assert server.get("/contexts").json == []


@pytest.mark.parametrize(
    "app, settings, status, text",
    [
        ("nobody", {}, 404, "appName nobody not found"),
        ("shared-app", {"num-cpu-cores": "many"}, 400, "num-cpu-cores"),
        ("shared-app", {"context-factory": "my.Factory"}, 500, "my.Factory"),
    ],
)
def test_what_is_wrong_is_told_before_one_is_made(server, shared_app, app, settings, status, text):
    before = contexts(server)
    reply = post(server, app, settings=settings)
    assert reply.status == status and text in reply.text
    assert contexts(server) == before


def test_no_room_for_another_context(daemon):
    server = daemon(max_contexts=1).start()
    server.create("c")
    reply = post(server, server.upload())
    assert reply.status == 503 and "max-contexts" in reply.result and reply.headers["Retry-After"]


@pytest.mark.own_server
def test_the_same_key_is_the_same_job(server, app, flags):
    """A retry starts no second context, whether the first is at work or has ended, and after a restart too."""
    again = {"Idempotency-Key": "one"}
    job = post(server, app, {"wait": flags.path("go")}, headers=again).json["jobId"]
    assert post(server, app, {"wait": flags.path("go")}, headers=again).json["jobId"] == job
    assert post(server, app, {"wait": flags.path("other")}, headers=again).status == 409
    server.restart()
    assert post(server, app, {"wait": flags.path("go")}, headers=again).json["jobId"] == job
    flags.up("go")
    server.wait_job(job, "FINISHED")
    assert post(server, app, {"wait": flags.path("go")}, headers=again, sync="true").json["jobId"] == job
    all_ended(server, 1)


@pytest.mark.own_server
def test_the_server_dies_meanwhile(server, app, flags):
    """The job goes on in its context, which ends after it."""
    job = post(server, app, {"touch": flags.path("on"), "wait": flags.path("go")}).json["jobId"]
    flags.wait("on")
    server.restart()
    flags.up("go")
    assert server.wait_job(job)["status"] == "FINISHED"
    all_ended(server, 1)
