"""Named objects of contexts, as the keeper tells of them: listed and dropped, whatever the keeper does."""

import json
import signal
import urllib.parse

import pytest

from kit import kill_hard, unique, wait_for

JOB = "00000000-0000-4000-8000-000000000001"


def said(name, **fields):
    """An object as a keeper says it."""
    return {
        "name": name,
        "kind": "dataframe",
        "job": JOB,
        "named_at": 1770000000.5,
        "storage_level": "MEMORY_ONLY",
        "partitions": 4,
        "cached_partitions": 3,
        "memory_bytes": 5 << 30,
        "disk_bytes": 0,
        **fields,
    }


def shown(name, **fields):
    """The same as a client sees it."""
    return {**said(name), "named_at": "2026-02-02T02:40:00.500Z", **fields}


def create(server, *objects, keeper="", **settings):
    return server.create(wish={"objects": json.dumps(objects), "keeper": keeper}, **settings)


def path(context, name=None):
    found = "/v1/contexts/%s/objects" % context
    return found if name is None else found + "/" + urllib.parse.quote(name, safe="")


def ask(server, context, drop=None):
    """A request that a silent keeper has got: a function that waits for the reply."""
    asked = server.background(*(("GET", path(context)) if drop is None else ("DELETE", path(context, drop))), wait="10min")
    told = "is asked for %s" % ("objects" if drop is None else "dropped")
    wait_for(lambda: told in server.get("/v1/contexts/%s/logs" % context).text, "the question")
    return asked


def failed(reply, status, code, text):
    assert (reply.status, reply.json["error"]["code"]) == (status, code), reply
    assert text in reply.json["error"]["message"], reply
    if status == 503:
        assert reply.headers["Retry-After"] == "1"


@pytest.fixture
def context(own_context):
    """A function that makes a context with these objects."""

    def make(*objects, keeper=""):
        return own_context(wish={"objects": json.dumps(objects), "keeper": keeper})

    return make


def test_objects_are_listed_with_what_they_hold(server, context):
    value = {"kind": "value", "storage_level": None, "partitions": None, "cached_partitions": None, "disk_bytes": None}
    name = context(said("a"), said("b", kind="rdd"), said("v", **value))
    reply = server.get(path(name))
    assert (reply.status, reply.json) == (200, {"objects": [shown("a"), shown("b", kind="rdd"), shown("v", **value)]})
    assert server.get(path(context())).json == {"objects": []}


def test_many_objects_come_in_many_frames(server, context):
    names = ["object-%03d" % n for n in range(301)]
    name = server.create(wish={"objects": json.dumps(said("", times=len(names)))})
    assert [o["name"] for o in server.get(path(name)).json["objects"]] == names
    assert server.delete("/contexts/" + name).status == 200


ODD = ["a/b", "..%2F", "100%", "a b+c", "ä-ö-☃-🦆", '"quoted"', "?x=1&y#z", "...", "x" * 255]


@pytest.mark.parametrize("odd", ODD)
def test_an_object_is_dropped_by_its_name_whatever_it_is(server, context, odd):
    name = context(said("first"), said(odd), said("last"))
    reply = server.delete(path(name, odd))
    assert (reply.status, reply.json) == (200, shown(odd))
    assert [o["name"] for o in server.get(path(name)).json["objects"]] == ["first", "last"]
    failed(server.delete(path(name, odd)), 404, "NOT_FOUND", "has no object")


@pytest.mark.parametrize("raw, text", [("a%01b", "control"), ("%7f", "control"), ("x" * 256, "256")])
def test_what_is_no_name_is_refused(server, context, raw, text):
    reply = server.delete("/v1/contexts/%s/objects/%s" % (context(), raw))
    failed(reply, 400, "INVALID", text)
    assert reply.json["error"]["field"] == "object"


def test_contexts_that_do_not_run(server, own_context):
    failed(server.get(path("nobody")), 404, "NOT_FOUND", "no context nobody")
    failed(server.delete(path("nobody", "a")), 404, "NOT_FOUND", "no context nobody")
    ended = server.create()
    assert server.delete("/contexts/" + ended).status == 200
    failed(server.get(path(ended)), 404, "NOT_FOUND", "no context " + ended)


