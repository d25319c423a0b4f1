"""Binaries: what may be uploaded, in which ways, what is kept of it on disk, and what is refused."""

import binascii
import hashlib
import io
import os
import re
import resource
import socket
import stat
import struct
import threading
import time
import urllib.parse
import zipfile

import pytest

import kit
from kit import make_zip, read_all, read_reply, unique, wait_for

EGG = {"Content-Type": "application/python-egg"}


def names(server, folder):
    return sorted(os.listdir(server.path(folder)))


@pytest.fixture
def nothing_left(server):
    """After a refused upload there is no more in the state directory than before."""
    before = {f: names(server, f) for f in ("blobs", "unpacked")}
    yield
    wait_for(lambda: names(server, "tmp") == [], lambda: "empty tmp/, not %s" % names(server, "tmp"), 5)
    assert {f: names(server, f) for f in before} == before


# ---- types, lists


@pytest.mark.parametrize(
    "media, shown",
    [
        ("application/python-egg", "Egg"),
        ("application/python-archive", "Egg"),
        ("application/python-wheel", "Wheel"),
        ("application/java-archive", "Jar"),
        ("application/zip", "Zip"),
        ("Application/Python-Egg; charset=utf-8", "Egg"),
    ],
)
def test_upload_of_each_type(server, media, shown):
    """201; then it is listed and shown with its type and time."""
    name = unique()
    reply = server.post("/binaries/" + name, make_zip({"app.py": name}), headers={"Content-Type": media})
    assert (reply.status, reply.json) == (201, {"status": "SUCCESS"})
    listed = server.get("/binaries").json[name]
    assert sorted(listed) == ["binary-type", "upload-time"] and listed["binary-type"] == shown
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", listed["upload-time"])
    assert server.get("/binaries/" + name).json == {"app-name": name, **listed}


@pytest.mark.parametrize(
    "media", [None, "application/octet-stream", "text/plain", "application/zipx", "application/python-egg/x", "egg"]
)
def test_other_types_are_refused(server, media, nothing_left):
    name = unique()
    reply = server.post("/binaries/" + name, make_zip(), headers={"Content-Type": media} if media else None)
    assert (reply.status, reply.json) == (
        415,
        {"status": "ERROR", "result": "Unsupported binary type %s" % (media or "application/octet-stream")},
    )
    assert server.get("/binaries/" + name).status == 404


def test_unknown_binary(server):
    assert server.get("/binaries/nobody").json == {"status": "ERROR", "result": "Can't find binary with name nobody"}
    assert server.get("/binaries/nobody").status == 404
    assert server.delete("/binaries/nobody").json == {"status": "ERROR", "result": "can't find binary with name nobody"}
    assert server.delete("/binaries/nobody").status == 404


def test_delete(server):
    """The name is gone, and so are its bytes."""
    name = server.upload(data=make_zip({"app.py": unique()}))
    (digest,) = [
        r[0]
        for r in server.rows(
            "SELECT digest FROM binary_versions v JOIN binaries b ON b.id = v.binary WHERE name = ?", name
        )
    ]
    assert digest in names(server, "blobs") and digest in names(server, "unpacked")
    assert server.delete("/binaries/" + name).json == {"status": "SUCCESS"}
    assert server.get("/binaries/" + name).status == 404 and name not in server.get("/binaries").json
    wait_for(lambda: digest not in names(server, "blobs") + names(server, "unpacked"), "removal of the bytes")
    wait_for(lambda: names(server, "tmp") == [], "empty tmp/")


def test_versions(server):
    """A second upload is a newer version, with a later time, even in the same millisecond; delete removes both."""
    name = unique()
    times = []
    for i in range(5):
        server.upload(
            name, make_zip({"app.py": unique()}), media="application/python-egg" if i < 4 else "application/zip"
        )
        times.append(server.get("/binaries/" + name).json["upload-time"])
    assert times == sorted(set(times)) and server.get("/binaries/" + name).json["binary-type"] == "Zip"
    assert (
        len(server.rows("SELECT 1 FROM binary_versions v JOIN binaries b ON b.id = v.binary WHERE name = ?", name)) == 5
    )
    assert server.delete("/binaries/" + name).status == 200
    assert server.get("/binaries/" + name).status == 404


