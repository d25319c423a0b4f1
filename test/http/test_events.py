"""What happens, as it happens: GET /v1/events, server-sent events."""

import contextlib
import json
import os
import signal
import threading
import time
import urllib.parse

import kit
import pytest
from kit import wait_for
from test_logs import error_of, threads

class Events(kit.Stream):
    """A client as the rules of server-sent events have it, except that it notes the numbers it has come by."""

    def __init__(self, server, last=None, read=True, **query):
        headers = "" if last is None else "Last-Event-ID: %s\r\n" % last
        pairs = [(k, v) for k, values in query.items() for v in (values if isinstance(values, list) else [values])]
        super().__init__(server, "/v1/events?" + urllib.parse.urlencode(pairs), read, headers=headers)

    def parse(self):
        """[(id, event, data)] of the events that are whole, and the last id; what has no data is no event. Progress has no id."""
        found, last = [], None
        blocks = bytes(self.data).decode().split("\n\n")
        for block in blocks[:-1]:
            fields = dict(line.split(": ", 1) for line in block.split("\n") if not line.startswith(":"))
            last = fields.get("id", last)
            if "data" in fields:
                number = int(fields["id"]) if "id" in fields else None
                found.append((number, fields["event"], json.loads(fields["data"])))
        return found, last and int(last)

    @property
    def events(self):
        return self.parse()[0]

    @property
    def last(self):
        return self.parse()[1]

    @property
    def data_of(self):
        return [data for _, _, data in self.events]

    def wait_for(self, condition, what="events"):
        return wait_for(lambda: condition(self.data_of), lambda: "%s in %s" % (what, self.text[-1500:]))

    def wait_end_of(self, *jobs):
        self.wait_for(lambda all: set(jobs) <= {e["job"] for e in all if e["type"] == "job.ended"}, "ends of %s" % (jobs,))
        return self


def follow(server, **kw):
    """One that has been told where it begins."""
    follower = Events(server, **kw)
    assert follower.status == 200
    wait_for(lambda: follower.last is not None, "the first number")
    return follower


def table(server, where="1"):
    return [seq for (seq,) in server.rows("SELECT seq FROM events WHERE %s ORDER BY seq" % where)]


def steps(events):
    return [(e["type"], e["from"], e["state"]) for e in events]


# ---- what they say


def warm(server, context, app):
    """A worker waits in this context: the next job need not."""
    server.run(context, app)
    return context


def test_the_life_of_a_job(server, context, app):
    warm(server, context, app)
    follower = follow(server)
    job = server.run(context, app).json["jobId"]
    mine = follower.wait_end_of(job).wait_for(lambda all: [e for e in all if e.get("job") == job])
    assert steps(mine) == [("job.submitted", None, "STARTING"), ("job.ended", "STARTING", "FINISHED")]
    for e in mine:
        assert (e["context"], e["attempt"], e["error"]) == (context, 1, None)
        assert e["context_id"] == server.context_row(context)[0]
        assert list(e) == ["id", "type", "time", "job", "context", "context_id", "from", "state", "attempt", "error"]
        ((at_us,),) = server.rows("SELECT at_us FROM events WHERE seq = ?", e["id"])
        assert e["time"] == time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at_us / 1e6)) + ".%03dZ" % (
            at_us // 1000 % 1000
        )
    assert all((id, name) == (data["id"], data["type"]) for id, name, data in follower.events)
    assert (follower.headers["Content-Type"], follower.headers["Cache-Control"]) == ("text/event-stream", "no-store")
    follower.close()


