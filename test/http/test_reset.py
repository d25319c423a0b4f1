"""Contexts that start with the server, and PUT /contexts?reset=reboot."""

import json

import pytest

from kit import wait_for

CONFIGURED = "first { max-jobs-per-context = 3, spark.a = own }, second { }"
RESET = (200, {"status": "SUCCESS", "result": "Context reset"})


def up(server):
    return sorted(server.get("/contexts").json)


def ids(server):
    return {name: server.get("/contexts/" + name).json["id"] for name in up(server)}


def reset(server, query="?reset=reboot"):
    reply = server.request("PUT", "/contexts" + query)
    return reply.status, reply.json


def all_run(server, *names):
    wait_for(
        lambda: up(server) == sorted(names) and {server.get("/contexts/" + n).json["state"] for n in names} <= {"RUNNING"},
        lambda: "RUNNING contexts %s, not %s" % (names, up(server)),
    )


def test_contexts_that_start_with_the_server(daemon):
    """With their settings over those of context-settings; one that lives on is not started twice."""
    server = daemon(contexts=CONFIGURED, context_settings="spark.a = preset, spark.b = preset").start()
    all_run(server, "first", "second")
    assert server.rows("SELECT name, max_jobs FROM contexts ORDER BY name") == [("first", 3), ("second", 8)]
    confs = [json.loads(spec)["spark_conf"] for (spec,) in server.rows("SELECT spec FROM contexts ORDER BY name")]
    assert [(c["spark.a"], c["spark.b"]) for c in confs] == [("own", "preset"), ("preset", "preset")]
    before = ids(server)
    server.restart()
    all_run(server, "first", "second")
    assert ids(server) == before
    server.stop()
    server.start()
    all_run(server, "first", "second")
    assert not set(ids(server).values()) & set(before.values())


def test_one_that_cannot_start_stops_nobody(daemon):
    server = daemon(contexts="bad { spark.fake.keeper = fail }, good { }").start()
    all_run(server, "good")
    wait_for(lambda: server.get("/contexts/bad").json["state"] == "ERROR", "failed context")
    assert server.get("/contexts/bad").json["error"]


@pytest.mark.parametrize(
    "contexts, words",
    [
        ("1a { }", ["1a", "begin with a letter"]),
        ("a = 5", ["contexts: a", "expected its settings"]),
        ("a { num-cpu-cores = many }", ["contexts: a", "num-cpu-cores", "many"]),
        ("a { context-factory = my.Factory }", ["contexts: a", "no such context factory", "my.Factory"]),
        ("a {", ["contexts"]),
    ],
)
def test_wrong_ones_are_told_at_the_start(daemon, contexts, words):
    server = daemon(contexts=contexts)
    with pytest.raises(AssertionError, match="stokerd says ''"):
        server.start()
    assert server.wait() == 1
    line = server.log().strip()
    assert line.startswith("stokerd: ") and "\n" not in line and [w for w in words if w not in line] == []


def test_reset(daemon):
    """All end, with their jobs; those of the configuration start anew."""
    server = daemon(contexts=CONFIGURED).start()
    all_run(server, "first", "second")
    server.create("other")
    before = ids(server)
    job = server.start_job("other", server.upload(), {"do": "hang"})
    assert reset(server) == RESET
    assert server.get("/jobs/" + job).json["status"] == "ERROR"
    all_run(server, "first", "second")
    assert not set(ids(server).values()) & set(before.values())
    assert server.get("/contexts/other").json["state"] == "FINISHED"


def test_reset_without_waiting(daemon):
    """The end of all is asked for; like Spark Job Server, nothing is started again."""
    server = daemon(contexts=CONFIGURED).start()
    all_run(server, "first", "second")
    assert reset(server, "?reset=reboot&sync=false") == (200, {"status": "SUCCESS", "result": "Context reset requested"})
    wait_for(lambda: up(server) == [], lambda: "no contexts, not %s" % up(server))
    assert reset(server) == RESET
    all_run(server, "first", "second")


def test_reset_of_nothing(daemon):
    server = daemon().start()
    assert reset(server) == RESET and up(server) == []


def test_reset_when_one_does_not_end(daemon):
    """500 that names it; the others have ended, and those of the configuration start anew."""
    server = daemon(contexts="first { }", context_delete_timeout="1s", stop_grace="60s").start()
    all_run(server, "first")
    first = ids(server)["first"]
    server.create("deaf", wish={"keeper": "ignore_sigterm"})
    server.create("fine")
    status, body = reset(server)
    assert status == 500 and body["status"] == "ERROR" and "deaf" in body["result"]["message"]
    wait_for(lambda: up(server) == ["deaf", "first"], lambda: "the deaf one and the first, not %s" % up(server))
    assert ids(server)["first"] != first
    assert server.delete("/contexts/deaf", force="true").status == 200


def test_one_that_an_earlier_server_was_stopping(daemon):
    """It is started again when that has ended, which nobody waits for meanwhile."""
    server = daemon(contexts="slow { spark.fake.keeper = ignore_sigterm }", stop_grace="60s").start()
    all_run(server, "slow")
    first = ids(server)["slow"]
    server.background("DELETE", "/contexts/slow")
    wait_for(lambda: server.get("/contexts/slow").json["state"] == "STOPPING", "stop")
    server.restart()
    assert server.get("/contexts/slow").json["state"] == "STOPPING"
    assert server.delete("/contexts/slow", force="true").status == 200
    all_run(server, "slow")
    assert ids(server)["slow"] != first
    assert server.delete("/contexts/slow", force="true").status == 200


@pytest.mark.parametrize(
    "query, status, text",
    [
        ("", 404, "Request is missing required query parameter 'reset'"),
        ("?reset=soft", 400, "The query parameter 'reset' was malformed:\n'soft' is not 'reboot'"),
        ("?reset=reboot&sync=7", 400, "The query parameter 'sync' was malformed:\n'7' is not a valid Boolean value"),
    ],
)
def test_a_reset_must_be_meant(server, query, status, text, own_context):
    name = own_context()
    assert reset(server, query) == (status, {"status": "ERROR", "result": text})
    assert server.get("/contexts/" + name).json["state"] == "RUNNING"