def test_parameters(server, context):
    name = context()
    for query, field in (("wait=soon", "wait"), ("wait=11min", "wait"), ("limit=3", "limit")):
        reply = server.get(path(name) + "?" + query)
        failed(reply, 400, "INVALID", field)
        assert reply.json["error"]["field"] == field
    assert server.get(path(name) + "?wait=1min").status == 200


def test_a_context_that_starts_has_none_yet(server):
    name = unique("starts")
    settings = {"spark.fake.keeper": "hang", "context-factory": "session"}
    assert server.post("/v1/contexts", {"name": name, "settings": settings}).status == 202
    failed(server.get(path(name)), 503, "LIMIT", "still starting")
    failed(server.delete(path(name, "a")), 503, "LIMIT", "still starting")
    assert server.delete("/contexts/" + name, force="true").status == 200


def test_a_context_that_is_being_stopped(daemon):
    server = daemon(stop_grace="20s").start()
    name = create(server, said("a"), keeper="ignore_sigterm")
    ending = server.background("DELETE", "/v1/contexts/" + name)
    server.wait_log(r"moved.*name=%s.*to=STOPPING" % name)
    failed(server.get(path(name)), 503, "LIMIT", "being stopped")
    assert server.delete("/v1/contexts/" + name, force="true").status == 200
    assert ending().status == 200


def test_a_keeper_that_does_not_answer_holds_nobody_up(server, context):
    name = context(said("a"), keeper="silent")
    failed(server.get(path(name), wait="300ms"), 504, "TIMEOUT", "has not answered within 300 ms")
    failed(server.delete(path(name, "a"), wait="0"), 504, "TIMEOUT", "has not answered")
    assert server.get("/v1/contexts/" + name).json["state"] == "RUNNING"


def test_a_keeper_that_cannot(server, context):
    name = context(said("a"), keeper="broken")
    failed(server.get(path(name)), 500, "INTERNAL", "the fake JVM does not feel well")
    failed(server.delete(path(name, "a")), 500, "INTERNAL", "the fake JVM does not feel well")


def test_an_answer_that_was_lost_with_its_connection(server, context):
    name = context(said("a"), keeper="cuts")
    failed(server.get(path(name), wait="10min"), 503, "LIMIT", "went away before it answered")
    wait_for(lambda: "not connected" not in server.get(path(name)).text, "the keeper's return")


def test_answers_that_nobody_waits_for(server, context):
    name = context(said("a"), said("b"), said("c"), keeper="twice")
    for _ in range(3):
        assert [o["name"] for o in server.get(path(name)).json["objects"]] == ["a", "b", "c"]
    assert server.delete(path(name, "b")).json == shown("b")
    assert [o["name"] for o in server.get(path(name)).json["objects"]] == ["a", "c"]
    assert "connection dropped" not in server.log()


def test_the_context_ends_under_the_question(server):
    name = create(server, keeper="silent")
    asked = [ask(server, name), ask(server, name, "a")]
    assert server.delete("/contexts/" + name).status == 200
    for reply in asked:
        failed(reply(), 503, "LIMIT", "went away")


def test_the_keeper_dies_under_the_question(server):
    name = create(server, keeper="silent")
    asked = ask(server, name)
    kill_hard([server.pid(name, "k")])
    failed(asked(), 503, "LIMIT", "went away")


@pytest.mark.own_server
def test_after_a_restart_the_keeper_tells_the_same(server):
    name = create(server, said("a"), said("b"))
    assert server.delete(path(name, "a")).status == 200
    server.restart()
    wait_for(lambda: server.get(path(name)).status == 200, "the keeper's return")
    assert server.get(path(name)).json == {"objects": [shown("b")]}


@pytest.mark.own_server
@pytest.mark.parametrize("signum", ["TERM", "USR2"])
def test_a_server_that_stops_answers_first(server, signum):
    name = create(server, keeper="silent")
    asked = ask(server, name)
    assert server.stop(getattr(signal, "SIG" + signum)) == 0
    failed(asked(), 503, "LIMIT", "went away")
    server.start()
