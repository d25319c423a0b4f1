"""Jobs over Spark Job Server's routes: starting, waiting, listing, killing, configs, results, and every refusal."""

import json
import os
import re
import time

import pytest

from kit import make_zip, unique, wait_for

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
NOBODY = "00000000-0000-4000-8000-000000000000"


def ok_json(reply, status):
    assert reply.status == status, reply
    assert reply.headers["Content-Type"] == "application/json"
    return reply.json


# ---- starting and waiting


def test_sync_job(server, context, app):
    """200 with jobId and result, no status."""
    body = ok_json(server.run(context, app, {"result": {"a": [1, 2.5]}}), 200)
    assert sorted(body) == ["jobId", "result"] and body["result"] == {"a": [1, 2.5]}
    assert UUID.fullmatch(body["jobId"])


def test_async_job(server, context, app, flags):
    """202 with the job object, STARTED; then RUNNING, then FINISHED with result and duration."""
    body = ok_json(server.submit(context, app, {"wait": flags.path("go"), "result": "r"}), 202)
    assert body["status"] == "STARTED" and body["duration"] == "Job not done yet"
    assert (body["classPath"], body["context"], body["contextId"]) == (
        "app.Job",
        context,
        server.context_row(context)[0],
    )
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}(Z|[+-]\d\d:\d\d)", body["startTime"])
    assert "result" not in body
    running = server.job(body["jobId"])
    assert (running["status"], running["duration"]) == ("RUNNING", "Job not done yet") and "result" not in running
    flags.up("go")
    ended = server.wait_job(body["jobId"], "FINISHED")
    assert ended["result"] == "r" and re.fullmatch(r"\d+\.\d{1,3} secs", ended["duration"])


def test_what_a_worker_is_told(server, context, app):
    """The `run` message: class, config as JSON text, the binary with paths that are there, and the set."""
    run = server.run(context, app, {"do": "echo"}).result
    assert (run["type"], run["kind"], run["class"], run["attempt"]) == ("run", "class", "app.Job", 1)
    assert json.loads(run["config"]) == {"fake": {"do": "echo"}}
    (binary,) = run["binaries"]
    assert (binary["name"], binary["type"]) == (app, "egg")
    assert os.path.isfile(binary["path"]) and os.path.isfile(os.path.join(binary["unpacked"], "app.py"))
    assert binary["digest"] in binary["path"] and run["set"]


@pytest.mark.parametrize(
    "text",
    [
        '1250.0',
        '9223372036854775807',
        '12345678901234567890123',
        pytest.param('1' + '0' * 400, id='10 ** 400'),
        '1e400',
        '0.1',
        '"\\u0000\\ud83d\\ude00"',
        '[1.0,-0.0,{"a":null}]',
        'null',
        'true',
        '""',
        '{"b":1,"a":2}',
    ],
)
def test_results_pass_byte_for_byte(server, context, app, text):
    """A result never passes through a number type of the server."""
    reply = server.run(context, app, {"do": "raw", "done": {"outcome": "finished", "result": text}})
    assert reply.text.endswith('"result":%s}' % text), reply
    assert server.get("/jobs/" + json.loads(reply.text)["jobId"]).text.endswith('"result":%s}' % text)


@pytest.mark.parametrize("size", [65536, 3_000_000])
def test_large_result_comes_from_its_file(server, context, app, size):
    """A result that a worker left in a file is streamed, with the right length, also for GET and HEAD."""
    reply = server.run(context, app, {"do": "big_result", "bytes": size})
    assert reply.result == "x" * (size - 2)
    assert int(reply.headers["Content-Length"]) == len(reply.body)
    path = "/jobs/" + reply.json["jobId"]
    assert server.get(path).result == reply.result
    head = server.request("HEAD", path)
    assert head.body == b"" and int(head.headers["Content-Length"]) > size


def test_sync_timeout_leaves_the_job_running(server, context, app, flags):
    """500 with the words clients know and the job's id; the job goes on and ends as if nothing had been."""
    start = time.monotonic()
    body = ok_json(server.submit(context, app, {"wait": flags.path("go"), "result": 1}, sync="true", timeout=1), 500)
    assert 0.9 < time.monotonic() - start < 5
    assert body["status"] == "ERROR"
    assert body["result"] == "Request timed out. Try using the /jobs/<jobID>, /jobs APIs to get status/results"
    assert server.job(body["jobId"])["status"] == "RUNNING"
    flags.up("go")
    assert server.wait_job(body["jobId"], "FINISHED")["result"] == 1


