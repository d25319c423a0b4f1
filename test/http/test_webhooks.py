"""Webhooks: the end of every job is told, signed, at least once, whatever the receiver does and whenever the server dies."""

import json
import re
import signal
import ssl
import subprocess
import time

import kit
import openapi
import pytest
from kit import unique, wait_for
from receiver import Receiver, receiver
from shim import Shim

SECRET = "a secret of seventeen"
QUICK = {
    "webhook_allow": ["loopback"],
    "webhook_retry": "20ms",
    "webhook_retry_max": "100ms",
    "webhook_timeout": "10s",
    "webhook_give_up": "1h",
}


@pytest.fixture
def hooks():
    with receiver() as one:
        yield one


@pytest.fixture
def quick(daemon):
    """A function that starts a server which may reach this machine and retries at once; with a binary and a context."""

    def make(**config):
        server = daemon(**{**QUICK, **config}).start()
        server.upload("app")
        server.create("c", **{"max-jobs-per-context": 4})
        return server

    return make


def submit(server, url=None, fake=None, secret=None, query="", headers=None, **fields):
    body = {"app": "app", "class": "app.Job", "context": "c", "config": {"fake": fake or {}}, **fields}
    if url:
        body["webhook"] = {"url": url, **({"secret": secret} if secret else {})}
    return server.post("/v1/jobs" + query, body, headers=headers)


def start(server, *args, **kw):
    reply = submit(server, *args, **kw)
    assert reply.status == 202, reply
    return reply.json["id"]


def deliveries(server, **query):
    reply = server.get("/v1/deliveries", **query)
    assert reply.status == 200, reply
    return reply.json["deliveries"]


def wait_state(server, job, state):
    def one():
        found = deliveries(server, job=job)
        return found[0] if found and found[0]["state"] == state else None

    return wait_for(one, lambda: "%s of %s\n%s" % (state, deliveries(server, job=job), server.log()[-2000:]))


def native(server, job):
    return server.get("/v1/jobs/" + job).json


# ---- what is told


