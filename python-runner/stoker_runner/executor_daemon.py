"""What spark.python.daemon.module names in Stoker's contexts: pyspark's own daemon, with two differences.

It leaves when it is not needed. Spark keeps a daemon, which forks the Python workers, for each environment that tasks ask
for, and never ends one. Here each binary set in use has an environment of its own (rule A10), so daemons would pile up.
This one ends when it has had no worker and no request for STOKER_DAEMON_IDLE seconds (Spark keeps an idle worker for
60 s). Spark starts another when it needs one: a request that meets a daemon on its way out is reset, and repeated by Spark.

Its workers forget the binary set before. On executors elsewhere an environment is a place that one use of a set has after
the other (sets.py). How many uses have ended in it is the place's generation. It stands in lists that executors fetch like
the files of a set; a task brings the list of its time, so a worker knows when a task comes whether it is of the use that
it has served before. If it is not, the worker replaces itself by a new Python that serves the same connection. Should a
task of an ended use come all the same, it fails: files of two uses never meet in one process. What an execve keeps is put
back before it (Inherited); a worker whose task has changed what cannot be put back ends after that task. Spark 4 notices
that before it gives it another one, and tells the daemon to stop it; so the daemon, of which it hears by END_OF_WORKER,
stays until Spark has forgotten the worker.

Lists also name files that nobody needs any more; daemons remove them.

This file is copied under a name with its digest and runs alone: on executors there is nothing else of Stoker yet.
"""
import contextlib
import ctypes
import gc
import os
import re
import resource
import select
import signal
import socket
import sys
import time
import traceback
import types

import pyspark.daemon as daemon

IDLE_SECONDS = float(os.environ.get("STOKER_DAEMON_IDLE") or 5)
LOOK_SECONDS = 1.0
PLACE = os.environ.get("STOKER_BINARIES") or ""     # "place-<number>" on executors elsewhere
LIST = re.compile(r"stoker-retired-(\d+)\.txt")     # in the executor's working directory, written by sets.py
FILE = re.compile(r"stoker-[0-9a-f]{16}-(.+)\.zip")  # of a use, by its name
END = "end"
_SIGNALS = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
_LIMITS = {value for name, value in vars(resource).items() if name.startswith("RLIMIT_")}
if os.environ.get("PYSPARK_EXECUTOR_MEMORY_MB"):    # spark.executor.pyspark.memory: pyspark sets it for good in the first task
    _LIMITS.discard(resource.RLIMIT_AS)
_PR_SET_PDEATHSIG, _PR_GET_SECCOMP, _PR_SET_TIMERSLACK, _PR_SET_CHILD_SUBREAPER, _PR_GET_NO_NEW_PRIVS = 1, 21, 29, 36, 39
_libc = ctypes.CDLL(None)
END_OF_WORKER = signal.SIGURG                       # ignored by who does not know it
FORGOTTEN_SECONDS = 90.0    # Spark drops idle workers after 60 s, give or take 10
SERVE = "--serve="                                  # last argument of a worker's new Python: the number of its socket


class Lists:
    """Each has all that the ones before it had, so the newest counts."""

    def __init__(self):
        self._name, self._lines = None, []

    def read(self):
        """The newest list that is complete. True when it is another than before."""
        while PLACE.startswith("place-") and FOLDER:
            try:
                names = os.listdir(FOLDER)
            except OSError:                 # a task has removed it
                return False
            numbers = sorted((int(m[1]) for m in map(LIST.fullmatch, names) if m), reverse=True)
            try:
                for name in map("stoker-retired-%d.txt".__mod__, numbers):
                    if name == self._name:
                        return False
                    with open(os.path.join(FOLDER, name)) as f:
                        lines = f.read().split("\n")
                    if END in lines:        # else it is still being copied
                        self._name, self._lines = name, lines
                        return True
                return False
            except FileNotFoundError:       # a newer one has come, and a daemon has removed this one
                continue
        return False

    def generation(self):
        """How many uses have ended in this process's place."""
        self.read()
        for line in self._lines:
            place, _, number = line.partition(" ")
            if place == PLACE and number:
                return int(number)
        return 0

    def remove_files(self):
        """Those that the list names."""
        for name in self._lines:
            if name.startswith("stoker-") and os.path.basename(name) == name and name != self._name:
                with contextlib.suppress(OSError):
                    os.unlink(os.path.join(FOLDER, name))


