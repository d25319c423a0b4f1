"""GET /v1/jobs/<id>/result, and results in files: whole or in part, in any form, at any speed, over deaths of the server."""

import hashlib
import http.client
import json
import os
import signal

import kit
import pytest
from kit import wait_for

SMALL, LARGE = 100, 100_000  # bytes of a result in the database, and in a file
LONG = 3_000_000  # goes to its client by the thread of streams


def url(job):
    return "/v1/jobs/%s/result" % job


def body_of(size):
    return b'"' + b"x" * (size - 2) + b'"'


@pytest.fixture(scope="module")
def jobs(shared, shared_app):
    """{size: id of a job with such a result}"""
    name = shared.create()
    made = {size: shared.run(name, shared_app, {"do": "big_result", "bytes": size}).json["jobId"] for size in (LARGE, LONG)}
    made[SMALL] = shared.run(name, shared_app, {"result": "x" * (SMALL - 2)}).json["jobId"]
    return made


SIZES = pytest.mark.parametrize("size", [SMALL, LARGE, LONG])


@SIZES
def test_whole(server, jobs, size):
    reply = server.get(url(jobs[size]))
    assert reply.status == 200 and reply.body == body_of(size)
    headers = reply.headers
    assert headers["Content-Type"] == "application/json" and headers["Content-Length"] == str(size)
    assert headers["Accept-Ranges"] == "bytes" and headers["ETag"] == '"%s.1"' % jobs[size]
    assert headers["Content-Disposition"] == 'inline; filename="%s.json"' % jobs[size]
    assert headers["X-Content-Type-Options"] == "nosniff" and "Content-Range" not in headers
    job = server.get("/v1/jobs/" + jobs[size]).json
    assert (job["result_bytes"], job["result_format"]) == (size, "json")


@SIZES
def test_head(server, jobs, size):
    reply = server.request("HEAD", url(jobs[size]), headers={"Range": "bytes=0-9"})
    assert (reply.status, reply.body) == (200, b"") and reply.headers["Content-Length"] == str(size)
    assert reply.headers["Accept-Ranges"] == "bytes" and reply.headers["ETag"]


RANGES = [
    ("bytes=0-0", 0, 1),
    ("bytes=0-9", 0, 10),
    ("bytes=5-", 5, None),
    ("bytes=-5", -5, None),
    ("bytes=-0999999999", 0, None),
    ("BYTES = 7-8 ", 7, 9),
    ("bytes=1-18446744073709551615", 1, None),
    ("bytes=1-99999999999999999999999999", 1, None),
]


@SIZES
@pytest.mark.parametrize("value, first, after", RANGES, ids=[r[0] for r in RANGES])
def test_range(server, jobs, size, value, first, after):
    whole = body_of(size)
    part = whole[first:after]
    start = size + first if first < 0 else first
    reply = server.get(url(jobs[size]), headers={"Range": value})
    assert reply.status == 206 and reply.body == part
    assert reply.headers["Content-Range"] == "bytes %d-%d/%d" % (start, start + len(part) - 1, size)
    assert reply.headers["Content-Length"] == str(len(part)) and reply.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize("value", ["bytes=%d-", "bytes=%d-999999999", "bytes=99999999999999999999999-", "bytes=-0"])
def test_range_beyond_the_end(server, jobs, size, value):
    reply = server.get(url(jobs[size]), headers={"Range": value % size if "%" in value else value})
    assert reply.status == 416 and reply.headers["Content-Range"] == "bytes */%d" % size
    assert reply.json["error"]["code"] == "RANGE_NOT_SATISFIABLE"


@pytest.mark.parametrize(
    "value", ["bytes", "bytes=", "bytes=-", "bytes=5-4", "bytes=0-1,5-6", "bytes=a-b", "lines=0-5", "bytes=0-5x", "bytes=--5"]
)
def test_range_that_is_passed_over(server, jobs, value):
    reply = server.get(url(jobs[LARGE]), headers={"Range": value})
    assert reply.status == 200 and reply.body == body_of(LARGE) and "Content-Range" not in reply.headers


