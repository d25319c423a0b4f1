"""The real stokerd for tests: starts, kills and asks it, packs binaries for it, looks at the processes of its contexts.

Each Stoker has a folder and a port of its own. What it has started is found by the state directory in its environment
and ended by pid; no other server is touched.
"""
import collections
import glob
import http.client
import json
import os
import re
import select
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.parse

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
JOBS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "jobs")
STOKERD = os.path.abspath(os.environ.get("STOKERD") or os.path.join(ROOT, "build", "stokerd"))
# Shared by the tests' servers, and by one run of them and the next: contexts start in half the time.
CLASS_DATA = os.path.join(ROOT, "build", "class-data")
WAIT = 60.0     # seconds for anything that must happen
FACTORY = "spark.jobserver.python.Python%sContextFactory"
MEDIA = {".egg": "application/python-egg", ".whl": "application/python-wheel", ".zip": "application/zip"}

# What every context of the tests starts with: small, and with a compiler that starts fast.
SPARK = {"spark.master": "local[4]", "spark.ui.enabled": "false", "spark.driver.memory": "512m",
         "spark.sql.shuffle.partitions": "2", "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1"}

# For the word counts, and what they count.
STRINGS = 'input.strings = ["a", "a", "b"]'
COUNTS = {"a": 2, "b": 1}

sys.path.insert(0, os.path.join(ROOT, "examples"))
from pack import pack  # noqa: E402

Reply = collections.namedtuple("Reply", "status body headers")
Process = collections.namedtuple("Process", "pid start kind")


def wait_until(condition, what, timeout=WAIT):
    """The first true value of condition()."""
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, "%s: not within %g s" % (what() if callable(what) else what, timeout)
        time.sleep(0.02)


