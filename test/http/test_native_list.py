"""GET /v1/jobs: what is asked for is what comes, page by page, whatever happens between two pages."""

import itertools

import pytest

from kit import JOB_STATES, unique, wait_for


def pages(server, **query):
    """The pages of a walk to its end."""
    cursor = {}
    for _ in range(1000):
        reply = server.get("/v1/jobs", **{**query, **cursor})
        assert reply.status == 200, reply
        page = reply.json
        assert set(page) == {"jobs", "next"}
        yield page["jobs"]
        if page["next"] is None:
            return
        cursor = {"cursor": page["next"]}
    raise AssertionError("there is no end")


def ids(server, **query):
    return [job["id"] for page in pages(server, **query) for job in page]


@pytest.fixture
def context(server, own_context):
    return own_context(**{"max-jobs-per-context": 1})


# ---- filters


def test_filters_and_all_of_them_together(server, own_context, app, flags):
    """Each alone and in every combination: the same as those of all jobs that fit."""
    contexts = [own_context(), own_context()]
    apps = [app, server.upload()]
    mark = unique("mark")
    made = []
    for i, (context, name) in enumerate(itertools.product(contexts, apps * 2)):
        fake = {"do": "error"} if i % 3 == 0 else None
        reply = server.run(context, name, fake, tag=mark + ("-even" if i % 2 == 0 else "-odd"))
        assert reply.status == 200, reply
        made.append(server.get("/v1/jobs/" + reply.json["jobId"]).json)
    assert {job["state"] for job in made} == {"FINISHED", "ERROR"}
    newest_first = made[::-1]
    questions = itertools.product(
        [None, contexts[0]], [None, apps[1]], [None, mark + "-even"], [None, "ERROR"], [None, made[2]["submitted_at"]]
    )
    for context, name, tag, state, since in questions:
        query = {"context": context, "app": name, "tag": tag, "state": state, "since": since}
        expected = [
            job
            for job in newest_first
            if (context is None or job["context"] == context)
            and (name is None or job["app"] == name)
            and (tag is None or tag in job["tags"])
            and (state is None or job["state"] == state)
            and (since is None or job["submitted_at"] >= since)
        ]
        query = {k: v for k, v in query.items() if v is not None}
        got = [job for page in pages(server, limit=3, **query) for job in page if job["context"] in contexts]
        assert got == expected, query
    assert ids(server, user="nobody") == []
    until = [job["id"] for page in pages(server, until=made[5]["submitted_at"], context=contexts[1]) for job in page]
    assert until == [job["id"] for job in newest_first if job in made[4:5]]


def test_a_listed_job_is_the_job(server, context, app):
    """Every field as GET /v1/jobs/<id> has it."""
    job = server.run(context, app, tag="a").json["jobId"]
    (page,) = pages(server, context=context)
    assert page == [server.get("/v1/jobs/" + job).json]
    assert page[0]["tags"] == ["a"] and page[0]["user"] is None


def test_states_of_what_goes_on(server, context, app, flags):
    """A job that runs is shown and found as RUNNING, though that is never written down; those behind it have their place."""
    running = server.start_job(context, app, {"touch": flags.path("on"), "wait": flags.path("go")})
    flags.wait("on")
    server.wait_running(running)
    waiting = [server.start_job(context, app) for _ in range(3)]
    wait_for(lambda: server.get("/v1/jobs/" + waiting[2]).json["position"] == 2, "its place in the queue")
    assert ids(server, context=context, state="RUNNING") == [running]
    assert ids(server, context=context, state="STARTING") == []
    assert ids(server, context=context, state="QUEUED") == waiting[::-1]
    assert ids(server, context=context, state="QUEUED,RUNNING", limit=2) == waiting[::-1] + [running]
    (page,) = pages(server, context=context, state="QUEUED")
    assert [job["position"] for job in page] == [2, 1, 0]
    assert server.get("/v1/jobs/" + running).json["state"] == "RUNNING"
    flags.up("go")
    for job in waiting:
        server.wait_job(job, "FINISHED")
    assert ids(server, context=context, state="FINISHED") == waiting[::-1] + [running]


# ---- pages


def test_a_walk_shows_each_job_once_while_others_come_end_and_are_cancelled(server, context, app, flags):
    first = server.start_job(context, app, {"wait": flags.path("go")})
    jobs = [first] + [server.start_job(context, app) for _ in range(7)]
    seen = []
    for page in pages(server, context=context, limit=2):
        seen += [job["id"] for job in page]
        if len(seen) == 2:
            flags.up("go")
            server.wait_job(first, "FINISHED")
        assert server.delete("/jobs/" + jobs[-1]).status in (200, 404)
        server.submit(context, app)
    assert seen == jobs[::-1]


def test_a_full_last_page_has_no_next(server, context, app):
    jobs = [server.run(context, app).json["jobId"] for _ in range(4)]
    assert [len(page) for page in pages(server, context=context, limit=2)] == [2, 2]
    assert ids(server, context=context, limit=4) == jobs[::-1]
    assert [len(page) for page in pages(server, context="nobody")] == [0]