def test_conditions(server, jobs):
    """A part is sent only of what the client has the beginning of; what it has whole is not sent again."""
    path, tag = url(jobs[LARGE]), '"%s.1"' % jobs[LARGE]

    def status(**headers):
        return server.get(path, headers={name.replace("_", "-"): value for name, value in headers.items()}).status

    assert status(Range="bytes=0-9", If_Range=tag) == 206
    assert status(Range="bytes=0-9", If_Range='"other"') == 200
    assert status(Range="bytes=0-9", If_Range="W/" + tag) == 200
    assert status(Range="bytes=0-9", If_Range="Sat, 31 Jan 2026 12:00:00 GMT") == 200
    assert status(If_None_Match=tag) == 304 and status(If_None_Match='"a", W/%s' % tag) == 304
    assert status(If_None_Match="*") == 304 and status(If_None_Match='"a", "b"') == 200
    assert status(If_None_Match="nonsense") == 200 and status(If_None_Match='"' + tag) == 200
    assert status(If_Match=tag) == 200 and status(If_Match='"a",' + tag) == 200 and status(If_Match="*") == 200
    assert status(If_Match="W/" + tag) == 412 and status(If_Match='"a"') == 412
    reply = server.get(path, headers={"If-None-Match": tag})
    assert (reply.body, reply.headers["ETag"]) == (b"", tag)


def test_download_in_pieces(server, jobs):
    """As a client goes on whose connection was cut."""
    data = b""
    while len(data) < LONG:
        reply = server.get(url(jobs[LONG]), headers={"Range": "bytes=%d-%d" % (len(data), len(data) + 1_499_999)})
        assert reply.status == 206
        data += reply.body
    assert data == body_of(LONG)


def test_before_the_end_and_without_a_result(server, context, app, flags):
    job = server.start_job(context, app, {"wait": flags.path("go"), "result": [1, 2]})
    reply = server.get(url(job))
    assert reply.status == 409 and "has no result yet" in reply.json["error"]["message"]
    assert server.get(url(job), wait="10ms").status == 409
    waiting = server.background("GET", url(job) + "?wait=1min")
    flags.up("go")
    assert waiting().json == [1, 2]
    failed = server.run(context, app, {"do": "error"}).json["jobId"]
    reply = server.get(url(failed))
    assert reply.status == 404 and "ended as ERROR" in reply.json["error"]["message"]
    assert server.get(url("no-such-job")).status == 404
    assert server.get(url(job), attempt=1).status == 400


def test_a_result_that_is_gone(server, context, app):
    """By its row, as retention has it, or just now."""
    job = server.run(context, app, {"do": "big_result", "bytes": LARGE}).json["jobId"]
    os.unlink(server.path("results", job + ".1.json"))
    reply = server.get(url(job))
    assert reply.status == 410 and reply.json["error"]["code"] == "RESULT_REMOVED"
    assert server.get("/jobs/" + job).json["resultRemoved"] is True


@pytest.mark.parametrize(
    "ending, form, media",
    [
        ("csv", "csv", "text/csv; charset=utf-8"),
        ("parquet", "parquet", "application/vnd.apache.parquet"),
        ("arrows", "arrow", "application/vnd.apache.arrow.stream"),
    ],
)
def test_forms(server, context, app, ending, form, media):
    fake = {"do": "big_result", "ending": ending, "content": "a,b\n1,2\n"}
    ended = server.run(context, app, fake).json
    job = ended["jobId"]
    reply = server.get(url(job))
    assert (reply.status, reply.body, reply.headers["Content-Type"]) == (200, b"a,b\n1,2\n", media)
    assert reply.headers["Content-Disposition"] == 'attachment; filename="%s.%s"' % (job, ending)
    assert server.get("/v1/jobs/" + job).json["result_format"] == form
    told = {"format": form, "mediaType": media, "bytes": 8, "href": url(job)}
    assert ended["result"] == told and server.job(job)["result"] == told


# ---- what a job is asked for


def test_wishes_stand_in_the_config(server, context, app):
    def config(job):
        return server.get("/jobs/%s/config" % job).json

    ended = server.submit(context, app, config={"a": 1}, sync="true", **{"result-format": "csv", "max-result": "64KiB"})
    assert config(ended.json["jobId"]) == {"a": 1, "stoker": {"result-format": "csv", "max-result": 65536}}
    body = {"app": app, "class": "app.Job", "context": context, "result_format": "arrow", "max_result": 1000}
    job = server.post("/v1/jobs", {**body, "config": {"stoker": {"result-format": "json"}}}).json["id"]
    assert config(job) == {"stoker": {"result-format": "arrow", "max-result": 1000}}
    job = server.post("/v1/jobs", {"app": app, "class": "app.Job", "context": context}).json["id"]
    assert config(job) == {}


