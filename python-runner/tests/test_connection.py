"""connection.py over real sockets, without Spark."""
import json
import os
import select
import socket
import struct
import threading
import time

import pytest

from stoker_runner import connection, proc
from stoker_runner.connection import BadFrame, Decoder, Link, encode


def frame(payload):
    return struct.pack(">I", len(payload)) + payload


def test_frames_come_whole_from_any_pieces():
    messages = [{"type": "a", "text": "\u00fc\n"}, {"type": "b", "n": 1}]
    data = b"".join(map(encode, messages))
    for size in (1, 3, 7, len(data)):
        decoder, got = Decoder(), []
        for start in range(0, len(data), size):
            got += decoder.feed(data[start:start + size])
        assert got == messages


@pytest.mark.parametrize("data", [frame(b""), struct.pack(">I", 101), frame(b"nonsense"), frame(b"[]"), frame(b"{}"),
                                  frame(b'{"type": 1}'), frame(b'"text"'), frame(b"\xff")])
def test_what_is_not_a_message_breaks_the_connection(data):
    with pytest.raises(BadFrame):
        Decoder(max_frame=100).feed(data)


def test_a_lone_surrogate_does_not_break_a_frame():
    assert Decoder().feed(encode({"type": "a", "text": "x\ud800y"})) == [{"type": "a", "text": "x?y"}]


class Server:
    """Accepts one connection at a time, by hand."""

    def __init__(self, state):
        self.path = os.path.join(state, connection.SOCKET)
        with open(os.path.join(state, "token"), "w") as f:
            f.write("t\n")
        self.listen()

    def listen(self):
        if os.path.exists(self.path):
            os.unlink(self.path)
        self.listener = socket.socket(socket.AF_UNIX)
        here = os.getcwd()
        os.chdir(os.path.dirname(self.path))    # the path may be too long for an address
        try:
            self.listener.bind(connection.SOCKET)
        finally:
            os.chdir(here)
        self.listener.listen(5)
        self.listener.settimeout(10)

    def accept(self):
        """The next connection and its hello."""
        self.sock, _ = self.listener.accept()
        self.sock.settimeout(10)
        self.decoder, self.queue = Decoder(), []
        return self.read()

    def read(self):
        while not self.queue:
            data = self.sock.recv(65536)
            assert data, "the other side has closed"
            self.queue += self.decoder.feed(data)
        return self.queue.pop(0)

    def send(self, *messages):
        self.sock.sendall(b"".join(map(encode, messages)))


class Client:
    """A Link with a thread that runs it, as a worker's I/O thread does."""

    def __init__(self, state):
        self.got, self.events = [], []
        self.link = Link(state, lambda: {"role": "worker", "context": "c", "process": "w-1"}, self.deliver,
                         lambda: self.events.append("welcomed"), lambda: self.events.append("lost"),
                         lambda reason: self.events.append("refused " + reason))
        self.thread = threading.Thread(target=self.loop, daemon=True)
        self.thread.start()

    def deliver(self, message):
        if message["type"] == "unknown":
            raise BadFrame("unknown")
        self.got.append(message["type"])

    def loop(self):
        while not self.link.closed:
            poller = select.poll()
            if self.link.fileno() >= 0:
                poller.register(self.link.fileno(), select.POLLIN)
            timeout = self.link.timeout()
            self.link.step(bool(poller.poll(50 if timeout is None else min(50, 1000 * timeout + 1))))


def until(condition):
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.fixture
def state(tmp_path):
    return str(tmp_path)


@pytest.fixture
def pair(state):
    server = Server(state)
    client = Client(state)
    yield server, client
    client.link.close()
    client.thread.join(5)


def test_hello_and_welcome(pair):
    server, client = pair
    hello = server.accept()
    assert hello["type"] == "hello" and hello["token"] == "t" and hello["process"] == "w-1"
    assert hello["pid"] == os.getpid() and hello["start_time"] == proc.start_time(os.getpid())
    assert hello["boot_id"] == proc.boot_id()
    assert not client.link.send({"type": "early"})
    server.send({"type": "welcome"}, {"type": "next"})
    until(lambda: client.got == ["next"])
    assert client.events == ["welcomed"] and client.link.send({"type": "late"})
    assert server.read()["type"] == "late"


def test_the_socket_is_out_of_the_way_of_jobs(pair):
    server, client = pair
    server.accept()
    assert client.link.fileno() >= proc.PRIVATE_FD