class Watch:
    def __init__(self):
        self.idle_since = time.monotonic()
        self.look_at = self.stays_until = 0.0

    def stay(self, *_):
        self.stays_until = time.monotonic() + FORGOTTEN_SECONDS

    def check(self, ready):
        """After each wait of the daemon. ready: what it has to do now, handed back."""
        now = time.monotonic()
        idle = not ready and not _has_children()
        if not idle:
            self.idle_since = now
        leaves = idle and now >= max(self.idle_since + IDLE_SECONDS, self.stays_until)
        if leaves or now >= self.look_at:
            self.look_at = now + LOOK_SECONDS
            if lists.read():
                lists.remove_files()
        if leaves:
            sys.exit(0)
        return ready


def _has_children():
    try:
        os.waitpid(-1, os.WNOHANG)      # SIGCHLD is ignored: there are no zombies
        return True
    except ChildProcessError:
        return False


class Poll:
    """select.poll() of pyspark.daemon, which wakes up at least every second."""

    def __init__(self):
        self._poll = select.poll()
        self.register, self.unregister = self._poll.register, self._poll.unregister

    def poll(self, timeout=None):
        timeout = 1000 if timeout is None else timeout
        return watch.check(self._poll.poll(min(timeout, 1000 * IDLE_SECONDS)))


def _select(readers, writers, errors, timeout=1):
    """select.select() of pyspark.daemon before Spark 4."""
    found = select.select(readers, writers, errors, min(timeout, IDLE_SECONDS))
    return (watch.check(found[0]), *found[1:])


class Inherited:
    """What a process has from its parent and keeps over an execve. Made before any code of a job, by the main thread."""

    def __init__(self):
        self._ignored = {n for n in _SIGNALS if signal.getsignal(n) == signal.SIG_IGN}
        self._umask = os.umask(0)
        os.umask(self._umask)
        with open("/proc/self/oom_score_adj") as f:
            self._score = f.read()
        self._values = [(set_, get()) for get, set_ in self._settable()]
        self._lost = self._for_good()
        self._streams = [os.dup(fd) for fd in (1, 2)]
        self._files = [_identity(fd) for fd in self._streams]

    @staticmethod
    def _settable():
        """(function that gets, function that sets)"""
        for limit in _LIMITS:
            yield lambda n=limit: resource.getrlimit(n), lambda value, n=limit: resource.setrlimit(n, value)
        yield lambda: os.getpriority(os.PRIO_PROCESS, 0), lambda value: os.setpriority(os.PRIO_PROCESS, 0, value)
        yield lambda: os.sched_getaffinity(0), lambda value: os.sched_setaffinity(0, value)
        yield (lambda: (os.sched_getscheduler(0), os.sched_getparam(0)),
               lambda value: os.sched_setscheduler(0, *value))
        yield os.getpgrp, lambda value: os.setpgid(0, value)

    @staticmethod
    def _for_good():
        """What nobody, or only a privileged process, could put back."""
        return ([resource.getrlimit(n)[1] for n in _LIMITS], os.getpriority(os.PRIO_PROCESS, 0), os.getsid(0),
                os.getresuid(), os.getresgid(), os.getgroups(), _identity("/"),
                _libc.prctl(_PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), _libc.prctl(_PR_GET_SECCOMP, 0, 0, 0, 0))

    def lost(self):
        return self._for_good() != self._lost or [_identity(fd) for fd in self._streams] != self._files

    def put_back(self):
        """The last thing before the execve: other threads may still run code of a job. Raises OSError and ValueError."""
        for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
            signal.setitimer(timer, 0)
        for n in _SIGNALS:
            signal.signal(n, signal.SIG_IGN)        # what is pending is gone
            if n not in self._ignored:
                signal.signal(n, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, SIGNALS)
        for option, value in ((_PR_SET_PDEATHSIG, 0), (_PR_SET_CHILD_SUBREAPER, 0), (_PR_SET_TIMERSLACK, 0)):
            _libc.prctl(option, value, 0, 0, 0)     # those of a process that was just forked
        _end_children()
        for set_, value in self._values:
            set_(value)
        os.umask(self._umask)
        with open("/proc/self/oom_score_adj", "w") as f:
            f.write(self._score)
        for fd, kept in zip((1, 2), self._streams):
            os.dup2(kept, fd)
        null = os.open(os.devnull, os.O_RDONLY)
        if null != 0:
            os.dup2(null, 0)
            os.close(null)
        else:                                       # a job has closed it
            os.set_inheritable(0, True)


