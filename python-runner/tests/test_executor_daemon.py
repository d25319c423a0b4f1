"""executor_daemon.py as Spark drives it: a daemon is asked for workers, which serve task after task. No JVM is needed.

A task is one line here, and the answer to it tells what its process knows. "spoil" leaves traces in the process.
"""
import json
import os
import socket
import struct
import subprocess
import sys

import pytest

RUNNER = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "stoker_runner")
SECRET = b"secret"
SERVES = '''
import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import time

import pyspark.worker_util

seen = []
libc = ctypes.CDLL(None, use_errno=True)


def prctl(option):
    value = ctypes.c_int(0)
    return libc.prctl(option, ctypes.byref(value), 0, 0, 0), value.value


def kept():
    """What a process has from its parent, or from its own past over an execve."""
    signals = signal.valid_signals() - {signal.SIGHUP, signal.SIGCHLD}  # pyspark's own business
    with open("/proc/self/oom_score_adj") as f:
        score = int(f.read())
    try:
        os.waitpid(-1, os.WNOHANG)
        children = True
    except ChildProcessError:
        children = False
    umask = os.umask(0)
    os.umask(umask)
    return {"timers": [signal.getitimer(n) for n in range(3)], "umask": umask, "nice": os.getpriority(os.PRIO_PROCESS, 0),
            "ignored": sorted(n for n in signals if signal.getsignal(n) == signal.SIG_IGN), "children": children,
            "pending": sorted(signal.sigpending()), "limits": [resource.getrlimit(n) for n in range(16)],
            "processors": sorted(os.sched_getaffinity(0)), "policy": os.sched_getscheduler(0),
            "group": os.getpgrp() == os.getpgid(os.getppid()), "session": os.getsid(0) == os.getsid(os.getppid()),
            "score": score, "streams": [os.readlink("/proc/self/fd/%d" % n) for n in range(3)],
            "deathsig": prctl(2), "subreaper": prctl(37), "slack": libc.prctl(30, 0, 0, 0, 0),
            "no_new_privileges": libc.prctl(39, 0, 0, 0, 0), "ids": [os.getresuid(), os.getresgid(), os.getgroups()]}


def spoil():
    """Changes all that can be put back."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    os.kill(os.getpid(), signal.SIGUSR1)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.setitimer(signal.ITIMER_REAL, 1000)
    signal.setitimer(signal.ITIMER_VIRTUAL, 1000, 1000)
    signal.setitimer(signal.ITIMER_PROF, 1000)
    for limit in (resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE):
        resource.setrlimit(limit, (100, resource.getrlimit(limit)[1]))
    os.umask(0)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    subprocess.Popen(["sleep", "1000"])
    with open("/proc/self/oom_score_adj", "w") as f:
        f.write("900")
    os.dup2(os.open("/dev/zero", os.O_RDONLY), 0)
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
    os.close(2)
    libc.prctl(1, signal.SIGTERM, 0, 0, 0)
    libc.prctl(36, 1, 0, 0, 0)
    libc.prctl(29, 1000000, 0, 0, 0)
    os.setpgid(0, 0)


def lower(limit, value):
    resource.setrlimit(limit, (min(value, resource.getrlimit(limit)[0]), value))


SPOILS = {
    "nice": lambda: os.nice(5),
    "hard limit": lambda: lower(resource.RLIMIT_NOFILE, resource.getrlimit(resource.RLIMIT_NOFILE)[1] - 1),
    "session": os.setsid,
    "privileges": lambda: libc.prctl(38, 1, 0, 0, 0),
    "descriptors": lambda: os.dup2(os.open("/dev/full", os.O_WRONLY), 1) and [
        os.close(int(n)) for n in os.listdir("/proc/self/fd") if int(n) > 2 and
        os.path.exists("/proc/self/fd/" + n) and not os.readlink("/proc/self/fd/" + n).startswith("socket:")],
    "input": lambda: os.close(0),
    "pyspark's memory": lambda: resource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40)),     # as its setup_memory_limits()
}


def main(infile, outfile):
    task = infile.readline().decode().strip()
    if not task:
        sys.exit(-1)
    seen.append(task)
    if task.endswith(".zip"):
        pyspark.worker_util.add_path("/files/" + task)
    answer = {"pid": os.getpid(), "seen": seen, "cwd": os.getcwd(), "home": os.environ.get("HOME"),
              "argv": sys.argv[1:], "files": len(os.listdir("/proc/self/fd")),
              "blocked": len(signal.pthread_sigmask(signal.SIG_BLOCK, ())), "kept": kept()}
    if task in SPOILS:
        SPOILS[task]()
    if task.startswith("spoil"):
        spoil()
        os.chdir("/")
        os.environ["HOME"] = "elsewhere"
        for _ in range(20):
            os.set_inheritable(os.open("/", os.O_RDONLY), True)
    outfile.write(json.dumps(answer).encode() + b"\\n")
'''


