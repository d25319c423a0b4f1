"""The wire of PROTOCOL.md sections 1 and 3: frames, dialling, hello and welcome, redialling.

A Link belongs to the thread that calls step(); send() may be called from any thread. It knows nothing of what the
messages mean: each role passes its own callbacks.
"""
import json
import os
import select
import socket
import struct
import sys
import threading
import time

from . import PROTOCOL, proc

MAX_FRAME = 64 << 20        # bytes of a payload: the longest the server may send (`run`)
MAX_FRAME_UP = 1 << 20      # the longest it takes
WELCOME_SECONDS = 5.0       # a listener that nobody serves accepts and stays silent
REDIAL_SECONDS = 0.25
SEND_SECONDS = 30.0         # a server that takes nothing for so long counts as lost
SOCKET = "runner.sock"

_HEADER = struct.Struct(">I")
_dumps = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class BadFrame(Exception):
    """The peer broke the protocol; the stream cannot be resynchronised."""


def encode(message):
    """The bytes of one frame. Lone surrogates, which UTF-8 has no bytes for, become question marks."""
    payload = _dumps(message).encode("utf-8", "replace")
    return _HEADER.pack(len(payload)) + payload


class Decoder:
    """Bytes in, messages (dicts) out."""

    def __init__(self, max_frame=MAX_FRAME):
        self._buffer = bytearray()
        self._max = max_frame

    def feed(self, data):
        """The list of messages that `data` completes. BadFrame when they are none."""
        buffer, messages = self._buffer, []
        buffer += data
        start = 0
        while len(buffer) - start >= 4:
            length, = _HEADER.unpack_from(buffer, start)
            if not 0 < length <= self._max:
                raise BadFrame("a frame of %d bytes" % length)
            if len(buffer) - start - 4 < length:
                break
            messages.append(_parse(buffer[start + 4:start + 4 + length]))
            start += 4 + length
        del buffer[:start]
        return messages


def _parse(payload):
    try:
        message = json.loads(payload)
    except ValueError as e:
        raise BadFrame("not JSON: %s" % e)
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise BadFrame("not an object with a type")
    return message