def test_what_is_sent(quick, hooks):
    server = quick()
    before = int(time.time())
    job = start(server, hooks.url("/hook?token=x"), {"result": 7})
    (post,) = hooks.wait(1)
    assert post.path == "/hook?token=x"
    openapi.validate(post.body, "components", "schemas", "JobEnded")
    found = post.json
    assert found["type"] == "job.ended" and found["delivery"] == post.id
    assert found["job"] == native(server, job) and found["job"]["state"] == "FINISHED"
    ((at_us,),) = server.rows("SELECT at_us FROM events WHERE seq = ? AND job_id = ? AND state = 4", found["event"], job)
    assert found["timestamp"].startswith(time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at_us // 10**6)))
    assert post.headers["Content-Type"] == "application/json"
    assert re.fullmatch(r"Stoker/[\d.]+", post.headers["User-Agent"])
    assert before <= int(post.headers["Webhook-Timestamp"]) <= time.time()
    assert "Webhook-Signature" not in post.headers and "Expect" not in post.headers
    one = wait_state(server, job, "DELIVERED")
    assert one == {
        **one,
        "id": post.id,
        "url": hooks.url("/..."),
        "form": "native",
        "event": found["event"],
        "attempts": 1,
        "due_since": found["timestamp"],
        "next_at": None,
        "status": 200,
        "error": None,
    }


def test_every_final_state_is_told(quick, hooks, flags):
    server = quick(webhooks=[hooks.url("/all"), hooks.url("/also")])
    jobs = {
        start(server, hooks.url("/own")): "FINISHED",
        start(server, hooks.url("/own"), {"do": "error"}): "ERROR",
        start(server, hooks.url("/own"), {"do": "invalid"}): "INVALID",
        start(server, hooks.url("/own"), {"wait": "/nowhere"}, run_timeout="50ms"): "TIMED_OUT",
    }
    killed = start(server, hooks.url("/own"), {"touch": flags.path("on"), "wait": "/nowhere"})
    flags.wait("on")
    assert server.delete("/v1/jobs/" + killed).json["state"] == "KILLED"
    lost = start(server, hooks.url("/own"), {"touch": flags.path("lost"), "wait": "/nowhere"})
    flags.wait("lost")
    hooks.wait(5, "/own")
    pids = server.pids()
    server.kill()
    kit.kill_hard(pids)
    with server.db() as db:  # as if its context's end had been written, and its own not
        db.execute("UPDATE contexts SET state = 5, ended_us = started_us")
    server.start()
    jobs.update({killed: "KILLED", lost: "LOST"})
    for path in ("/own", "/all", "/also"):
        wait_for(lambda: {p.job for p in hooks.of(path)} == set(jobs), lambda: (path, len(hooks.of(path))))
        assert {p.job: p.json["job"]["state"] for p in hooks.of(path)} == jobs


def test_jobs_that_end_with_the_server_are_told_before_it_is_gone(quick, hooks, flags):
    server = quick()
    job = start(server, hooks.url(), {"touch": flags.path("on"), "wait": "/nowhere"})
    flags.wait("on")
    assert server.stop() == 0
    (post,) = hooks.wait(1)
    assert post.job == job and post.json["job"]["error"]["code"] == "SERVER_STOPPED"


def test_a_job_without_a_webhook_is_told_to_nobody(quick, hooks):
    server = quick()
    assert submit(server, query="?wait=20s").json["state"] == "FINISHED"
    assert start(server, webhook=None) and not deliveries(server)
    assert hooks.posts == []


# ---- signatures and secrets


@pytest.mark.parametrize("secret", [SECRET, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "ü"])
def test_a_job_s_own_secret(quick, hooks, secret):
    server = quick()
    start(server, hooks.url(), secret=secret)
    (post,) = hooks.wait(1)
    assert post.signed_with(secret) and not post.signed_with("another")


def test_the_server_s_secret(quick, hooks, tmp_path):
    path = tmp_path / "secret"
    path.write_text("of the server\n")
    server = quick(webhook_secret_file=str(path), webhooks=[hooks.url("/all")])
    start(server, hooks.url("/own"), secret=SECRET)
    start(server, hooks.url("/plain"))
    assert hooks.wait(1, "/own")[0].signed_with(SECRET)
    assert hooks.wait(1, "/plain")[0].signed_with("of the server")
    assert all(p.signed_with("of the server") for p in hooks.wait(2, "/all"))
    path.write_text("")
    server.stop()
    with pytest.raises(AssertionError, match="1 to 512 bytes"):
        server.start()


def test_secrets_are_shown_nowhere(quick, hooks):
    server = quick()
    hooks.script("/hidden/hook?token=hidden", 500, "close")
    job = start(server, hooks.url("/hidden/hook?token=hidden"), secret=SECRET)
    hooks.wait(3)
    wait_state(server, job, "DELIVERED")
    held = start(server, hooks.url("/hook"), {"sleep": 600}, secret=SECRET)
    refused = [
        submit(server, "ftp://x/hidden", secret=SECRET),
        submit(server, hooks.url(), secret="whsec_" + SECRET),
        submit(server, webhook=SECRET),
        submit(server, webhook={"url": hooks.url(), "secret": SECRET, "extra": SECRET}),
        submit(server, hooks.url(), secret=SECRET * 40),
    ]
    assert [r.status for r in refused] == [400] * 5 and all(r.json["error"]["field"] == "webhook" for r in refused)
    seen = [r.text for r in refused] + [server.log()]
    for path in ("/v1/jobs", "/v1/jobs/" + job, "/v1/jobs/" + held, "/jobs", "/jobs/" + job, "/jobs/%s/config" % job,
                 "/v1/deliveries", "/v1/server"):
        reply = server.get(path)
        assert reply.status == 200
        seen.append(reply.text)
    events = server.rows("SELECT * FROM events")
    for text in seen + [repr(events)]:
        assert SECRET not in text and "hidden" not in text
    # nor is it kept when it is of no more use
    assert server.rows("SELECT secret FROM deliveries d JOIN jobs j ON j.seq = d.job WHERE j.id = ?", job) == [(None,)]
    server.delete("/v1/jobs/" + held)


# ---- receivers that misbehave


@pytest.mark.parametrize("action", [500, 404, 307, "close", "hang", "drip"])
def test_what_fails_is_tried_again(quick, hooks, action):
    server = quick(webhook_timeout="300ms", webhook_connect_timeout="300ms")
    hooks.script("/hook", *[(307, {"Location": hooks.url("/elsewhere")}) if action == 307 else action] * 2)
    job = start(server, hooks.url(), secret=SECRET)
    posts = hooks.wait(3)
    assert len({p.id for p in posts}) == 1 and all(p.signed_with(SECRET) for p in posts)
    assert wait_state(server, job, "DELIVERED")["attempts"] == 3
    assert not hooks.of("/elsewhere")
    server.wait_log("attempt failed job=" + job)


@pytest.mark.parametrize("action", ["late-drip", "huge", 204, 299])
def test_what_counts_is_the_status(quick, hooks, action):
    """The rest of the answer may be slow or long: it is not waited for, nor read without end."""
    server = quick(webhook_timeout="300ms", webhook_connect_timeout="300ms")
    hooks.script("/hook", (action, {"Content-Length": "0"}) if isinstance(action, int) and action == 204 else action)
    job = start(server, hooks.url())
    assert wait_state(server, job, "DELIVERED")["attempts"] == 1
    assert hooks.huge_bytes < 64 << 20  # what fits into the kernel's buffers


def test_nobody_listens_for_a_while(quick):
    gone = Receiver()
    gone.close()
    server = quick()
    job = start(server, gone.url())
    wait_for(lambda: deliveries(server, job=job)[0]["attempts"] >= 2, "attempts")
    found = deliveries(server, job=job)[0]
    assert found["state"] == "DUE" and found["status"] is None and "connect" in found["error"], found
    assert found["next_at"] >= found["due_since"]
    gone.reopen()
    try:
        assert gone.wait(1)[0].job == job
        wait_state(server, job, "DELIVERED")
    finally:
        gone.close()


def test_retry_after_is_heard(quick, hooks):
    """The pause that the receiver asks for, within the longest one."""
    server = quick(webhook_retry_max="1h")
    hooks.script("/hook", (503, {"Retry-After": "1000"}))
    job = start(server, hooks.url())
    wait_for(lambda: deliveries(server, job=job)[0]["attempts"] == 1, "an attempt")
    ((due, since),) = server.rows("SELECT due_us, since_us FROM deliveries")
    assert due - since >= 999 * 10**6


def test_what_is_given_up(quick, hooks):
    server = quick(webhook_give_up="0s")
    hooks.script("/hook", 500)
    job = start(server, hooks.url(), secret=SECRET)
    found = wait_state(server, job, "GIVEN_UP")
    assert found["attempts"] == 1 and found["status"] == 500 and found["settled_at"] and not found["next_at"]
    assert found["error"] == "it answered with status 500"
    server.wait_log("error webhook +given up job=%s delivery=%s to=%s" % (job, found["id"], hooks.url("")))
    assert deliveries(server, state="GIVEN_UP") == [found] and deliveries(server, state="DUE") == []
    assert server.rows("SELECT secret FROM deliveries") == [(None,)]


def test_gone_is_believed(quick, hooks):
    server = quick()
    hooks.script("/hook", 410)
    job = start(server, hooks.url())
    assert wait_state(server, job, "GIVEN_UP")["attempts"] == 1


def test_a_slow_receiver_delays_nobody(quick, hooks):
    """More than may be sent at once waits for one that says nothing; another gets all of his, and jobs go on."""
    server = quick()
    hooks.script("/slow", *["hang"] * 100)
    for _ in range(12):
        start(server, hooks.url("/slow"))
    hooks.wait(4, "/slow")
    with receiver() as other:
        jobs = [start(server, other.url()) for _ in range(12)]
        for job in jobs:
            wait_state(server, job, "DELIVERED")
        assert {p.job for p in other.posts} == set(jobs)
        assert submit(server, query="?wait=20s").json["state"] == "FINISHED"
    slow = hooks.of("/slow")
    assert len(slow) == 4 and not any(p.answered for p in slow), "four at once to one, and no more"
    hooks.script("/slow")
    hooks.release()
    assert len({p.job for p in wait_for(lambda: (lambda f: f if len({p.job for p in f}) == 12 else None)(
        hooks.of("/slow")), "all of the slow one")}) == 12


def copy_due(server, n, ago_us=0):
    """As if so many more ends were due to each receiver that has one, since ago_us before those. No server runs."""
    with server.db() as db:
        db.execute(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
            " INSERT INTO deliveries (id, job, url, origin, secret, form, state, event, since_us, due_us, attempts)"
            " SELECT hex(randomblob(16)), job, url, origin, 'hidden', form, 1, event, since_us - ?, since_us - ?, 0"
            " FROM deliveries, n WHERE state = 1", (n, ago_us, ago_us))


def test_what_nobody_gets_round_to_is_given_up(quick, hooks):
    """Behind a receiver that says nothing, rows that were never tried; those on their way are left to their attempts."""
    server = quick(webhook_give_up="1d", webhook_timeout="300ms", webhook_connect_timeout="300ms")
    hooks.script("/hook", *["hang"] * 1000)
    start(server, hooks.url())
    hooks.wait(1)
    server.kill()
    copy_due(server, 600, 2 * 86400 * 10**6)
    server.start()
    wait_for(lambda: server.rows("SELECT count(*) FROM deliveries WHERE state = 1") == [(1,)], "the end of the old ones")
    old = server.rows("SELECT attempts, error, secret, due_us FROM deliveries WHERE state = 3")
    never = [row for row in old if row[0] == 0]
    assert len(never) > 500 and set(never) == {(0, "its turn did not come before webhook-give-up", None, None)}
    assert {attempts for attempts, *_ in old} <= {0, 1}
    counts = re.findall(r"error webhook +given up, their turn did not come to=%s count=(\d+)" % hooks.url(""), server.log())
    assert sum(map(int, counts)) == len(never) and max(map(int, counts)) <= 256, counts


def test_one_that_fails_is_probed(quick, hooks):
    """By one attempt at a time, until one arrives."""
    server = quick()
    hooks.script("/slow", 500, *["hang"] * 20)
    start(server, hooks.url("/slow"))
    hooks.wait(2, "/slow")
    for _ in range(6):
        start(server, hooks.url("/slow"))
    with receiver() as other:
        wait_state(server, start(server, other.url()), "DELIVERED")
    assert len(hooks.of("/slow")) == 2, "one at a time to one that has failed"
    hooks.release()
    wait_for(lambda: len(deliveries(server, state="DELIVERED")) == 8, "all of them")


def test_many_that_say_nothing_delay_nobody(quick, hooks):
    """More receivers than all attempts at once, each with a backlog; whoever answers comes before the rest of it."""
    dead = [hooks.url("/dead", "a%d.localhost" % i) for i in range(20)]
    hooks.script("/dead", *["hang"] * 2000)
    server = quick(webhook_timeout="500ms", webhook_connect_timeout="500ms", webhooks=dead)
    start(server)
    hooks.wait(20)
    server.kill()
    copy_due(server, 50, 10**6)
    with receiver() as other:
        server.start()
        server.create("d")
        job = start(server, other.url(), context="d")
        told = "SELECT d.state FROM deliveries d JOIN jobs j ON j.seq = d.job WHERE j.id = ? AND d.url = ?"
        wait_for(lambda: server.rows(told, job, other.url()) == [(2,)], "delivery to the one that answers")
    ((never,),) = server.rows("SELECT count(*) FROM deliveries WHERE state = 1 AND attempts = 0")
    assert never > 500, "it had to wait for the others"


def test_those_that_fail_leave_room(quick, hooks):
    """However many they are, half of all attempts at once is for others."""
    paths = ["/dead%d" % i for i in range(40)]
    for path in paths:
        hooks.script(path, 500, "hang")
    server = quick(webhooks=[hooks.url(path, path[1:] + ".localhost") for path in paths])
    start(server)
    hooks.wait(40 + 32)
    with receiver() as other:
        start(server, other.url())
        other.wait(1)
    assert sum(len(hooks.of(path)) for path in paths) == 40 + 32


# ---- where they may lead


def test_internal_addresses_are_refused(daemon, hooks):
    server = daemon(webhook_retry="20ms").start()
    server.upload("app")
    server.create("c")
    for host in ("127.0.0.1", "127.1", "2130706433", "0x7f000001", "localhost", "[::1]", "[::ffff:127.0.0.1]", "10.1.2.3",
                 "192.168.0.1", "172.16.0.1", "169.254.169.254", "0.0.0.0", "[fe80::1]", "[fd00::1]", "224.0.0.1",
                 "[64:ff9b::7f00:1]", "100.64.0.1"):
        reply = submit(server, hooks.url(host=host))
        assert reply.status == 400, (host, reply)
        assert "webhook-allow" in reply.json["error"]["message"], (host, reply)
    # a name is looked up when something is sent
    job = start(server, hooks.url(host="inside.localhost"))
    found = wait_state(server, job, "GIVEN_UP")
    assert found["error"] == "webhook-allow does not allow the address that the host has" and found["attempts"] == 1
    assert hooks.posts == []


def test_names_may_be_allowed(daemon, hooks):
    server = daemon(**{**QUICK, "webhook_allow": ["public", "*.localhost"]}).start()
    server.upload("app")
    server.create("c")
    job = start(server, hooks.url(host="inside.localhost"))
    wait_state(server, job, "DELIVERED")
    assert submit(server, hooks.url()).status == 400


def test_a_connection_of_the_configuration_is_not_lent(daemon, hooks):
    """Those that the configuration names may lead anywhere; a job's may not, also when there is a connection already."""
    all_of_them = hooks.url("/all", "inside.localhost")
    server = daemon(**{**QUICK, "webhook_allow": ["public"]}, webhooks=[all_of_them]).start()
    server.upload("app")
    server.create("c")
    job = start(server)
    wait_state(server, job, "DELIVERED")
    job = start(server, hooks.url("/admin", "inside.localhost"))
    wait_for(lambda: {d["state"] for d in deliveries(server, job=job)} == {"DELIVERED", "GIVEN_UP"}, "two ends")
    assert not hooks.of("/admin") and len(hooks.of("/all")) == 2


def test_no_proxy_is_asked(daemon, hooks):
    server = daemon(**QUICK, env={"http_proxy": "http://127.0.0.1:1", "ALL_PROXY": "http://127.0.0.1:1"}).start()
    server.upload("app")
    server.create("c")
    start(server, hooks.url())
    hooks.wait(1)


def test_a_certificate_that_nobody_has_signed(quick, hooks, tmp_path):
    """https is spoken, and who answers must be who he says."""
    key, certificate = str(tmp_path / "key"), str(tmp_path / "certificate")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=127.0.0.1", "-addext",
                    "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    hooks.server.socket = context.wrap_socket(hooks.server.socket, server_side=True)
    server = quick(webhook_give_up="0s")
    job = start(server, hooks.url().replace("http:", "https:"))
    assert "certificate" in wait_state(server, job, "GIVEN_UP")["error"]
    assert hooks.posts == []


def test_urls_that_are_refused(quick):
    server = quick()
    for url, says in (
        ("ftp://127.0.0.1/", "http:// or https://"),
        ("file:///etc/passwd", "URL"),
        ("127.0.0.1:80", "URL"),
        ("http://", "URL"),
        ("", "URL"),
        ("http://user:pw@127.0.0.1/", "must not hold a name"),
        ("http://127.0.0.1/\n", "visible ASCII"),
        ("http://127.0.0.1/ä", "visible ASCII"),
        ("http://127.0.0.1/" + "x" * 2048, "longer than 2048"),
    ):
        reply = submit(server, webhook={"url": url})
        assert reply.status == 400 and says in reply.json["error"]["message"], (url, reply)
        assert reply.json["error"]["field"] == "webhook"
    for wrong in ("x", [], {}, {"url": 1}, {"url": "http://127.0.0.1", "secret": ""}, {"url": "http://127.0.0.1", "x": 1}):
        assert submit(server, webhook=wrong).status == 400, wrong


# ---- lists, keys, retention


def test_the_list_of_deliveries(quick, hooks):
    server = quick(webhooks=[hooks.url("/all")])
    jobs = [start(server, hooks.url("/own")) for _ in range(3)]
    wait_for(lambda: len(deliveries(server, state="DELIVERED")) == 6, "six deliveries")
    pages, cursor = [], None
    while True:
        page = server.get("/v1/deliveries", limit=4, **({"cursor": cursor} if cursor else {})).json
        pages += page["deliveries"]
        cursor = page["next"]
        if not cursor:
            break
    assert sorted(d["job"] for d in pages) == sorted(jobs * 2) and len({d["id"] for d in pages}) == 6
    assert {d["job"] for d in deliveries(server, job=jobs[1])} == {jobs[1]}
    assert deliveries(server, job="unknown") == [] and deliveries(server, job=jobs[0], state="DUE") == []
    for query, field in (({"state": "LOST"}, "state"), ({"cursor": "x"}, "cursor"), ({"limit": 0}, "limit"), ({"x": 1}, "x")):
        reply = server.get("/v1/deliveries", **query)
        assert reply.status == 400 and reply.json["error"]["field"] == field, reply


def test_a_waiting_job_s_webhook_is_listed(quick, hooks):
    server = quick()
    job = start(server, hooks.url(), {"sleep": 600})
    (found,) = deliveries(server, job=job)
    assert found["state"] == "WAITING" and found["event"] is None and found["due_since"] is None
    server.delete("/v1/jobs/" + job)
    assert hooks.wait(1)[0].json["job"]["state"] == "KILLED"


def test_a_repeated_submit_is_told_once(quick, hooks):
    server = quick()
    key = {"Idempotency-Key": unique("key")}
    first = submit(server, hooks.url(), headers=key, query="?wait=20s")
    again = submit(server, hooks.url(), headers=key)
    assert first.json["id"] == again.json["id"]
    assert submit(server, hooks.url("/other"), headers=key).status == 409
    wait_state(server, first.json["id"], "DELIVERED")
    assert len(hooks.posts) == len(deliveries(server)) == 1


def test_retention_waits_for_what_is_due(quick, hooks):
    server = quick(webhook_retry="1h", webhook_retry_max="2h", webhook_give_up="30d", keep_jobs="1h")
    hooks.script("/hook", 500)
    due, done = start(server, hooks.url()), start(server, hooks.url("/fine"))
    wait_state(server, done, "DELIVERED")
    wait_for(lambda: deliveries(server, job=due)[0]["attempts"] == 1, "an attempt")
    server.kill()
    with server.db() as db:
        db.execute("UPDATE jobs SET submitted_us = submitted_us - 7200000000, ended_us = ended_us - 7200000000")
    server.start()
    wait_for(lambda: not server.rows("SELECT 1 FROM jobs WHERE id = ?", done), "removal of what is told")
    assert [d["job"] for d in deliveries(server)] == [due]
    assert server.rows("SELECT count(*) FROM deliveries") == [(1,)]
    server.kill()
    with server.db() as db:
        db.execute("UPDATE deliveries SET due_us = since_us")
    server.start()
    hooks.wait(2, "/hook")
    server.stop()
    server.start()
    wait_for(lambda: not server.rows("SELECT 1 FROM jobs"), "removal of both")
    assert server.rows("SELECT count(*) FROM deliveries") == [(0,)]


# ---- kill -9, SIGTERM


def test_killed_while_it_delivers(quick, hooks):
    server = quick()
    hooks.script("/hook", "hang")
    job = start(server, hooks.url(), secret=SECRET)
    (first,) = hooks.wait(1)
    server.restart()
    second = hooks.wait(2)[1]
    assert second.id == first.id and second.job == job and second.signed_with(SECRET)
    assert wait_state(server, job, "DELIVERED")["attempts"] == 1


def test_killed_between_the_end_and_the_delivery(quick):
    """The receiver is down, then the server: both come back."""
    gone = Receiver()
    gone.close()
    server = quick(webhook_retry="1h", webhook_retry_max="1h", webhooks=[gone.url("/all")])
    job = start(server, gone.url("/own"))
    wait_for(lambda: [d["attempts"] for d in deliveries(server, job=job)] == [1, 1], "both attempts")
    server.kill()
    with server.db() as db:
        db.execute("UPDATE deliveries SET due_us = since_us")
    gone.reopen()
    try:
        server.start()
        assert {p.path for p in gone.wait(2)} == {"/own", "/all"}
    finally:
        gone.close()


def test_killed_between_the_delivery_and_its_record(quick, hooks):
    server = quick()
    hooks.script("/hook", "hang")
    job = start(server, hooks.url())
    hooks.wait(1)
    with server.frozen_store():
        hooks.release()
        hooks.wait(1, answered=True)
        server.kill()
    server.start()
    posts = hooks.wait(2)
    assert len({p.id for p in posts}) == 1
    wait_state(server, job, "DELIVERED")
    assert len(hooks.posts) == 2


def test_a_record_that_the_disk_has_no_room_for(daemon, hooks):
    server = daemon(**QUICK)
    shim = Shim(server)
    assert shim.start()
    server.upload("app")
    server.create("c")
    hooks.script("/hook", "hang")
    job = start(server, hooks.url())
    hooks.wait(1)
    with shim.failing(".db"):
        hooks.release()
        server.wait_log("attempt not recorded")
    wait_state(server, job, "DELIVERED")
    assert len(hooks.posts) == 1, "it knew that it had been delivered"


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR2])
def test_stopped_while_it_delivers(quick, hooks, signum):
    server = quick()
    hooks.script("/hook", "hang")
    job = start(server, hooks.url())
    hooks.wait(1)
    assert server.stop(signum) == 0
    assert server.rows("SELECT state, attempts FROM deliveries") == [(1, 0)]
    server.start()
    assert [p.job for p in hooks.wait(2)] == [job, job]
    wait_state(server, job, "DELIVERED")


