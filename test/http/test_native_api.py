"""The native API beyond its lists: contexts, binaries, jobs, waiting, the server; each route, and each error that it can give."""

import urllib.parse

import pytest

from kit import JOB_STATES, make_zip, unique, wait_for

EGG = {"Content-Type": "application/python-egg"}


def error(reply, status, code, *says, field=None):
    assert reply.status == status, reply
    found = reply.json["error"]
    assert found["code"] == code and found.get("field") == field, found
    for text in says:
        assert text in found["message"], found
    return found


def put(server, name, data=None, **kw):
    return server.request("PUT", "/v1/binaries/" + urllib.parse.quote(name, safe=""), make_zip() if data is None else data,
                          **{"headers": EGG, **kw})


def submit(server, context, app, fake=None, query="", headers=None, **fields):
    body = {"app": app, "class": "app.Job", "context": context, **fields}
    if fake:
        body["config"] = {**body.get("config", {}), "fake": fake}
    return server.post("/v1/jobs" + query, body, headers=headers)


# ---- binaries


def test_a_binary_and_its_versions(server):
    name = unique("bin/ä")
    first = put(server, name)
    assert first.status == 201, first
    assert first.headers["Location"] == "/v1/binaries/" + urllib.parse.quote(name, safe="")
    second = put(server, name, make_zip({"b.py": "x = 1"}), headers={"Content-Type": "application/python-wheel"})
    assert second.json["version"] > first.json["version"] and second.json["type"] == "wheel"
    found = server.get(second.headers["Location"]).json
    assert found == {"name": name, "versions": [second.json, first.json]}
    (listed,) = [b for b in server.get("/v1/binaries").json["binaries"] if b["name"] == name]
    assert listed == second.json
    reply = server.delete(second.headers["Location"])
    assert reply.status == 204 and reply.body == b""
    error(server.get(second.headers["Location"]), 404, "NOT_FOUND", name)
    error(server.delete(second.headers["Location"]), 404, "NOT_FOUND", name)


def test_a_job_keeps_its_binary_from_being_deleted(server, context, flags):
    app = unique("app")
    put(server, app)
    job = submit(server, context, app, {"touch": flags.path("on"), "wait": flags.path("go")}).json["id"]
    flags.wait("on")
    error(server.delete("/v1/binaries/" + app), 409, "CONFLICT", job)
    flags.up("go")
    assert server.get("/v1/jobs/%s?wait=20s" % job).json["state"] == "FINISHED"
    assert server.delete("/v1/binaries/" + app).status == 204


def test_the_type_may_be_named(server):
    name = unique("bin")
    for kind in ("egg", "zip", "wheel", "jar"):
        assert put(server, name, headers={}, type=kind).json["type"] == kind
    error(put(server, name, headers={}, type="tar"), 400, "INVALID", "egg, zip, wheel, jar", "'tar'", field="type")
    error(put(server, name, headers={}), 415, "UNSUPPORTED_TYPE", "application/python-wheel", "'type'")


def test_uploads_that_are_refused(server):
    error(put(server, unique(), b"not a zip"), 400, "INVALID", "not of the right format")
    error(put(server, unique(), make_zip({"../x": "y"})), 400, "INVALID")
    error(put(server, unique(), b"PK\3\4" + b"x" * (300 << 10)), 413, "TOO_LARGE")
    error(put(server, ".."), 400, "INVALID", "must not be '..'", field="name")
    error(put(server, "x" * 256), 400, "INVALID", "1 to 255 bytes, not 256", field="name")


# ---- contexts


@pytest.fixture
def name(server):
    name = unique("ctx")
    yield name
    server.delete("/contexts/" + name, force="true")