@pytest.mark.parametrize("timeout", [0, -5])
def test_sync_with_no_time_to_wait(server, context, app, flags, timeout):
    """It answers at once; the job runs."""
    reply = server.submit(context, app, {"append": flags.path("log")}, sync="true", timeout=timeout)
    assert reply.status in (200, 500)
    wait_for(lambda: flags.lines("log"), "the job's run")


def test_clients_that_hang_up_during_a_sync_job(daemon, flags):
    """Their jobs go on to the end. Then neither their threads nor their places among those that wait stay: more of them hang
    up, one after the other, than there are of either."""
    threads = 4
    server = daemon(http_threads=threads, max_waiting=1).start()
    app, context = server.upload(), server.create()
    for number in range(2 * threads):
        on, go, log = ("%s%d" % (name, number) for name in ("on", "go", "log"))
        body = json.dumps({"fake": {"touch": flags.path(on), "wait": flags.path(go), "append": flags.path(log)}}).encode()
        with server.connect() as sock:
            sock.sendall(
                b"POST /jobs?appName=%s&classPath=a.B&context=%s&sync=true&timeout=600 HTTP/1.1\r\nHost: h\r\n"
                b"Content-Length: %d\r\n\r\n%s" % (app.encode(), context.encode(), len(body), body)
            )
            flags.wait(on)
        assert server.run(context, app).status == 503  # it is still waited for: the place is taken
        flags.up(go)
        server.wait_job(flags.lines(log)[0].split()[0], "FINISHED")
        wait_for(lambda: server.run(context, app).status == 200, "its place")
    together = [server.background("GET", "/jobs") for _ in range(threads)]
    assert [reply().status for reply in together] == [200] * threads


def test_several_jobs_at_once(server, context, app, flags):
    """Eight jobs of one context run side by side: each waits until all have begun."""
    jobs = [
        server.start_job(context, app, {"touch": flags.path("on%d" % i), "wait": flags.path("go"), "result": i})
        for i in range(8)
    ]
    for i in range(8):
        flags.wait("on%d" % i)
    flags.up("go")
    assert [server.wait_job(j, "FINISHED")["result"] for j in jobs] == list(range(8))


# ---- slots and the queue


def test_queue_is_in_order_of_arrival(server, own_context, app, flags):
    """One slot: jobs run one after the other as they came."""
    name = own_context(**{"max-jobs-per-context": 1})
    first = server.start_job(
        name, app, {"append": flags.path("log"), "touch": flags.path("on"), "wait": flags.path("go")}
    )
    flags.wait("on")
    rest = [server.start_job(name, app, {"append": flags.path("log")}) for _ in range(3)]
    flags.up("go")
    for job in [first, *rest]:
        server.wait_job(job, "FINISHED")
    assert flags.lines("log") == ["%s 1" % j for j in [first, *rest]]


def test_slots_limit_what_runs_at_once(server, own_context, app, flags):
    """Two slots: a third job begins only when one of two has ended."""
    name = own_context(**{"max-jobs-per-context": 2})
    jobs = [
        server.start_job(name, app, {"append": flags.path("log"), "wait": flags.path("go%d" % i)}) for i in range(3)
    ]
    wait_for(lambda: len(flags.lines("log")) == 2, "two jobs")
    assert server.job_row(jobs[2])[0] == "QUEUED" and server.job(jobs[2])["status"] == "RUNNING"
    flags.up("go1")
    wait_for(lambda: len(flags.lines("log")) == 3, "the third job")
    assert server.job_row(jobs[0])[0] == "STARTING"
    flags.up("go0")
    flags.up("go2")
    for job in jobs:
        server.wait_job(job, "FINISHED")


def test_full_queue_refuses_new_work_only(server, own_context, app, flags):
    """503 NO SLOTS AVAILABLE with Retry-After beyond max-queue; what was accepted is not touched."""
    name = own_context(**{"max-jobs-per-context": 1})
    jobs = [server.start_job(name, app, {"touch": flags.path("on"), "wait": flags.path("go")})]
    flags.wait("on")
    jobs += [server.start_job(name, app) for _ in range(8)]
    refused = server.submit(name, app)
    assert ok_json(refused, 503)["status"] == "NO SLOTS AVAILABLE"
    assert "Too many" in refused.result and name in refused.result
    assert int(refused.headers["Retry-After"]) >= 1
    flags.up("go")
    for job in jobs:
        server.wait_job(job, "FINISHED")
    assert server.run(name, app).status == 200


