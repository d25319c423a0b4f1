"""What jobs print and contexts log: GET /v1/jobs/<id>/logs and /v1/contexts/<name>/logs."""

import http.client
import os
import re
import signal
import urllib.parse

import kit
import pytest
from kit import wait_for
from shim import Shim

REMOVED = "LOG_REMOVED"


class Script(kit.Dictation):
    """A job that prints what the test tells it to."""

    def __init__(self, server, context, app, flags, **query):
        super().__init__(flags)
        self.id = server.start_job(context, app, {"do": "dictate", "script": self.path}, **query)


class Follower(kit.Stream):
    """A client that follows a log."""

    def __init__(self, server, path, read=True, version="1.1", **query):
        super().__init__(server, path + "?" + urllib.parse.urlencode({"follow": "true", **query}), read, version)


def logs(server, job, **query):
    return server.get("/v1/jobs/%s/logs" % job, **query)


def follow(server, job, **kw):
    return Follower(server, "/v1/jobs/%s/logs" % job, **kw)


def printed(server, context, app, flags, out="", err=""):
    """A job that has printed that and ended."""
    script = Script(server, context, app, flags)
    if out:
        script.out(out)
    if err:
        script.err(err)
    script.end()
    server.wait_job(script.id, "FINISHED")
    return script.id


def error_of(reply):
    return reply.status, reply.json["error"]["code"], reply.json["error"]["message"]


# ---- as it is


def test_a_log_as_it_is(server, context, app, flags):
    job = printed(server, context, app, flags, "one\ntwo\nthr\u00e9e", "oh\n")
    reply = logs(server, job)
    assert (reply.status, reply.body) == (200, "one\ntwo\nthr\u00e9e".encode())
    assert reply.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    assert (reply.headers["Stoker-Log-From"], reply.headers["Stoker-Log-Next"]) == ("0", "14")
    assert logs(server, job, stream="stdout").body == reply.body
    assert logs(server, job, stream="stderr").body == b"oh\n"
    assert logs(server, job, attempt="1").body == reply.body
    head = server.request("HEAD", "/v1/jobs/%s/logs" % job)
    assert (head.status, head.body, head.headers["Content-Length"]) == (200, b"", "14")


def test_bytes_stay_as_they_are(server, context, app):
    job = server.start_job(context, app, {"print_hex": "00ff0a80c3280d0a"})
    server.wait_job(job, "FINISHED")
    assert logs(server, job, stream="stderr").body == bytes.fromhex("00ff0a80c3280d0a")


@pytest.mark.parametrize(
    "query, body, begin",
    [
        ({"offset": "0"}, "one\ntwo\n\nlast", 0),
        ({"offset": "4"}, "two\n\nlast", 4),
        ({"offset": "13"}, "", 13),
        ({"offset": "99"}, "", 99),
        ({"tail": "0"}, "", 13),
        ({"tail": "1"}, "last", 9),
        ({"tail": "2"}, "\nlast", 8),
        ({"tail": "3"}, "two\n\nlast", 4),
        ({"tail": "4"}, "one\ntwo\n\nlast", 0),
        ({"tail": "100000000"}, "one\ntwo\n\nlast", 0),
    ],
)
def test_where_to_begin(server, context, app, flags, query, body, begin):
    job = printed(server, context, app, flags, "one\ntwo\n\nlast")
    for more in ({}, {"follow": "true"}):
        reply = logs(server, job, **query, **more)
        assert (reply.status, reply.text, reply.headers["Stoker-Log-From"]) == (200, body, str(begin))
    assert logs(server, job, **query).headers["Stoker-Log-Next"] == str(max(begin, 13))


