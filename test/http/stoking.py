"""For the tests of stoke: it is run in this process, or as a program, with pipes or in a terminal whose screen can be read."""

import contextlib
import fcntl
import io
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
from unittest import mock

import kit
from kit import wait_for

from stoke.cli import main

PROGRAM = [sys.executable, os.path.join(kit.TOP, "python-runner", "stoke")]
HANG = ("-c", "fake.do=hang")   # a job that takes no notice of interrupts
NOTE = re.compile(r"stoke: job ([-0-9a-f]{36}) in context (\S+)\n")
FEED = re.compile(r"\r\x1b\[2K|\r\n|\n|\r|\x1b\[[0-9;]*m|[^\r\n\x1b]+|\x1b")


def dictated(script):
    """Options of `run` for a kit.Dictation."""
    return ["-c", "fake.do=dictate", "-c", "fake.script=" + script.path]


class Done:
    """How a stoke has ended."""

    def __init__(self, status, out, err):
        self.status, self.out, self.err = status, out, err

    @property
    def objects(self):
        """The lines of --json."""
        return [json.loads(line) for line in self.out.splitlines()]

    def __repr__(self):
        return "<%s\n%s\n%s>" % (self.status, self.out, self.err)


def environment(server, **more):
    found = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES")}
    return {**found, "TERM": "xterm", "PYTHONUNBUFFERED": "", "STOKER_URL": "http://127.0.0.1:%d" % server.port, **more}


def stoke(server, *args, input=None, env=None, binary=False):
    """Runs it to its end: in this process, for one of its own takes long to start; with input: as a program."""
    env = environment(server, **(env or {}))
    if input is None:
        status, out, err = called(args, env)
    else:
        done = subprocess.run([*PROGRAM, *args], env=env, input=input.encode(), capture_output=True, timeout=4 * kit.WAIT,
                              cwd=kit.HERE)
        status, out, err = done.returncode, done.stdout, done.stderr
    return Done(status, *((out, err) if binary else (out.decode(), err.decode())))


def called(args, env):
    """(status, standard output, standard error) of stoke's main(). In the main thread only, for stoke has a handler of Ctrl-C."""
    def late(*_):
        raise AssertionError("stoke %s goes on and on" % " ".join(args))

    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8") for _ in range(2))
    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, 4 * kit.WAIT)
    try:
        with mock.patch.dict(os.environ, env, clear=True), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(list(args))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    err.flush()
    return status, out.buffer.getvalue(), err.buffer.getvalue()


class Process:
    """A stoke that goes on; its output lies in files, so that it never waits for us."""

    def __init__(self, server, *args, stdout=None):
        self._files = [tempfile.TemporaryFile() for _ in range(2)]
        self.process = subprocess.Popen([*PROGRAM, *args], env=environment(server), stdin=subprocess.DEVNULL,
                                        stdout=stdout or self._files[0], stderr=self._files[1], cwd=kit.HERE)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for file in self._files:
            file.close()

    def _text(self, file):
        return os.pread(file.fileno(), 1 << 30, 0).decode()

    @property
    def out(self):
        return self._text(self._files[0])

    @property
    def err(self):
        return self._text(self._files[1])

    def wait_out(self, text):
        wait_for(lambda: text in self.out, lambda: "%r in %r, %r" % (text, self.out[-500:], self.err[-500:]))

    def wait_err(self, text):
        wait_for(lambda: text in self.err, lambda: "%r in %r" % (text, self.err[-500:]))

    def interrupt(self):
        self.process.send_signal(signal.SIGINT)

    def wait(self):
        return Done(self.process.wait(2 * kit.WAIT), self.out, self.err)


class Tty:
    """A stoke in a terminal. screen: its lines, as a person sees them; raw: all that was written."""

    def __init__(self, server, *args, columns=100, env=None):
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        self.process = subprocess.Popen(
            [*PROGRAM, *args], env=environment(server, **(env or {})), stdin=slave, stdout=slave, stderr=slave, cwd=kit.HERE,
            start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
        os.close(slave)
        self.raw = ""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._thread.join(kit.WAIT)
        os.close(self._master)

    def _read(self):
        while True:
            try:
                data = os.read(self._master, 65536)
            except OSError:     # EIO: the last one has closed it
                return
            self.raw += data.decode()

    def type(self, text):
        os.write(self._master, text.encode())

    def wait_raw(self, text):
        wait_for(lambda: text in self.raw, lambda: "%r in %r" % (text, self.raw[-1000:]))

    def wait_screen(self, *patterns):
        """Waits until each pattern is on a line of the screen."""
        wait_for(lambda: all(any(re.search(p, line) for line in self.screen) for p in patterns),
                 lambda: "%r on\n%s" % (patterns, "\n".join(self.screen)))

    def wait(self):
        status = self.process.wait(2 * kit.WAIT)
        self._thread.join(kit.WAIT)
        return Done(status, "\n".join(self.screen), "")

    @property
    def screen(self):
        lines, column = [""], 0
        for token in FEED.findall(self.raw):
            if token == "\r\x1b[2K":
                lines[-1], column = "", 0
            elif token in ("\r\n", "\n"):
                lines.append("")
                column = 0
            elif token == "\r":
                column = 0
            elif not token.startswith("\x1b"):
                lines[-1] = lines[-1][:column] + token + lines[-1][column + len(token):]
                column += len(token)
        return lines
