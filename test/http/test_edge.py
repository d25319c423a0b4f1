"""The edge of HTTP: paths, methods, framing, connections, and clients that are slow, gone or hostile."""

import contextlib
import json
import select
import socket
import threading
import time

import pytest

from kit import read_all, read_reply, unique, wait_for

NOT_FOUND = {"status": "ERROR", "result": "The requested resource could not be found."}


def get(path, *lines, version="1.1"):
    return "\r\n".join(["GET %s HTTP/%s" % (path, version), "Host: h", *lines, "", ""]).encode("latin-1")


def status_of(answer):
    """The status of the first reply in bytes; 0: none."""
    return int(answer.split()[1]) if answer.startswith(b"HTTP/1.1 ") else 0


def replies_in(answer):
    return answer.count(b"HTTP/1.1 ")


# ---- paths and methods


def test_health_and_page(server):
    reply = server.get("/healthz")
    assert (reply.status, reply.json) == (200, {"status": "SUCCESS"})
    page = server.get("/")
    assert page.status == 200 and page.headers["Content-Type"].startswith("text/html") and "Stoker" in page.text


@pytest.mark.parametrize(
    "path",
    [
        "/nowhere",
        "/jobsfoo",
        "/jobs/a/b",
        "/binaries/a/b",
        "/contexts/a/b",
        "/healthz/x",
        "/jobs//config",
        "//",
        "/a/b/c/d/e/f/g/h/i/j/k",
        "/index.html",
        "/.",
        "/../etc/passwd",
        "/%2e%2e/",
    ],
)
def test_unknown_paths(server, path):
    """404 in the dialect's way: JSON with a text `status`."""
    reply = server.get(path)
    assert (reply.status, reply.json) == (404, NOT_FOUND) and reply.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize(
    "method, path, allow",
    [
        ("PUT", "/jobs", {"GET", "POST", "DELETE"}),
        ("PATCH", "/jobs/x", {"GET", "DELETE", "POST"}),
        ("POST", "/jobs/x/config", {"GET"}),
        ("PUT", "/binaries/a", {"GET", "POST", "DELETE"}),
        ("PUT", "/contexts/a", {"GET", "POST", "DELETE"}),
        ("POST", "/healthz", {"GET"}),
        ("OPTIONS", "/jobs", {"GET", "POST", "DELETE"}),
        ("DELETE", "/", {"GET"}),
    ],
)
def test_wrong_method(server, method, path, allow):
    """405 with the methods that the path has."""
    reply = server.request(method, path)
    assert reply.status == 405 and set(reply.headers["Allow"].split(", ")) == allow
    assert reply.json["status"] == "ERROR"
    assert not [h for h in reply.headers if h.lower().startswith("access-control")]


@pytest.mark.parametrize(
    "method, path",
    [
        ("DELETE", "/jobs"),
        ("POST", "/binaries"),
        ("POST", "/contexts"),
        ("DELETE", "/contexts"),
        ("DELETE", "/binaries"),
    ],
)
def test_method_right_and_path_not_complete(server, method, path):
    reply = server.request(method, path)
    assert (reply.status, reply.json) == (404, NOT_FOUND)


@pytest.mark.parametrize("path", ["/jobs", "/contexts", "/binaries", "/healthz"])
def test_trailing_slash(server, path):
    assert server.get(path + "/").status == 200 and server.get(path + "/").json == server.get(path).json


def test_unknown_method_is_not_understood(server):
    answer = server.raw(b"BREW /jobs HTTP/1.1\r\nHost: h\r\n\r\n")
    assert status_of(answer) in (400, 405, 501), answer


def test_method_in_the_query(server, context):
    """_method, in any case, replaces the method; an unknown one is a 501."""
    assert server.post("/healthz?_method=get").status == 200
    assert server.get("/jobs/x?_method=DELETE").json["result"] == "No such job ID x"
    assert server.get("/jobs?_method=brew").status == 501
    name = unique("ctx")
    assert server.get("/contexts/%s?_method=post" % name).status == 200
    assert server.get("/contexts/%s?_method=delete" % name).json["result"] == "Context stopped"


def test_head(server, context):
    """As GET, without a body; the connection stays in step."""
    with server.connect() as sock:
        for path in ("/contexts/" + context, "/nowhere", "/jobs"):
            wanted = server.get(path)
            sock.sendall(b"HEAD %s HTTP/1.1\r\nHost: h\r\n\r\n" % path.encode())
            reply = read_reply(sock, "HEAD")
            assert (reply.status, reply.body) == (wanted.status, b"") and reply.headers["Content-Length"] == str(
                len(wanted.body)
            )


