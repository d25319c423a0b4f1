"""The server's side of python-runner/PROTOCOL.md in Python, to test the real zygote, keeper and workers.

A FakeServer listens in a state directory and keeps every message; tests wait for the messages they expect. It can be
killed and started again while the processes live. A FakeContext starts a zygote, has it fork, and runs jobs. Only what
was started here is ended, by pid.
"""
import glob
import hashlib
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import textwrap
import threading
import time
import uuid

from measure import ask_jvm
from server import CLASS_DATA

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
RUNNER_DIR = os.path.join(ROOT, "python-runner")
PYTHON = os.path.join(ROOT, "build", "venv", "bin", "python")
WAIT = 60.0     # seconds for anything that must happen


class Silent(Exception):
    """What a test waits for did not come."""


class Peer:
    """One accepted connection. Its reader thread hands every message to the server."""

    def __init__(self, server, sock):
        self.server, self.sock, self.hello, self.open = server, sock, None, True
        self._lock = threading.Lock()
        threading.Thread(target=self._read, daemon=True).start()

    def send(self, message):
        payload = json.dumps(message).encode()
        with self._lock:
            self.sock.sendall(struct.pack(">I", len(payload)) + payload)

    def _exactly(self, n):
        data = b""
        while len(data) < n:
            more = self.sock.recv(n - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    def _read(self):
        try:
            while True:
                length, = struct.unpack(">I", self._exactly(4))
                assert 0 < length <= 1 << 20, length
                self.server.take(self, json.loads(self._exactly(length)))
        except (OSError, EOFError):
            self.open = False
            self.server.take(self, {"type": "(closed)"})

    def close(self):
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.sock.close()


class FakeServer:
    """One server over one state directory. Use as a context manager, or stop() it."""

    def __init__(self, state_dir=None):
        self.state = state_dir or tempfile.mkdtemp(prefix="stoker-test-")
        self._own = state_dir is None
        for name in ("contexts", "logs", "results", "spool", "blobs"):
            os.makedirs(os.path.join(self.state, name), exist_ok=True)
        with open(os.path.join(self.state, "token"), "w") as f:
            f.write("secret-token\n")
        self.messages = []              # (context, process, message) in order of arrival
        self.changed = threading.Condition()
        self.peers = {}                 # (context, process) -> the latest Peer
        self.acks = True                # acknowledge `done` and `exited`
        self.welcomes = True            # answer `hello`
        self.refuse = set()             # (context, process) to refuse
        self.jobs = make_binary(self.state, "jobs", {"stoker_test_jobs.py": JOBS})
        self.listener = None
        self.listen()

    def listen(self):
        path = os.path.join(self.state, "runner.sock")
        if os.path.exists(path):
            os.unlink(path)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(path)
        self.listener.listen(64)
        threading.Thread(target=self._accept, args=(self.listener,), daemon=True).start()

    def _accept(self, listener):
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            Peer(self, sock)

    def kill(self):
        """As kill -9 of the server: every connection ends, the socket's file stays."""
        listener, self.listener = self.listener, None
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        with self.changed:
            peers, self.peers = list(self.peers.values()), {}
        for peer in peers:
            peer.close()

    def take(self, peer, message):
        with self.changed:
            kind = message["type"]
            if kind == "hello":
                peer.hello = message
                assert message["token"] == "secret-token"
            if peer.hello is None:
                return
            process = peer.hello["process"]
            self.messages.append((peer.hello["context"], process, message))
            if kind == "hello" and (peer.hello["context"], process) in self.refuse:
                peer.send({"type": "refused", "reason": "test"})
            elif kind == "hello" and self.welcomes:
                self.peers[peer.hello["context"], process] = peer
                peer.send({"type": "welcome", "protocol": 1, "server_pid": os.getpid()})
            elif kind == "done" and self.acks:
                self._answer(peer, {"type": "ack", "job": message["job"], "attempt": message["attempt"]})
            elif kind == "exited" and self.acks:
                self._answer(peer, {"type": "ack_exit", "process": message["process"]})
            self.changed.notify_all()

    @staticmethod
    def _answer(peer, message):
        try:
            peer.send(message)
        except OSError:
            pass

    def send(self, context, process, message):
        end = time.monotonic() + WAIT
        with self.changed:
            while (context, process) not in self.peers:
                if not self.changed.wait(max(0, end - time.monotonic())):
                    raise Silent("%s never came" % process)
            peer = self.peers[context, process]
        peer.send(message)

    def mark(self):
        """A place in the stream of messages to wait from."""
        with self.changed:
            return len(self.messages)

    def wait(self, sender, kind, since=0, timeout=WAIT, of=None, **fields):
        """The first such message at or after `since`. of: the id of a context, or None for all."""
        end = time.monotonic() + timeout
        with self.changed:
            position = since
            while True:
                for position in range(position, len(self.messages)):
                    if self._match(self.messages[position], of, sender, kind, fields):
                        return self.messages[position][2]
                position = len(self.messages)
                if not self.changed.wait(max(0, end - time.monotonic())) and time.monotonic() >= end:
                    raise Silent("no %s %s from %s in %g s; had %s" % (
                        kind, fields, sender, timeout, [(w, m["type"]) for _, w, m in self.messages[since:]][-20:]))

    def seen(self, sender, kind, since=0, of=None, **fields):
        with self.changed:
            return [entry[2] for entry in self.messages[since:] if self._match(entry, of, sender, kind, fields)]

    @staticmethod
    def _match(entry, of, sender, kind, fields):
        context, process, message = entry
        return (of in (None, context) and sender in (None, process) and message["type"] == kind
                and all(message.get(k) == v for k, v in fields.items()))

    def stop(self):
        if self.listener:
            self.kill()
        if self._own:
            shutil.rmtree(self.state, ignore_errors=True)


class FakeContext:
    """A context on a FakeServer: its zygote, keeper and workers."""

    def __init__(self, server, env=None, **spec):
        self.server, self.id = server, str(uuid.uuid4())
        self.folder = os.path.join(server.state, "contexts", self.id)
        os.makedirs(self.folder)
        conf = {"spark.master": "local[2]", "spark.ui.enabled": "false"}
        conf.update(spec.pop("spark_conf", {}))
        self.spec = dict({"context": self.id, "name": "test", "kind": "session", "spark_conf": conf, "hadoop_conf": {},
                          "python_paths": [], "settings": {"num-cpu-cores": 2}, "max_result_inline": 65536,
                          "max_result": 1 << 30, "max_log": 1 << 30, "max_jobs_per_worker": 0, "max_worker_growth": 0},
                         **spec)
        self.respec()
        full = {k: v for k, v in os.environ.items() if not k.startswith(("STOKER_", "PYTEST_"))}
        full.update(env or {})
        full.update(STOKER_STATE_DIR=server.state, STOKER_CONTEXT=self.id, PYSPARK_PYTHON=PYTHON, PYSPARK_DRIVER_PYTHON=PYTHON,
                    PYTHONPATH=os.pathsep.join([RUNNER_DIR, *filter(None, [(env or {}).get("PYTHONPATH")])]))
        full.setdefault("STOKER_CLASS_DATA", CLASS_DATA)
        with open(os.path.join(self.folder, "context.log"), "ab") as log:
            # -X faulthandler: its forks too say where they are when they are ended by SIGABRT, in the context's log.
            self.zygote = subprocess.Popen([PYTHON, "-X", "faulthandler", "-m", "stoker_runner.zygote"], cwd=self.folder, env=full,
                                           stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        self.pids = {}
        self._names = iter("w-%08x" % i for i in range(1, 1 << 20))

    def respec(self, **fields):
        """Changes spec.json for the workers that are forked from now on."""
        self.spec.update(fields)
        with open(os.path.join(self.folder, "spec.json"), "w") as f:
            json.dump(self.spec, f)

    def log(self):
        with open(os.path.join(self.folder, "context.log"), errors="replace") as f:
            return f.read()

    def send(self, to, **message):
        self.server.send(self.id, to, message)

    def wait(self, sender, kind, **kw):
        return self.server.wait(sender, kind, of=self.id, **kw)

    def seen(self, sender, kind, **kw):
        return self.server.seen(sender, kind, of=self.id, **kw)

    def fork(self, process, role, **fields):
        since = self.server.mark()
        self.send("z", type="fork", process=process, role=role, **fields)
        self.pids[process] = self.wait("z", "forked", since=since, process=process)["pid"]

    def start(self):
        """Forks the keeper and waits for Spark. The body of `started`."""
        self.fork("k", "keeper")
        return self.wait("k", "started")

    def worker(self, wait=True):
        """A new Worker, ready unless wait is false."""
        name = next(self._names)
        since = self.server.mark()
        self.send("k", type="admit", worker=name)
        gateway = self.wait("k", "admitted", since=since, worker=name)
        self.fork(name, "worker", gateway={"port": gateway["port"], "secret": gateway["secret"]})
        worker = Worker(self, name)
        if wait:
            worker.ready(since)
        return worker

    def gone(self, name):
        self.send("k", type="gone", worker=name)

    def end(self):
        """Ends the context, however it is; returns the zygote's exit status."""
        if self.zygote.poll() is None:
            try:
                self.send("z", type="stop", grace_ms=10000)
            except (Silent, OSError):
                self.zygote.terminate()
        try:
            return self.zygote.wait(30)
        except subprocess.TimeoutExpired:
            for pid in [*self.pids.values(), self.zygote.pid]:
                try:
                    os.kill(pid, 9)
                except ProcessLookupError:
                    pass
            return self.zygote.wait(10)


class Worker:
    def __init__(self, context, name):
        self.context, self.name, self.server = context, name, context.server
        self.pid = context.pids[name]

    def ready(self, since=0):
        """`ready`, in whichever of its two forms it comes."""
        with self.server.changed:
            ok = self.server.changed.wait_for(
                lambda: self.seen("ready", since=since) or self.seen("hello", since=since, state="ready") or
                self.seen("failed", since=since) or self._exited(since), WAIT)
        failed = self.seen("failed", since=since)
        if failed:
            error = failed[0]["error"]
            raise Silent("%s could not attach: %s\n%s" % (self.name, error["message"], error.get("traceback")))
        if not ok or self._exited(since):
            raise Silent("%s %s\n%s" % (self.name, self._exited(since) or "says nothing in %g s" % WAIT, self._where(since)))

    def _exited(self, since):
        return self.context.seen("z", "exited", since=since, process=self.name)

    def _where(self, since):
        """What a worker that is not ready was doing, as far as can be found out: the stacks of its threads and of the JVM's.
        Ends it."""
        told = []
        for _, sender, message in self.server.messages[since:][-30:]:
            told.append("%s: %s" % (sender, json.dumps(message)[:300]))
        for started in self.context.seen("k", "started"):
            try:
                told.append(ask_jvm(started["jvm_pid"], "Thread.print"))
            except Exception as e:
                told.append("the JVM does not answer: %s" % e)
        if not self._exited(since):
            os.kill(self.pid, signal.SIGABRT)
            with self.server.changed:
                self.server.changed.wait_for(lambda: self._exited(since), 10)
        told.append(self.context.log()[-10000:])
        for path in glob.glob(os.path.join(self.server.state, "logs", self.name + ".stderr")):     # attached meanwhile
            with open(path, errors="replace") as f:
                told.append(f.read()[-10000:])
        return "\n".join(told)

    def seen(self, kind, **kw):
        return self.context.seen(self.name, kind, **kw)

    def wait(self, kind, **kw):
        return self.context.wait(self.name, kind, **kw)

    def start(self, code="", args=None, job=None, attempt=1, binary_set="set-1", cls="stoker_test_jobs.Code",
              binaries=None, **fields):
        """Sends `run`, by default for a job that executes `code`, which finds `context`, `runtime` and `args` and
        leaves its result in `result`. The Job."""
        job = job or str(uuid.uuid4())
        config = {"code": textwrap.dedent(code), "args": args}
        message = dict({"type": "run", "job": job, "attempt": attempt, "kind": "class", "class": cls,
                        "config": json.dumps(config), "set": binary_set, "pool": None, "description": None,
                        "binaries": [*(binaries or []), self.server.jobs]}, **fields)
        since = self.server.mark()
        self.server.send(self.context.id, self.name, message)
        return Job(self, job, attempt, since)

    def run(self, code="", args=None, **kw):
        """Runs a job to its end: the body of `done`."""
        return self.start(code, args, **kw).done()

    def value(self, code="", args=None, **kw):
        """Runs a job that must finish: its result."""
        done = self.run(code, args, **kw)
        assert done["outcome"] == "finished", done
        return json.loads(done["result"])

    def kill(self):
        """Kills it as the server does, and lets the keeper clean up."""
        since = self.server.mark()
        self.context.send("z", type="kill", process=self.name)
        exited = self.context.wait("z", "exited", since=since, process=self.name)
        self.context.gone(self.name)
        return exited

    def retire(self):
        since = self.server.mark()
        self.context.send(self.name, type="retire")
        exited = self.context.wait("z", "exited", since=since, process=self.name)
        self.context.gone(self.name)
        return exited


class Job:
    def __init__(self, worker, job, attempt, since):
        self.worker, self.id, self.attempt, self.since = worker, job, attempt, since

    def done(self, timeout=WAIT):
        return self.worker.wait("done", since=self.since, timeout=timeout, job=self.id, attempt=self.attempt)

    def interrupt(self):
        self.worker.context.send(self.worker.name, type="interrupt", job=self.id, attempt=self.attempt)

    def interrupted(self):
        return self.worker.wait("interrupted", since=self.since, job=self.id, attempt=self.attempt)

    def cancel(self):
        """The keeper's cancel: the body of `cancelled`."""
        context, since = self.worker.context, self.worker.server.mark()
        context.send("k", type="cancel", worker=self.worker.name, job=self.id, attempt=self.attempt)
        return context.wait("k", "cancelled", since=since, job=self.id, attempt=self.attempt)

    def log(self, name="stdout"):
        path = os.path.join(self.worker.server.state, "logs", "%s.%d.%s" % (self.id, self.attempt, name))
        with open(path) as f:
            return f.read()


JOBS = """
class Code:
    def validate(self, context, runtime, config):
        return config

    def run_job(self, context, runtime, config):
        names = {"__name__": "stoker_test_code", "context": context, "runtime": runtime, "args": config.get("args")}
        exec(compile(config["code"], "code.py", "exec"), names)
        return names.get("result")


class Noop:
    def validate(self, context, runtime, config):
        return None

    def run_job(self, context, runtime, config):
        return 1
"""


def make_binary(state, name, modules):
    """A binary as the server stores it: an archive and its unpacked folder. modules: {file name: text}. As in `run`."""
    digest = hashlib.sha256(json.dumps([name, modules]).encode()).hexdigest()
    folder = os.path.join(state, "blobs", digest)
    if not os.path.exists(folder):
        os.makedirs(folder)
        for file, text in modules.items():
            with open(os.path.join(folder, file), "w") as f:
                f.write(text)
        shutil.make_archive(folder, "zip", folder)
    return {"name": name, "digest": digest, "type": "zip", "path": folder + ".zip", "unpacked": folder}
