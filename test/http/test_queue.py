"""Who runs when: slots, priorities, positions, the queue's limit, clocks of jobs and contexts, keys against doubles."""

import threading

import pytest

from kit import unique, wait_for


@pytest.fixture
def context(server):
    name = unique("c")
    server.create(name, **{"max-jobs-per-context": 1})
    yield name
    server.delete("/contexts/" + name)


@pytest.fixture
def app(server):
    return server.upload()


@pytest.fixture
def held(server, context, app, flags):
    """A job that has the only slot until the flag `go` is up."""
    job = server.start_job(context, app, {"touch": flags.path("on"), "wait": flags.path("go")})
    flags.wait("on")
    return job


def native(server, job):
    reply = server.get("/v1/jobs/" + job)
    assert reply.status == 200, reply
    return reply.json


def queued(server, context, app, flags, mark, **query):
    job = server.start_job(context, app, {"append": flags.path("order"), "result": mark}, **query)
    wait_for(lambda: native(server, job)["position"] is not None, "its place in the queue")
    return job


# ---- order


def test_jobs_go_by_priority_then_arrival(server, context, app, held, flags):
    jobs = [
        queued(server, context, app, flags, i, **({} if p is None else {"priority": p}))
        for i, p in enumerate([None, -5, 10, 0, 10, 100, -100])
    ]
    assert [native(server, job)["position"] for job in jobs] == [3, 5, 1, 4, 2, 0, 6]
    assert [native(server, job)["priority"] for job in jobs] == [0, -5, 10, 0, 10, 100, -100]
    flags.up("go")
    for job in jobs:
        assert server.wait_job(job, "FINISHED")
    order = [line.split()[0] for line in flags.lines("order")]
    assert order == [jobs[i] for i in (5, 2, 4, 0, 3, 1, 6)]
    assert native(server, jobs[0])["position"] is None


def test_positions_in_a_list_follow_each_change(server, context, app, held, flags):
    jobs = [queued(server, context, app, flags, i) for i in range(5)]

    def listed():
        found = server.get("/v1/jobs", context=context, state="QUEUED").json["jobs"]
        return [(jobs.index(job["id"]), job["position"]) for job in reversed(found)]

    assert listed() == [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4)]
    server.delete("/v1/jobs/" + jobs[2])
    assert listed() == [(0, 0), (1, 1), (3, 2), (4, 3)]
    jobs.append(queued(server, context, app, flags, 5))
    assert listed() == [(0, 0), (1, 1), (3, 2), (4, 3), (5, 4)]
    jobs.append(queued(server, context, app, flags, 6, priority=1))
    assert listed() == [(0, 1), (1, 2), (3, 3), (4, 4), (5, 5), (6, 0)]
    flags.up("go")
    for i in (0, 1, 3, 4, 5, 6):
        server.wait_job(jobs[i], "FINISHED")
    assert listed() == []


def test_priority_survives_a_restart(daemon, flags):
    server = daemon().start()
    app = server.upload()
    server.create("c", **{"max-jobs-per-context": 1})
    held = server.start_job("c", app, {"touch": flags.path("on"), "wait": flags.path("go")})
    flags.wait("on")
    low = queued(server, "c", app, flags, 1, priority=-1)
    high = queued(server, "c", app, flags, 2, priority=1)
    server.restart()
    assert [native(server, job)["position"] for job in (low, high)] == [1, 0]
    flags.up("go")
    for job in (held, low, high):
        server.wait_job(job, "FINISHED")
    assert [line.split()[0] for line in flags.lines("order")] == [high, low]


def test_a_context_has_a_default_priority(server, app, flags):
    name = unique("c")
    server.create(name, priority="7", **{"max-jobs-per-context": 1})
    assert native(server, server.start_job(name, app))["priority"] == 7
    assert native(server, server.start_job(name, app, priority="-7"))["priority"] == -7
    server.delete("/contexts/" + name)


@pytest.mark.parametrize(
    "name, value",
    [
        ("priority", "101"),
        ("priority", "high"),
        ("priority", ""),
        ("queue-timeout", "soon"),
        ("queue-timeout", "-1s"),
        ("run-timeout", "1 fortnight"),
        ("run-timeout", "99999999999999999d"),
        ("max-memory", "much"),
        ("max-memory", "1.5g"),
        ("isolation", "total"),
    ],
)
def test_wrong_terms_are_named(server, context, app, name, value):
    """Of a job and of a context: 400 with the name, what came and what would be right; nothing is accepted."""
    jobs = len(server.get("/jobs", limit=1000).json)
    reply = server.submit(context, app, **{name: value})
    assert reply.status == 400 and "'%s' must be" % name in reply.result and "'%s'" % value[:40] in reply.result
    assert len(server.get("/jobs", limit=1000).json) == jobs
    reply = server.post("/contexts/" + unique("wrong"), **{name: value})
    assert reply.status == 400 and "'%s' must be" % name in reply.result


# ---- limits