@pytest.mark.parametrize(
    "path",
    [
        "/jobs/%00",
        "/jobs/a%00b",
        "/jobs/%0d%0aX-Evil:%201",
        "/jobs/%0a",
        "/jobs/%ff",
        "/jobs/%c0%af",
        "/jobs/%zz",
        "/jobs/%",
        "/jobs/%4",
        "/jobs?x=%",
        "/jobs?x=%00",
        "/jobs?status=%ff",
        "/jobs?%zz=1",
        "/%ff",
    ],
)
def test_bad_escapes(server, path):
    """NUL, line breaks, what is no UTF-8 and no escape: 400, and nothing of it in the headers."""
    reply = server.get(path)
    assert reply.status == 400 and reply.json["status"] == "ERROR" and "X-Evil" not in reply.headers


def test_bytes_beyond_ascii_in_the_path(server):
    """Sent raw, as some clients do: valid UTF-8 is a name like any other, the rest is refused."""
    assert status_of(server.raw(get("/binaries/\xc3\xbc", "Connection: close"))) in (404, 400)
    assert status_of(server.raw(get("/binaries/\xff\xfe", "Connection: close"))) == 400


def test_name_is_shown_as_json(server):
    """A name that would break JSON or HTML is escaped."""
    reply = server.get("/binaries/%22%3Cscript%3E%5C")
    assert reply.status == 404 and reply.json["result"] == 'Can\'t find binary with name "<script>\\'
    assert reply.headers["Content-Type"] == "application/json"


def test_absolute_url(server):
    """GET http://host/path, as proxies send it."""
    answer = server.raw(get("http://127.0.0.1:%d/healthz" % server.port, "Connection: close"))
    assert status_of(answer) in (200, 400), answer