def test_an_ended_connection_is_read_to_its_end_and_dialled_again(pair):
    server, client = pair
    server.accept()
    server.send({"type": "welcome"}, *({"type": "run %d" % i} for i in range(50)))
    server.sock.close()
    server.accept()
    assert client.got == ["run %d" % i for i in range(50)] and client.events == ["welcomed", "lost"]
    server.send({"type": "welcome"})
    until(lambda: client.events == ["welcomed", "lost", "welcomed"])


def test_a_server_that_comes_late_is_found(state):
    client = Client(state)
    time.sleep(0.3)
    server = Server(state)
    assert server.accept()["type"] == "hello"
    client.link.close()


def test_refused_never_dials_again(pair):
    server, client = pair
    server.accept()
    server.send({"type": "refused", "reason": "no"})
    client.thread.join(5)
    assert client.events == ["refused no"] and client.link.closed


@pytest.mark.parametrize("bad", [encode({"type": "unknown"}), frame(b"nonsense")])
def test_nonsense_ends_the_connection(pair, bad):
    server, client = pair
    server.accept()
    server.sock.sendall(encode({"type": "welcome"}) + bad)
    assert server.sock.recv(1) == b""
    assert server.accept()["type"] == "hello"


def test_a_silent_listener_does_not_count(pair, monkeypatch):
    monkeypatch.setattr(connection, "WELCOME_SECONDS", 0.2)
    server, client = pair
    server.accept()
    first = server.sock
    assert server.accept()["type"] == "hello"
    assert first.recv(1) == b"" and client.events == []


def test_a_long_frame_is_sent_whole_to_a_slow_server(pair):
    server, client = pair
    server.accept()
    server.send({"type": "welcome"})
    until(lambda: client.link.welcome)
    threading.Thread(target=client.link.send, args=({"type": "done", "text": "x" * 900000},), daemon=True).start()
    time.sleep(0.1)     # the socket's buffer is full now
    assert len(server.read()["text"]) == 900000


def test_a_server_that_takes_nothing_counts_as_lost(pair, monkeypatch):
    monkeypatch.setattr(connection, "SEND_SECONDS", 0.2)
    server, client = pair
    server.accept()
    server.send({"type": "welcome"})
    until(lambda: client.link.welcome)
    assert not client.link.send({"type": "done", "text": "x" * 900000})
    assert server.accept()["type"] == "hello"


def test_a_closed_descriptor_is_noticed_and_left_alone(pair):
    server, client = pair
    server.accept()
    server.send({"type": "welcome"})
    until(lambda: client.link.welcome)
    link = client.link
    assert link.intact()
    link.closed = True          # end of the loop: no other thread may meet the descriptor now
    client.thread.join(5)
    fd = link.fileno()
    mine = os.open(os.devnull, os.O_RDONLY)
    os.dup2(mine, fd)
    os.close(mine)
    assert not link.intact()
    link.close()
    os.fstat(fd)                # it belongs to somebody else, and is still open
    os.close(fd)


def test_long_state_directories(tmp_path):
    state = tmp_path / ("x" * 150)
    state.mkdir()
    server, client = Server(str(state)), Client(str(state))
    assert server.accept()["type"] == "hello"
    client.link.close()


def test_spool_files_are_whole_or_absent(state):
    connection.write_spool(state, "job.1", {"type": "done", "text": "\u00fc\ud800"})
    with open(os.path.join(state, "spool", "job.1"), encoding="utf-8") as f:
        assert json.load(f) == {"type": "done", "text": "\u00fc?"}
    assert os.listdir(os.path.join(state, "spool")) == ["job.1"]
    connection.forget_spool(state, "job.1")
    connection.forget_spool(state, "job.1")
    assert os.listdir(os.path.join(state, "spool")) == []


def test_threads_that_spool_at_once_never_share_a_file(state):
    errors, start = [], threading.Barrier(8)

    def write(number):
        start.wait(10)
        for _ in range(20):
            if not connection.write_spool(state, "job.1", {"number": number, "text": "x" * (1000 * number)}):
                errors.append(number)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not errors and os.listdir(os.path.join(state, "spool")) == ["job.1"]
    with open(os.path.join(state, "spool", "job.1")) as f:
        body = json.load(f)
    assert len(body["text"]) == 1000 * body["number"]