def test_jars_of_old_clients(server):
    """/jars, as Spark Job Server had it until 0.10: whatever the type says, it is a jar; no other binary is listed."""
    name, egg = unique(), server.upload()
    reply = server.post("/jars/" + name, make_zip({"A.class": unique()}))
    assert (reply.status, reply.json) == (200, {"status": "SUCCESS", "result": "Jar uploaded"})
    shown = server.get("/binaries/" + name).json
    assert shown["binary-type"] == "Jar"
    listed = server.get("/jars").json
    assert listed[name] == shown["upload-time"] and egg not in listed
    for data in (b"hello", b"", GOOD[: len(GOOD) // 2]):
        assert server.post("/jars/" + unique(), data).status == 400
    assert server.post("/jars/" + unique(), b"hello").result == "Jar is not of the right format"
    assert server.request("DELETE", "/jars/" + name).status == 405 and server.get("/jars/" + name).status == 405
    assert server.delete("/binaries/" + name).status == 200


def test_the_same_bytes_are_stored_once(server):
    """Under their SHA-256; they stay until the last name of them is gone."""
    data = make_zip({"app.py": unique(), "folder/data.txt": "text"})
    digest = hashlib.sha256(data).hexdigest()
    one, two = server.upload(data=data), server.upload(data=data)
    assert names(server, "blobs").count(digest) == 1
    with open(server.path("blobs", digest), "rb") as f:
        assert f.read() == data
    with open(server.path("unpacked", digest, "folder", "data.txt")) as f:
        assert f.read() == "text"
    assert server.delete("/binaries/" + one).status == 200
    assert digest in names(server, "blobs") and os.path.exists(server.path("unpacked", digest, "app.py"))
    assert server.delete("/binaries/" + two).status == 200
    wait_for(lambda: digest not in names(server, "blobs") + names(server, "unpacked"), "removal of the bytes")


def test_uploads_at_once(server):
    """Eight clients upload the same bytes and other bytes at once; all are there afterwards."""
    same = make_zip({"app.py": unique()})
    wanted = [(unique(), same if i % 2 else make_zip({"app.py": unique()})) for i in range(8)]
    replies = [server.background("POST", "/binaries/" + n, d, headers=EGG) for n, d in wanted]
    assert [r().status for r in replies] == [201] * 8
    assert {n for n, _ in wanted} <= set(server.get("/binaries").json)
    wait_for(lambda: names(server, "tmp") == [], "empty tmp/")


# ---- archives that are refused


def raw_entry(name, content=b"x", flags=0, made_by=0x031E, attributes=0o100644 << 16, method=0, crc=None):
    """A zip of one entry whose every field is ours."""
    crc = binascii.crc32(content) if crc is None else crc
    local = (
        struct.pack(
            "<IHHHHHIIIHH", 0x04034B50, 20, flags, method, 0, 0x21, crc, len(content), len(content), len(name), 0
        )
        + name
        + content
    )
    central = (
        struct.pack(
            "<IHHHHHHIIIHHHHHII",
            0x02014B50,
            made_by,
            20,
            flags,
            method,
            0,
            0x21,
            crc,
            len(content),
            len(content),
            len(name),
            0,
            0,
            0,
            0,
            attributes,
            0,
        )
        + name
    )
    return local + central + struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 1, 1, len(central), len(local), 0)


def link_zip():
    info = zipfile.ZipInfo("link")
    info.create_system = 3
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return make_zip({info: "/etc/passwd"})


def twice():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as z:
        z.writestr("a.py", "1")
        with pytest.warns(UserWarning):
            z.writestr("a.py", "2")
    return out.getvalue()


GOOD = make_zip({"app.py": "x" * 3000, "b.py": "y"}, compression=zipfile.ZIP_DEFLATED)
BAD = {
    "empty": b"",
    "four bytes": b"PK\x03\x04",
    "text": b"hello, I am not an archive",
    "only its start": b"PK\x03\x04" + b"\0" * 100,
    "truncated": GOOD[: len(GOOD) // 2],
    "without its end": GOOD[:-30],
    "corrupt": GOOD[:40] + b"\xff\xff\xff\xff" + GOOD[44:],
    "wrong CRC": raw_entry(b"app.py", crc=1),
    "absolute": make_zip({"/etc/cron.d/x": "x"}),
    "dot dot": make_zip({"../x.py": "x"}),
    "dot dot inside": make_zip({"a/../../x.py": "x"}),
    "link": link_zip(),
    "device": raw_entry(b"dev", attributes=(stat.S_IFCHR | 0o666) << 16),
    "twice": twice(),
    "not UTF-8": raw_entry(b"\xff\xfe.py", flags=0x800),
    "control": raw_entry(b"a\nb.py"),
    "backslash": raw_entry(b"..\\x.py", made_by=0x0014),
    "no name": raw_entry(b""),
    "long path": make_zip({"d/" * 600 + "x": "x"}),
    "long part": make_zip({"n" * 300: "x"}),
    "encrypted": raw_entry(b"app.py", flags=1),
    "file as folder": make_zip({"a": "1", "a/b": "2"}),
    "deep": make_zip({"d/" * 200 + "x": "x"}),
    "central directory elsewhere": GOOD[:-6] + b"\xff\xff\xff\x7f\0\0",
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD.keys())
def test_archives_that_are_refused(server, data, nothing_left):
    """400 with a reason; nothing of it is left, in the state directory or beside it."""
    name = unique()
    reply = server.post("/binaries/" + name, data, headers=EGG)
    assert reply.status == 400 and reply.json["status"] == "ERROR" and reply.result
    assert server.get("/binaries/" + name).status == 404
    assert not os.path.exists(os.path.join(server.state, "x.py")) and not os.path.exists(server.path("tmp", "x.py"))


def test_fifo_in_an_archive(server, nothing_left):
    """libarchive does not tell it from a file: if it is taken, then as a plain file."""
    data = raw_entry(b"fifo", attributes=(stat.S_IFIFO | 0o666) << 16)
    name = unique()
    reply = server.post("/binaries/" + name, data, headers=EGG)
    assert reply.status in (201, 400)
    if reply.status == 201:
        path = server.path("unpacked", hashlib.sha256(data).hexdigest(), "fifo")
        assert stat.S_ISREG(os.lstat(path).st_mode)
        assert server.delete("/binaries/" + name).status == 200


def test_refused_upload_leaves_the_version_before(server, nothing_left):
    name = unique()
    server.upload(name, GOOD)
    before = server.get("/binaries/" + name).json
    assert server.post("/binaries/" + name, BAD["truncated"], headers=EGG).status == 400
    assert server.get("/binaries/" + name).json == before
    assert server.delete("/binaries/" + name).status == 200
    wait_for(lambda: names(server, "tmp") == [], "empty tmp/")


def test_limits_of_an_archive(server, nothing_left):
    """413 for too many entries (50 here), and for more than 1 MiB unpacked, as a bomb of zeros is."""
    for data, word in (
        (make_zip({"f%d" % i: "" for i in range(51)}), "50 entries"),
        (make_zip({"zeros": b"\0" * (2 << 20)}, compression=zipfile.ZIP_DEFLATED), "unpacks to more than 1048576"),
    ):
        reply = server.post("/binaries/" + unique(), data, headers=EGG)
        assert reply.status == 413 and word in reply.result, reply
    name = server.upload(data=make_zip({"f%d" % i: "" for i in range(50)}))
    assert server.delete("/binaries/" + name).status == 200
    wait_for(lambda: names(server, "tmp") == [], "empty tmp/")


def test_upload_over_the_limit(server, nothing_left):
    """413, with a length before a byte is read, without one when the limit is passed."""
    data = make_zip({"app.py": os.urandom(300_000)})
    assert server.post("/binaries/" + unique(), data, headers=EGG).status == 413
    chunks = iter([data[i : i + 10000] for i in range(0, len(data), 10000)])
    reply = server.post("/binaries/" + unique(), chunks, headers=EGG)
    assert reply.status == 413 and reply.json["status"] == "ERROR"


# ---- ways of sending


def head(path, *lines):
    return "\r\n".join(
        ["POST %s HTTP/1.1" % path, "Host: h", "Content-Type: application/python-egg", *lines, "", ""]
    ).encode()


def test_chunked_upload(server):
    """Without a length, in chunks of any size."""
    name = unique()
    data = make_zip({"app.py": unique()})
    reply = server.post("/binaries/" + name, iter([data[:1], data[1:3], data[3:10], data[10:]]), headers=EGG)
    assert reply.status == 201
    with open(server.path("blobs", hashlib.sha256(data).hexdigest()), "rb") as f:
        assert f.read() == data


@pytest.mark.parametrize(
    "body", [b"zz\r\nPK", b"5\r\nPK\3\4", b"-1\r\n", b"ffffffffffffffffff\r\nPK", b"4\r\nPK\3\4X\r\n0\r\n\r\n"]
)
def test_broken_chunks(server, body, nothing_left):
    """A chunk that is none: 400, and the connection ends."""
    answer = server.raw(head("/binaries/" + unique(), "Transfer-Encoding: chunked") + body)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400"), answer


def test_expect_continue(server):
    """100 Continue is sent before the body is read, and the upload is taken."""
    data = make_zip({"app.py": unique()})
    with server.connect() as sock:
        sock.sendall(head("/binaries/" + unique(), "Content-Length: %d" % len(data), "Expect: 100-continue"))
        assert sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(data)
        assert read_reply(sock).status == 201


@pytest.mark.parametrize(
    "lines, status", [(["Content-Length: 999999999"], 413), (["Content-Length: 10", "Content-Type: text/plain"], 415)]
)
def test_refusal_instead_of_continue(server, lines, status, nothing_left):
    """A body that nobody wants is not asked for."""
    request = head("/binaries/" + unique(), *lines, "Expect: 100-continue")
    if status == 415:
        request = request.replace(b"Content-Type: application/python-egg\r\n", b"")
    with server.connect() as sock:
        sock.sendall(request)
        answer = read_all(sock)
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer


def test_short_body(server, nothing_left):
    """Fewer bytes than announced: the upload is an error, not a shorter binary."""
    name = unique()
    answer = server.raw(head("/binaries/" + name, "Content-Length: %d" % (len(GOOD) + 10)) + GOOD)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400"), answer
    assert server.get("/binaries/" + name).status == 404


def test_client_that_vanishes(server, nothing_left):
    """In the middle of an upload, with a reset: nothing is left in tmp/."""
    data, name = make_zip({"app.py": os.urandom(200_000)}), unique()
    with server.connect() as sock:
        sock.sendall(head("/binaries/" + name, "Content-Length: %d" % len(data)) + data[:100_000])
        wait_for(lambda: names(server, "tmp"), "upload on its way")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait_for(lambda: not names(server, "tmp"), "end of the upload")
    assert name not in server.get("/binaries").json


def test_slow_upload_that_goes_on(server):
    """A client that sends now and then is waited for."""
    data = make_zip({"app.py": unique()})
    with server.connect() as sock:
        sock.sendall(head("/binaries/" + unique(), "Content-Length: %d" % len(data)))
        for i in range(0, len(data), len(data) // 5 + 1):
            time.sleep(0.1)
            sock.sendall(data[i : i + len(data) // 5 + 1])
        assert read_reply(sock).status == 201


def test_upload_that_stalls(server, nothing_left):
    """A silent client is given up after request-timeout (2 s here): 408, and nothing is left."""
    start = time.monotonic()
    with server.connect() as sock:
        sock.sendall(head("/binaries/" + unique(), "Content-Length: %d" % len(GOOD)) + GOOD[:50])
        answer = read_all(sock)
    assert 1.5 < time.monotonic() - start < 8
    assert answer.startswith(b"HTTP/1.1 408"), answer


def test_upload_that_trickles(server, nothing_left):
    """A byte now and then is not enough: the whole body has a limit too."""
    start = time.monotonic()
    with server.connect(timeout=12) as sock:
        sock.sendall(head("/binaries/" + unique(), "Content-Length: 100000") + GOOD[:50])
        stop = threading.Event()

        def trickle():
            try:
                while not stop.wait(0.2):
                    sock.sendall(b"x")
            except OSError:
                pass

        thread = threading.Thread(target=trickle)
        thread.start()
        try:
            answer = read_all(sock)
        finally:
            stop.set()
            thread.join()
    assert time.monotonic() - start < 12
    assert answer == b"" or answer.startswith(b"HTTP/1.1 408"), answer


def test_keep_alive_after_an_upload(server):
    """The connection serves the next request, after a refused upload of moderate size too."""
    with server.connect() as sock:
        for path, data, status in (("good", make_zip({"app.py": unique()}), 201), ("bad", b"not a zip", 400)):
            sock.sendall(head("/binaries/" + unique(path), "Content-Length: %d" % len(data)) + data)
            assert read_reply(sock).status == status
        sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n")
        assert read_reply(sock).status == 200


# ---- names


@pytest.mark.parametrize(
    "name",
    ["a", "n" * 255, "with space", "ünï-ço∂é", "a/b", "a.b-c_d", "%", "a?b#c", "🙂", "'\"", "{id}"],
)
def test_names_that_are_taken(server, name):
    """Whatever is text and not a path of ours."""
    server.upload(name, make_zip())
    quoted = urllib.parse.quote(name, safe="")
    assert server.get("/binaries/" + quoted).json["app-name"] == name
    assert name in server.get("/binaries").json
    assert server.delete("/binaries/" + quoted).status == 200


@pytest.mark.parametrize(
    "raw",
    [
        "%00",
        "a%00b",
        "a%0ab",
        "a%0d%0ab",
        "%01",
        "%7f",
        "%c2%85",
        "%ff",
        "%ed%a0%80",
        "%c0%af",
        "%zz",
        "%2",
        "n" * 256,
        "%e2%82",
    ],
)
def test_names_that_are_refused(server, raw, nothing_left):
    """NUL, control characters, bad escapes, invalid UTF-8 and names of more than 255 bytes: 400."""
    reply = server.post("/binaries/" + raw, make_zip(), headers=EGG)
    assert reply.status == 400 and reply.json["status"] == "ERROR"
    assert server.get("/binaries/" + raw).status in (400, 404)


def test_full_disk_is_said(daemon):
    """A limit of the file size, as a full disk would be: 507, nothing left, the server goes on."""
    one = daemon()
    one.restore_signals = False
    one.start()
    resource.prlimit(one.process.pid, resource.RLIMIT_FSIZE, (3_000_000, 3_000_000))
    reply = one.post("/binaries/big", make_zip({"data": os.urandom(4_000_000)}), headers=EGG)
    assert reply.status in (500, 507) and reply.json["status"] != "SUCCESS", reply
    assert one.running and one.get("/healthz").status == 200
    assert os.listdir(one.path("tmp")) == []
    assert one.post("/binaries/small", make_zip(), headers=EGG).status == 201


def test_versions_cost_the_server_no_memory(daemon):
    """Once each thread has served an upload, what grows is SQLite's cache, by less than 1 KiB for a version."""
    server = daemon(log_level="warn", http_threads=8, max_waiting=4).start()
    context = server.create()

    def run_versions(n):
        for _ in range(n):
            server.upload("a", make_zip({"app.py": "# %s\n" % unique()}))
            assert server.run(context, "a").status == 200
        return kit.rss_anon(server)

    before = run_versions(40)
    after = run_versions(100)
    print("100 versions: RssAnon %d KiB before, %d KiB after" % (before >> 10, after >> 10))
    assert after - before < (1 << 20) or kit.REPORTS