def test_the_tail_of_a_long_log(server, context, app):
    """Line ends that fall on every place of a block of the backward search."""
    job = server.start_job(context, app, {"do": "flood", "bytes": 64 * 5000})
    server.wait_job(job, "FINISHED")
    whole = logs(server, job).body
    assert len(whole) == 64 * 5000
    lines = whole.splitlines(keepends=True)
    for n in (1, 2, 1023, 1024, 1025, 2047, 2048, 4999, 5000, 5001):
        assert logs(server, job, tail=n).body == b"".join(lines[-n:]), n


def test_both_streams_as_labelled_lines(server, context, app, flags):
    long = "x" * 5000
    job = printed(server, context, app, flags, "a\n\n%s\nend" % long, "b\n")
    reply = logs(server, job, stream="all")
    assert reply.text == "out| a\nout| \nout+ %s\nout| %s\nout+ end\nerr| b\n" % (long[:4096], long[4096:])
    assert (reply.headers["Stoker-Log-From"], reply.headers["Stoker-Log-Next"]) == ("0,0", "5007,2")
    assert logs(server, job, stream="all", offset="5004,0").text == "out+ end\nerr| b\n"
    assert logs(server, job, stream="all", offset="5007,2").text == ""
    assert logs(server, job, stream="all", tail=1).text == "out+ end\nerr| b\n"


def test_lines_of_every_length_come_whole(server, context, app, flags):
    """Short lines take more room with their labels than without, long ones come in pieces."""
    lines = ["y" * (n * 7 % 131) for n in range(3000)] + [""] * 70000 + ["z" * 4095, "z" * 4096, "z" * 4097]
    job = printed(server, context, app, flags, "".join(line + "\n" for line in lines))
    got = logs(server, job, stream="all").text
    joined = re.sub(r"^out\+ (.*)\n^out[|+] ", r"out| \1", got, flags=re.M)
    assert [line[5:] for line in joined.splitlines()] == lines
    assert set(re.findall(r"^....", joined, re.M)) == {"out|"}


def test_a_job_that_prints_nothing(server, context, app):
    job = server.run(context, app).json["jobId"]
    for query in ({}, {"stream": "all"}, {"follow": "true"}, {"tail": "3"}):
        reply = logs(server, job, **query)
        assert (reply.status, reply.body) == (200, b""), query


BAD = [
    ({"stream": "stdin"}, "'stream' must be stdout, stderr or all, not 'stdin'"),
    ({"stream": ""}, "'stream' must be stdout, stderr or all, not ''"),
    ({"attempt": "0"}, "'attempt' must be a whole number from 1, not '0'"),
    ({"attempt": "x"}, "'attempt' must be a whole number from 1, not 'x'"),
    ({"attempt": "99999999999"}, "'attempt' must be a whole number from 1, not '99999999999'"),
    ({"offset": "-1"}, "'offset' must be a number of bytes, not '-1'"),
    ({"offset": "1k"}, "'offset' must be a number of bytes, not '1k'"),
    ({"offset": "99999999999999999999"}, "'offset' must be a number of bytes, not '99999999999999999999'"),
    ({"offset": "1,2"}, "'offset' must be a number of bytes, not '1,2'"),
    (
        {"offset": "1", "stream": "all"},
        "'offset' must be two numbers of bytes with stream=all, of stdout and stderr, such as 120,0, not '1'",
    ),
    (
        {"offset": "1,", "stream": "all"},
        "'offset' must be two numbers of bytes with stream=all, of stdout and stderr, such as 120,0, not '1,'",
    ),
    (
        {"offset": "1" * 30 + ",2", "stream": "all"},
        "'offset' must be two numbers of bytes with stream=all, of stdout and stderr, such as 120,0, not '%s,2'"
        % ("1" * 30),
    ),
    ({"tail": "-1"}, "'tail' must be a whole number of lines from 0 to 100000000, not '-1'"),
    ({"tail": "1.5"}, "'tail' must be a whole number of lines from 0 to 100000000, not '1.5'"),
    ({"tail": "100000001"}, "'tail' must be a whole number of lines from 0 to 100000000, not '100000001'"),
    ({"tail": "1", "offset": "1"}, "'offset' and 'tail' exclude each other: both say where to begin"),
    ({"follow": "yes"}, "'follow' must be true or false, not 'yes'"),
    ({"lines": "5"}, "there is no query parameter 'lines' here; there are: stream, attempt, offset, tail, follow"),
]


