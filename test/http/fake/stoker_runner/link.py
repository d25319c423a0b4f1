"""Frames, dialling and redialling (PROTOCOL.md sections 1 and 3), in one thread. Tests use it to play a process."""

import json
import os
import select
import signal
import socket
import struct
import time

from . import PROTOCOL

REDIAL_SECONDS = 0.05  # the treaty says 0.25; tests are impatient
WELCOME_SECONDS = 5.0


def encode(message):
    payload = json.dumps(message).encode()
    return struct.pack(">I", len(payload)) + payload


def decode(buffer):
    """The messages that are complete at the start of a bytearray, which loses them."""
    messages = []
    while len(buffer) >= 4:
        (length,) = struct.unpack_from(">I", buffer)
        if len(buffer) < 4 + length:
            break
        messages.append(json.loads(bytes(buffer[4 : 4 + length])))
        del buffer[: 4 + length]
    return messages


def start_time(pid):
    with open("/proc/%d/stat" % pid) as f:
        return int(f.read().rsplit(")", 1)[1].split()[19])


def boot_id():
    with open("/proc/sys/kernel/random/boot_id") as f:
        return f.read().strip()


def read_token(state_dir):
    with open(os.path.join(state_dir, "token")) as f:
        return f.read()


def hello_head(state_dir, pid):
    """The fields of `hello` that every process has."""
    return {
        "type": "hello",
        "protocol": PROTOCOL,
        "token": read_token(state_dir),
        "pid": pid,
        "start_time": start_time(pid),
        "boot_id": boot_id(),
    }


def dial(state_dir):
    """A connected socket; the state directory's path may be longer than a socket address."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    folder = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY)
    try:
        sock.connect("/proc/self/fd/%d/runner.sock" % folder)
    except OSError:
        sock.close()
        raise
    finally:
        os.close(folder)
    return sock


def write_spool(state_dir, name, body):
    path = os.path.join(state_dir, "spool", name)
    with open(path + ".tmp", "w") as f:
        json.dump(body, f)
        f.flush()
        os.fsync(f.fileno())
    try:
        os.rename(path + ".tmp", path)
    except FileNotFoundError:
        pass  # the server has forgotten this context, and swept it


def forget_spool(state_dir, name):
    try:
        os.unlink(os.path.join(state_dir, "spool", name))
    except FileNotFoundError:
        pass


class Link:
    """One process's connection. The owner gives hello() -> fields, deliver(message), and welcomed(), lost(), refused().

    SIGUSR1 to the process cuts it.
    """

    def __init__(self, state_dir, owner):
        signal.signal(signal.SIGUSR1, self._cut)
        self.state_dir, self.owner = state_dir, owner
        self.sock, self.buffer, self.welcome, self.redial_at, self.dialled_at = None, bytearray(), False, 0.0, 0.0

    def poll(self, seconds, *more_fds):
        """Dials when need be, then waits for input up to `seconds` and delivers it."""
        now = time.monotonic()
        if self.sock is None and now >= self.redial_at:
            self._dial()
        poller = select.poll()
        for fd in more_fds:
            poller.register(fd, select.POLLIN)
        if self.sock is not None:
            poller.register(self.sock, select.POLLIN)
        if not self.welcome:
            seconds = min(seconds, REDIAL_SECONDS)
        ready = [fd for fd, _ in poller.poll(1000 * seconds)]
        if self.sock is not None and self.sock.fileno() in ready:
            self._read()
        elif self.sock is not None and not self.welcome and time.monotonic() - self.dialled_at > WELCOME_SECONDS:
            self.drop()

    def send(self, message):
        return self.send_bytes(encode(message)) if self.welcome else False

    def send_bytes(self, data):
        """False when there is nobody; the end of the connection is noticed by reading it to its end."""
        try:
            self.sock.sendall(data)
        except (OSError, AttributeError):
            return False
        return True

    def drop(self):
        if self.sock is None:
            return
        closed, self.sock = self.sock, None  # in this order: _cut may come between any two lines
        closed.close()
        self.buffer, self.redial_at = bytearray(), time.monotonic() + REDIAL_SECONDS
        if self.welcome:
            self.welcome = False
            self.owner.lost()

    def _cut(self, *_):
        if self.sock is not None:
            self.sock.shutdown(socket.SHUT_RDWR)

    def _dial(self):
        self.redial_at = self.dialled_at = time.monotonic()
        self.redial_at += REDIAL_SECONDS
        try:
            self.sock = dial(self.state_dir)
        except OSError:
            return
        self.send_bytes(encode(dict(hello_head(self.state_dir, os.getpid()), **self.owner.hello())))

    def _read(self):
        try:
            data = self.sock.recv(65536)
        except OSError:
            data = b""
        if not data:
            self.drop()
            return
        self.buffer += data
        for message in decode(self.buffer):
            if message["type"] == "welcome":
                self.welcome = True
                self.owner.welcomed()
            elif message["type"] == "refused":
                self.owner.refused(message["reason"])
            else:
                self.owner.deliver(message)