def test_a_context_from_its_create_to_its_end(server, name):
    settings = {"max-jobs": 3, "num-cpu-cores": 2, "spark.fake.x": "y", "run-timeout": "1h"}
    reply = server.post("/v1/contexts?wait=30s", {"name": name, "settings": settings})
    assert reply.status == 201 and reply.headers["Location"] == "/v1/contexts/" + name, reply
    assert reply.json["state"] == "RUNNING" and reply.json["max_jobs"] == 3
    assert [phase["phase"] for phase in reply.json["phases"]][-1] == "running"
    assert reply.json == server.get("/v1/contexts/" + name).json
    assert reply.json in server.get("/v1/contexts").json["contexts"]
    assert name in server.get("/contexts").json  # one core under all dialects
    error(server.post("/v1/contexts", {"name": name}), 409, "CONFLICT", name)
    job = submit(server, name, server.upload(), {"do": "echo"}, query="?wait=20s").json
    assert job["run_clock"]["limit_ms"] == 3600000
    gone = server.delete("/v1/contexts/" + name)
    assert gone.status == 200 and gone.json["state"] == "STOPPED" and gone.json["ended_at"], gone
    assert server.get("/v1/contexts/" + name).json == gone.json
    assert name not in [context["name"] for context in server.get("/v1/contexts").json["contexts"]]
    error(server.delete("/v1/contexts/" + name), 404, "NOT_FOUND", name)


def test_a_create_that_does_not_wait(server, name, flags):
    reply = server.post("/v1/contexts", {"name": name})
    assert reply.status == 202 and reply.json["state"] in ("CREATING", "RUNNING"), reply
    wait_for(lambda: server.get("/v1/contexts/" + name).json["state"] == "RUNNING", "the context")
    reply = server.delete("/v1/contexts/%s?wait=0" % name)
    assert reply.status in (200, 202) and reply.json["state"] in ("STOPPING", "RUNNING", "STOPPED")
    wait_for(lambda: server.get("/v1/contexts/" + name).json["state"] == "STOPPED", "its end")


def test_a_create_whose_wait_is_over_goes_on(server, name):
    reply = server.post("/v1/contexts?wait=1ms", {"name": name, "settings": {"spark": {"fake": {"keeper": "late"}}}})
    assert reply.status == 202 and reply.json["state"] == "CREATING", reply
    wait_for(lambda: server.get("/v1/contexts/" + name).json["state"] == "RUNNING", "the context")


def test_a_create_is_answered_when_it_is_recorded(daemon):
    """However short the wait: who gets an answer finds the context."""
    server = daemon().start()
    with server.frozen_store():
        creating = server.background("POST", "/v1/contexts?wait=1ms", {"name": "c"})
        wait_for(lambda: server.get("/v1/server").json["contexts"]["CREATING"] == 1, "its arrival")
        for _ in range(5):
            assert server.get("/v1/contexts").json["contexts"] == []
        assert not creating.done()
    assert creating().status in (201, 202)


def test_a_context_that_cannot_start(server, name):
    reply = server.post("/v1/contexts?wait=30s", {"name": name, "settings": {"spark.fake.keeper": "fail"}})
    found = error(reply, 500, "CONTEXT_FAILED")
    assert found["cause"]["message"] in found["message"] or found["cause"]["code"]
    assert server.get("/v1/contexts/" + name).json["error"]["code"] == found["cause"]["code"]


@pytest.mark.parametrize(
    "body, field, says",
    [
        ({}, "name", "must be there"),
        ({"name": ""}, "name", "not empty"),
        ({"name": 7}, "name", "a text"),
        ({"name": "7up"}, "name", "begin with a letter"),
        ({"name": "a\nb"}, "name", "control characters"),
        ({"name": "x" * 256}, "name", "1 to 255 bytes"),
        ({"name": "x", "setting": {}}, "setting", "there are: name, settings"),
        ({"name": "x", "settings": []}, "settings", "an object"),
        ({"name": "x", "settings": {"num-cpu-cores": "many"}}, "settings", "'num-cpu-cores' must be a whole number"),
        ({"name": "x", "settings": {"run-timeout": "soon"}}, "settings", "'run-timeout' must be"),
        ({"name": "x", "settings": {"context-factory": "nobody"}}, "settings", "session, spark, sql, hive"),
    ],
)
def test_a_wrong_create_is_named(server, body, field, says):
    error(server.post("/v1/contexts", body), 400, "INVALID", says, field=field)