def test_bad_input(server, context, app):
    job = server.run(context, app).json["jobId"]
    for query, message in BAD:
        reply = logs(server, job, **query)
        assert error_of(reply) == (400, "INVALID", message)
        assert reply.json["error"]["field"] == next(iter(query))
    assert error_of(logs(server, job, attempt="2")) == (
        404,
        "NOT_FOUND",
        "job %s has no attempt 2; its newest is 1" % job,
    )
    assert error_of(logs(server, "nobody"))[:2] == (404, "NOT_FOUND")
    assert error_of(logs(server, "x" * 300, follow="true"))[:2] == (404, "NOT_FOUND")
    path = "/v1/contexts/%s/logs" % context
    for query in ({"stream": "stdout"}, {"attempt": "1"}):
        (name,) = query
        assert error_of(server.get(path, **query)) == (
            400,
            "INVALID",
            "there is no query parameter '%s' here; there are: offset, tail, follow" % name,
        )
    assert error_of(server.get(path, tail="x"))[:2] == (400, "INVALID")
    assert error_of(server.get("/v1/contexts/nobody/logs"))[:2] == (404, "NOT_FOUND")
    assert error_of(server.post("/v1/jobs/%s/logs" % job))[:2] == (405, "METHOD_NOT_ALLOWED")


# ---- followed


def test_a_job_is_followed_to_its_end(server, context, app, flags):
    script = Script(server, context, app, flags)
    early = follow(server, script.id)
    assert (early.status, early.headers["Transfer-Encoding"]) == (200, "chunked")
    assert early.headers["Stoker-Log-From"] == "0" and early.headers["Stoker-Log-Next"] is None
    script.out("first\nhalf a ")
    early.wait_text("half a ")  # a line that is not ended is not held back
    assert logs(server, script.id).text == "first\nhalf a "
    late, errors, both = (
        follow(server, script.id, tail=1),
        follow(server, script.id, stream="stderr"),
        follow(server, script.id, stream="all"),
    )
    script.err("careful\n")
    both.wait_text("out| first\nerr| careful\n")  # here only whole lines come
    script.out("line\nend")
    script.end()
    assert early.wait_end() == b"first\nhalf a line\nend"
    assert late.wait_end() == b"half a line\nend"
    assert errors.wait_end() == b"careful\n"
    assert both.wait_end() == b"out| first\nerr| careful\nout| half a line\nout+ end\n"


def test_a_job_that_waits_is_followed_from_its_start(server, own_context, app, flags):
    context = own_context(**{"max-jobs": "1"})
    first, second = (Script(server, context, app, flags) for _ in range(2))
    assert logs(server, second.id).body == b""
    follower = follow(server, second.id)
    first.out("of the first\n")
    first.end()
    second.out("of the second\n")
    follower.wait_text("of the second\n")
    second.end()
    assert follower.wait_end() == b"of the second\n"


def test_a_job_that_is_killed_in_the_queue_ends_its_followers(server, own_context, app, flags):
    context = own_context(**{"max-jobs": "1"})
    first, second = (Script(server, context, app, flags) for _ in range(2))
    follower = follow(server, second.id, stream="all")
    assert server.delete("/jobs/" + second.id).status == 200
    assert follower.wait_end() == b""
    first.end()