def test_a_job_that_waits_fails_and_is_cancelled(server, own_context, app, flags):
    context = warm(server, own_context(**{"max-jobs": "1"}), app)
    follower = follow(server, context=context)
    first = server.start_job(context, app, {"wait": flags.path("go"), "do": "raise"})
    second = server.start_job(context, app, {"sleep": 30})
    third = server.start_job(context, app)
    flags.up("go")
    server.wait_running(second)
    assert server.delete("/jobs/" + third).status == server.delete("/jobs/" + second).status == 200
    follower.wait_end_of(first, second, third)
    of = {job: [e for e in follower.data_of if e["job"] == job] for job in (first, second, third)}
    assert steps(of[first]) == [("job.submitted", None, "STARTING"), ("job.ended", "STARTING", "ERROR")]
    assert steps(of[second]) == [
        ("job.submitted", None, "QUEUED"),
        ("job.moved", "QUEUED", "STARTING"),
        ("job.moved", "STARTING", "CANCELLING"),
        ("job.ended", "CANCELLING", "KILLED"),
    ]
    assert steps(of[third]) == [("job.submitted", None, "QUEUED"), ("job.ended", "QUEUED", "KILLED")]
    assert [e["attempt"] for e in of[second]] == [0, 1, 1, 1]
    for job in of:
        error, recorded = of[job][-1]["error"], server.job_row(job)[3]
        assert error == {"code": recorded["code"], "message": recorded["message"][:1000]}
    follower.close()


def test_an_attempt_that_is_taken_back(server, own_context, app):
    context = warm(server, own_context(), app)
    follower = follow(server, context=context)
    job = server.start_job(context, app, {"deny": True, "sleep": 0.2})
    wait_for(lambda: server.job_row(job)[0] == "STARTING", "the first attempt")
    os.kill(server.pid(context, server.job_row(job)[2]), signal.SIGUSR1)
    follower.wait_end_of(job)
    assert [(e["from"], e["state"], e["attempt"]) for e in follower.data_of] == [
        (None, "STARTING", 1),
        ("STARTING", "QUEUED", 1),
        ("QUEUED", "STARTING", 2),
        ("STARTING", "FINISHED", 2),
    ]
    follower.close()


def test_the_life_of_a_context(server):
    name = kit.unique("ctx")
    follower = follow(server, context=name, type="context")
    server.create(name)
    assert server.delete("/contexts/" + name).status == 200
    follower.wait_for(lambda all: all and all[-1]["type"] == "context.ended")
    assert steps(follower.data_of) == [
        ("context.created", None, "CREATING"),
        ("context.moved", "CREATING", "RUNNING"),
        ("context.moved", "RUNNING", "STOPPING"),
        ("context.ended", "STOPPING", "STOPPED"),
    ]
    for e in follower.data_of:
        assert list(e) == ["id", "type", "time", "context", "context_id", "from", "state", "error"]
        assert (e["context"], e["error"]) == (name, None)
    follower.close()


def test_a_context_that_fails(server):
    name = kit.unique("ctx")
    follower = follow(server, context=name)
    reply = server.post("/contexts/" + name, **{"spark.fake.keeper": "fail"})
    assert reply.status != 200, reply
    follower.wait_for(lambda all: all and all[-1]["type"] == "context.ended")
    assert follower.data_of[-1]["state"] == "FAILED" and follower.data_of[-1]["error"]["code"]
    follower.close()


def test_binaries(server):
    follower = follow(server, type="binary")
    name = server.upload()
    assert server.delete("/binaries/" + name).status == 200
    follower.wait_for(lambda all: len(all) == 2)
    added, deleted = follower.data_of
    assert list(added) == ["id", "type", "time", "name", "version", "digest"]
    assert (added["type"], added["name"], len(added["digest"])) == ("binary.added", name, 64)
    assert (deleted["type"], deleted["name"], deleted["version"], deleted["digest"]) == (
        "binary.deleted",
        name,
        None,
        None,
    )
    follower.close()


# ---- which ones