def test_cross_site_requests_change_nothing(server):
    """A page of another site can read nothing and start nothing."""
    for headers in (
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "http://evil.example"},
    ):
        assert server.post("/contexts/" + unique("ctx"), headers=headers).status == 403
        assert server.delete("/jobs/x", headers=headers).status == 403
    reply = server.get("/jobs", headers={"Origin": "http://evil.example"})
    assert reply.status == 200 and "Access-Control-Allow-Origin" not in reply.headers
    preflight = server.request(
        "OPTIONS", "/jobs", headers={"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    )
    assert "Access-Control-Allow-Origin" not in preflight.headers and preflight.status == 405


# ---- framing

HOSTILE = {
    "length and chunked": ["Content-Length: 5", "Transfer-Encoding: chunked"],
    "length twice": ["Content-Length: 5", "Content-Length: 5"],
    "two lengths": ["Content-Length: 5", "Content-Length: 6"],
    "negative": ["Content-Length: -1"],
    "text": ["Content-Length: five"],
    "list": ["Content-Length: 5, 5"],
    "plus": ["Content-Length: +5"],
    "hex": ["Content-Length: 0x5"],
    "huge": ["Content-Length: 99999999999999999999"],
    "encoding": ["Transfer-Encoding: gzip, chunked"],
    "encoding twice": ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
    "odd chunked": ["Transfer-Encoding: xchunked"],
    "host twice": ["Host: a"],
    "folded": ["X: a\r\n b"],
    "space before colon": ["Content-Length : 5"],
    "no name": [": x"],
    "obs": ["X: 1", " Content-Length: 5"],
}


@pytest.mark.parametrize("lines", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_headers(server, lines):
    """Where the body ends must be beyond doubt: one refusal, and the connection is closed, so nothing is smuggled."""
    request = "\r\n".join(["POST /jobs HTTP/1.1", "Host: h", *lines, "", ""]).encode() + b"hello" + get("/healthz")
    with server.connect() as sock:
        sock.sendall(request)
        answer = read_all(sock)
    assert status_of(answer) in (400, 411, 413, 501) and replies_in(answer) == 1, answer
    assert b"connection: close" in answer.lower()


@pytest.mark.parametrize("gap", [b"\r\n ", b"\r\n\t", b"\r\n \r\n", b"\n\n ", b"\n", b"\r"])
def test_space_before_the_first_header(server, gap):
    """Others skip such a line, or take it for the end; CivetWeb would read a header in it."""
    request = b"POST /jobs HTTP/1.1" + gap + b"Content-Length: 5\r\nHost: h\r\n\r\nhello" + get("/healthz")
    with server.connect() as sock:
        sock.sendall(request)
        answer = read_all(sock)
    assert status_of(answer) == 400 and replies_in(answer) == 1, answer


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\r\n\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /healthz\r\n\r\n",
        b"GET /healthz HTTP/9.9\r\nHost: h\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"\0" * 100,
        b"GET healthz HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n\r\n",
        b"GET /a b HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET /healthz HTTP/1.1\nHost: h\n\nx",
        b"GET  /healthz  HTTP/1.1\r\nHost: h\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
    ids=["lines", "get", "no version", "9.9", "tls", "nul", "no slash", "no host", "space", "lf", "spaces", "http2"],
)
def test_requests_that_are_none(server, request_bytes):
    """A refusal or the end of the connection, never a 200 for something else or a hang."""
    answer = server.raw(request_bytes)
    assert status_of(answer) in (0, 400, 404, 408, 431, 505) or (
        b"healthz" in request_bytes and status_of(answer) == 200
    ), answer


def test_http_1_0(server):
    """Closes after the reply unless keep-alive is asked for."""
    with server.connect() as sock:
        sock.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert status_of(read_all(sock)) == 200
    with server.connect() as sock:
        for _ in range(2):
            sock.sendall(b"GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            assert read_reply(sock).status == 200


@pytest.mark.parametrize(
    "headers, status",
    [
        (["X-Long: " + "x" * 40000], {400, 431}),
        (["X-%d: y" % i for i in range(100)], {400, 431}),
        (["X: " + "y" * 20000], {200}),
        (["X-%d: y" % i for i in range(40)], {200}),
    ],
    ids=["long", "many", "long enough", "some"],
)
def test_size_of_headers(server, headers, status):
    with server.connect() as sock:
        sock.sendall(get("/healthz", "Connection: close", *headers))
        assert status_of(read_all(sock)) in status


def test_long_url(server):
    """Up to the limit it is a name like any other; beyond it is refused."""
    assert server.get("/jobs/" + "x" * 8000).status == 404
    answer = server.raw(get("/jobs/" + "x" * 100_000))
    assert status_of(answer) in (0, 400, 414, 431)


@pytest.mark.parametrize("expect, status", [("100-continue", 400), ("200-maybe", 417)])
def test_expectations(server, expect, status):
    with server.connect() as sock:
        sock.sendall(
            b"POST /jobs HTTP/1.1\r\nHost: h\r\nExpect: %s\r\nContent-Length: 2\r\nConnection: close\r\n\r\n"
            % expect.encode()
        )
        if status == 400:
            assert sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b"{}")
        assert status_of(read_all(sock)) == status


def test_replies_have_a_date_and_a_length(server):
    reply = server.get("/jobs")
    assert reply.headers["Date"].endswith(" GMT") and int(reply.headers["Content-Length"]) == len(reply.body)


# ---- connections


def test_keep_alive(server):
    """Fifty requests on one connection."""
    with server.connect() as sock:
        for _ in range(50):
            sock.sendall(get("/healthz"))
            reply = read_reply(sock)
            assert reply.status == 200 and reply.headers.get("Connection", "keep-alive") != "close"


def test_pipelining(server, context, app):
    """Requests that come in one packet are answered in order, bodies and all."""
    body = json.dumps({"fake": {"result": "piped"}}).encode()
    post = (
        b"POST /jobs?appName=%s&classPath=a.B&context=%s&sync=true HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s"
        % (app.encode(), context.encode(), len(body), body)
    )
    with server.connect() as sock:
        sock.sendall(get("/healthz") + post + get("/nowhere") + post + get("/healthz", "Connection: close"))
        answer = read_all(sock)
    assert [int(part[:3]) for part in answer.decode().split("HTTP/1.1 ")[1:]] == [200, 200, 404, 200, 200]
    assert answer.count(b'"result":"piped"') == 2


def test_request_in_many_packets(server):
    """A byte at a time."""
    with server.connect() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in get("/healthz"):
            sock.sendall(bytes([byte]))
        assert read_reply(sock).status == 200


def test_unread_body_does_not_become_a_request(server):
    """The body of a refused request is not taken for the next one."""
    smuggled = get("/healthz")
    with server.connect() as sock:
        sock.sendall(
            b"POST /nowhere HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s" % (len(smuggled), smuggled)
            + get("/jobs", "Connection: close")
        )
        answer = read_all(sock)
    assert [int(part[:3]) for part in answer.decode().split("HTTP/1.1 ")[1:]] == [404, 200]
    assert b"SUCCESS" not in answer


def test_refusal_of_a_large_body_is_read_by_the_client(server):
    """The client that sends a megabyte into a 413 gets the answer, not a reset."""
    for _ in range(5):
        assert server.post("/jobs", b"x" * 1_000_000).status == 413


def test_client_that_leaves_before_the_answer(server, context, app, flags):
    """Twenty clients that send a request and go: the server answers the next one at once."""
    for _ in range(20):
        sock = server.connect()
        sock.sendall(get("/jobs?limit=1000"))
        sock.close()
    start = time.monotonic()
    assert server.get("/healthz").status == 200 and time.monotonic() - start < 1


def test_client_that_does_not_read(server, context, app):
    """A large result that nobody takes holds one thread, and not for ever."""
    job = server.run(context, app, {"do": "big_result", "bytes": 20_000_000}).json["jobId"]
    with server.connect() as sock:
        sock.sendall(get("/jobs/" + job))
        sock.recv(10)
        assert server.get("/healthz").status == 200
        end = time.monotonic() + 15
        time.sleep(3)  # longer than request-timeout
        sock.settimeout(15)
        assert len(read_all(sock)) < 21_000_000 and time.monotonic() < end


@pytest.mark.parametrize(
    "start", [b"", b"GET /healthz HT", b"GET /healthz HTTP/1.1\r\nHost: h\r\n"], ids=["silent", "line", "headers"]
)
def test_slow_request_is_ended(server, start):
    """request-timeout (2 s here) bounds a request that never becomes whole."""
    began = time.monotonic()
    with server.connect() as sock:
        sock.sendall(start)
        answer = read_all(sock)
    assert 1 < time.monotonic() - began < 8
    assert status_of(answer) in (0, 408), answer


def test_trickling_headers_are_ended(server):
    """A byte now and then does not keep a request alive."""
    began = time.monotonic()
    with server.connect() as sock:
        stop = threading.Event()

        def trickle():
            try:
                sock.sendall(b"GET /healthz HTTP/1.1\r\nX: ")
                while not stop.wait(0.2):
                    sock.sendall(b"x")
            except OSError:
                pass

        thread = threading.Thread(target=trickle)
        thread.start()
        try:
            read_all(sock)
        finally:
            stop.set()
            thread.join()
    assert time.monotonic() - began < 10


def test_idle_connections_make_room(daemon):
    """300 connections stay open, more than there are threads: a new client is served within keep-alive-timeout."""
    server = daemon(keep_alive_timeout="1s", request_timeout="1s", http_threads=64, max_waiting=32).start()
    socks = []
    try:

        def open_one():
            sock = server.connect()
            sock.sendall(get("/healthz"))
            socks.append(sock)

        for _ in range(60):
            open_one()
            assert read_reply(socks[-1]).status == 200
        for _ in range(240):
            open_one()
        start = time.monotonic()
        assert server.get("/healthz").status == 200
        assert time.monotonic() - start < 8
    finally:
        for sock in socks:
            sock.close()


def test_many_waiting_requests_leave_others_free(daemon, flags):
    """Sync jobs beyond max-waiting get 503 with Retry-After; a GET is answered while all the others wait."""
    server = daemon(http_threads=16, max_waiting=4).start()
    app = server.upload()
    server.create("c", **{"max-jobs-per-context": 8})
    path = "/jobs?appName=%s&classPath=a.B&context=c&sync=true&timeout=30" % app
    waiting = [
        server.background("POST", path, {"fake": {"append": flags.path("log"), "wait": flags.path("go")}})
        for _ in range(4)
    ]
    wait_for(lambda: len(flags.lines("log")) == 4, "four running jobs")
    refused = server.post(path)
    assert refused.status == 503 and int(refused.headers["Retry-After"]) >= 1 and refused.json["status"] == "ERROR"
    assert server.get("/jobs").status == 200
    flags.up("go")
    assert [w().status for w in waiting] == [200] * 4
    assert server.post(path).status == 200


def test_slots_of_waiting_come_back(daemon, flags):
    """Clients that hang up or time out give their place back."""
    server = daemon(http_threads=16, max_waiting=2).start()
    app = server.upload()
    server.create("c")
    for _ in range(5):
        assert server.submit("c", app, {"wait": flags.path("go")}, sync="true", timeout=0).status == 500
    flags.up("go")
    assert server.run("c", app).status == 200


# ---- who asks, and what is empty


@pytest.mark.parametrize("origin", ["http://evil.example", "https://127.0.0.1", "http://127.0.0.1:1", "null"])
def test_origins_of_others_change_nothing(server, origin):
    """Browsers that send no Sec-Fetch-Site still send Origin; the method that counts is the one after `_method`."""
    headers = {"Origin": origin}
    name = unique("ctx")
    assert server.post("/contexts/" + name, headers=headers).status == 403
    assert server.get("/contexts/" + name).status == 404
    assert server.delete("/jobs/x", headers=headers).status == 403
    assert server.post("/jobs/x?_method=DELETE", headers=headers).status == 403
    assert server.get("/jobs/x?_method=DELETE", headers=headers).status == 403
    assert server.get("/jobs", headers=headers).status == 200
    assert server.request("HEAD", "/jobs", headers=headers).status == 200


def test_own_origin_is_let_in(server):
    """Pages of this very host and port, and clients that are no browser."""
    headers = {"Origin": "http://127.0.0.1:%d" % server.port}
    assert server.delete("/jobs/x", headers=headers).status == 404
    assert server.delete("/jobs/x").status == 404


@pytest.mark.parametrize(
    "query, body, text",
    [
        ("appName=x&classPath=", "", "classPath parameter is missing!"),
        ("appName=&classPath=a.B", "", "To start the job appName or cp parameters should be configured!"),
        ("cp=x&mainClass=", "", "mainClass parameter is missing!"),
        ("cp=x", 'mainClass = ""', "mainClass parameter is missing!"),
    ],
)
def test_empty_parameters_are_missing(server, query, body, text):
    reply = server.post("/jobs?context=c&" + query, body)
    assert (reply.status, reply.json) == (400, {"status": "ERROR", "result": "Cannot parse config: " + text})


@pytest.mark.parametrize("path", ["/binaries/%2e", "/binaries/%2e%2e", "/contexts/%2e", "/contexts/%2e%2e"])
def test_dots_are_no_names(server, path):
    reply = server.post(path, b"PK", headers={"Content-Type": "application/zip"})
    assert reply.status == 400 and reply.json["status"] == "ERROR" and "name must" in reply.result, reply


@pytest.mark.parametrize("before, status", [(b"", 400), (b"\r\n", 400), (b"\r\n\r\n", 0), (b"\n\n", 0), (b"\n", 0), (b" ", 0)])
def test_lines_before_a_request(server, before, status):
    """One CR LF is passed over, as RFC 9112 2.2 asks. More would make CivetWeb read the body from within the request."""
    request = b"POST /jobs HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 1\r\n\r\n{"
    answer = server.raw(before + request)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert (b"Cannot parse config" in answer) == bool(status), answer


# ---- two connections that differ in the server's address only


@pytest.fixture
def twins(daemon):
    """A server on two addresses with one port, and a function: a pair of connections from one source address and port to the two."""
    made = []
    for _ in range(20):  # the port may be somebody's on the other address
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        with socket.socket() as other, contextlib.suppress(OSError):
            other.bind(("127.0.0.2", port))
            break
    server = daemon(listen=["127.0.0.1:%d" % port, "127.0.0.2:%d" % port], request_timeout="1s", keep_alive_timeout="30s")

    def connect(*hosts):
        pair = []
        for host in hosts:
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(pair[0].getsockname() if pair else ("127.0.0.3", 0))
            sock.settimeout(20)
            sock.connect((host, port))
            pair.append(sock)
        made.extend(pair)
        return pair

    yield server.start(), connect
    for sock in made:
        sock.close()


def asks(sock, path="/healthz"):
    sock.sendall(("GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path).encode())
    return read_reply(sock)


@pytest.mark.parametrize("hosts", [("127.0.0.1", "127.0.0.2"), ("127.0.0.2", "127.0.0.1")])
@pytest.mark.parametrize("which", [0, 1])
def test_a_stream_goes_to_who_asked_for_it(twins, hosts, which):
    _, connect = twins
    pair = connect(*hosts)
    for sock in pair:
        assert asks(sock).status == 200
    follower, other = pair[which], pair[1 - which]
    follower.sendall(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
    answer = b""
    while b"retry: 1000" not in answer:
        more = follower.recv(4096)
        assert more, answer
        answer += more
    assert asks(other).status == 200


@pytest.mark.parametrize("which", [0, 1])
def test_who_is_slow_is_cut_and_nobody_else(twins, which):
    _, connect = twins
    pair = connect("127.0.0.1", "127.0.0.2")
    slow, other = pair[which], pair[1 - which]
    assert asks(other).status == 200
    slow.sendall(b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n")
    while not select.select([slow], [], [], 0.1)[0]:  # a byte now and then: only the watchdog ends that
        slow.sendall(b"x")
    assert read_reply(slow).status == 408
    assert asks(other).status == 200