def test_an_attempt_that_was_never_begun_is_no_end(server, own_context, app):
    """The worker denies the first attempt; the follower goes on with the second."""
    context = own_context()
    job = server.start_job(context, app, {"deny": True, "print": "hello", "sleep": 0.2})
    wait_for(lambda: server.job_row(job)[0] == "STARTING", "the first attempt")
    follower = follow(server, job, stream="stderr")
    first = follow(server, job, stream="stderr", attempt=1)
    worker = server.pid(context, server.job_row(job)[2])
    os.kill(worker, signal.SIGUSR1)
    server.wait_job(job, "FINISHED")
    assert server.job_row(job)[1] == 2
    assert follower.wait_end() == b"hello\n" and first.wait_end() == b""
    assert logs(server, job, stream="stderr").text == "hello\n"
    assert logs(server, job, stream="stderr", attempt=1).text == ""


def test_http_1_0_and_head(server, context, app, flags):
    script = Script(server, context, app, flags)
    head = server.request("HEAD", "/v1/jobs/%s/logs" % script.id, follow="true")
    assert (head.status, head.body) == (200, b"")
    script.out("text\n")
    old = follow(server, script.id, version="1.0")
    assert old.headers["Transfer-Encoding"] is None and old.headers["Connection"] == "close"
    old.wait_text("text\n")
    script.end()
    assert old.wait_end() == b"text\n"


def test_who_has_said_all_gets_what_there_is(server, context, app, flags):
    job = printed(server, context, app, flags, "text\n")
    script = Script(server, context, app, flags)
    script.out("so far\n")
    wait_for(lambda: logs(server, script.id).body, "text")
    for id, text, end in ((job, b"text\n", b"0\r\n\r\n"), (script.id, b"so far\n", b"")):
        got = server.raw(b"GET /v1/jobs/%s/logs?follow=true HTTP/1.1\r\nHost: x\r\n\r\n" % id.encode())
        assert got.endswith(b"\r\n%x\r\n%s\r\n%s" % (len(text), text, end)), got
    script.end()
    job = server.start_job(context, app, {"do": "flood", "bytes": 8 << 20})  # more than goes at once
    server.wait_job(job, "FINISHED")
    got = server.raw(b"GET /v1/jobs/%s/logs?follow=true HTTP/1.0\r\n\r\n" % job.encode())
    assert got.split(b"\r\n\r\n", 1)[1] == logs(server, job).body


# ---- never another job's


def test_jobs_of_one_worker_are_never_mixed(server, own_context, app, flags):
    """One worker, jobs that print and jobs that do not, with a follower on each."""
    context = own_context(**{"max-jobs": "1"})
    jobs, followers = [], []
    gate = server.start_job(context, app, {"wait": flags.path("go")})
    for n in range(7):
        fake = {"print": "of %d" % n, "sleep": 0.01} if n % 2 else {"sleep": 0.01}
        jobs.append(server.start_job(context, app, fake))
        followers.append(follow(server, jobs[-1], stream="stderr"))
        followers.append(follow(server, jobs[-1], stream="all"))
    flags.up("go")
    for n, job in enumerate(jobs):
        text = "of %d\n" % n if n % 2 else ""
        assert followers[2 * n].wait_end().decode() == text
        assert followers[2 * n + 1].wait_end().decode() == ("err| " + text if text else "")
        assert logs(server, job, stream="stderr").text == text
    assert len({server.job_row(job)[2] for job in (gate, *jobs)}) == 1


def test_the_next_job_prints_before_a_follower_has_looked(server, own_context, app, flags):
    """A silent job ends and the next one fills the same file while the reader of the first one is not asked."""
    context = own_context(**{"max-jobs": "1"})
    silent = Script(server, context, app, flags)
    server.wait_running(silent.id)
    followers = [follow(server, silent.id) for _ in range(20)]
    loud = Script(server, context, app, flags)
    loud.out("loud\n" * 1000)
    silent.end()
    for follower in followers:
        assert follower.wait_end() == b""
    loud.end()
    server.wait_job(loud.id, "FINISHED")
    assert logs(server, silent.id).body == b"" and len(logs(server, loud.id).body) == 5000