def test_filters(server, own_context, app):
    one, two = (warm(server, own_context(), app) for _ in range(2))
    begin = follow(server).last
    followers = {
        "jobs": follow(server, since=begin, type="job"),
        "ends": follow(server, since=begin, type=["job.ended", "context.ended"]),
        "one": follow(server, since=begin, context=one),
        "both": follow(server, since=begin, context=[one, two], type="job.submitted"),
        "nobody": follow(server, since=begin, context="nobody"),
    }
    a, b, c = (server.run(context, app).json["jobId"] for context in (one, two, one))
    follower = follow(server, since=begin, job=[a, c], type="job.ended")
    follower.wait_end_of(a, c)
    followers["jobs"].wait_end_of(a, b, c)
    followers["ends"].wait_end_of(a, b, c)
    followers["one"].wait_end_of(a, c)
    followers["both"].wait_for(lambda all: len(all) == 3)
    jobs = {name: [(e["job"], e["type"]) for e in f.data_of] for name, f in followers.items()}
    whole = [(job, type) for job in (a, b, c) for type in ("job.submitted", "job.ended")]
    assert jobs["jobs"] == whole
    assert jobs["ends"] == [(job, "job.ended") for job in (a, b, c)]
    assert jobs["one"] == [step for step in whole if step[0] != b]
    assert jobs["both"] == [(job, "job.submitted") for job in (a, b, c)]
    assert jobs["nobody"] == []
    assert [e["job"] for e in follower.data_of] == [a, c]
    for f in (follower, *followers.values()):
        f.close()


def test_a_job_is_shown_from_its_beginning(server, context, app):
    """Whoever asks after it has ended sees all of it."""
    warm(server, context, app)
    jobs = [server.run(context, app).json["jobId"] for _ in range(3)]
    for job in jobs:
        follower = follow(server, job=job).wait_end_of(job)
        assert [e["type"] for e in follower.data_of] == ["job.submitted", "job.ended"]
        follower.close()
    both = follow(server, job=jobs[:2]).wait_end_of(*jobs[:2])
    assert len(both.data_of) == 4
    both.close()


def test_where_to_begin(server, context, app):
    warm(server, context, app)
    before = server.run(context, app).json["jobId"]
    follower = follow(server)
    begin = follower.last
    assert begin == table(server)[-1]
    time.sleep(0.002)  # a time is told in milliseconds
    now = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(time.time())) + ".%03dZ" % (time.time() % 1 * 1000)
    job = server.run(context, app).json["jobId"]
    for query in ({"since": begin}, {"since": now}, {"last": begin}, {"last": begin, "since": 0}):
        other = follow(server, **query).wait_end_of(job)
        assert [e["id"] for e in other.data_of] == [begin + 1, begin + 2], query
        other.close()
    for query in ({"since": 0}, {"last": 0}, {"since": "2001-01-01T00:00:00Z"}):
        other = follow(server, **query).wait_end_of(before, job)
        assert [e["id"] for e in other.data_of] == table(server), query
        other.close()
    assert [e["id"] for e in follower.wait_end_of(job).data_of] == [begin + 1, begin + 2]
    later = follow(server, since="2101-01-01T00:00:00Z")
    assert later.last == table(server)[-1]  # of what comes, nothing is left out
    for one in (follower, later):
        one.close()
    head = server.raw(b"HEAD /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ") and b"text/event-stream" in head and head.endswith(b"\r\n\r\n")


SINCE = "'since' must be the number of an event or a time such as 2026-01-31T12:00:00Z, not '%s'"
BAD = [
    *(({"since": text}, SINCE % text) for text in ("yesterday", "", "-1", "9" * 30, "2026-02-30T00:00:00Z")),
    ({"type": "jobs"}, "'type' must be a type of events, such as job or job.ended, not 'jobs'"),
    ({"type": ""}, "'type' must not be empty"),
    ({"job": ""}, "'job' must not be empty"),
    ({"context": ""}, "'context' must not be empty"),
    ({"contexts": "a"}, "there is no query parameter 'contexts' here; there are: job, context, type, since"),
]


def refused(server, **kw):
    """The error; a stream in its place says something every fifteen seconds, which is too late."""
    return error_of(server.get("/v1/events", http_timeout=10, **kw))


def test_bad_input(server):
    for query, message in BAD:
        (field,) = query
        assert refused(server, **query) == (400, "INVALID", message)
        assert server.get("/v1/events", http_timeout=10, **query).json["error"]["field"] == field
    many = "&".join("type=job" for _ in range(17))
    reply = server.get("/v1/events?" + many, http_timeout=10)
    assert error_of(reply) == (400, "INVALID", "'type' may be given 16 times at most")
    for last in ("x", "-1", "1.5", "9" * 30):
        message = "'Last-Event-ID' must be the number of an event, not '%s'" % last
        reply = server.get("/v1/events", http_timeout=10, headers={"Last-Event-ID": last})
        assert error_of(reply) == (400, "INVALID", message) and reply.json["error"]["field"] == "Last-Event-ID"
    assert refused(server, job="nobody") == (404, "NOT_FOUND", "job nobody not found")
    assert error_of(server.post("/v1/events"))[:2] == (405, "METHOD_NOT_ALLOWED")