def test_a_cursor_holds_over_a_restart_and_what_retention_removes(daemon, flags):
    server = daemon(**{"keep-jobs": "1h"}).start()
    app, context = server.upload(), server.create()
    jobs = [server.run(context, app).json["jobId"] for _ in range(6)]
    page = server.get("/v1/jobs", limit=2).json
    server.kill()
    with server.db() as db:  # the two that come next are gone, and the newest too, so that its number is free again
        db.execute("DELETE FROM jobs WHERE id IN (?, ?, ?)", (jobs[3], jobs[2], jobs[5]))
    server.start()
    server.run(context, app)
    assert ids(server, limit=2, cursor=page["next"]) == [jobs[1], jobs[0]]


# ---- what is refused


@pytest.mark.parametrize(
    "query, field, says",
    [
        ("state=DONE", "state", ["QUEUED, STARTING, RUNNING", "'DONE'"]),
        ("state=ERROR,", "state", ["'ERROR,'"]),
        ("state=" + "X" * 300, "state", ["QUEUED"]),
        ("state=", "state", ["''"]),
        ("limit=0", "limit", ["a whole number from 1 to 1000", "'0'"]),
        ("limit=1001", "limit", ["1000"]),
        ("limit=ten", "limit", ["'ten'"]),
        ("limit=5&limit=6", "limit", ["once"]),
        ("since=yesterday", "since", ["2026-01-31T12:00:00Z", "'yesterday'"]),
        ("since=2026-02-30T00:00:00Z", "since", ["'2026-02-30T00:00:00Z'"]),
        ("until=2026-01-31T12:00:00", "until", ["2026-01-31T12:00:00Z"]),
        ("until=2026-01-31T12:00:00+02:00", "until", ["%2B02:00"]),
        ("cursor=1", "cursor", ["'next'", "'1'"]),
        ("cursor=0.0", "cursor", ["'next'"]),
        ("cursor=1.2x", "cursor", ["'next'"]),
        ("cursor=-1.1", "cursor", ["'next'"]),
        ("cursor=ffffffffffffffff.1", "cursor", ["'next'"]),
        ("status=ERROR", "status", ["state, context, app, user, tag, since, until, limit, cursor"]),
        ("&".join("tag=t%d" % i for i in range(17)), "tag", ["16"]),
    ],
)
def test_a_wrong_filter_is_named(server, query, field, says):
    reply = server.get("/v1/jobs?" + query)
    assert reply.status == 400, reply
    error = reply.json["error"]
    assert error["code"] == "INVALID" and error["field"] == field, error
    for text in says:
        assert text in error["message"]


def test_times_with_an_offset(server, context, app):
    job = server.run(context, app).json["jobId"]
    at = server.get("/v1/jobs/" + job).json["submitted_at"]
    assert ids(server, context=context, since=at.replace("Z", "+00:00")) == [job]
    assert ids(server, context=context, since=at.replace("Z", "-00:01")) == []
    assert ids(server, context=context, until=at.replace("Z", "-00:01")) == [job]
    assert ids(server, context=context, until="1970-01-01T00:00:00Z") == []


# ---- tags


def test_tags_of_a_submit(server, context, app):
    query = "/jobs?appName=%s&classPath=app.Job&context=%s&sync=true" % (app, context)
    reply = server.post(query + "&tag=nightly&tag=team%3Dx&tag=nightly")
    job = server.get("/v1/jobs/" + reply.json["jobId"]).json
    assert job["tags"] == ["nightly", "team=x"]
    reply = server.get("/v1/jobs?context=%s&tag=team%%3Dx&tag=nightly" % context)
    assert [job["id"] for job in reply.json["jobs"]] == [job["id"]]
    assert server.get("/v1/jobs?context=%s&tag=team%%3Dx&tag=other" % context).json["jobs"] == []
    for tag, says in (("", "1 to 64 bytes"), ("x" * 65, "1 to 64 bytes"), ("a%0Ab", "control characters")):
        reply = server.post(query + "&tag=" + tag)
        assert reply.status == 400 and "'tag'" in reply.result and says in reply.result
    reply = server.post(query + "".join("&tag=t%d" % i for i in range(17)))
    assert reply.status == 400 and "16 tags at most" in reply.result


def test_a_key_belongs_to_its_tags_too(server, context, app):
    key = {"headers": {"Idempotency-Key": unique("key")}}
    first = server.submit(context, app, tag="a", **key)
    assert server.submit(context, app, tag="a", **key).json["jobId"] == first.json["jobId"]
    assert server.submit(context, app, tag="b", **key).status == 409
    assert server.submit(context, app, **key).status == 409


def test_every_state_can_be_asked_for(server):
    for state in JOB_STATES:
        assert server.get("/v1/jobs", state=state).status == 200