class Daemon:
    """The daemon process in a folder, which is an executor's working directory."""

    def __init__(self, folder, place="place-0", idle="60", **variables):
        self.folder = folder
        (folder / "pyspark_serves.py").write_text(SERVES)
        env = dict(os.environ, PYTHONPATH=RUNNER, STOKER_BINARIES=place, STOKER_DAEMON_IDLE=idle, SPARK_REUSE_WORKER="1",
                   PYTHON_WORKER_FACTORY_SECRET=SECRET.decode(), HOME=str(folder), **variables)
        self.process = subprocess.Popen([sys.executable, "-m", "executor_daemon", "pyspark_serves"], env=env, cwd=folder,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.port, = struct.unpack(">i", self.process.stdout.read(4))

    def end(self):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(30)

    def retire(self, number, *lines, end="end\n"):
        """A list that Spark has brought; renamed into place, so that no test depends on the moment."""
        temp = self.folder / "temp"
        temp.write_text("".join(line + "\n" for line in lines) + end)
        temp.rename(self.folder / ("stoker-retired-%d.txt" % number))


class Connection:
    """What Spark has of a worker: it knows its pid by the first four bytes."""

    def __init__(self, daemon):
        self.sock = socket.create_connection(("127.0.0.1", daemon.port), 30)
        self.file = self.sock.makefile("rb")
        self.pid, = struct.unpack(">i", self.file.read(4))
        self.sock.sendall(struct.pack(">i", len(SECRET)) + SECRET)
        assert self.file.read(6) == b"\0\0\0\2ok"

    def task(self, name):
        self.sock.sendall(name.encode() + b"\n")
        answer = json.loads(self.file.readline() or "null")
        assert answer and answer["pid"] == self.pid
        return answer


@pytest.fixture
def daemon(tmp_path):
    started = []

    def start(**kw):
        started.append(Daemon(tmp_path, **kw))
        return started[-1]
    yield start
    for each in started:
        each.end()


def test_a_worker_goes_on_while_its_place_has_one_use(daemon):
    daemon = daemon()
    daemon.retire(3, "place-0 7", "place-1 2")
    worker = Connection(daemon)
    assert worker.task("a")["seen"] == ["a"]
    daemon.retire(4, "place-0 7", "place-1 3")
    assert worker.task("b")["seen"] == ["a", "b"]


def test_a_worker_begins_anew_when_its_place_has_another_use(daemon):
    """Same process, same connection, and nothing left of what code did before."""
    daemon = daemon()
    worker = Connection(daemon)
    first = worker.task("spoil-1")
    for number in (1, 2):
        daemon.retire(number, "place-0 %d" % number)
        task = "spoil-%d" % (number + 1)
        assert worker.task(task) == dict(first, seen=[task])
    assert worker.task("more")["seen"] == ["spoil-3", "more"]
    other = Connection(daemon)
    assert other.task("b")["seen"] == ["b"]


def test_a_worker_whose_input_was_closed_begins_anew_with_one(daemon):
    daemon = daemon()
    worker = Connection(daemon)
    first = worker.task("input")
    daemon.retire(1, "place-0 1")
    assert worker.task("b")["kept"] == first["kept"]


def test_the_memory_limit_of_pyspark_does_not_end_its_workers(daemon):
    """It is the same for every task, and set in the first one."""
    daemon = daemon(PYSPARK_EXECUTOR_MEMORY_MB=str(1 << 20))
    worker = Connection(daemon)
    for generation in range(2):
        assert worker.task("pyspark's memory")["seen"] == ["pyspark's memory"]
        assert worker.task("b")["seen"] == ["pyspark's memory", "b"]
        daemon.retire(generation + 1, "place-0 %d" % (generation + 1))


def changes_for_good():
    """Those that are not the case here from the start."""
    yield from ("hard limit", "session", "descriptors")
    if os.getpriority(os.PRIO_PROCESS, 0) < 19:
        yield "nice"
    with open("/proc/self/status") as f:
        if "NoNewPrivs:\t0\n" in f:
            yield "privileges"


@pytest.mark.parametrize("change", list(changes_for_good()))
def test_a_worker_that_cannot_begin_anew_ends_after_its_task(daemon, change):
    """Spark notices that and asks for another one, be it for the same use or the next."""
    daemon = daemon()
    first, worker = Connection(daemon).task("a"), Connection(daemon)
    worker.task(change)
    assert worker.file.read() == b""
    assert Connection(daemon).task("a")["kept"] == first["kept"]


def test_a_daemon_stays_for_what_spark_has_to_say_of_a_worker_that_ended(daemon):
    """Else the message would fail the next task."""
    daemon = daemon(idle="0.3")
    worker = Connection(daemon)
    worker.task("hard limit")
    assert worker.file.read() == b""
    with pytest.raises(subprocess.TimeoutExpired):
        daemon.process.wait(2)
    daemon.process.stdin.write(struct.pack(">i", worker.pid))
    daemon.process.stdin.flush()
    assert Connection(daemon).task("a")["seen"] == ["a"]


def test_what_counts_is_the_newest_list_that_is_complete(daemon):
    daemon = daemon()
    daemon.retire(9, "place-0 1")
    worker = Connection(daemon)
    assert worker.task("a")["seen"] == ["a"]
    daemon.retire(10, "place-0 2", end="")
    assert worker.task("b")["seen"] == ["a", "b"]
    daemon.retire(10, "place-0 2")
    assert worker.task("c")["seen"] == ["c"]
    daemon.retire(8, "place-0 0")
    assert worker.task("d")["seen"] == ["c", "d"]


def test_files_of_two_uses_never_meet_in_a_process(daemon):
    """Should a task come of a use that has ended: it fails, and its process ends."""
    first, second, runner = "stoker-%016d-w-1.0.zip" % 1, "stoker-%016d-w-2.0.zip" % 1, "stoker-%016d.zip" % 2
    daemon = daemon()
    worker = Connection(daemon)
    for name in (runner, first, first.replace("1-w", "3-w"), first):
        worker.task(name)
    worker.sock.sendall(second.encode() + b"\n")
    assert worker.file.read() == b""


def test_a_worker_ends_when_spark_closes_its_connection(daemon):
    daemon = daemon()
    for generation in (1, 2):
        worker = Connection(daemon)
        worker.task("a")
        daemon.retire(generation, "place-0 %d" % generation)
        if generation == 2:
            worker.task("b")
        handle = os.pidfd_open(worker.pid)
        worker.sock.shutdown(socket.SHUT_WR)
        assert worker.file.read() == b""
        os.close(handle)


def test_spark_kills_a_worker_that_began_anew(daemon):
    daemon = daemon()
    worker = Connection(daemon)
    worker.task("a")
    daemon.retire(1, "place-0 1")
    worker.task("b")
    daemon.process.stdin.write(struct.pack(">i", worker.pid))
    daemon.process.stdin.flush()
    assert worker.file.read() == b""


def test_files_out_of_use_are_removed_before_the_daemon_leaves(daemon, tmp_path):
    kept, gone = ("stoker-keep.zip", "mine.txt", "stoker-retired-2.txt"), ("stoker-a.zip", "stoker-retired-1.txt")
    daemon = daemon(idle="0.5")
    for name in kept + gone:
        (tmp_path / name).write_text("")
    outside = tmp_path.parent / "stoker-outside.zip"
    outside.write_text("")
    daemon.retire(2, "place-0 1", "mine.txt", "../stoker-outside.zip", *gone)
    daemon.process.wait(30)
    assert all((tmp_path / name).exists() for name in kept) and outside.exists()
    assert not any((tmp_path / name).exists() for name in gone)


def test_a_local_set_has_no_lists(daemon):
    daemon = daemon(place="abc.w-1.0")
    worker = Connection(daemon)
    worker.task("a")
    daemon.retire(1, "abc.w-1.0 1")
    assert worker.task("b")["seen"] == ["a", "b"]


@pytest.mark.parametrize("place", ["", "place-0"])
def test_a_daemon_that_begins_where_a_job_has_removed_the_folder(tmp_path, place):
    """The JVM stands in it for ever, and so does whatever it starts."""
    (tmp_path / "pyspark_serves.py").write_text(SERVES)
    (tmp_path / "gone").mkdir()
    env = dict(os.environ, PYTHONPATH="%s:%s" % (RUNNER, tmp_path), STOKER_BINARIES=place, STOKER_DAEMON_IDLE="60",
               PYTHON_WORKER_FACTORY_SECRET=SECRET.decode())
    process = subprocess.Popen(["sh", "-c", 'rmdir "$PWD" && exec "$0" -m executor_daemon pyspark_serves', sys.executable],
                               env=env, cwd=tmp_path / "gone", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        port, = struct.unpack(">i", process.stdout.read(4))
        with socket.create_connection(("127.0.0.1", port), 30) as sock:
            pid, = struct.unpack(">i", sock.makefile("rb").read(4))
        assert pid > 0      # of the worker that it has forked
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait(30)