def test_what_a_worker_prints_after_its_job_is_not_the_jobs(server, own_context, app):
    """It has renamed its files and spooled the result, goes on printing, and dies before the server has heard."""
    job = server.start_job(own_context(), app, {"print": "in time", "do": "print_late_and_die"})
    server.wait_job(job, "FINISHED")
    assert logs(server, job, stream="all").text == "err| in time\n"


# ---- the end of a worker, of the server, of the log


@pytest.mark.own_server
def test_followed_over_a_restart_of_the_server(server, app, flags):
    context = server.create()
    script = Script(server, context, app, flags)
    script.out("before ")
    follower = follow(server, script.id)
    follower.wait_text("before ")
    server.kill()
    seen = follower.wait_cut()
    script.out("while it is away ")
    server.start()
    again = follow(server, script.id, offset=len(seen))
    assert again.headers["Stoker-Log-From"] == str(len(seen))
    again.wait_text("away ")
    script.out("after")
    script.end()
    assert seen + again.wait_end() == b"before while it is away after"
    assert logs(server, script.id).body == b"before while it is away after"


@pytest.mark.own_server
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR2])
def test_a_server_that_stops_waits_for_no_follower(server, app, flags, signum):
    context = server.create()
    script = Script(server, context, app, flags)
    script.out("text\n")
    reading, deaf = follow(server, script.id), follow(server, script.id, read=False)
    log = Follower(server, "/v1/contexts/%s/logs" % context)
    reading.wait_text("text\n")
    server.send_signal(signum)
    assert server.wait() == 0
    if signum == signal.SIGTERM:  # its jobs end, and its contexts
        assert reading.wait_end() == b"text\n"
        log.wait_end()
    else:
        assert reading.wait_cut() == b"text\n"
        log.wait_cut()
    deaf.close()
    server.start()


@pytest.mark.own_server
def test_the_log_of_a_job_whose_worker_dies(server, app, flags):
    context = server.create()
    job = server.start_job(context, app, {"print": "last words", "wait": flags.path("go"), "do": "exit"})
    follower = follow(server, job, stream="stderr")
    follower.wait_text("last words\n")
    flags.up("go")
    assert follower.wait_end() == b"last words\n"
    assert server.wait_job(job)["status"] == "ERROR"
    assert logs(server, job, stream="stderr").text == "last words\n"
    os.unlink(server.path("logs", "%s.1.stderr" % job))
    assert error_of(logs(server, job, stream="stderr"))[:2] == (410, REMOVED)


@pytest.mark.own_server
def test_a_log_that_is_not_kept_any_more(server, app, flags):
    context = server.create()
    job, silent = printed(server, context, app, flags, "text\n"), printed(server, context, app, flags)
    os.unlink(server.path("logs", "%s.1.stdout" % job))
    os.unlink(server.path("logs", "%s.1.stderr" % job))
    for query in ({}, {"follow": "true"}, {"stream": "all"}, {"tail": "1"}):
        status, code, message = error_of(logs(server, job, **query))
        assert (status, code) == (410, REMOVED) and "max-stored-logs" in message
    assert logs(server, job, stream="stderr").body == b""  # it has printed nothing there
    assert logs(server, silent).body == b""
    server.restart()
    assert error_of(logs(server, job))[:2] == (410, REMOVED)
    assert logs(server, silent).body == b""


# ---- contexts


@pytest.mark.own_server
def test_the_log_of_a_context(server):
    context = server.create()
    path = "/v1/contexts/%s/logs" % context
    id, _, _ = server.context_row(context)
    with open(server.path("contexts", id, "context.log"), "ab") as log:
        log.write(b"one\ntwo\n")
        log.flush()
        whole = server.get(path).body
        assert whole.endswith(b"one\ntwo\n")
        assert server.get(path, tail=1).body == b"two\n"
        assert server.get(path, offset=len(whole) - 4).body == b"two\n"
        follower = Follower(server, path, tail=1)
        log.write(b"three\n")
    follower.wait_text("two\nthree\n")
    assert server.delete("/contexts/" + context).status == 200
    end = follower.wait_end()
    assert end.startswith(b"two\nthree\n")
    assert server.get(path, offset=len(whole) - 4).body == end  # it is kept
    os.unlink(server.path("logs", "context.%s.log" % id))
    assert error_of(server.get(path))[:2] == (410, REMOVED)