@pytest.mark.parametrize(
    "query, config, text",
    [
        ({"result-format": "xml"}, {}, "'result-format' must be json, csv, parquet or arrow, not 'xml'"),
        ({"max-result": "lots"}, {}, "'max-result' must be a size such as 64KiB, 512m or 2g, not 'lots'"),
        ({}, {"stoker": {"result-format": 7}}, "'result-format' must be json, csv, parquet or arrow"),
        ({}, {"stoker": {"max-result": -1}}, "'max-result' must be a size"),
        ({}, {"stoker": {"format": "csv"}}, "there is no 'stoker.format'"),
        ({"result-format": "csv"}, {"stoker": "csv"}, "'stoker' in the config must be an object"),
    ],
)
def test_wishes_that_cannot_be(server, context, app, query, config, text):
    reply = server.submit(context, app, config=config, **query)
    assert reply.status == 400 and text in reply.json["result"]
    fields = {name.replace("-", "_"): value for name, value in query.items()}
    reply = server.post("/v1/jobs", {"app": app, "class": "app.Job", "context": context, "config": config, **fields})
    assert reply.status == 400 and text in reply.json["error"]["message"]
    wrong = "config" if config else next(iter(fields))
    assert reply.json["error"]["field"] == wrong


def test_limit_of_a_context(server, app):
    """It is what its workers are told, within that of the server."""
    for size, told in (("1MiB", (1 << 20, "context")), ("100g", (1 << 30, "server"))):
        name = server.create(**{"max-result": size})
        with open(server.path("contexts", server.context_row(name)[0], "spec.json")) as f:
            spec = json.load(f)
        assert (spec["max_result"], spec["max_result_by"]) == told
        server.delete("/contexts/" + name)
    reply = server.post("/contexts/" + kit.unique(), **{"max-result": "much"})
    assert reply.status == 400 and "'max-result' must be a size" in reply.text


# ---- slow readers


def test_readers_that_do_not_read(daemon):
    """More of them than there are threads; each gets all of it in the end. The log has its place even then."""
    server = daemon(http_threads=8, max_waiting=4, max_streams=64).start()
    app, context = server.upload(), server.create()
    job = server.run(context, app, {"do": "big_result", "bytes": 20_000_000, "print": "a line"}).json["jobId"]
    for path in (url(job), "/jobs/" + job):
        readers = [kit.Stream(server, path, read=False) for _ in range(20)]
        assert server.get("/healthz").status == 200
        assert server.get("/v1/jobs/%s/logs?stream=all" % job).text == "err| a line\n"
        for reader in readers:
            reader.start()
        for reader in readers:
            data = reader.wait_end()
            assert len(data) == int(reader.headers["Content-Length"]) and reader.status == 200
            found = bytes(data) if path == url(job) else json.dumps(json.loads(data)["result"]).encode()
            assert hashlib.sha256(found).digest() == hashlib.sha256(body_of(20_000_000)).digest()
            reader.close()


def test_reader_that_takes_nothing_is_cut(daemon):
    server = daemon(stream_timeout="1s").start()
    app, context = server.upload(), server.create()
    job = server.run(context, app, {"do": "big_result", "bytes": 40_000_000}).json["jobId"]
    reader = kit.Stream(server, url(job), read=False)
    server.wait_log("client of a stream cut")
    reader.start()
    reader.thread.join(kit.WAIT)
    assert len(reader.data) < int(reader.headers["Content-Length"]) == 40_000_000  # so the client knows
    reader.close()


def test_without_places_for_streams(daemon):
    """Long results are then sent by the threads of HTTP."""
    server = daemon(max_streams=0).start()
    app, context = server.upload(), server.create()
    job = server.run(context, app, {"do": "big_result", "bytes": LONG}).json["jobId"]
    assert server.get(url(job)).body == body_of(LONG)
    assert server.get("/jobs/" + job).result == "x" * (LONG - 2)