class Link:
    """One process's connection to the server, dialled again whenever it is lost.

    state_dir: absolute path. hello: function giving the fields of `hello` that the role adds. deliver(message): called
    for each frame but welcome and refused; it raises BadFrame for a type that is not in the treaty. welcomed(): called
    after each `welcome`. lost(): called when a connection that was welcomed ends, after its last frame was delivered.
    refused(reason): the server has no place for this process; the link never dials again. All are called in the
    thread of step().
    """

    def __init__(self, state_dir, hello, deliver, welcomed=None, lost=None, refused=None):
        directory = os.open(state_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._directory = proc.keep_fd(directory)   # the socket is reached through it: paths of any length
        os.close(directory)
        self._state_dir = state_dir
        self._hello, self._deliver = hello, deliver
        self._welcomed, self._lost, self._refused = welcomed, lost, refused
        self._lock = threading.Lock()   # held while bytes are written, so that frames never mix
        self._socket = None
        self._identity = None           # of the socket, to notice a job that closed or replaced it
        self._decoder = None
        self._dialled = 0.0             # monotonic time of the last dial
        self.welcome = False            # connected, in the protocol's sense
        self.last_welcome = time.monotonic()
        self.closed = False

    # -- for the owner's poll loop

    def fileno(self):
        """The socket's descriptor, -1 while there is none."""
        return self._socket.fileno() if self._socket is not None else -1

    def timeout(self):
        """Seconds until step() has something to do without input, or None."""
        if self.closed or self.welcome:
            return None
        limit = WELCOME_SECONDS if self._socket is not None else REDIAL_SECONDS
        return max(0.0, self._dialled + limit - time.monotonic())

    def step(self, readable):
        """Dials when it is time to, reads when readable. Never blocks for longer than a local connect and a send."""
        if self.closed:
            return
        if self._socket is None:
            if time.monotonic() - self._dialled >= REDIAL_SECONDS:
                self._dial()
        elif readable:
            self._read()
        elif not self.welcome and time.monotonic() - self._dialled >= WELCOME_SECONDS:
            self._end()

    def intact(self):
        """False when the connection's descriptor is not what it was: a job has closed or replaced it."""
        s = self._socket
        return s is None or proc.identity(s.fileno()) == self._identity

    def close(self):
        """Never dials again."""
        self.closed = True
        self._drop()

    # -- sending, any thread

    def send(self, message):
        """True when the whole frame was handed to the kernel. False while disconnected: the message is dropped."""
        return self.send_frame(encode(message))

    def send_frame(self, frame):
        with self._lock:
            if not self.welcome:
                return False
            return self._write(frame)

    def _write(self, frame):
        s = self._socket
        try:
            sent = s.send(frame, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            sent = 0
        except OSError:
            return False                # the reader sees the end too
        if sent == len(frame):
            return True
        return self._write_rest(s, memoryview(frame)[sent:])

    @staticmethod
    def _write_rest(s, rest):
        poller = select.poll()
        poller.register(s.fileno(), select.POLLOUT)
        end = time.monotonic() + SEND_SECONDS
        while rest:
            try:
                if not poller.poll(max(0, 1000 * (end - time.monotonic()))):
                    s.shutdown(socket.SHUT_RDWR)    # half a frame is out: this connection is of no more use
                    return False
                rest = rest[s.send(rest, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL):]
            except BlockingIOError:
                continue
            except OSError:
                return False
        return True

    # -- dialling and reading, the owner's thread

    def _dial(self):
        self._dialled = time.monotonic()
        s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            s.connect("/proc/self/fd/%d/%s" % (self._directory, SOCKET))
            s = socket.socket(fileno=_take_fd(s))
            frame = encode(self._full_hello())
        except OSError:
            s.close()
            return
        with self._lock:
            self._socket, self._identity, self._decoder = s, proc.identity(s.fileno()), Decoder()
            ok = self._write(frame)
        if not ok:
            self._end()

    def _full_hello(self):
        pid = os.getpid()
        with open(os.path.join(self._state_dir, "token")) as f:
            token = f.read().strip()
        hello = {"type": "hello", "protocol": PROTOCOL, "token": token, "pid": pid,
                 "start_time": proc.start_time(pid), "boot_id": proc.boot_id()}
        hello.update(self._hello())
        return hello

    def _read(self):
        """One read; at the connection's end all that still stands in it is read first."""
        try:
            data = self._socket.recv(1 << 16)
        except InterruptedError:
            return
        except OSError:
            data = b""
        try:
            for message in self._decoder.feed(data):
                self._take(message)
                if self.closed:
                    return
        except BadFrame:
            data = b""
        if not data:
            self._end()

    def _take(self, message):
        kind = message["type"]
        if kind == "welcome":
            with self._lock:
                self.welcome = True
            self.last_welcome = time.monotonic()
            if self._welcomed:
                self._welcomed()
        elif kind == "refused":
            self.close()
            if self._refused:
                self._refused(str(message.get("reason")))
        else:
            self._deliver(message)

    def _end(self):
        was_welcome = self.welcome
        if was_welcome:
            self.last_welcome = time.monotonic()
        self._drop()
        self._dialled = time.monotonic()
        if was_welcome and self._lost:
            self._lost()

    def _drop(self):
        with self._lock:
            self.welcome = False
            s, self._socket = self._socket, None
            if s is not None:
                if proc.identity(s.fileno()) == self._identity:
                    s.close()
                else:
                    s.detach()          # the number belongs to somebody else now


def _take_fd(s):
    """Moves a socket's descriptor to PRIVATE_FD or above and returns it."""
    fd = proc.keep_fd(s.fileno())
    s.close()
    return fd


def write_spool(state_dir, name, body):
    """Writes `body` (a dict) to spool/name so that it survives a crash of the machine: temp, fsync, rename, fsync.

    False when the disk does not take it: the caller still has it in memory, and goes on.
    """
    folder = os.path.join(state_dir, "spool")
    path = os.path.join(folder, name)
    temp = "%s.%d.%d.tmp" % (path, os.getpid(), threading.get_native_id())
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        _write_file(temp, _dumps(body).encode("utf-8", "replace"))
        os.rename(temp, path)
        _sync(folder)
        return True
    except OSError as e:
        print("stoker: cannot write %s: %s" % (path, e), file=sys.stderr, flush=True)
        return False


def _write_file(path, data):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(fd, rest):]
        os.fsync(fd)
    finally:
        os.close(fd)


def _sync(folder):
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def forget_spool(state_dir, name):
    try:
        os.unlink(os.path.join(state_dir, "spool", name))
    except FileNotFoundError:
        pass