def test_no_queue_at_all(daemon, flags):
    """max-queue = 0: a job for which a slot is free is taken, the next one is refused."""
    server = daemon(max_queue=0).start()
    app = server.upload()
    server.create("c", **{"max-jobs-per-context": 1})
    wait_for(lambda: len(server.rows("SELECT 1 FROM processes WHERE role = 'worker'")) == 1, "the spare worker")
    wait_for(
        lambda: server.submit("c", app, {"touch": flags.path("on"), "wait": flags.path("go")}).status == 202,
        "a job that is taken",
        3,
    )
    flags.wait("on")
    assert server.submit("c", app).status == 503
    flags.up("go")


# ---- lists


def test_list_is_newest_first(server, context, app):
    jobs = [server.run(context, app).json["jobId"] for _ in range(3)]
    assert [j["jobId"] for j in server.get("/jobs?limit=3").json] == jobs[::-1]
    assert len(server.get("/jobs?limit=2").json) == 2


@pytest.mark.parametrize("status", ["finished", "FINISHED", "Error", "killed", "running"])
def test_list_by_status(server, context, app, flags, status):
    """Any case of the word; only those jobs, failed ones with their error, finished ones without results."""
    made = {
        "finished": server.run(context, app).json["jobId"],
        "error": server.run(context, app, {"do": "error"}).json["jobId"],
        "running": server.start_job(context, app, {"wait": flags.path("go")}),
        "killed": server.start_job(context, app, {"wait": "/nowhere"}),
    }
    assert server.delete("/jobs/" + made["killed"]).status == 200
    listed = {j["jobId"]: j for j in server.get("/jobs?limit=1000", status=status).json}
    assert {j["status"] for j in listed.values()} == {status.upper()}
    assert made[status.lower()] in listed and not (set(made.values()) - {made[status.lower()]}) & set(listed)
    has_result = "result" in listed[made[status.lower()]]
    assert has_result == (status.lower() in ("error", "killed"))
    flags.up("go")
    server.wait_job(made["running"])


@pytest.mark.parametrize(
    "query, n", [("limit=0", 0), ("limit=-1", 0), ("status=nonsense", 0), ("status=", 0), ("status=finishedx", 0)]
)
def test_lists_that_are_empty(server, context, app, query, n):
    server.run(context, app)
    assert ok_json(server.get("/jobs?" + query), 200) == []


@pytest.mark.parametrize("query", ["limit=x", "limit=1.5", "limit=99999999999", "limit=0x10", "limit=1%20"])
def test_list_with_a_malformed_limit(server, query):
    reply = server.get("/jobs?" + query)
    assert ok_json(reply, 400)["status"] == "ERROR"
    assert "The query parameter 'limit' was malformed" in reply.result


def test_list_has_fifty_by_default(server, context, app):
    """The 51st and older ones are not shown unless asked for."""
    for _ in range(51 - min(51, len(server.get("/jobs?limit=51").json))):
        server.run(context, app)
    assert len(server.get("/jobs").json) == 50
    assert len(server.get("/jobs?limit=51").json) == 51
    assert len(server.get("/jobs?limit=").json) == 50


# ---- configs


def test_config_is_shown_as_it_was_posted(server, context, app):
    """GET /jobs/<id>/config: pretty JSON of what was posted, for asynchronous and synchronous jobs."""
    posted = (
        'input.string = "a b"\n# comment\nlist = [1, 2.50]\nlist += 3\n'
        'memory = 512m, time = 10 s, ref = ${input.string} x'
    )
    reply = server.post("/jobs", posted, appName=app, classPath="app.Job", context=context, sync="true")
    config = server.get("/jobs/%s/config" % reply.json["jobId"])
    assert ok_json(config, 200) == {
        "input": {"string": "a b"},
        "list": [1, 2.50, 3],
        "memory": "512m",
        "time": "10 s",
        "ref": "a b x",
    }
    assert '\n    "input" : {' in config.text


def test_empty_config(server, context, app):
    """No body is an empty config, whatever the content type says."""
    for headers in ({}, {"Content-Type": "application/x-www-form-urlencoded"}, {"Content-Type": "application/json"}):
        reply = server.post(
            "/jobs", "", appName=app, classPath="app.Job", context=context, sync="true", headers=headers
        )
        assert reply.status == 200
        assert server.get("/jobs/%s/config" % reply.json["jobId"]).json == {}