def test_file_that_is_cut_while_it_is_sent(server, context, app):
    """The client sees that it is not whole."""
    job = server.run(context, app, {"do": "big_result", "bytes": 20_000_000}).json["jobId"]
    with server.connect() as sock:
        sock.sendall(("GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % url(job)).encode())
        answer = http.client.HTTPResponse(sock, method="GET")
        answer.begin()
        os.truncate(server.path("results", job + ".1.json"), 10_000_000)
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            answer.read()
    assert server.get(url(job)).status == 500


# ---- deaths


def test_server_dies_while_a_result_is_written(daemon, flags):
    """The worker goes on writing; the next server shows no end before the whole file is there."""
    server = daemon().start()
    app, context = server.upload(), server.create()
    fake = {"do": "big_result", "bytes": LARGE, "stop_at": 50_000, "until": flags.path("go")}
    job = server.start_job(context, app, fake)
    file = server.path("results", job + ".1.json")
    wait_for(lambda: os.path.exists(file) and os.path.getsize(file) == 50_000, "half of the file")
    server.kill()
    server.start()
    assert server.get(url(job)).status == 409
    assert server.get("/v1/jobs/" + job).json["state"] in ("STARTING", "RUNNING")
    flags.up("go")
    assert server.wait_job(job, "FINISHED")["result"] == "x" * (LARGE - 2)
    assert server.get(url(job)).body == body_of(LARGE)


@pytest.mark.parametrize("server_too", [False, True])
def test_worker_dies_while_a_result_is_written(daemon, flags, server_too):
    """No result, and no half of one is left behind."""
    server = daemon().start()
    app, context = server.upload(), server.create()
    job = server.start_job(context, app, {"do": "big_result", "bytes": LARGE, "stop_at": 50_000, "until": flags.path("go")})
    file = server.path("results", job + ".1.json")
    wait_for(lambda: os.path.exists(file) and os.path.getsize(file) == 50_000, "half of the file")
    pid = server.get("/v1/jobs/" + job).json["process"]["pid"]
    if server_too:
        server.kill()
    os.kill(pid, signal.SIGKILL)
    if server_too:
        server.start()
    assert server.wait_job(job, "ERROR")["result"]["errorClass"] == "SIGNALLED"
    assert os.listdir(server.path("results")) == []
    assert server.get(url(job)).status == 404


# ---- memory


class Peak:
    """The highest RssAnon of a server while something happens, sampled: .rise is what it was above that before, in bytes."""

    def __init__(self, server):
        self.pid, self.samples, self.over = server.process.pid, [], False

    def now(self):
        with open("/proc/%d/status" % self.pid) as f:
            return next(int(line.split()[1]) << 10 for line in f if line.startswith("RssAnon"))

    def __enter__(self):
        self.before = self.now()
        return self

    def look(self):
        self.samples.append(self.now())

    def __exit__(self, *_):
        self.look()
        self.rise = max(self.samples) - self.before


BIG = 64 << 20
# AddressSanitizer and ThreadSanitizer keep several times what is used.
ALLOWED = (8 << 20) * (6 if os.environ.get("STOKER_REPORTS") else 1)


@pytest.mark.parametrize("dialect", ["native", "sjs"])
def test_a_big_result_costs_no_memory(daemon, dialect):
    server = daemon().start()
    app, context = server.upload(), server.create()
    with Peak(server) as peak:
        job = server.start_job(context, app, {"do": "big_result", "bytes": BIG})
        server.wait_job(job, "FINISHED") if dialect == "sjs" else server.get("/v1/jobs/%s?wait=1min" % job)
        peak.look()
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        connection.request("GET", url(job) if dialect == "native" else "/jobs/" + job)
        answer, size = connection.getresponse(), 0
        while piece := answer.read(1 << 20):
            size += len(piece)
            peak.look()
        connection.close()
    assert size == int(answer.headers["Content-Length"]) >= BIG
    assert peak.rise < ALLOWED, peak.rise


def test_a_big_upload_costs_no_memory(daemon):
    server = daemon().start()
    data = kit.make_zip({"app.py": "class Job: pass\n", "data.bin": os.urandom(BIG)})
    with Peak(server) as peak:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        connection.putrequest("PUT", "/v1/binaries/big?type=zip")
        connection.putheader("Content-Length", str(len(data)))
        connection.endheaders()
        for start in range(0, len(data), 1 << 20):
            connection.send(data[start : start + (1 << 20)])
            peak.look()
        answer = kit.Client.background(server, "GET", "/healthz")
        reply = connection.getresponse()
        assert reply.status == 201, reply.read()
        assert answer().status == 200
        connection.close()
    assert peak.rise < ALLOWED, peak.rise