class Stoker:
    """A server over `folder`/state. settings: keys of its configuration file, "_" for "-". A context manager."""

    def __init__(self, folder, **settings):
        self.folder, self.state = str(folder), os.path.join(str(folder), "state")
        self.log_path = os.path.join(self.folder, "stokerd.log")
        self.config = os.path.join(self.folder, "stoker.conf")
        settings = dict({"class-data-dir": CLASS_DATA, "spark-conf": ["%s=%s" % pair for pair in SPARK.items()]},
                        **{key.replace("_", "-"): value for key, value in settings.items()})
        with open(self.config, "w") as f:
            for key, value in settings.items():
                f.write("%s = %s;\n" % (key, json.dumps(value)))
        self.process = self.address = None
        self.listen = "127.0.0.1:0"

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        try:
            if self.process:
                self.stop()
        finally:
            for process in self.processes():
                end(process.pid)

    # -- the process

    def start(self):
        """Returns when it takes requests."""
        # With PYTHONUNBUFFERED, Python and C would hold nothing back that jobs print, as they do elsewhere.
        env = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                [STOKERD, "--config", self.config, "--listen", self.listen, "--state-dir", self.state],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, cwd=self.folder, env=env)
        ready = select.select([self.process.stdout], [], [], WAIT)[0]
        line = self.process.stdout.readline().decode() if ready else ""
        match = re.match(r"listening on http://(\S+)\n", line)
        if not match:
            self.process.kill()
            self.process.wait()
            self.process = None
            raise AssertionError("stokerd did not start: %s\n%s" % (line, self.log()))
        self.address = match[1]

    def end(self, signum, timeout=WAIT):
        """Ends the server by a signal. Its exit status."""
        process, self.process = self.process, None
        process.send_signal(signum)
        try:
            return process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError("stokerd did not end by signal %d in %g s\n%s" % (signum, timeout, self.log()))
        finally:
            process.stdout.close()

    def kill(self):
        """kill -9: its contexts live on."""
        assert self.end(signal.SIGKILL) == -signal.SIGKILL

    def stop(self):
        """SIGTERM: its contexts end."""
        assert self.end(signal.SIGTERM) == 0, self.log()

    def log(self):
        """The last lines of the server's log."""
        with open(self.log_path, errors="replace") as f:
            return "".join(f.readlines()[-40:])

    # -- requests

    def request(self, method, path, body=None, headers=(), **query):
        """One request. Its Reply, the body parsed when it is JSON. query: parameters, "_" for "-"."""
        if query:
            path += "?" + urllib.parse.urlencode({key.replace("_", "-"): value for key, value in query.items()})
        connection = http.client.HTTPConnection(self.address, timeout=10 * WAIT)
        try:
            connection.request(method, path, body.encode() if isinstance(body, str) else body, dict(headers))
            answer = connection.getresponse()
            text = answer.read()
            is_json = answer.getheader("Content-Type", "").startswith("application/json") and text
            return Reply(answer.status, json.loads(text) if is_json else text.decode(), answer.headers)
        finally:
            connection.close()

    def get(self, path, **query):
        """The body of a GET that must succeed."""
        reply = self.request("GET", path, **query)
        assert reply.status == 200, reply
        return reply.body

    def upload(self, name, path):
        """POST /binaries/<name> of a file, by the end of its name."""
        with open(path, "rb") as f:
            reply = self.request("POST", "/binaries/" + name, f.read(),
                                 {"Content-Type": MEDIA[os.path.splitext(path)[1]]})
        assert (reply.status, reply.body) == (201, {"status": "SUCCESS"}), reply

    def upload_jobs(self, name, folder, form="egg"):
        """Packs a folder of test/spark/jobs and uploads it."""
        path = os.path.join(self.folder, "%s.%s" % (name, form.replace("wheel", "whl")))
        pack(os.path.join(JOBS, folder), path)
        self.upload(name, path)

    def create(self, name, kind="Session", body=None, **settings):
        """POST /contexts/<name>: the Reply. kind: Session, Spark, SQL or Hive. settings: parameters of the query."""
        query = dict({"context-factory": FACTORY % kind}, **settings)
        return self.request("POST", "/contexts/%s?%s" % (name, urllib.parse.urlencode(query)), body)

    def create_running(self, name, kind="Session", **settings):
        """A context that must start. Its object."""
        reply = self.create(name, kind, **settings)
        assert (reply.status, reply.body) == (200, {"status": "SUCCESS", "result": "Context initialized"}), reply
        return self.context(name)

    def context(self, name):
        """GET /contexts/<name>."""
        return self.get("/contexts/" + name)

    def delete_context(self, name):
        """DELETE /contexts/<name>, waiting until it has ended. Its object."""
        reply = self.request("DELETE", "/contexts/" + name)
        assert reply.status in (200, 202), reply
        wait_until(lambda: self.context(name)["state"] == "FINISHED", "end of context " + name)
        return self.context(name)

    def post_job(self, class_path, config="", context="py", app="jobs", **query):
        """POST /jobs: the Reply. config: HOCON text, or an object."""
        return self.request("POST", "/jobs", config if isinstance(config, str) else json.dumps(config), appName=app,
                            classPath=class_path, context=context, **query)

    def submit(self, class_path, config="", context="py", app="jobs"):
        """Starts a job that must be accepted. Its id."""
        reply = self.post_job(class_path, config, context, app)
        assert reply.status == 202 and reply.body["status"] == "STARTED", reply
        return reply.body["jobId"]

    def run(self, class_path, config="", context="py", app="jobs"):
        """Runs a job synchronously: the Reply."""
        return self.post_job(class_path, config, context, app, sync="true", timeout=int(WAIT))

    def value(self, class_path, config="", context="py", app="jobs"):
        """Runs a job that must finish. Its result."""
        reply = self.run(class_path, config, context, app)
        assert reply.status == 200 and set(reply.body) == {"jobId", "result"}, reply
        return reply.body["result"]

    def failure(self, class_path, config="", context="py", app="jobs"):
        """Runs a job that must fail in its run. The error object."""
        reply = self.run(class_path, config, context, app)
        assert reply.status == 200 and reply.body.get("status") == "ERROR", reply
        assert set(reply.body["result"]) == {"message", "errorClass", "stack"}, reply
        return reply.body["result"]

    def job(self, job):
        """GET /jobs/<id>."""
        return self.get("/jobs/" + job)

    def ended(self, job, timeout=WAIT):
        """The object of a job when it has ended."""
        def final():
            found = self.job(job)
            return found["status"] != "RUNNING" and found
        return wait_until(final, "end of job " + job, timeout)

    def result(self, job):
        """The result of a job that must finish."""
        ended = self.ended(job)
        assert ended["status"] == "FINISHED", ended
        return ended["result"]

    def delete(self, job):
        """DELETE /jobs/<id>: the Reply."""
        return self.request("DELETE", "/jobs/" + job)

    # -- the state directory

    def path(self, *names):
        """A path in the state directory."""
        return os.path.join(self.state, *names)

    def rows(self, sql):
        """What a SELECT on the server's database gives."""
        database = sqlite3.connect("file:%s?mode=ro" % self.path("stoker.db"), uri=True, timeout=10)
        try:
            return database.execute(sql).fetchall()
        finally:
            database.close()

    def queued(self):
        """The ids of the jobs that wait, from the server's database: to clients they are RUNNING too."""
        return {row[0] for row in self.rows("SELECT id FROM jobs WHERE state = 0")}

    # -- processes

    def processes(self, context=None):
        """The live processes of a context (an id), or of all: a list of Process, kind "java", "python", ..."""
        wanted = "STOKER_CONTEXT=" + context if context else "STOKER_STATE_DIR=" + os.path.realpath(self.state)
        found = []
        for path in glob.glob("/proc/[0-9]*/environ"):
            pid = int(path.split("/")[2])
            if (self.process and pid == self.process.pid) or pid == os.getpid():
                continue
            try:
                with open(path, "rb") as f:
                    ours = wanted.encode() in f.read().split(b"\0")
                if ours:
                    found.append(process(pid))
            except OSError:
                continue
        return [each for each in found if each]

    def left_of(self, context):
        """What is left of a context that has ended: processes and folders."""
        return self.processes(context) + [p for p in (self.path("contexts", context),) if os.path.exists(p)]