def test_config_with_nul(server, context, app):
    """An escape does not bring a NUL in."""
    reply = server.post("/jobs", '{"text": "a\\u0000b"}', appName=app, classPath="app.Job", context=context)
    assert ok_json(reply, 400)["result"] == "Cannot parse config: 1:12: \\u0000 is not allowed in a string"


@pytest.mark.parametrize(
    "body, place",
    [
        ('a = 1\nb = {\nc = [1, 2\n', "4"),
        ('a = "x\nb = 2', "1"),
        ("a = 1\n  b : : 2\n", "2"),
        ("}", "1"),
        ("a = ${nowhere}", "1"),
        ("{a:1}}", "1"),
        ("a = ${a}", "1"),
    ],
)
def test_config_that_cannot_be_parsed(server, context, app, body, place):
    """400, "Cannot parse config: " and where the mistake is, as line:column; no job is made."""
    before = server.get("/jobs?limit=1").json
    reply = server.post("/jobs", body, appName=app, classPath="app.Job", context=context)
    text = ok_json(reply, 400)["result"]
    assert text.startswith("Cannot parse config: ")
    found = re.search(r"\b(\d+):(\d+)\b|line (\d+)", text)
    assert found and place in found.groups(), text
    assert server.get("/jobs?limit=1").json == before


@pytest.mark.parametrize(
    "body, message",
    [
        (b"a = \xff\xfe", "1:5: expecting UTF-8 but got byte 0xff"),
        (b"b = 1\na = \"\xc3\x28\"", "2:6: expecting UTF-8 but got byte 0xc3"),
        (b"\xed\xa0\x80 = 1", "1:1: expecting UTF-8 but got byte 0xed"),
        (b"\x00", "1:1: expecting text but got a NUL byte"),
        (b"a = 1\nb = x\x00y", "2:6: expecting text but got a NUL byte"),
    ],
)
def test_config_that_is_not_text(server, context, app, body, message):
    """400 that tells where, for jobs as for contexts."""
    for reply in (
        server.post("/jobs", body, appName=app, classPath="app.Job", context=context),
        server.post("/contexts/" + unique("ctx"), body),
    ):
        assert ok_json(reply, 400)["result"] == "Cannot parse config: " + message


def test_config_of_great_depth(server, context, app):
    """Ten thousand opening braces are refused, not followed."""
    for text in ("{a:" * 10000, "[" * 20000, "a=" + "[" * 20000 + "]" * 20000, ".".join("a" * 10000) + "=1"):
        reply = server.post("/jobs", text, appName=app, classPath="app.Job", context=context)
        assert reply.status in (400, 202), reply
        if reply.status == 202:
            server.wait_job(reply.json["jobId"])


def test_config_does_not_read_files(server, context, app, flags):
    """An include is not followed."""
    with open(flags.path("secret.conf"), "w") as f:
        f.write("secret = 4711\n")
    for text in ('include "%s"', 'include file("%s")', 'include "file://%s"'):
        reply = server.post(
            "/jobs", text % flags.path("secret.conf"), appName=app, classPath="app.Job", context=context, sync="true"
        )
        if reply.status == 200:
            assert "4711" not in server.get("/jobs/%s/config" % reply.json["jobId"]).text
        else:
            assert ok_json(reply, 400) and "4711" not in reply.text


def test_body_over_the_limit(server, context, app):
    """413 for a config of more than max-body, with and without a length; just below it is taken."""
    big = b'a = "' + b"x" * 65536 + b'"'
    path = "/jobs?appName=%s&classPath=app.Job&context=%s" % (app, context)
    assert ok_json(server.post(path, big), 413)["status"] == "ERROR"
    chunked = server.request("POST", path, iter([big[:30000], big[30000:]]))
    assert ok_json(chunked, 413)["status"] == "ERROR"
    assert server.post(path + "&sync=true", big[: 65535 - 1] + b'"').status == 200


# ---- refusals, in order