# ---- jobs


def test_a_job_with_all_that_may_be_said(server, context, app):
    fields = {"tags": ["nightly", "nightly", "b"], "priority": 5, "queue_timeout": "5min", "run_timeout": 60000,
              "max_memory": "1g", "isolation": "process", "config": {"n": 12345678901234567890 // 10, "x": 1.5}}
    reply = submit(server, context, app, {"do": "echo"}, query="?wait=20s", **fields)
    assert reply.status == 200 and reply.headers["Location"] == "/v1/jobs/" + reply.json["id"], reply
    job = reply.json
    assert job["state"] == "FINISHED" and job["tags"] == ["nightly", "b"] and job["priority"] == 5
    assert job["queue_clock"]["limit_ms"] == 300000 and job["run_clock"]["limit_ms"] == 60000
    assert job["max_memory"] == 1 << 30 and job["isolation"] == "process"
    assert job == server.get(reply.headers["Location"]).json
    assert server.get("/jobs/%s/config" % job["id"]).json == {**fields["config"], "fake": {"do": "echo"}}
    assert server.get("/jobs/" + job["id"]).json["status"] == "FINISHED"  # one core under all dialects


def test_a_submit_that_does_not_wait(server, context, app, flags):
    reply = submit(server, context, app, {"wait": flags.path("go")})
    assert reply.status == 202 and reply.json["state"] in ("QUEUED", "STARTING", "RUNNING"), reply
    flags.up("go")
    assert server.get(reply.headers["Location"] + "?wait=20s").json["state"] == "FINISHED"


def test_a_submit_whose_wait_is_over_goes_on(server, context, app, flags):
    reply = submit(server, context, app, {"wait": flags.path("go")}, query="?wait=50ms")
    assert reply.status == 202 and reply.json["ended_at"] is None, reply
    flags.up("go")
    assert server.get(reply.headers["Location"] + "?wait=20s").json["state"] == "FINISHED"


def test_a_submit_is_repeatable(server, context, app, flags):
    key = {"Idempotency-Key": unique("key")}
    first = submit(server, context, app, {"append": flags.path("log")}, query="?wait=20s", headers=key)
    again = submit(server, context, app, {"append": flags.path("log")}, headers=key)
    assert again.status == 200 and again.json == first.json
    error(submit(server, context, app, headers=key), 409, "CONFLICT", first.json["id"])
    error(submit(server, context, app, headers={"Idempotency-Key": "k" * 256}), 400, "INVALID", "1 to 255",
          field="Idempotency-Key")
    assert len(flags.lines("log")) == 1


@pytest.mark.parametrize(
    "change, field, says",
    [
        ({"app": None}, "app", "must be there"),
        ({"class": ""}, "class", "not empty"),
        ({"context": ["c"]}, "context", "a text"),
        ({"config": "x=1"}, "config", "an object"),
        ({"tags": "a"}, "tags", "an array"),
        ({"tags": [1]}, "tags", "an array of texts"),
        ({"tags": [""]}, "tags", "1 to 64 bytes"),
        ({"tags": ["t%d" % i for i in range(17)]}, "tags", "16 tags"),
        ({"priority": 101}, "priority", "-100 to 100"),
        ({"priority": 1.5}, "priority", "whole number"),
        ({"run_timeout": "soon"}, "run_timeout", "'run_timeout' must be a time such as 30s"),
        ({"max_memory": "much"}, "max_memory", "a size such as 512m"),
        ({"isolation": "total"}, "isolation", "'shared' or 'process'"),
        ({"run-timeout": "1s"}, "run-timeout", "run_timeout"),
        ({"klass": "x"}, "klass", "there are: app, class, context"),
    ],
)
def test_a_wrong_submit_is_named(server, change, field, says):
    body = {"app": "a", "class": "b", "context": "c", **change}
    error(server.post("/v1/jobs", body), 400, "INVALID", says, field=field)


@pytest.mark.parametrize(
    "text, says",
    [
        ("", "not JSON"),
        ("{", "not JSON: line 1"),
        ("[]", "a JSON object"),
        ('{"app": "a", "app": "b"}', "duplicate"),
        ('{"config": ' + '{"a":' * 60 + "1" + "}" * 61, "48 levels"),
        ('{"config": "' + "[" * 60 + '"}', "must be there"),
        ('{"app": "\\u0000"}', "not JSON"),
        (b'{"app": "\xff"}', "not JSON"),
    ],
)
def test_a_body_that_is_no_object(server, text, says):
    reply = server.post("/v1/jobs", text)
    assert reply.status == 400 and says in reply.json["error"]["message"], reply


def test_a_body_that_is_too_long(server):
    error(server.post("/v1/jobs", '{"app": "%s"}' % ("x" * (70 << 10))), 413, "TOO_LARGE")


def test_what_a_submit_needs_must_be_there(server, context, app, own_context, flags):
    error(submit(server, context, "nobody"), 404, "NOT_FOUND", "nobody")
    error(submit(server, "nobody", app), 404, "NOT_FOUND", "nobody")
    small = own_context(**{"max-jobs-per-context": 1})
    jobs = [submit(server, small, app, {"touch": flags.path("on"), "sleep": 600}).json["id"]]
    flags.wait("on")
    jobs += [submit(server, small, app).json["id"] for _ in range(8)]
    reply = submit(server, small, app)
    error(reply, 503, "LIMIT", "8")
    assert reply.headers["Retry-After"].isdigit()
    for job in jobs[::-1]:
        assert server.delete("/v1/jobs/" + job).json["state"] == "KILLED"


# ---- waiting


def test_a_wait_ends_with_the_job(server, context, app, flags):
    job = submit(server, context, app, {"touch": flags.path("on"), "wait": flags.path("go")}).json["id"]
    flags.wait("on")
    waiting = [server.background("GET", "/v1/jobs/%s?wait=30s" % job) for _ in range(5)]
    reply = server.get("/v1/jobs/%s?wait=100ms" % job)
    assert reply.status == 200 and reply.json["state"] == "RUNNING"
    assert not any(reply.done() for reply in waiting)
    flags.up("go")
    for reply in waiting:
        assert reply().json["state"] == "FINISHED"
    assert server.get("/v1/jobs/%s?wait=10min" % job).json["state"] == "FINISHED"  # at once
    error(server.get("/v1/jobs/nobody?wait=10s"), 404, "NOT_FOUND", "nobody")


def test_who_waits_does_not_hold_up_the_end_of_the_server(daemon, flags):
    """A job that runs is ended, one that waits stays for the next server: both who wait for them are answered."""
    server = daemon().start()
    app, context = server.upload(), server.create(**{"max-jobs-per-context": 1})
    running = submit(server, context, app, {"touch": flags.path("on"), "sleep": 600}).json["id"]
    flags.wait("on")
    queued = submit(server, context, app).json["id"]
    waiting = [server.background("GET", "/v1/jobs/%s?wait=10min" % job) for job in (running, queued)]
    wait_for(lambda: [job["position"] for job in server.get("/v1/jobs").json["jobs"]] == [0, None], "its place")
    assert server.stop() == 0
    assert waiting[0]().json["error"]["code"] == "SERVER_STOPPED"
    assert waiting[1]().json["state"] == "QUEUED"
    server.start()
    assert server.get("/v1/jobs/%s?wait=20s" % queued).json["state"] == "FINISHED"


@pytest.mark.parametrize("wait", ["soon", "-1s", "11min", ""])
def test_a_wrong_wait_is_named(server, wait):
    for method, path, body in (
        ("GET", "/v1/jobs/x", None),
        ("DELETE", "/v1/jobs/x", None),
        ("POST", "/v1/jobs", {}),
        ("POST", "/v1/contexts", {}),
        ("DELETE", "/v1/contexts/x", None),
    ):
        reply = server.request(method, path + "?wait=" + wait, body)
        error(reply, 400, "INVALID", "0 to 10min", "'%s'" % wait, field="wait")


def test_too_many_that_wait(daemon, flags):
    server = daemon(max_waiting=1).start()
    app, context = server.upload(), server.create()
    job = submit(server, context, app, {"touch": flags.path("on"), "wait": flags.path("go")}).json["id"]
    flags.wait("on")
    waiting = []

    def refused():  # whoever comes first has the place: it has to be the one that keeps it
        if not waiting or waiting[-1].done():
            waiting.append(server.background("GET", "/v1/jobs/%s?wait=30s" % job))
        reply = server.get("/v1/jobs/%s?wait=1ms" % job)
        return reply if reply.status == 503 and not waiting[-1].done() else None

    reply = wait_for(refused, "no place to wait")
    error(reply, 503, "LIMIT", "too many")
    assert reply.headers["Retry-After"].isdigit()
    error(submit(server, context, app, query="?wait=1s"), 503, "LIMIT", "too many")
    error(server.post("/v1/contexts?wait=1s", {"name": "c"}), 503, "LIMIT", "too many")
    assert server.get("/v1/jobs/" + job).status == 200
    done = submit(server, context, app).json["id"]
    wait_for(lambda: server.get("/v1/jobs/" + done).json["state"] == "FINISHED", "the end of a job")
    assert server.delete("/v1/jobs/" + done).status == 200
    assert server.delete("/v1/jobs/" + job).status in (200, 202)  # to stop must work all the same
    assert waiting[-1]().json["state"] == "KILLED"


# ---- cancel


def test_cancel(server, context, app, flags):
    job = submit(server, context, app, {"touch": flags.path("on"), "sleep": 600}).json["id"]
    flags.wait("on")
    reply = server.delete("/v1/jobs/" + job)
    assert reply.status == 200 and reply.json["state"] == "KILLED" and reply.json["has_receipt"] is True, reply
    assert server.get("/v1/jobs/%s/receipt" % job).json["outcome"] == "KILLED"
    assert server.delete("/v1/jobs/" + job).json == reply.json  # once more: it is as it is
    done = submit(server, context, app, query="?wait=20s").json
    assert server.delete("/v1/jobs/" + done["id"]).json == done
    error(server.delete("/v1/jobs/nobody"), 404, "NOT_FOUND", "nobody")
    error(server.get("/v1/jobs/%s/receipt" % done["id"]), 404, "NOT_FOUND")


def test_a_cancel_that_does_not_wait(server, context, app, flags):
    job = submit(server, context, app, {"touch": flags.path("on"), "do": "hang"}).json["id"]
    flags.wait("on")
    reply = server.delete("/v1/jobs/%s?wait=0" % job)
    assert reply.status == 202 and reply.json["id"] == job, reply
    assert server.get("/v1/jobs/%s?wait=20s" % job).json["state"] == "KILLED"


def test_a_cancel_without_time_knows_what_has_ended(server, context, app):
    done = submit(server, context, app, query="?wait=20s").json
    for _ in range(50):  # now and then the loop is not as quick as who asks it
        reply = server.delete("/v1/jobs/%s?wait=0" % done["id"])
        assert reply.status == 200 and reply.json == done, reply
        error(server.delete("/v1/jobs/%s?wait=0" % unique()), 404, "NOT_FOUND")


def test_a_delete_without_time_knows_what_has_ended(server, name):
    assert server.post("/v1/contexts?wait=20s", {"name": name}).status == 201
    assert server.delete("/v1/contexts/" + name).status == 200
    for _ in range(50):
        error(server.delete("/v1/contexts/%s?wait=0" % name), 404, "NOT_FOUND", name)
        error(server.delete("/v1/contexts/%s?wait=0" % unique()), 404, "NOT_FOUND")


# ---- the server


def test_the_server(daemon, flags):
    server = daemon(max_contexts=5, disk_reserve="64MiB").start()
    found = server.get("/v1/server").json
    assert found["state"] == "RUNNING" and found["uptime_ms"] >= 0
    assert found["jobs"] == {state: 0 for state in JOB_STATES}
    assert found["contexts"] == {"CREATING": 0, "RUNNING": 0, "STOPPING": 0, "warm": 0, "max": 5}
    assert found["slots"] == {"total": 0, "busy": 0}
    assert found["disk"]["reserve_bytes"] == 64 << 20 and found["disk"]["free_bytes"] > 0
    assert found["disk"]["low"] is False
    app, context = server.upload(), server.create(**{"max-jobs-per-context": 2})
    for i in range(3):
        submit(server, context, app, {"append": flags.path("on"), "wait": flags.path("go")})
    assert submit(server, context, "nobody").status == 404
    wait_for(lambda: len(flags.lines("on")) == 2, "two that run")
    found = server.get("/v1/server").json
    assert (found["jobs"]["RUNNING"], found["jobs"]["QUEUED"]) == (2, 1)
    assert found["slots"] == {"total": 2, "busy": 2} and found["contexts"]["RUNNING"] == 1
    flags.up("go")
    wait_for(lambda: server.get("/v1/server").json["jobs"]["FINISHED"] == 3, "their end")


# ---- what the edge says


@pytest.mark.parametrize(
    "method, path, status, code",
    [
        ("GET", "/v1", 404, "NOT_FOUND"),
        ("GET", "/v1/nothing", 404, "NOT_FOUND"),
        ("PATCH", "/v1/jobs", 405, "METHOD_NOT_ALLOWED"),
        ("POST", "/v1/jobs/x", 405, "METHOD_NOT_ALLOWED"),
        ("GET", "/v1/contexts?all=true", 400, "INVALID"),
        ("GET", "/v1/server?x=y", 400, "INVALID"),
        ("GET", "/v1/binaries?limit=3", 400, "INVALID"),
        ("GET", "/v1/jobs/x?wait=1s&wait=2s", 400, "INVALID"),
        ("DELETE", "/v1/contexts/x?force=perhaps", 400, "INVALID"),
    ],
)
def test_errors_have_one_form(server, method, path, status, code):
    reply = server.request(method, path)
    assert reply.status == status and reply.json["error"]["code"] == code, reply
    assert reply.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize("name", ["\u8a9e" * 34, "a" + "\xe9" * 60])
def test_names_that_are_cut_in_an_error(server, name):
    """In the middle of a character or not: the answer is the error, not one about the answer."""
    for path in ("/v1/contexts/", "/v1/binaries/", "/v1/jobs/"):
        reply = server.get(path + urllib.parse.quote(name))
        assert reply.status == 404 and reply.json["error"]["code"] == "NOT_FOUND", reply
    reply = server.get("/v1/jobs?limit=" + urllib.parse.quote(name))
    assert reply.status == 400 and reply.json["error"]["field"] == "limit", reply


def test_a_class_name_without_end(server, shared_app):
    context = unique("c")
    server.create(context)
    reply = server.post("/v1/jobs", {"app": shared_app, "class": "a" * 1025, "context": context})
    assert reply.status == 400 and "1024 bytes" in reply.json["error"]["message"], reply
    server.delete("/contexts/" + context)