def test_a_stop_that_leaves_contexts_begins_nothing(quick, hooks):
    """What is due then is the next server's. A secret that is none makes an attempt that is begun end at once."""
    server = quick()
    hooks.script("/hook", "hang")
    start(server, hooks.url())
    hooks.wait(1)
    with server.db() as db:  # behind the server's back, which looks again when something happens, or when it stops
        db.execute(
            "INSERT INTO deliveries (id, job, url, origin, secret, form, state, event, since_us, due_us, attempts)"
            " SELECT hex(randomblob(16)), job, url, 'http://h:80', 'whsec_', form, 1, event, since_us, due_us, 0 FROM deliveries")
    assert server.stop(signal.SIGUSR2) == 0
    assert server.rows("SELECT state, attempts FROM deliveries") == [(1, 0)] * 2
    server.start()  # whose contexts they are


# ---- Spark Job Server's callbackUrl


def callback(server, hooks, fake=None, path="/cb", **query):
    return server.start_job("c", "app", fake, callbackUrl=hooks.url(path), **query)


def test_callbacks(quick, hooks, flags):
    server = quick()
    fine = callback(server, hooks, {"result": {"a": [1, "ü"]}}, "/fine?x=1&y=a%20b")
    failed = callback(server, hooks, {"do": "error"}, "/failed")
    invalid = callback(server, hooks, {"do": "invalid"}, "/invalid")
    killed = callback(server, hooks, {"touch": flags.path("on"), "wait": "/nowhere"}, "/killed")
    flags.wait("on")
    assert server.delete("/jobs/" + killed).json == {"status": "KILLED"}
    (post,) = hooks.wait(1, "/fine?x=1&y=a%20b")
    assert post.body == b'{"jobId":"%s","result":%s}' % (fine.encode(), json.dumps({"a": [1, "ü"]}).encode())
    assert post.headers["Content-Type"] == "application/json"
    for path, job, status in (("/failed", failed, "ERROR"), ("/invalid", invalid, "ERROR"), ("/killed", killed, "KILLED")):
        (post,) = hooks.wait(1, path)
        assert post.json == {"jobId": job, "status": status, "result": server.job(job)["result"]}
        assert set(post.json["result"]) == {"message", "errorClass", "stack"}
    assert {d["form"] for d in deliveries(server)} == {"sjs"}