REFUSALS = [
    (
        "sync=maybe&timeout=x",
        "}",
        400,
        "The query parameter 'sync' was malformed:\n'maybe' is not a valid Boolean value",
    ),
    (
        "timeout=x",
        "}",
        400,
        "The query parameter 'timeout' was malformed:\n'x' is not a valid 32-bit signed integer value",
    ),
    ("timeout=2147483648", "", 400, "The query parameter 'timeout' was malformed"),
    ("appName=nobody", "}", 400, "Cannot parse config: "),
    ("appName=nobody&context=nowhere", "", 400, "Cannot parse config: classPath parameter is missing!"),
    ("appName=nobody&mainClass=a.B&context=nowhere", "", 400, "Cannot parse config: classPath parameter is missing!"),
    ("cp=nobody&context=nowhere", "", 400, "Cannot parse config: mainClass parameter is missing!"),
    ("cp=nobody&classPath=a.B&context=nowhere", "", 400, "Cannot parse config: mainClass parameter is missing!"),
    (
        "classPath=a.B&context=nowhere",
        "",
        400,
        "Cannot parse config: To start the job appName or cp parameters should be configured!",
    ),
    ("appName=nobody&classPath=a.B&context=nowhere", "", 404, "appName nobody not found"),
    ("cp=nobody&mainClass=a.B&context=nowhere", "", 404, "appName nobody not found"),
    ("cp={app},nobody&mainClass=a.B&context=nowhere", "", 404, "appName nobody not found"),
    ("context=nowhere", 'cp = nobody, mainClass = "a.B"', 404, "appName nobody not found"),
    ("appName={app}&classPath=a.B&context=nowhere", "", 404, "context nowhere not found"),
    ("cp={app},{app}&mainClass=a.B&context=nowhere", "", 404, "context nowhere not found"),
]


@pytest.mark.parametrize("query, body, status, text", REFUSALS)
def test_refusals_in_order(server, app, query, body, status, text):
    """The first check that fails answers, as in section 1.5 of the reference; everything after it is wrong too."""
    reply = server.post("/jobs?" + query.format(app=app), body)
    answer = ok_json(reply, status)
    assert answer["status"] == "ERROR" and answer["result"].startswith(text)


def test_several_binaries(server, context, app):
    """In the order of cp, each once; with the older pair, dependent-jar-uris come first. The set is one of its own."""
    second = server.upload(data=make_zip({"second.py": ""}))

    def sent(query, body=""):
        reply = server.post("/jobs?sync=true&context=%s&%s" % (context, query), body + "\nfake.do = echo")
        assert reply.status == 200, reply
        return [b["name"] for b in reply.result["binaries"]], reply.result["set"]

    both, one_set = sent("cp=%s,%s&mainClass=a.B" % (second, app))
    assert both == [second, app]
    assert sent("cp=%s,%s,%s&mainClass=a.B" % (second, app, second)) == ([second, app], one_set)
    assert sent("mainClass=a.B", 'cp = ["%s", "%s"]' % (second, app)) == ([second, app], one_set)
    assert sent("appName=%s&classPath=a.B" % app, 'dependent-jar-uris = ["%s"]' % second) == ([second, app], one_set)
    others = [sent("cp=%s,%s&mainClass=a.B" % (app, second)), sent("cp=%s&mainClass=a.B" % app)]
    assert [names for names, _ in others] == [[app, second], [app]]
    assert len({one_set, *(name for _, name in others)}) == 3
    server.delete("/binaries/" + second)


def test_all_binaries_of_a_job_are_in_use(server, context, app, flags):
    second = server.upload(data=make_zip({"second.py": unique()}))
    query = "/jobs?context=%s&cp=%s,%s&mainClass=a.B" % (context, app, second)
    job = server.post(query, {"fake": {"wait": flags.path("go")}}).json["jobId"]
    reply = server.delete("/binaries/" + second)
    assert (reply.status, reply.result) == (403, "Binary is in use by job(s): " + job)
    flags.up("go")
    server.wait_job(job, "FINISHED")
    assert server.delete("/binaries/" + second).status == 200


def test_the_key_of_a_job_with_several_binaries(server, context, app):
    second = server.upload(data=make_zip({"second.py": unique()}))

    def post(cp):
        return server.post("/jobs?context=%s&mainClass=a.B&cp=%s" % (context, cp), headers={"Idempotency-Key": second})

    first = post("%s,%s" % (app, second))
    assert first.status == 202 and post("%s,%s" % (app, second)).json["jobId"] == first.json["jobId"]
    assert post("%s" % app).status == 409


