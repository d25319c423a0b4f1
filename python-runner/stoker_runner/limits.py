"""`max_memory` of a job (PROTOCOL.md section 6): what its processes may use beyond what its worker had when it began.

Two things keep it. In the worker, RLIMIT_DATA makes allocations fail, so that most jobs end with a MemoryError in the
line that asked for too much; child processes inherit it, each for itself. What that does not reach (several processes
together, shared memory, code that raises the limit again) the zygote sees: it looks at jobs with a limit a few times a
second and kills what is over it. It is told of them through a pipe, which works without a server and without the
worker's I/O thread. The JVM and executors are not counted: they are shared by all jobs.
"""
import errno
import json
import os
import resource
import signal
import time

from . import proc
from .failure import JobError

LOOK_SECONDS = 0.2
STOP_SECONDS = 0.05         # for a process to stop after SIGSTOP; one in the middle of a system call may take longer

_pipe = None                # the zygote's: (read, write), inherited by workers


def open_pipe():
    """Zygote, once, before anything is forked. The descriptor to poll."""
    global _pipe
    ends = os.pipe2(os.O_CLOEXEC)
    _pipe = tuple(proc.keep_fd(fd) for fd in ends)
    for fd in ends:
        os.close(fd)
    os.set_blocking(_pipe[0], False)
    return _pipe[0]


def size_text(n):
    return "%d MiB" % (n >> 20) if n >= 100 << 20 or n % (1 << 20) == 0 else "%.1f MiB" % (n / (1 << 20))


class MemoryLimit:
    """The worker's part. Main thread, except lift()."""

    def __init__(self, process):
        self._process = process
        self._write = _pipe[1] if _pipe else -1
        self._identity = proc.identity(self._write)
        self._old = None            # RLIMIT_DATA as it was
        self.bytes = None           # of the job that runs

    def begin(self, limit):
        """limit: bytes, or None."""
        if not limit:
            return
        pid = os.getpid()
        used = proc.Usage(pid)
        self._tell({"process": self._process, "limit": limit, "resident": used.resident, "share": proc.share(pid)})
        self._old = resource.getrlimit(resource.RLIMIT_DATA)
        soft, hard = used.data + limit, self._old[1]
        self.bytes = limit
        resource.setrlimit(resource.RLIMIT_DATA, (soft if hard < 0 else min(soft, hard), hard))

    def end(self):
        """The number of bytes that the job was limited to, or None."""
        if self.bytes is None:
            return None
        limit, self.bytes = self.bytes, None
        self.lift()
        self._tell({"process": self._process, "limit": None})
        return limit

    def lift(self):
        """Allocations succeed again; the zygote's look goes on. Any thread."""
        if self._old:
            resource.setrlimit(resource.RLIMIT_DATA, self._old)

    def _tell(self, message):
        if self._identity and proc.identity(self._write) == self._identity:
            os.write(self._write, json.dumps(message).encode() + b"\n")


def refused(chain):
    """The exception of a chain that tells of an allocation which failed, or None."""
    for e in chain:
        if isinstance(e, MemoryError) or (isinstance(e, OSError) and e.errno == errno.ENOMEM):
            return e
        if isinstance(e, RuntimeError) and e.args == ("can't start new thread",):
            return e
    return None


def out_of_memory(limit, refusal, cause):
    """The JobError of an attempt that ran into its limit. cause: the exception that ended it."""
    text = str(refusal)
    error = JobError("OUT_OF_MEMORY", "the job needed more memory than its limit allows, max-memory = %s%s" % (
        size_text(limit), ": " + text if text else ""), 4)
    error.__cause__ = cause
    return error


class Watched:
    """A job with a limit, as its worker has announced it."""

    def __init__(self, message):
        self.limit, self.resident, self.share = message["limit"], message["resident"], message["share"]


class MemoryWatch:
    """The zygote's part."""

    def __init__(self, hunter):
        self.fd = open_pipe()
        self._hunter = hunter
        self._rest = b""
        self._jobs = {}             # process -> Watched
        self._look_at = 0.0         # monotonic

    def timeout(self):
        """Seconds to the next look, or None."""
        return max(0.0, self._look_at - time.monotonic()) if self._jobs else None

    def read(self):
        """Takes what workers have announced."""
        while True:
            try:
                data = os.read(self.fd, 1 << 16)
            except BlockingIOError:
                return
            if not data:
                return
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                self._take(line)

    def _take(self, line):
        try:
            message = json.loads(line)
            if message["limit"] is None:
                self._jobs.pop(message["process"], None)
            else:
                self._jobs[message["process"]] = Watched(message)
        except (ValueError, KeyError, TypeError):
            pass                    # what a job has written to the descriptor

    def forget(self, process):
        """The process has ended: the limit its job had in bytes, or None."""
        self.read()
        job = self._jobs.pop(process, None)
        return job.limit if job else None

    def look(self, children):
        """When it is time to. children: {process: Child}. Yields (child, why it is to be killed), the child stopped."""
        if not self._jobs or time.monotonic() < self._look_at:
            return
        self.read()
        entries = list(proc.processes())
        for process, job in list(self._jobs.items()):
            child = children.get(process)
            if child is None:
                del self._jobs[process]
                continue
            pids = self._family(child, children, entries)
            used = self._used(child.pid, pids, job)
            if used > job.limit and self._holds(child, job):
                yield child, ("the job was ended because its processes used %s more memory than its worker had "
                              "before it; its limit is max-memory = %s" % (size_text(used), size_text(job.limit)))
        self._look_at = time.monotonic() + LOOK_SECONDS

    def _family(self, child, children, entries):
        """Pids of a worker and of its descendants, those included that have lost their parent and been given to us."""
        by_parent = {}
        for entry in entries:
            by_parent.setdefault(entry.ppid, []).append(entry)
        ours = {each.pid for each in children.values()}
        found = [child.pid]
        found += [e.pid for e in by_parent.get(os.getpid(), ()) if e.pid not in ours
                  and (e.pgid == child.pid or self._hunter.owns(child.process, e.pid))]
        for pid in found:
            found += [e.pid for e in by_parent.get(pid, ())]
        return found

    @staticmethod
    def _used(worker, pids, job):
        """Bytes beyond what the worker had. The cheap figure counts pages twice that forks share with the worker, the
        exact one moves a little when other workers come and go: a job is over its limit when it is by both."""
        used = sum(proc.Usage(pid).resident for pid in pids) - job.resident
        if used <= job.limit:
            return used
        return min(used, sum(map(proc.share, pids)) - job.share)

    def _holds(self, child, job):
        """Stops the worker, so that it cannot end this job and begin another one now. False when it has done that."""
        proc.kill(child.pid, signal.SIGSTOP)
        end = time.monotonic() + STOP_SECONDS
        while time.monotonic() < end:
            found = proc.stat(child.pid)
            if not found or found.state in "TtZX":
                break
            time.sleep(0.001)
        self.read()
        if self._jobs.get(child.process) is job:
            return True
        proc.kill(child.pid, signal.SIGCONT)
        return False
