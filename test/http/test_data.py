"""/data: files that clients leave for jobs. One folder is the record, whatever happens to the server."""

import os
import re
import socket
import urllib.parse

import pytest

from kit import read_all, wait_for
from shim import Shim

NAME = r"%s-\d{4}-\d\d-\d\dT\d\d_\d\d_\d\d\.\d{3}(Z|[+-]\d\d_\d\d)\.dat"


def upload(server, prefix, data=b"some data", **kw):
    """The path of the stored file."""
    reply = server.post("/data/" + urllib.parse.quote(prefix, safe=""), data, **kw)
    assert reply.status == 200 and sorted(reply.json) == ["result"] and sorted(reply.result) == ["filename"], reply
    return reply.result["filename"]


def delete(server, path):
    return server.delete("/data/" + urllib.parse.quote(path, safe=""))


def content(path):
    with open(path, "rb") as f:
        return f.read()


@pytest.fixture
def nothing_left(server):
    before = sorted(os.listdir(server.path("data")))
    yield
    wait_for(lambda: os.listdir(server.path("tmp")) == [], "empty tmp/")
    assert sorted(os.listdir(server.path("data"))) == before


def test_a_file_from_its_upload_to_its_end(server):
    data = os.urandom(100_000)
    path = upload(server, "people.csv", data)
    assert re.fullmatch(NAME % re.escape("people.csv"), os.path.basename(path)) and os.path.isabs(path)
    assert content(path) == data
    assert path in server.get("/data").json and path in server.get("/data/").json
    reply = delete(server, path)
    assert (reply.status, reply.json) == (200, {"status": "SUCCESS"})
    assert not os.path.exists(path) and path not in server.get("/data").json


def test_any_type_any_form_and_nothing_at_all(server):
    """The body is bytes, whatever its Content-Type says; it may be empty, or come in chunks."""
    for headers in ({}, {"Content-Type": "application/x-www-form-urlencoded"}, {"Content-Type": "text/csv"}):
        assert content(upload(server, "a", b"x=1&y=2", headers=headers)) == b"x=1&y=2"
    assert content(upload(server, "empty", b"")) == b""
    assert content(upload(server, "chunks", iter([b"one", b"two"]))) == b"onetwo"


def test_the_same_name_twice(server):
    """Each upload is a file of its own, also within a millisecond."""
    replies = [server.background("POST", "/data/same", b"%d" % i) for i in range(16)]
    paths = [reply().result["filename"] for reply in replies]
    assert len(set(paths)) == 16
    assert sorted(int(content(p)) for p in paths) == list(range(16))


@pytest.mark.parametrize("prefix", ["a b", "ü-name", "100%", "x" * 200, "a.b.c", "--", "'quoted\"", "back\\slash", "*"])
def test_names(server, prefix):
    path = upload(server, prefix)
    assert os.path.basename(path).startswith(prefix + "-") and os.path.dirname(path) == os.path.realpath(server.path("data"))
    assert delete(server, path).status == 200


@pytest.mark.parametrize("prefix", ["..", "../x", "/etc/x", "a/b", ".hidden", "x" * 201, "line\nbreak", "tab\tb", "/"])
def test_names_that_are_refused(server, prefix, nothing_left):
    """400 with the text of Spark Job Server, and beside it what is wrong: no file leaves the folder."""
    reply = server.post("/data/" + urllib.parse.quote(prefix, safe=""), b"x")
    assert reply.status == 400, reply
    if "\n" in prefix:  # the edge has said so already
        return
    assert reply.result == "Failed to store data file '%s'." % prefix and "the file's name" in reply.json["reason"]


def test_over_the_limit(server, nothing_left):
    """413, told before a byte is read or when the limit is passed."""
    data = os.urandom(300_000)
    assert server.post("/data/big", data).status == 413
    reply = server.post("/data/big", iter([data[i : i + 10000] for i in range(0, len(data), 10000)]))
    assert reply.status == 413 and "262144 bytes" in reply.result