def assert_killed(stoker, job):
    """DELETE of a running job, and what is told of it from then on."""
    reply = stoker.delete(job)
    assert (reply.status, reply.body) == (200, {"status": "KILLED"}), reply
    ended = stoker.job(job)
    assert ended["status"] == "KILLED"
    assert ended["result"]["message"] == "Job %s killed" % job
    again = stoker.delete(job)
    assert (again.status, again.body) == (404, {"status": "ERROR", "result": "No running job with ID " + job})


def process(pid):
    """A live process (no zombie) with its start time and name, or None."""
    try:
        with open("/proc/%d/stat" % pid) as f:
            text = f.read()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else Process(pid, int(fields[19]), text.partition("(")[2].rpartition(")")[0])


def end(pid):
    """SIGKILL."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


class Background(threading.Thread):
    """Calls a function in a thread. value(): what it returned; raises what it raised."""

    def __init__(self, function, *args, **kw):
        super().__init__(daemon=True)
        self._call, self._value, self._error = (function, args, kw), None, None
        self.start()

    def run(self):
        function, args, kw = self._call
        try:
            self._value = function(*args, **kw)
        except Exception as error:
            self._error = error

    def value(self, timeout=10 * WAIT):
        self.join(timeout)
        assert not self.is_alive(), "no answer in %g s" % timeout
        if self._error:
            raise self._error
        return self._value


class Files:
    """Files by which jobs tell how far they are, and a test tells them to go on."""

    def __init__(self, folder):
        self.folder = str(folder)

    def path(self, name):
        return os.path.join(self.folder, name)

    def exists(self, name):
        return os.path.exists(self.path(name))

    def make(self, name):
        open(self.path(name), "w").close()

    def wait(self, *names):
        for name in names:
            wait_until(lambda: self.exists(name), "file " + name)

    def lines(self, name):
        """The lines of a file, none when it is not there."""
        if not self.exists(name):
            return []
        with open(self.path(name)) as f:
            return f.read().splitlines()

    def size(self, name):
        return os.path.getsize(self.path(name)) if self.exists(name) else 0


def line_of(file, text):
    """The number of the line of a job's source that contains the text."""
    with open(os.path.join(JOBS, file)) as f:
        return next(number for number, line in enumerate(f, 1) if text in line)