def test_a_full_queue_refuses_new_work_only(server, context, app, held, flags):
    jobs = [server.start_job(context, app, {"append": flags.path("order")}) for _ in range(8)]
    reply = server.submit(context, app)
    assert reply.status == 503 and reply.json["status"] == "NO SLOTS AVAILABLE"
    assert reply.headers["Retry-After"].isdigit()
    assert server.delete("/jobs/" + jobs[3]).json == {"status": "KILLED"}  # which makes room
    jobs.append(server.start_job(context, app, {"append": flags.path("order")}))
    flags.up("go")
    for i, job in enumerate(jobs):
        server.wait_job(job, "KILLED" if i == 3 else "FINISHED")
    assert len(flags.lines("order")) == 8


# ---- clocks of jobs


def test_a_job_that_waits_too_long(server, context, app, held, flags):
    job = server.start_job(context, app, {"append": flags.path("order")}, **{"queue-timeout": "50ms"})
    found = server.wait_job(job, "ERROR")
    assert found["result"]["errorClass"] == "QUEUE_TIMEOUT" and "queue-timeout of 50 ms" in found["result"]["message"]
    shown = native(server, job)
    assert shown["state"] == "TIMED_OUT" and shown["error"]["code"] == "QUEUE_TIMEOUT" and shown["attempt"] == 0
    assert shown["queue_clock"] == {"limit_ms": 50, "left_ms": None}
    receipt = server.get("/v1/jobs/%s/receipt" % job).json
    assert (receipt["reason"], receipt["stopped_by"], receipt["outcome"]) == ("queue-timeout", "not started", "TIMED_OUT")
    flags.up("go")
    assert server.run(context, app).status == 200
    assert flags.lines("order") == []


@pytest.mark.parametrize("do, stopped_by", [("sleepy", "interrupt"), ("hang", "kill")])
def test_a_job_that_runs_too_long(server, context, app, do, stopped_by):
    """TIMED_OUT follows the ladder of a cancel: an interrupt, then the kill."""
    fake = {"do": "hang"} if do == "hang" else {"sleep": 600}
    reply = server.run(context, app, fake, **{"run-timeout": "100ms"})
    assert reply.json["status"] == "ERROR" and reply.result["errorClass"] == "RUN_TIMEOUT", reply
    job = reply.json["jobId"]
    shown = native(server, job)
    assert shown["state"] == "TIMED_OUT" and "run-timeout of 100 ms" in shown["error"]["message"]
    receipt = server.get("/v1/jobs/%s/receipt" % job).json
    assert (receipt["reason"], receipt["stopped_by"], receipt["outcome"]) == ("run-timeout", stopped_by, "TIMED_OUT")
    assert server.run(context, app).status == 200


def test_run_time_does_not_count_the_wait(server, context, app, held, flags):
    job = server.start_job(context, app, {"result": "done"}, **{"run-timeout": "20s", "queue-timeout": "1h"})
    shown = native(server, job)
    assert shown["run_clock"] == {"limit_ms": 20000, "left_ms": None}
    assert 0 < shown["queue_clock"]["left_ms"] <= 3600000
    flags.up("go")
    assert server.wait_job(job, "FINISHED")["result"] == "done"


def test_clocks_go_on_while_the_server_is_away(daemon, flags):
    server = daemon().start()
    app = server.upload()
    server.create("c", **{"max-jobs-per-context": 1, "run-timeout": "1s"})
    running = server.start_job("c", app, {"touch": flags.path("on"), "sleep": 600})
    flags.wait("on")
    waiting = server.start_job("c", app, **{"queue-timeout": "1s"})
    server.restart()
    server.wait_job(running, "ERROR")
    assert native(server, running)["error"]["code"] == "RUN_TIMEOUT"
    wait_for(lambda: native(server, waiting)["state"] in ("TIMED_OUT", "FINISHED"), "the end of the one that waited")
    assert server.run("c", app).status == 200


# ---- clocks of contexts


def test_an_idle_context_ends(daemon, flags):
    server = daemon().start()
    app = server.upload()
    server.create("c", **{"idle-timeout": "300ms"})
    job = server.start_job("c", app, {"touch": flags.path("on"), "wait": flags.path("go")})
    flags.wait("on")
    server.create("d", **{"idle-timeout": "1ms"})  # has no job at all
    wait_for(lambda: server.get("/v1/contexts/d").json["state"] == "STOPPED", "the end of the idle one")
    assert server.get("/v1/contexts/c").json["state"] == "RUNNING"
    flags.up("go")
    server.wait_job(job, "FINISHED")
    wait_for(lambda: server.get("/v1/contexts/c").json["state"] == "STOPPED", "the end of the context")
    assert server.get("/v1/contexts/c").json["error"]["code"] == "IDLE_TIMEOUT"
    assert server.get("/contexts").json == []


