"""The start of a context: readable phases, an answer at once for who asks, no doubt for who hangs up, contexts kept warm."""

import json
import os
import socket

import pytest

from kit import CONTEXT_STATES, unique, wait_for

STOPPED = CONTEXT_STATES.index("STOPPED")


def native(server, name):
    reply = server.get("/v1/contexts/" + name)
    return reply.json if reply.status == 200 else None


def phases(server, name):
    found = native(server, name)
    return [phase["phase"] for phase in (found and found["phases"]) or []]


# ---- phases, respond-async


def test_phases_are_readable_while_it_starts(server):
    name = unique("c")
    reply = server.post("/contexts/" + name, headers={"Prefer": "respond-async"}, **{"spark.fake.keeper": "hang"})
    assert (reply.status, reply.json) == (202, {"status": "SUCCESS", "result": "Context is starting"})
    assert reply.headers["Preference-Applied"] == "respond-async"
    assert reply.headers["Location"] == "/contexts/" + name
    wait_for(lambda: "launching jvm" in phases(server, name), "the JVM's phase")
    assert phases(server, name)[:2] == ["starting python", "python is up"]
    assert native(server, name)["state"] == "CREATING"
    times = [phase["ms"] for phase in native(server, name)["phases"]]
    assert times == sorted(times) and times[0] >= 0
    assert server.delete("/contexts/%s?force=true" % name).status == 200


def test_phases_end_with_running(server):
    name = server.create()
    assert phases(server, name)[-1] == "running"
    server.delete("/contexts/" + name)
    assert native(server, name)["phases"] is None


@pytest.mark.parametrize("prefer", ["respond-async", "wait=10, Respond-Async", "respond-async; x=1"])
def test_an_answer_at_once(server, prefer):
    name = unique("c")
    assert server.post("/contexts/" + name, headers={"Prefer": prefer}).status == 202
    assert server.post("/contexts/" + name).json["result"] == "context %s exists" % name
    wait_for(lambda: native(server, name)["state"] == "RUNNING", "its start")
    assert server.run(name, server.upload()).status == 200
    server.delete("/contexts/" + name)


@pytest.mark.parametrize("prefer", ["", "wait=5", "respond-asynchronously", "handling=lenient"])
def test_other_preferences_wait(server, prefer):
    name = unique("c")
    assert server.post("/contexts/" + name, headers={"Prefer": prefer}).status == 200
    server.delete("/contexts/" + name)


def test_a_start_that_fails_after_the_answer(server):
    name = unique("c")
    reply = server.post("/contexts/" + name, headers={"Prefer": "respond-async"}, **{"spark.fake.keeper": "fail"})
    assert reply.status == 202
    wait_for(lambda: native(server, name)["state"] == "FAILED", "its failure")
    assert native(server, name)["error"]["code"]
    assert server.get("/contexts/" + name).json["state"] == "ERROR"


def test_wrong_settings_are_told_at_once(server):
    reply = server.post("/contexts/" + unique("c"), headers={"Prefer": "respond-async"}, lifetime="old")
    assert reply.status == 400 and "'lifetime' must be" in reply.result


# ---- clients that hang up


def hang_up(server, name):
    """Sends a create and goes away when the server has it."""
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        request = "POST /contexts/%s HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n" % name
        sock.sendall(request.encode())


def test_fifty_creates_with_clients_that_hang_up(server):
    """They make one context, which comes up and works."""
    name = unique("c")
    for _ in range(50):
        hang_up(server, name)
    wait_for(lambda: (native(server, name) or {}).get("state") == "RUNNING", "the context")
    assert server.run(name, server.upload()).status == 200
    assert len(server.rows("SELECT 1 FROM contexts WHERE name = '%s'" % name)) == 1
    assert server.post("/contexts/" + name).status == 400
    server.delete("/contexts/" + name)


# ---- kept warm


def warm(server):
    """State and id of the nameless contexts."""
    return server.rows("SELECT id FROM contexts WHERE name = '' AND state = 1 ORDER BY seq")


def wait_warm(server, n):
    wait_for(lambda: len(warm(server)) == n, "%d warm contexts" % n)
    return [row[0] for row in warm(server)]


def test_a_create_takes_a_warm_one(daemon):
    server = daemon(warm_contexts=1).start()
    (kept,) = wait_warm(server, 1)
    assert server.get("/contexts").json == []
    server.create("c", **{"max-jobs-per-context": 3, "run-timeout": "1h"})
    assert server.get("/contexts/c").json["id"] == kept
    assert server.get("/contexts").json == ["c"]
    assert native(server, "c")["max_jobs"] == 3
    app = server.upload()
    reply = server.run("c", app, {"do": "echo"})
    assert reply.status == 200
    assert server.get("/v1/jobs/" + reply.json["jobId"]).json["run_clock"]["limit_ms"] == 3600000
    with open(server.path("contexts", kept, "spec.json")) as f:
        spec = json.load(f)
    assert (spec["name"], spec["context"], spec["settings"]["context"]["name"]) == ("c", kept, "c")
    (other,) = wait_warm(server, 1)  # its place is filled
    assert other != kept
    assert len(os.listdir(server.path("contexts"))) == 2
    assert server.delete("/contexts/c").status == 200


def test_a_create_with_spark_settings_takes_none(daemon):
    server = daemon(warm_contexts=1).start()
    (kept,) = wait_warm(server, 1)
    server.create("c", **{"spark.executor.memory": "1g"})
    assert server.get("/contexts/c").json["id"] != kept
    assert [row[0] for row in warm(server)] == [kept]


def test_a_warm_one_gives_way(daemon):
    """max-contexts is for the contexts that people asked for."""
    server = daemon(warm_contexts=1, max_contexts=2).start()
    wait_warm(server, 1)
    for name in ("a", "b"):
        server.create(name, **{"spark.executor.memory": "1g"})
    assert sorted(server.get("/contexts").json) == ["a", "b"]
    assert server.post("/contexts/c").status == 503


def test_warm_ones_outlive_the_server(daemon):
    server = daemon(warm_contexts=2).start()
    kept = wait_warm(server, 2)
    server.restart()
    assert wait_warm(server, 2) == kept
    server.create("c")
    assert server.get("/contexts/c").json["id"] in kept
    assert server.run("c", server.upload()).status == 200


def test_a_taken_one_outlives_the_server(daemon, flags):
    server = daemon(warm_contexts=1).start()
    (kept,) = wait_warm(server, 1)
    server.create("c", lifetime="1h")
    app = server.upload()
    job = server.start_job("c", app, {"touch": flags.path("on"), "wait": flags.path("go")})
    flags.wait("on")
    server.restart()
    flags.up("go")
    server.wait_job(job, "FINISHED")
    assert server.get("/contexts/c").json["id"] == kept


def test_warm_ones_of_other_settings_end(daemon):
    server = daemon(warm_contexts=1).start()
    (kept,) = wait_warm(server, 1)
    server.kill()
    with open(server.config_path) as f:
        config = f.read()
    with open(server.config_path, "w") as f:
        f.write(config.replace("warm-contexts = 1", "warm-contexts = 0"))
    server.start()
    wait_for(lambda: server.rows("SELECT state FROM contexts WHERE id = ?", kept) == [(STOPPED,)], "the end of the warm one")
    assert os.listdir(server.path("contexts")) == [] and server.pids() == []
    assert server.rows("SELECT count(*) FROM contexts") == [(1,)]  # none took its place