def test_binaries_that_jobs_cannot_have(server, context, app):
    """Too many, and URIs: 400 JOB LOADING FAILED with an error object."""
    many = ok_json(server.post("/jobs?cp=%s&mainClass=a.B&context=%s" % (",".join([app] * 17), context)), 400)
    assert (
        many["status"] == "JOB LOADING FAILED" and many["result"]["message"] == "A job has 1 to 16 package files! Found: 17"
    )
    for cp in ("hdfs://host/x.egg", app + ",http://host/x.egg"):
        uri = ok_json(server.post("/jobs?cp=%s&mainClass=a.B&context=%s" % (cp, context)), 400)
        assert uri["status"] == "JOB LOADING FAILED: Malformed URL"


def test_job_named_in_the_body(server, context, app):
    """cp and mainClass may come in the config, cp as list or text; the query wins."""
    for cp in ('["%s"]' % app, app):
        reply = server.post("/jobs?context=%s&sync=true" % context, 'cp = %s, mainClass = "x.Y", fake.do = echo' % cp)
        assert reply.result["class"] == "x.Y"
    reply = server.post(
        "/jobs?context=%s&sync=true&cp=%s&mainClass=q.R" % (context, app),
        'cp = nobody, mainClass = "x.Y", fake.do = echo',
    )
    assert reply.result["class"] == "q.R"


def test_job_in_a_stopping_context(server, own_context, app):
    """409 while the context is being stopped, 404 afterwards."""
    name = own_context(wish={"keeper": "ignore_sigterm"})
    stopped = server.background("DELETE", "/contexts/" + name)
    wait_for(lambda: server.context_row(name)[1] == "STOPPING", "stop")
    reply = server.submit(name, app)
    assert ok_json(reply, 409) == {"status": "ERROR", "result": "Context stop in progress"}
    assert stopped().status == 200
    assert server.submit(name, app).status == 404


def test_names_that_are_not_text(server, context, app):
    """Invalid UTF-8, NUL and line breaks in parameters: 400 or 404, never taken as they are."""
    for name in ("%ff", "%00", "a%00b", "%c3%28", "%zz", "a%0d%0aX:1"):
        for query in (
            "appName=%s&classPath=a.B&context=%s" % (name, context),
            "appName=%s&classPath=a.B&context=%s" % (app, name),
        ):
            reply = server.post("/jobs?" + query)
            assert reply.status in (400, 404), reply
            assert reply.json["status"] == "ERROR" and "X" not in reply.headers


# ---- reading


@pytest.mark.parametrize("job", [NOBODY, "x", "%20", "a" * 300, "%F0%9F%98%80", "..", "%2e%2e%2ftoken"])
def test_unknown_job(server, job):
    """404 for reading, its config, and killing."""
    for reply in (server.get("/jobs/" + job), server.get("/jobs/%s/config" % job), server.delete("/jobs/" + job)):
        assert ok_json(reply, 404)["status"] == "ERROR"
        assert (
            reply.result.startswith("No such job ID ") or reply.result == "The requested resource could not be found."
        )


# ---- failures of a job


def test_exception_in_a_job(server, context, app):
    """Synchronous: 200 with status ERROR and an error object; the same afterwards and in lists."""
    body = ok_json(server.run(context, app, {"do": "error"}), 200)
    assert body["status"] == "ERROR" and sorted(body["result"]) == ["errorClass", "message", "stack"]
    assert body["result"]["errorClass"] == "ValueError"
    assert (
        body["result"]["message"]
        == "Python job failed with error code 4 and standard err "
        "[Error while calling 'run_job': ValueError('Deliberate failure')]"
    )
    assert 'File "job.py", line 3, in run_job' in body["result"]["stack"]
    read = server.job(body["jobId"])
    assert read["status"] == "ERROR" and read["result"] == body["result"]
    assert server.get("/jobs?limit=1").json[0]["result"] == body["result"]


def test_validation_problems(server, context, app):
    """400 VALIDATION FAILED with the problems; the job is an ERROR."""
    body = ok_json(server.run(context, app, {"do": "invalid"}), 400)
    assert body["status"] == "VALIDATION FAILED"
    assert "no input.string" in body["result"]["message"] and "bad weather" in body["result"]["message"]
    ended = server.job(body["jobId"])
    assert ended["status"] == "ERROR" and ended["result"] == body["result"]
    assert server.job_row(body["jobId"])[0] == "INVALID"