def test_an_old_context_ends_with_its_jobs(daemon, flags):
    server = daemon().start()
    app = server.upload()
    server.create("c", lifetime="2s")
    job = server.start_job("c", app, {"touch": flags.path("on"), "sleep": 600})
    flags.wait("on")
    server.restart()  # it counts from the context's start, not from the server's
    found = server.wait_job(job, "ERROR")
    assert "was terminated" in found["result"]["message"]
    wait_for(lambda: server.get("/v1/contexts/c").json["state"] == "STOPPED", "the end of the context")
    assert server.get("/v1/contexts/c").json["error"]["code"] == "LIFETIME"


# ---- Idempotency-Key


def submit(server, context, app, key, fake=None, **query):
    body = {"fake": fake} if fake else {}
    return server.post(
        "/jobs", body, headers={"Idempotency-Key": key}, appName=app, classPath="app.Job", context=context, **query
    )


def test_the_same_key_is_the_same_job(server, context, app, flags):
    key = unique("key")
    replies = [submit(server, context, app, key, {"append": flags.path("log"), "result": 5}) for _ in range(3)]
    assert {reply.status for reply in replies} == {202}
    (job,) = {reply.json["jobId"] for reply in replies}
    server.wait_job(job, "FINISHED")
    again = submit(server, context, app, key, {"append": flags.path("log"), "result": 5}, sync="true")
    assert again.status == 200 and again.json == {"jobId": job, "result": 5}
    server.upload(app)  # a new version does not make it another job
    assert submit(server, context, app, key, {"append": flags.path("log"), "result": 5}).json["jobId"] == job
    assert len(flags.lines("log")) == 1


def test_the_same_key_with_other_content(server, context, app):
    key = unique("key")
    job = submit(server, context, app, key, {"result": 1}).json["jobId"]
    for fake, query in (({"result": 2}, {}), ({"result": 1}, {"priority": 1}), ({"result": 1}, {"run-timeout": "1h"})):
        reply = submit(server, context, app, key, fake, **query)
        assert reply.status == 409 and key in reply.result and job in reply.result, reply
    assert submit(server, context, app, unique("key"), {"result": 1}).json["jobId"] != job


def test_a_retry_waits_for_the_job_that_runs(server, context, app, flags):
    key = unique("key")
    fake = {"touch": flags.path("on"), "wait": flags.path("go"), "append": flags.path("log"), "result": "late"}
    first = server.background(
        "POST",
        "/jobs?appName=%s&classPath=app.Job&context=%s&sync=true&timeout=30" % (app, context),
        {"fake": fake},
        headers={"Idempotency-Key": key},
    )
    flags.wait("on")
    assert submit(server, context, app, key, fake, sync="true", timeout=0).status == 500  # its time is over
    second = server.background(
        "POST",
        "/jobs?appName=%s&classPath=app.Job&context=%s&sync=true&timeout=30" % (app, context),
        {"fake": fake},
        headers={"Idempotency-Key": key},
    )
    flags.up("go")
    assert first().json == second().json and second().json["result"] == "late"
    assert len(flags.lines("log")) == 1


def test_a_key_holds_over_a_restart_and_its_context(daemon, flags):
    server = daemon().start()
    app = server.upload()
    server.create("c")
    job = submit(server, "c", app, "k", {"append": flags.path("log")}).json["jobId"]
    server.restart()
    assert submit(server, "c", app, "k", {"append": flags.path("log")}).json["jobId"] == job
    server.wait_job(job, "FINISHED")
    server.delete("/contexts/c")
    assert submit(server, "c", app, "k", {"append": flags.path("log")}).json["jobId"] == job
    assert len(flags.lines("log")) == 1


def test_many_at_once_with_one_key(server, context, app, flags):
    key, replies = unique("key"), []
    threads = [
        threading.Thread(
            target=lambda: replies.append(submit(server, context, app, key, {"append": flags.path("log")}))
        )
        for _ in range(24)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # 503: it was counted among those that wait before it was known to be the same
    assert {reply.status for reply in replies} <= {202, 503}, replies
    (job,) = {reply.json["jobId"] for reply in replies if reply.status == 202}
    assert submit(server, context, app, key, {"append": flags.path("log")}).json["jobId"] == job
    server.wait_job(job, "FINISHED")
    assert server.run(context, app).status == 200
    assert len(flags.lines("log")) == 1


@pytest.mark.parametrize("key", ["", "k" * 256, "caf\xe9"])
def test_wrong_keys(server, context, app, key):
    reply = submit(server, context, app, key)
    assert reply.status == 400 and "Idempotency-Key" in reply.text, reply


# ---- isolation


def test_an_isolated_job_shares_its_process_with_none(server, app):
    name = unique("c")
    server.create(name, **{"max-jobs-per-context": 2})

    def worker(**query):
        reply = server.run(name, app, {"retire": "isolated"} if query else {}, **query)
        assert reply.status == 200, reply
        return server.job_row(reply.json["jobId"])[2]

    shared = worker()
    alone = [worker(isolation="process") for _ in range(3)]
    assert worker() == shared
    assert len({shared, *alone}) == 4
    server.delete("/contexts/" + name)