@pytest.mark.own_server
def test_a_follower_stays_with_its_context(server):
    """Another one takes the name."""
    context = server.create()
    first = Follower(server, "/v1/contexts/%s/logs" % context)
    server.delete("/contexts/" + context)
    server.create(context)
    first.wait_end()
    assert server.get("/v1/contexts/%s/logs" % context).status == 200


def test_a_client_leaves_whose_socket_a_fork_of_the_server_still_holds(daemon, flags):
    """Closing does not end what the kernel tells of it."""
    server = daemon()
    Shim(server)
    server.env["STOKER_SHIM_HOLD"] = "1"
    server.start()
    context, app = server.create(), server.upload()
    job = printed(server, context, app, flags, "text\n")
    for _ in range(20):
        follower = follow(server, job)
        assert follower.wait_end() == b"text\n"
        follower.close()
    assert logs(server, job, follow="true").body == b"text\n"


# ---- many, slow, and gone


def threads(server):
    return len(os.listdir("/proc/%d/task" % server.process.pid))


def test_a_hundred_followers_hold_no_thread(daemon, flags):
    server = daemon(http_threads=8, max_waiting=4).start()
    context, app = server.create(**{"max-jobs": "4"}), server.upload()
    script = Script(server, context, app, flags)
    before = threads(server)
    followers = [follow(server, script.id) for _ in range(100)]
    assert threads(server) <= before + 8  # some come by themselves meanwhile: those of CivetWeb and of libuv, when first needed
    for n in range(50):
        script.out("line %d\n" % n)
        assert server.run(context, app, {"result": n}).result == n
    script.end()
    text = b"".join(b"line %d\n" % n for n in range(50))
    assert all(f.wait_end() == text for f in followers)


def test_two_hundred_followers_of_fifty_jobs(daemon, flags):
    server = daemon(max_streams=200, http_threads=16, max_waiting=8, max_jobs=50).start()
    context, app = server.create(), server.upload()
    scripts = [Script(server, context, app, flags) for _ in range(50)]
    for n, script in enumerate(scripts):
        script.out("job %d\n" % n)
        wait_for(lambda script=script: logs(server, script.id).body, "all fifty run")
    before = kit.rss_anon(server)
    followers = [(n, follow(server, script.id)) for n, script in enumerate(scripts) for _ in range(4)]
    reply = logs(server, scripts[0].id, follow="true")
    assert (reply.status, reply.headers["Retry-After"]) == (503, "1")
    for n, script in enumerate(scripts):
        script.out("".join("%d: line %d\n" % (n, i) for i in range(1000)))
        script.end()
    for n, follower in followers:
        assert follower.wait_end() == b"job %d\n" % n + b"".join(b"%d: line %d\n" % (n, i) for i in range(1000))
    after = kit.rss_anon(server)
    print("200 followers: RssAnon %d KiB before, %d KiB after" % (before >> 10, after >> 10))
    assert after - before < (8 << 20) or kit.REPORTS


def test_one_over_the_limit_is_told_to_come_back(daemon, flags):
    server = daemon(max_streams=2).start()
    context, app = server.create(), server.upload()
    script = Script(server, context, app, flags)
    first, second = follow(server, script.id), follow(server, script.id)
    reply = logs(server, script.id, follow="true")
    assert error_of(reply) == (503, "LIMIT", "Too many streams are being sent (max-streams).")
    assert reply.headers["Retry-After"] == "1"
    assert logs(server, script.id).status == 200  # that is no stream
    first.close()  # nothing is printed: the server sees it by itself
    third = wait_for(lambda: admitted(server, script.id), "a place")
    script.out("text\n")
    script.end()
    assert second.wait_end() == third.wait_end() == b"text\n"