def _identity(file):
    """Of a descriptor or a path; None: there is none."""
    try:
        st = os.stat(file)
        return st.st_dev, st.st_ino
    except OSError:
        return None


def _end_children():
    """What a job has started and left would be children of the new Python."""
    while True:
        found = []
        for thread in os.listdir("/proc/self/task"):
            with contextlib.suppress(OSError), open("/proc/self/task/%s/children" % thread) as f:
                found += map(int, f.read().split())
        if not found:
            return
        for pid in found:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


class Worker:
    """In the place of pyspark.daemon.worker(), which serves one task; called for each task of a worker process."""

    def __init__(self):
        self._serve = daemon.worker
        self._generation = None         # of the tasks that this process has served

    def __call__(self, sock, authenticated):
        if self._generation is None:    # forked for a task that is already here, as its files are
            self._generation = lists.generation()
            signal.signal(END_OF_WORKER, signal.SIG_DFL)
            self._inherited, self._parent = Inherited(), os.getppid()
            _guard_path()
        elif sock.recv(1, socket.MSG_PEEK) and lists.generation() != self._generation:
            _begin_anew(sock, self._inherited)
        code = self._serve(sock, authenticated)
        if self._inherited.lost():
            if os.getppid() == self._parent:    # else the daemon has gone
                os.kill(self._parent, END_OF_WORKER)
            os._exit(0)
        return code


def _guard_path():
    """Of the files that tasks bring onto this process's path, all that belong to a use belong to the same."""
    import pyspark.worker_util as util      # not before the fork: it may start threads
    add_path, seen = util.add_path, set()

    def add_path_of_one_use(path):
        seen.update(use[1] for use in [FILE.fullmatch(os.path.basename(path))] if use)
        if len(seen) > 1:
            raise RuntimeError("tasks of two binary sets have come to one Python process: %s" % ", ".join(sorted(seen)))
        return add_path(path)
    util.add_path = add_path_of_one_use


def _begin_anew(sock, inherited):
    """A Python that knows nothing of the sets before goes on with the connection, of which nothing has been read. To end
    instead would fail the task."""
    fd = sock.fileno()
    os.set_inheritable(fd, True)
    inherited.put_back()
    for other in map(int, os.listdir("/proc/self/fd")):     # not all that there may be: a thousand million in some containers
        if other > 2 and other != fd:
            with contextlib.suppress(OSError):
                os.close(other)
    with contextlib.suppress(OSError):
        os.chdir(FOLDER)
    os.execve(PYTHON, [PYTHON, "-m", MODULE, *ARGUMENTS, SERVE + str(fd)], ENVIRONMENT)


def _serve_on(fd):
    """What pyspark.daemon's child does after the fork, with a connection that is in use."""
    sock = socket.socket(fileno=fd)
    try:
        with getattr(daemon, "enable_faulthandler", contextlib.nullcontext)():
            while not daemon.worker(sock, True) and os.environ.get("SPARK_REUSE_WORKER"):
                gc.collect()
            with contextlib.suppress(OSError):      # until Spark has closed it
                while sock.recv(1024):
                    pass
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _working_directory():
    """None: a job has removed it under the JVM, which every daemon begins in."""
    try:
        return os.getcwd()
    except OSError:
        return None


# As they are before any code of a job.
FOLDER, ENVIRONMENT, ARGUMENTS, PYTHON = _working_directory(), dict(os.environ), sys.argv[1:], sys.executable
MODULE = os.path.splitext(os.path.basename(__file__))[0]
SIGNALS = signal.pthread_sigmask(signal.SIG_BLOCK, ())

lists = Lists()

if __name__ == "__main__":
    if PLACE.startswith("place-"):
        daemon.worker = Worker()
    if sys.argv[-1].startswith(SERVE):
        fd = int(sys.argv.pop()[len(SERVE):])
        ARGUMENTS = sys.argv[1:]
        _serve_on(fd)
    watch = Watch()
    signal.signal(END_OF_WORKER, watch.stay)
    shim = types.ModuleType("select")   # stands for `select` in pyspark.daemon only
    vars(shim).update({key: value for key, value in vars(select).items() if not key.startswith("__")})
    shim.poll, shim.select = Poll, _select
    daemon.select = shim
    daemon.manager()