def test_callbacks_are_tried_again_across_a_restart(quick, hooks):
    server = quick()
    hooks.script("/cb", 500, "hang")
    job = callback(server, hooks)
    hooks.wait(2)
    server.restart()
    assert [p.json for p in hooks.wait(3)] == [{"jobId": job, "result": "ok"}] * 3


def test_big_results_of_callbacks(quick, hooks, tmp_path):
    path = tmp_path / "secret"
    path.write_text(SECRET)
    server = quick(webhook_max_result="1MiB", webhook_secret_file=str(path))
    hooks.script("/cb", 500)
    job = callback(server, hooks, {"do": "big_result", "bytes": 1 << 20})
    posts = hooks.wait(2, "/cb")
    assert [p.json for p in posts] == [{"jobId": job, "result": "x" * ((1 << 20) - 2)}] * 2
    assert all(p.signed_with(SECRET) for p in posts)
    job = callback(server, hooks, {"do": "big_result", "bytes": (1 << 20) + 1}, "/long")
    assert hooks.wait(1, "/long")[0].json == {"jobId": job, "resultTooLarge": (1 << 20) + 1}


def test_results_of_callbacks_that_json_cannot_hold(quick, hooks):
    server = quick(webhook_max_result="1MiB")
    job = callback(server, hooks, {"do": "big_result", "bytes": 2 << 20, "ending": "parquet"})
    told = hooks.wait(1, "/cb")[0].json
    assert told == {"jobId": job, "result": server.job(job)["result"]} and told["result"]["format"] == "parquet"


def test_callbacks_that_are_refused(quick, hooks):
    server = quick()
    for url, says in (("ftp://h/x", "Callback Url has to be 'http'/'https'"), ("x", "Callback Url has to be 'http'/'https'"),
                      ("http://10.0.0.1/x", "callbackUrl: webhooks may not lead to 10.0.0.1"),
                      ("http://u:p@127.0.0.1/", "callbackUrl: it must not hold a name or a password")):
        reply = server.submit("c", "app", callbackUrl=url)
        assert reply.status == 400 and reply.json["status"] == "ERROR", reply
        assert reply.json["result"]["message"].startswith(says), reply
    assert not server.rows("SELECT 1 FROM jobs")