@pytest.mark.parametrize(
    "error, text",
    [
        (
            {"code": "VALIDATE_EXCEPTION", "exit_code": 3},
            "error code 3 and standard err [Error while calling 'validate': ValueError(",
        ),
        (
            {"code": "CLASS_NOT_FOUND", "exit_code": 1, "class": None, "message": "no class Job in app"},
            "error code 1 and standard err [no class Job",
        ),
        ({"cause": "java.lang.IllegalStateException: x"}, "Caused by: java.lang.IllegalStateException: x"),
        ({"message": "ünï\n'quoted' \"both\""}, "ünï\\n"),
    ],
)
def test_error_texts(server, context, app, error, text):
    assert text in server.run(context, app, {"do": "error", "error": error}).json["result"]["message"]


# ---- killing


def test_kill_of_a_running_job(server, context, app, flags):
    """200 KILLED; its sync client is told; the worker is used on; a second kill is a 404."""
    waiting = server.background(
        "POST",
        "/jobs?appName=%s&classPath=a.B&context=%s&sync=true&timeout=30" % (app, context),
        {"fake": {"touch": flags.path("on"), "wait": "/nowhere", "append": flags.path("log")}},
    )
    flags.wait("on")
    job = flags.lines("log")[0].split()[0]
    assert ok_json(server.delete("/jobs/" + job), 200) == {"status": "KILLED"}
    body = waiting().json
    assert (body["jobId"], body["status"]) == (job, "KILLED")
    assert body["result"]["message"] == "Job %s killed" % job
    ended = server.job(job)
    assert (ended["status"], ended["result"]["message"]) == ("KILLED", "Job %s killed" % job)
    again = server.delete("/jobs/" + job)
    assert ok_json(again, 404) == {"status": "ERROR", "result": "No running job with ID " + job}
    assert server.pid(context, server.job_row(job)[2])


def test_kill_of_a_job_that_ignores_interrupts(server, context, app, flags):
    """After the grace its worker is killed; others are left alone."""
    other = server.start_job(
        context, app, {"touch": flags.path("on2"), "wait": flags.path("go"), "result": "untouched"}
    )
    job = server.start_job(context, app, {"touch": flags.path("on"), "do": "hang"})
    flags.wait("on")
    flags.wait("on2")
    process = server.job_row(job)[2]
    start = time.monotonic()
    assert ok_json(server.delete("/jobs/" + job), 200) == {"status": "KILLED"}
    assert 0.25 < time.monotonic() - start < 5
    wait_for(lambda: server.pid(context, process) is None, "end of the worker")
    flags.up("go")
    assert server.wait_job(other, "FINISHED")["result"] == "untouched"


def test_kill_of_a_queued_job(server, own_context, app, flags):
    """It never runs; the one before and the one behind do."""
    name = own_context(**{"max-jobs-per-context": 1})
    first = server.start_job(
        name, app, {"append": flags.path("log"), "touch": flags.path("on"), "wait": flags.path("go")}
    )
    flags.wait("on")
    second, third = (server.start_job(name, app, {"append": flags.path("log")}) for _ in range(2))
    assert ok_json(server.delete("/jobs/" + second), 200) == {"status": "KILLED"}
    assert server.job(second)["status"] == "KILLED"
    flags.up("go")
    server.wait_job(third, "FINISHED")
    assert flags.lines("log") == [first + " 1", third + " 1"]


def test_kill_of_a_queued_sync_job_answers_its_client(server, own_context, app, flags):
    name = own_context(**{"max-jobs-per-context": 1})
    server.start_job(name, app, {"touch": flags.path("on"), "wait": flags.path("go")})
    flags.wait("on")
    waiting = server.background("POST", "/jobs?appName=%s&classPath=a.B&context=%s&sync=true&timeout=30" % (app, name))
    queued = wait_for(lambda: server.rows("SELECT id FROM jobs WHERE state = 0"), "queued job")[0][0]
    assert server.delete("/jobs/" + queued).status == 200
    assert waiting().json["status"] == "KILLED"
    flags.up("go")


def test_kill_of_ended_jobs(server, context, app):
    """Finished: 404. Failed: 200 with its error under the key ERROR."""
    finished = server.run(context, app).json["jobId"]
    assert ok_json(server.delete("/jobs/" + finished), 404)["result"] == "No running job with ID " + finished
    failed = server.run(context, app, {"do": "error"}).json
    body = ok_json(server.delete("/jobs/" + failed["jobId"]), 200)
    assert body == {"status": "ERROR", "ERROR": failed["result"]}