# ---- no gap, no duplicate


@pytest.mark.own_server
def test_resumed_over_the_death_of_the_server(server, app, flags):
    """kill -9 in the middle of many jobs, again and again: what a follower has seen in the end is the table."""
    context = server.create(**{"max-jobs": "4"})
    seen, last, jobs, done = [], 0, [], threading.Event()

    def submit():
        while not done.is_set():
            with contextlib.suppress(OSError, AssertionError, kit.http.client.HTTPException):
                jobs.append(server.start_job(context, app))

    submitters = [threading.Thread(target=submit, daemon=True) for _ in range(3)]
    for t in submitters:
        t.start()
    for _ in range(4):
        follower = Events(server, last=last)
        wait_for(lambda: len(follower.events) > 30, "events")  # noqa: B023
        server.kill()
        follower.wait_cut()
        seen += [id for id, _, _ in follower.events]
        last = follower.last
        server.start()
    done.set()
    for t in submitters:
        t.join()
    for job in jobs:
        server.wait_job(job)
    newest = table(server)[-1]
    follower = Events(server, last=last)
    wait_for(lambda: follower.last == newest, "the rest")
    seen += [id for id, _, _ in follower.events]
    assert seen == table(server) == list(range(1, newest + 1))
    follower.close()


@pytest.mark.own_server
def test_what_is_not_committed_is_not_told(server, app):
    context = warm(server, server.create(), app)
    follower = follow(server)
    with server.frozen_store():
        submit = server.background("POST", "/jobs?appName=%s&classPath=app.Job&context=%s" % (app, context), {})
        time.sleep(0.1)  # long enough for a follower that would be told too early
        assert not submit.done() and not follower.events
    assert submit().status == 202
    follower.wait_for(lambda all: len(all) == 2)
    follower.close()


@pytest.mark.own_server
def test_retention_is_told(server, app):
    """A client that comes back too late is told what it has missed."""
    context = server.create()
    jobs = [server.run(context, app).json["jobId"] for _ in range(5)]
    early = follow(server, since=0).wait_end_of(*jobs)
    early.close()
    server.stop()
    with server.db() as db:
        db.execute("DELETE FROM events WHERE seq < 6")
    server.start()
    follower = follow(server, last=2).wait_end_of(*jobs[2:])
    id, event, data = follower.events[0]
    assert (id, event, data) == (5, "gap", {"id": 5, "type": "gap", "after": 2, "next": 6, "reason": "removed"})
    numbers = [id for id, _, _ in follower.events[1:]]
    assert numbers[0] == 6 and numbers == table(server)[: len(numbers)]
    follower.close()
    again = follow(server, last=5).wait_end_of(*jobs[2:])  # it has been told
    assert again.events[0][0] == 6
    again.close()


@pytest.mark.own_server
def test_an_older_database_is_told(server, app):
    """Put back from a backup: numbers that a client knows have not been given here."""
    context = warm(server, server.create(), app)
    follower = follow(server, last=1000)
    newest = table(server)[-1]
    wait_for(lambda: follower.events, "the gap")
    gap = {"id": newest, "type": "gap", "after": 1000, "next": newest + 1, "reason": "unknown"}
    assert follower.events == [(newest, "gap", gap)]
    job = server.run(context, app).json["jobId"]
    follower.wait_end_of(job)
    assert [id for id, _, _ in follower.events[1:]] == [newest + 1, newest + 2]
    follower.close()


# ---- many, slow, and the end