def test_a_client_that_leaves(server, nothing_left):
    with server.connect() as sock:
        sock.sendall(b"POST /data/half HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\nthe first part")
        sock.shutdown(socket.SHUT_WR)
        assert b"filename" not in read_all(sock)


@pytest.mark.parametrize("where", ["token", "stoker.db", "data/../token", "data/.x.dat", "data/", "data", "data/x.txt", "data/a/b.dat"])
def test_only_data_files_are_deleted(server, where):
    """400 for anything that is not a file of /data, which stays."""
    path = os.path.join(os.path.realpath(server.state), where)
    reply = delete(server, path)
    assert (reply.status, reply.result) == (400, "Unable to delete data file '%s'." % path)
    assert os.path.exists(server.path("token")) and os.path.exists(server.path("stoker.db"))
    assert delete(server, "/etc/passwd").status == 400 and os.path.exists("/etc/passwd")


def test_delete_twice(server):
    path = upload(server, "gone")
    assert delete(server, path).status == 200
    assert (delete(server, path).status, delete(server, os.path.basename(path)).status) == (400, 400)


def test_links_are_not_followed(server, nothing_left):
    """What somebody has put into the folder goes without harm to what it leads to."""
    link = os.path.join(os.path.realpath(server.path("data")), "link.dat")
    os.symlink(os.path.realpath(server.path("token")), link)
    assert delete(server, link).status == 200
    assert os.path.exists(server.path("token")) and not os.path.lexists(link)


@pytest.mark.own_server
def test_reset(server):
    paths = [upload(server, "n%d" % i) for i in range(3)]
    assert sorted(server.get("/data").json) == sorted(paths)
    reply = server.request("PUT", "/data?reset=reboot")
    assert (reply.status, reply.json) == (200, {"status": "SUCCESS", "result": "Data reset"})
    assert server.get("/data").json == [] and not any(map(os.path.exists, paths))
    upload(server, "again")
    reply = server.request("PUT", "/data?reset=reboot&sync=false")
    assert (reply.status, reply.result) == (200, "Data reset requested")
    assert server.get("/data").json == []


@pytest.mark.parametrize(
    "query, status, text",
    [
        ("", 404, "Request is missing required query parameter 'reset'"),
        ("?reset=x", 400, "The query parameter 'reset' was malformed:\n'x' is not 'reboot'"),
        ("?reset=reboot&sync=x", 400, "The query parameter 'sync' was malformed:\n'x' is not a valid Boolean value"),
    ],
)
def test_a_reset_must_be_meant(server, query, status, text):
    path = upload(server, "stays")
    reply = server.request("PUT", "/data" + query)
    assert (reply.status, reply.result) == (status, text)
    assert os.path.exists(path) and delete(server, path).status == 200


def test_routes(server):
    for method, path, status in (("POST", "/data", 404), ("DELETE", "/data", 404), ("GET", "/data/x", 405), ("PUT", "/data/x", 405)):
        assert server.request(method, path).status == status, (method, path)
    assert server.request("GET", "/data/x").headers["Allow"] == "POST, DELETE"
    assert server.request("PATCH", "/data").status == 405


@pytest.mark.own_server
def test_files_outlive_the_server(server):
    """Deleted ones do not come back, others stay; what was on its way when it died is removed."""
    gone, stays = upload(server, "gone"), upload(server, "stays", b"kept")
    assert delete(server, gone).status == 200
    with server.connect() as sock:
        sock.sendall(b"POST /data/half HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\nthe first part")
        wait_for(lambda: os.listdir(server.path("tmp")), "upload on its way")
        server.kill()
    server.start()
    assert server.get("/data").json == [stays] and content(stays) == b"kept"
    wait_for(lambda: os.listdir(server.path("tmp")) == [], "empty tmp/")


def test_a_full_disk(daemon):
    """507, and nothing is left; afterwards it goes on."""
    server = daemon()
    shim = Shim(server)
    server.start()
    with shim.failing(".data"):
        reply = server.post("/data/full", b"x")
        assert reply.status == 507 and "No space" in reply.result
    assert os.listdir(server.path("data")) == [] and os.listdir(server.path("tmp")) == []
    assert content(upload(server, "full", b"x")) == b"x"