def admitted(server, job):
    follower = follow(server, job)
    return follower if follower.status == 200 else follower.close()


def test_a_follower_that_does_not_read_slows_nobody(daemon):
    """It and a hundred like it, of a job that prints 64 MiB."""
    server = daemon(stream_timeout="1h").start()
    context, app = server.create(), server.upload()
    size = 64 << 20
    server.run(context, app)
    deaf = []
    job = server.start_job(context, app, {"do": "flood", "bytes": size})
    before = kit.rss_anon(server)
    for _ in range(100):
        deaf.append(follow(server, job, read=False))
    reader = follow(server, job)
    server.wait_job(job, "FINISHED")
    assert len(reader.wait_end()) == size
    assert kit.rss_anon(server) - before < (16 << 20) or kit.REPORTS  # sanitizers take memory of their own
    assert server.run(context, app).status == 200
    deaf[0].start()  # it was only slow
    assert len(deaf[0].wait_end()) == size
    for follower in deaf:
        follower.close()


def test_a_follower_that_does_not_read_is_cut_in_the_end(daemon, flags):
    server = daemon(stream_timeout="300ms", max_streams=2).start()
    context, app = server.create(), server.upload()
    flood = server.start_job(context, app, {"do": "flood", "bytes": 32 << 20})
    quiet = Script(server, context, app, flags)
    patient = follow(server, quiet.id)  # that there is nothing to read is not its fault
    deaf = follow(server, flood, read=False)
    server.wait_log("client of a stream cut")
    third = wait_for(lambda: admitted(server, quiet.id), "the place of the one that was cut")
    quiet.out("text\n")
    quiet.end()
    assert patient.wait_end() == third.wait_end() == b"text\n"
    deaf.start()
    assert len(deaf.wait_cut()) < 32 << 20


def test_a_gigabyte_costs_the_server_no_memory(daemon):
    """STOKER_LOG_BYTES: how much the job prints; 200 MB here."""
    size = int(os.environ.get("STOKER_LOG_BYTES", "200000000")) // 64 * 64
    server = daemon().start()
    context, app = server.create(), server.upload()
    server.run(context, app)
    before, peak = kit.rss_anon(server), 0
    job = server.start_job(context, app, {"do": "flood", "bytes": size})
    follower = Count(server, job)
    while not follower.done:
        peak = max(peak, kit.rss_anon(server))
        follower.read()
    server.wait_job(job, "FINISHED")
    plain = Count(server, job, follow="false")
    while not plain.done:
        peak = max(peak, kit.rss_anon(server))
        plain.read()
    assert follower.lines == plain.lines == size // 64 and follower.ordered and plain.ordered
    assert logs(server, job, tail=1).body[:16] == b"%016d" % (size // 64 - 1)
    print("%d bytes: RssAnon %d KiB before, %d KiB at most" % (size, before >> 10, peak >> 10))
    assert peak - before < (8 << 20) or kit.REPORTS


class Count:
    """Reads a flood without keeping it: how many lines there were, and whether each had its number."""

    def __init__(self, server, job, follow="true"):
        self.connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        self.connection.request("GET", "/v1/jobs/%s/logs?follow=%s" % (job, follow))
        self.reply = self.connection.getresponse()
        self.lines, self.ordered, self.done, self.left = 0, True, False, b""

    def read(self):
        data = self.left + self.reply.read(1 << 20)
        if len(data) == len(self.left):
            self.done = not data
            self.connection.close()
            return
        whole = len(data) // 64 * 64
        for at in (*range(0, whole, 64 * 97), whole - 64) if whole else ():
            self.ordered = self.ordered and data[at : at + 16] == b"%016d" % (self.lines + at // 64)
        self.lines += whole // 64
        self.left = data[whole:]