@pytest.mark.own_server
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR2])
def test_a_server_that_stops_ends_its_followers(server, app, flags, signum):
    context = server.create()
    follower, deaf = follow(server), Events(server, read=False)
    job = server.start_job(context, app, {"wait": flags.path("go")})
    server.wait_running(job)
    server.send_signal(signum)
    assert server.wait() == 0
    follower.wait_cut()
    flags.up("go")
    server.start()
    if signum == signal.SIGUSR2:
        server.wait_job(job, "FINISHED")
    again = follow(server, last=follower.last).wait_end_of(job) if job not in ended(follower) else follower
    seen = {id for f in {follower, again} for id, _, _ in f.events}
    assert seen >= {id for (id,) in server.rows("SELECT seq FROM events WHERE job_id = ?", job)}
    for one in {follower, again, deaf}:
        one.close()


def ended(follower):
    return [e["job"] for e in follower.data_of if e["type"] == "job.ended"]


def test_a_hundred_followers(daemon):
    server = daemon(http_threads=8, max_waiting=4).start()
    context, app = server.create(**{"max-jobs": "4"}), server.upload()
    before = threads(server)
    followers = [follow(server, type="job") for _ in range(100)]
    assert threads(server) <= before + 8  # some come by themselves meanwhile: those of CivetWeb and of libuv, when first needed
    jobs = [server.start_job(context, app) for _ in range(50)]
    for job in jobs:
        server.wait_job(job, "FINISHED")
    numbers = table(server, "job_id IS NOT NULL")
    for follower in followers:
        wait_for(lambda: len(follower.events) >= len(numbers), "all events")  # noqa: B023
        assert [id for id, _, _ in follower.events] == numbers
        follower.close()


def test_one_over_the_limit_is_told_to_come_back(daemon):
    server = daemon(max_streams=2).start()
    first, second = follow(server), follow(server)
    reply = server.get("/v1/events", http_timeout=10)
    assert error_of(reply) == (503, "LIMIT", "Too many streams are being sent (max-streams).")
    assert reply.headers["Retry-After"] == "1"
    first.close()
    third = wait_for(lambda: admitted(server), "a place")
    for one in (second, third):
        one.close()


def admitted(server):
    follower = Events(server)
    return follower if follower.status == 200 else follower.close()


def add_events(server, n):
    """While no server runs: n events of nobody's jobs."""
    with server.db() as db:
        db.execute("BEGIN")
        first = db.execute("SELECT coalesce(max(seq), 0) + 1 FROM events").fetchone()[0]
        db.executemany(
            "INSERT INTO events (seq, at_us, kind, job_id, context_id, context_name, state)"
            " VALUES (?, ?, 'job.moved', ?, 'c', 'ctx', 1)",
            [(first + i, int(time.time() * 1e6), "job-%d" % (i % 7)) for i in range(n)],
        )
        db.execute("COMMIT")


def test_a_slow_follower_slows_nobody_and_misses_nothing(daemon):
    """One that reads nothing while a hundred thousand events are there for it."""
    server = daemon(stream_timeout="1h").start()
    app = server.upload()
    server.stop()
    add_events(server, 100000)
    server.start()
    context = server.create()
    before = kit.rss_anon(server)
    deaf = [Events(server, since=0, read=False) for _ in range(20)]
    quick = follow(server)
    job = server.run(context, app).json["jobId"]
    quick.wait_end_of(job)
    newest = table(server)[-1]
    deaf[0].start()
    wait_for(lambda: deaf[0].data.endswith(b"\n\n") and b"\nid: %d\n" % newest in deaf[0].data, "all of it", 60)
    assert [id for id, _, _ in deaf[0].events] == table(server)
    assert kit.rss_anon(server) - before < (16 << 20) or kit.REPORTS
    for one in (quick, *deaf):
        one.close()


def test_who_looks_for_the_rare_gets_it(daemon):
    """Among a hundred thousand of others; and it comes back with a place behind those."""
    server = daemon().start()
    app = server.upload()
    server.stop()
    add_events(server, 100000)
    server.start()
    context = server.create()
    job = server.run(context, app).json["jobId"]
    follower = follow(server, since=0, context=context, type=["job.submitted", "job.ended"]).wait_end_of(job)
    assert [e["type"] for e in follower.data_of] == ["job.submitted", "job.ended"]
    places = [int(line[4:]) for line in follower.text.splitlines() if line.startswith("id: ")]
    assert len(places) > 10 and places == sorted(places)
    follower.close()
