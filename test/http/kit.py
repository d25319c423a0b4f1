"""What the tests of this folder are made of: a stokerd of their own (Daemon), an HTTP client, archives, and waiting."""

import contextlib
import http.client
import io
import json
import os
import re
import select
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import uuid
import zipfile

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
FAKE = os.path.join(HERE, "fake")
STOKERD = os.environ.get("STOKERD") or os.path.join(TOP, "build", "stokerd")
WAIT = 60.0  # seconds for anything that must happen; only a failing test waits so long

sys.path.insert(0, FAKE)
sys.path.insert(0, HERE)
import openapi  # noqa: E402
from stoker_runner import link  # noqa: E402, F401 - for the tests

JOB_STATES = (
    "QUEUED",
    "STARTING",
    "RUNNING",
    "CANCELLING",
    "FINISHED",
    "ERROR",
    "INVALID",
    "KILLED",
    "TIMED_OUT",
    "LOST",
)
CONTEXT_STATES = ("CREATING", "RUNNING", "STOPPING", "STOPPED", "FAILED", "LOST")
REPORTS = os.environ.get("STOKER_REPORTS")  # where sanitizers write: this, a dot and the pid of who is reported
SANITIZER = re.compile(r"AddressSanitizer|LeakSanitizer|runtime error:|ThreadSanitizer|Assertion .* failed")


def wait_for(condition, what, timeout=WAIT):
    """The first true value of condition()."""
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, "%s: not within %g s" % (what() if callable(what) else what, timeout)
        time.sleep(0.005)


def unique(prefix="t"):
    return "%s-%s" % (prefix, uuid.uuid4().hex[:8])


# ---- archives