def test_kill_that_crosses_the_end(server, context, app, flags):
    """A job that ends by itself although the interrupt reached it keeps its result."""
    job = server.start_job(context, app, {"touch": flags.path("on"), "do": "finish_when_interrupted"})
    flags.wait("on")
    reply = server.delete("/jobs/" + job)
    assert reply.status in (200, 404)
    assert server.wait_job(job)["status"] in ("FINISHED", "KILLED")
    assert server.job_row(job)[0] == "FINISHED" and reply.status == 404
    assert server.job(job)["result"] == "made it"


def test_kill_waits_for_the_keeper(server, own_context, app, flags):
    """KILLED is said, and the slot is free, only when the keeper has confirmed that nothing is left in Spark."""
    name = own_context(wish={"keeper": "slow_cancel"}, **{"max-jobs-per-context": 1})
    job = server.start_job(name, app, {"touch": flags.path("on"), "wait": "/nowhere"})
    flags.wait("on")
    queued = server.start_job(name, app)
    start = time.monotonic()
    reply = server.background("DELETE", "/jobs/" + job)
    wait_for(lambda: server.job_row(job)[0] == "CANCELLING", "cancel")
    assert server.job_row(queued)[0] == "QUEUED"
    assert reply().json == {"status": "KILLED"} and time.monotonic() - start >= 0.45
    server.wait_job(queued, "FINISHED")


def test_two_kills_at_once(server, own_context, app, flags):
    """Both clients get the answer of the one ladder."""
    name = own_context(wish={"keeper": "slow_cancel"})
    job = server.start_job(name, app, {"touch": flags.path("on"), "wait": "/nowhere"})
    flags.wait("on")
    replies = [server.background("DELETE", "/jobs/" + job) for _ in range(3)]
    assert [r().json for r in replies] == [{"status": "KILLED"}] * 3


# ---- binaries in use


def test_binary_in_use_is_not_deleted(server, context, flags):
    """403 naming the jobs, running and queued; 200 when they have ended."""
    name = server.upload(data=make_zip({"app.py": unique()}))
    jobs = [server.start_job(context, name, {"wait": flags.path("go")}) for _ in range(2)]
    reply = server.delete("/binaries/" + name)
    assert ok_json(reply, 403)["result"] in (
        "Binary is in use by job(s): %s, %s" % p for p in (jobs, jobs[::-1]) for p in [tuple(p)]
    )
    flags.up("go")
    for job in jobs:
        server.wait_job(job, "FINISHED")
    assert server.delete("/binaries/" + name).status == 200
    assert server.submit(context, name).json["result"] == "appName %s not found" % name


def test_new_version_is_used_by_new_jobs_only(server, own_context, flags):
    """A queued job keeps the version it was submitted with."""
    context = own_context(**{"max-jobs-per-context": 1})
    name = server.upload(data=make_zip({"app.py": "one" + unique()}))
    server.start_job(context, name, {"touch": flags.path("on"), "wait": flags.path("go")})
    flags.wait("on")
    queued = server.start_job(context, name, {"do": "echo"})
    server.upload(name, make_zip({"app.py": "two" + unique()}))
    new = server.start_job(context, name, {"do": "echo"})
    flags.up("go")
    old_run, new_run = server.wait_job(queued, "FINISHED")["result"], server.wait_job(new, "FINISHED")["result"]
    assert old_run["binaries"][0]["digest"] != new_run["binaries"][0]["digest"]
    assert old_run["binaries"][0]["version"] < new_run["binaries"][0]["version"]


# ---- hostile configs


@pytest.mark.parametrize(
    "first, link",
    [
        ("a0=xxxxxxxxxxxxxxxx", "a%d=${a%d}${a%d}"),
        ("a0=[xxxxxxxxxxxxxxxx]", "a%d=${a%d} ${a%d}"),
        ("a0=xxxxxxxxxxxxxxxx", "a%d={x:${a%d},y:${a%d}}"),
    ],
)
def test_config_that_doubles_with_every_line(server, context, app, first, link):
    """A few hundred bytes that would become gigabytes are refused, and the server goes on."""
    bomb = "\n".join([first] + [link % (i, i - 1, i - 1) for i in range(1, 40)])
    replies = [
        server.background("POST", "/jobs", bomb, appName=app, classPath="app.Job", context=context) for _ in range(4)
    ]
    for reply in replies:
        assert ok_json(reply(), 400)["result"].startswith("Cannot parse config: the ")
    assert server.run(context, app, {"result": 1}).result == 1