def make_zip(files=None, **options):
    """The bytes of a zip archive. files: path or ZipInfo -> content."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", **options) as z:
        for path, content in (files if files is not None else {"app.py": "class Job: pass\n"}).items():
            z.writestr(path, content)
    return out.getvalue()


# ---- HTTP


class Reply:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    @property
    def text(self):
        return self.body.decode()

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def result(self):
        return self.json["result"]

    def __repr__(self):
        return "<%d %s>" % (self.status, self.body[:400])


class Client:
    """One connection for each request. Answers of the native API must be as docs/openapi.json has them."""

    def __init__(self, port):
        self.port = port

    def request(self, method, path, body=None, headers=None, http_timeout=60, **query):
        if query:
            path += ("&" if "?" in path else "?") + urllib.parse.urlencode(query)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=http_timeout)
        try:
            if isinstance(body, (dict, list)):
                body = json.dumps(body)
            if isinstance(body, str):
                body = body.encode()
            connection.request(method, path, body=body, headers={"Connection": "close", **(headers or {})})
            answer = connection.getresponse()
            reply = Reply(answer.status, answer.headers, answer.read())
            if re.match("/(v1|metrics)(/|$|\\?)", path):
                openapi.check(method, path, reply.status, reply.headers, reply.body)
            return reply
        finally:
            connection.close()

    def get(self, path, **kw):
        return self.request("GET", path, **kw)

    def post(self, path, body=None, **kw):
        return self.request("POST", path, body, **kw)

    def delete(self, path, **kw):
        return self.request("DELETE", path, **kw)

    def background(self, *args, **kw):
        """Makes the request in a thread. Returns a function that waits for its reply."""
        got = []

        def run():
            try:
                got.append(self.request(*args, **kw))
            except Exception as e:  # noqa: BLE001 - the caller is told
                got.append(e)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()

        def reply(timeout=60):
            thread.join(timeout)
            assert got, "no answer to %s within %g s" % (args, timeout)
            if isinstance(got[0], Exception):
                raise got[0]
            return got[0]

        reply.done = lambda: bool(got)
        return reply

    def connect(self, timeout=30):
        return socket.create_connection(("127.0.0.1", self.port), timeout=timeout)

    def raw(self, data, timeout=30):
        """Sends bytes, closes the sending side, returns all bytes that come back."""
        with self.connect(timeout) as sock:
            with contextlib.suppress(OSError):  # it may refuse before it has read everything
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)
            return read_all(sock)

    def raw_reply(self, data, timeout=30):
        """Sends bytes and reads one reply, leaving the sending side open."""
        with self.connect(timeout) as sock:
            sock.sendall(data)
            return read_reply(sock)


def read_all(sock):
    data = b""
    while True:
        try:
            more = sock.recv(65536)
        except ConnectionResetError:
            more = b""
        if not more:
            return data
        data += more


def read_reply(sock, method="GET"):
    answer = http.client.HTTPResponse(sock, method=method)
    answer.begin()
    return Reply(answer.status, answer.headers, answer.read())


class Stream:
    """A client that reads a reply without a known end, piece by piece, on a socket of its own."""

    def __init__(self, server, path, read=True, version="1.1", headers=""):
        self.sock = server.connect()
        self.data, self.whole, self.error = bytearray(), False, None
        self.sock.sendall(("GET %s HTTP/%s\r\nHost: x\r\n%s\r\n" % (path, version, headers)).encode())
        self.reply = http.client.HTTPResponse(self.sock, method="GET")
        self.thread = threading.Thread(target=self._read, daemon=True)
        if read:
            self.start()

    def start(self):
        self.reply.begin()
        self.status, self.headers = self.reply.status, self.reply.headers
        self.thread.start()
        return self

    def _read(self):
        try:
            while True:
                piece = self.reply.read1(65536)
                if not piece:
                    break
                self.data += piece
            self.whole = True
        except (OSError, http.client.HTTPException, ValueError) as e:
            self.error = e

    @property
    def text(self):
        return self.data.decode()

    def wait_text(self, text):
        wait_for(lambda: text in self.text, lambda: "%r in %r" % (text, self.text[-500:]))

    def wait_end(self):
        """All of it, once the stream has come to its end as it should."""
        self.thread.join(WAIT)
        assert not self.thread.is_alive() and self.whole, (self.error, self.data[-200:])
        return self.data

    def wait_cut(self):
        """All of it, once the server has ended the stream before its end."""
        self.thread.join(WAIT)
        assert not self.thread.is_alive() and not self.whole, self.data[-200:]
        return self.data

    def close(self):
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        if self.thread.ident:
            self.thread.join(WAIT)
        self.sock.close()
        self.reply.close()


# ---- the server


def libconfig(value):
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, (list, tuple)):
        return "[ %s ]" % ", ".join(libconfig(v) for v in value)
    return '"%s"' % value.replace("\\", "\\\\").replace('"', '\\"')


class Daemon(Client):
    """A stokerd with the fake runner in a folder of its own. start(), stop() and kill() as often as wished."""

    PRESETS = {
        "listen": ["127.0.0.1:0"],
        "log-level": "debug",
        "cancel-grace": "300ms",
        "stop-grace": "1s",
        "keep-alive-timeout": "2s",
    }

    def __init__(self, folder, long_path=False, env=None, **config):
        super().__init__(0)
        self.folder = folder
        self.state = os.path.join(
            folder, *(["a-folder-with-a-long-name-%d" % i for i in range(6)] if long_path else []), "state"
        )
        self.log_path = os.path.join(folder, "log")
        self.config_path = os.path.join(folder, "stoker.conf")
        self.env = {**os.environ, **(env or {})}
        self.process, self.status, self.first_line = None, None, None
        self.started = []  # the pid of each stokerd that ran here
        self.binary = STOKERD
        self.restore_signals = True  # False: SIGXFSZ stays ignored, as Python has it
        jdk = os.path.join(folder, "jdk", "bin")
        os.makedirs(jdk, exist_ok=True)
        with open(os.path.join(jdk, "java"), "w") as f:
            f.write("#!/bin/sh\nexit 1\n")
        os.chmod(f.name, 0o755)
        self.configure(
            **{
                "runner-dir": FAKE,
                "python": sys.executable,
                "java-home": os.path.dirname(jdk),
                "state-dir": self.state,
                **self.PRESETS,
                **{k.replace("_", "-"): v for k, v in config.items()},
            }
        )

    def configure(self, **config):
        with open(self.config_path, "w") as f:
            for key, value in config.items():
                f.write("%s = %s;\n" % (key, libconfig(value)))

    # -- life

    def start(self, *args):
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                [self.binary, "--config", self.config_path, *args],
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=self.folder,
                restore_signals=self.restore_signals,
            )
        self.started.append(self.process.pid)
        ready, _, _ = select.select([self.process.stdout], [], [], WAIT)
        assert ready, "stokerd says nothing\n" + self.log()
        self.first_line = self.process.stdout.readline().decode()
        match = re.fullmatch(r"listening on http://127\.0\.0\.1:(\d+)\n", self.first_line)
        assert match, "stokerd says %r\n%s" % (self.first_line, self.log()[-4000:])
        self.port = int(match.group(1))
        return self

    @property
    def running(self):
        return self.process is not None and self.process.poll() is None

    def send_signal(self, signum):
        self.process.send_signal(signum)

    def wait(self, timeout=WAIT):
        """The exit status, once it has ended."""
        try:
            self.status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError("stokerd still runs after %g s\n%s" % (timeout, self.log()[-4000:])) from None
        self.process.stdout.close()
        return self.status

    def stop(self, signum=signal.SIGTERM, timeout=WAIT):
        self.send_signal(signum)
        return self.wait(timeout)

    def kill(self):
        """kill -9, as a crash would end it."""
        self.send_signal(signal.SIGKILL)
        assert self.wait() == -signal.SIGKILL

    def restart(self):
        self.kill()
        return self.start()

    # -- looking inside

    def log(self):
        with open(self.log_path, errors="replace") as f:
            return f.read()

    def sanitizer_reports(self):
        """What a sanitizer said of the servers that ran here, also of those that were killed or replaced later."""
        found = []
        for pid in self.started if REPORTS else []:
            with contextlib.suppress(FileNotFoundError), open("%s.%d" % (REPORTS, pid), errors="replace") as f:
                found.append(f.read())
        return found

    def wait_log(self, pattern, timeout=WAIT, after=0):
        """Waits until the log matches, from the character `after` on."""
        return wait_for(
            lambda: re.search(pattern, self.log()[after:]),
            lambda: "%r in the log:\n%s" % (pattern, self.log()[-3000:]),
            timeout,
        )

    def path(self, *names):
        return os.path.join(self.state, *names)

    @contextlib.contextmanager
    def db(self):
        """The database, for reading or, while no server runs, for changing it."""
        connection = sqlite3.connect(self.db_path, timeout=10, isolation_level=None)
        try:
            yield connection
        finally:
            connection.close()

    @property
    def db_path(self):
        names = [n for n in os.listdir(self.state) if n.endswith((".db", ".sqlite", ".sqlite3"))]
        assert len(names) == 1, os.listdir(self.state)
        return self.path(names[0])

    def rows(self, sql, *values):
        with self.db() as db:
            return db.execute(sql, values).fetchall()

    @contextlib.contextmanager
    def frozen_store(self):
        """As long as this lasts, nothing can be committed: what waits for a commit waits."""
        with self.db() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield
            finally:
                db.execute("ROLLBACK")

    def job_row(self, job):
        """(state, attempt, worker's process, error object or None) as committed."""
        ((state, attempt, process, error),) = self.rows(
            "SELECT state, attempt, worker_process, error FROM jobs WHERE id = ?", job
        )
        return JOB_STATES[state], attempt, process, json.loads(error) if error else None

    def context_row(self, name):
        """(id, state, error object or None) of the newest context of that name."""
        row = self.rows("SELECT id, state, error FROM contexts WHERE name = ? ORDER BY seq DESC LIMIT 1", name)
        return row and (row[0][0], CONTEXT_STATES[row[0][1]], json.loads(row[0][2]) if row[0][2] else None)

    def pid(self, context, process):
        """The pid of a recorded process: "z", "k", "jvm" or a worker's name."""
        found = self.rows(
            "SELECT pid FROM processes p JOIN contexts c ON c.id = p.context_id WHERE c.name = ? AND p.process = ?"
            " ORDER BY c.seq DESC",
            context,
            process,
        )
        return found[0][0] if found else None

    def pids(self):
        """Live processes that belong to this server's contexts."""
        mark = b"STOKER_STATE_DIR=" + os.path.realpath(self.state).encode() + b"\0"
        found = []
        for name in os.listdir("/proc"):
            if not name.isdigit():
                continue
            try:
                with open("/proc/%s/environ" % name, "rb") as f:
                    environ = f.read() + b"\0"
                with open("/proc/%s/stat" % name) as f:
                    state = f.read().rsplit(")", 1)[1].split()[0]
            except OSError:
                continue
            if mark in environ and state not in "ZX":
                found.append(int(name))
        return found

    # -- everyday requests

    def create(self, name=None, wish=None, **settings):
        """A context that is up. wish: spark.fake.* settings by role."""
        name = name or unique("ctx")
        reply = self.post(
            "/contexts/" + urllib.parse.quote(name, safe=""),
            **settings,
            **{"spark.fake." + k: v for k, v in (wish or {}).items()}
        )
        assert reply.status == 200, reply
        return name

    def upload(self, name=None, data=None, media="application/python-egg"):
        name = name or unique("app")
        reply = self.post(
            "/binaries/" + urllib.parse.quote(name, safe=""),
            make_zip() if data is None else data,
            headers={"Content-Type": media},
        )
        assert reply.status == 201, reply
        return name

    def submit(self, context, app, fake=None, config=None, **query):
        """POST /jobs: the reply. fake: what the fake job does."""
        body = {**(config or {}), **({"fake": fake} if fake else {})}
        return self.post("/jobs", body, appName=app, classPath="app.Job", context=context, **query)

    def run(self, context, app, fake=None, **query):
        """A synchronous job: the reply."""
        return self.submit(context, app, fake, sync="true", **{"timeout": 30, **query})

    def start_job(self, context, app, fake=None, **query):
        """An asynchronous job: its id."""
        reply = self.submit(context, app, fake, **query)
        assert reply.status == 202, reply
        return reply.json["jobId"]

    def job(self, job):
        reply = self.get("/jobs/" + job)
        assert reply.status == 200, reply
        return reply.json

    def wait_job(self, job, status=None, timeout=WAIT):
        """The job object, once it has ended; with that status, when one is named."""
        found = wait_for(
            lambda: (lambda j: j if j["status"] != "RUNNING" else None)(self.job(job)),
            lambda: "end of job %s (%s)\n%s" % (job, self.job_row(job), self.log()[-3000:]),
            timeout,
        )
        assert status is None or found["status"] == status, found
        return found

    def wait_running(self, job):
        """Waits until `run` has been sent: a job's log line, since RUNNING is known in memory only."""
        self.wait_log(r'moved.*job=%s.*to=RUNNING' % job)


def rss_anon(server):
    """Bytes of memory that the server has for itself."""
    with open("/proc/%d/status" % server.process.pid) as f:
        return int(re.search(r"RssAnon:\s+(\d+) kB", f.read()).group(1)) << 10


class Flags:
    """Files by which a job tells the test that it runs, and the test lets it go on."""

    def __init__(self, folder):
        self.folder = folder

    def path(self, name):
        return os.path.join(self.folder, name)

    def up(self, name):
        open(self.path(name), "w").close()

    def wait(self, name):
        wait_for(lambda: os.path.exists(self.path(name)), "flag " + name)

    def lines(self, name):
        """The lines of an append log."""
        try:
            with open(self.path(name)) as f:
                return f.read().split("\n")[:-1]
        except FileNotFoundError:
            return []


class Dictation:
    """The script of a job with "do": "dictate", which prints what it is told to, as it is told."""

    def __init__(self, flags):
        self.path = flags.path(unique("script"))
        open(self.path, "w").close()

    def _line(self, line):
        with open(self.path, "a") as f:
            f.write(json.dumps(line) + "\n")

    def out(self, text):
        self._line([1, text])

    def err(self, text):
        self._line([2, text])

    def end(self):
        self._line(None)


def kill_hard(pids):
    """Ends processes of a test that has failed to, by pid."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
            os.kill(pid, signal.SIGKILL)


def finish(daemon):
    """The end of a test: the server ends with 0 on SIGTERM, leaves no process, and has reported nothing ugly."""
    problems = []
    try:
        if daemon.running:
            status = daemon.stop()
            if status != 0:
                problems.append("it ended with status %s" % status)
    except AssertionError as e:
        problems.append(str(e))
        daemon.kill()
    left = daemon.pids() if os.path.isdir(daemon.state) else []
    if left:
        with contextlib.suppress(AssertionError):
            wait_for(lambda: not daemon.pids(), "no processes", 2)
        left = daemon.pids()
    if left:
        problems.append("processes are left: %s" % ["%d %s" % (pid, ps(pid)) for pid in left])
        kill_hard(left)
    log = daemon.log() if os.path.exists(daemon.log_path) else ""
    found = SANITIZER.search(log)
    if found:
        problems.append("it reported: " + log[found.start() :][:3000])
    for report in daemon.sanitizer_reports():
        problems.append("it reported: " + report[:3000])
    assert not problems, "\n".join(problems) + "\n" + log[-3000:]


def ps(pid):
    try:
        with open("/proc/%d/stat" % pid) as f:
            return " ".join(f.read().split()[:5])
    except OSError:
        return "gone"


@contextlib.contextmanager
def scratch():
    folder = tempfile.mkdtemp(prefix="stoker-http-")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
