"""What a job may change in its process, put back after it (rule A5 without Spark).

Modules stay loaded: they belong to the binary set that the worker is bound to. Main thread only. restore() runs after
every job, so it asks the kernel little: about 20 microseconds in all.
"""
import _signal
import os
import resource
import signal
import sys
import threading

from . import proc
from .hunt import Hunter

THREAD_GRACE = 0.1          # seconds for a thread that is just ending


class ProcessState:
    """The state as it is when the object is made."""

    def __init__(self, context, process):
        self._process, self._hunter = process, Hunter(context)
        folder = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._folder = proc.keep_fd(folder)
        os.close(folder)
        self._folder_path = os.getcwd()
        self._umask = os.umask(0)
        os.umask(self._umask)
        self.note()
        self._threads = threading.active_count()
        # _signal: the functions of signal turn every number into an enum, which would be half the cost of restore().
        self._signals = [(n, _signal.getsignal(n)) for n in range(1, 32) if n not in (signal.SIGKILL, signal.SIGSTOP)]
        self._children = self._children_reaped()

    def note(self):
        """Takes sys.path and the environment as they are now for what they shall be."""
        self._path, self._argv = list(sys.path), list(sys.argv)
        self._recursion = sys.getrecursionlimit()
        self._environ = dict(os.environ._data)  # encoded: decoding it all after every job would cost most of restore()

    def restore(self):
        self._restore_signals()
        try:
            os.fchdir(self._folder)
        except OSError:         # a job that closes every descriptor has closed this one
            os.chdir(self._folder_path)
        os.umask(self._umask)
        if os.environ._data != self._environ:
            self._restore_environ()
        if sys.path != self._path:
            sys.path[:] = self._path
        if sys.argv != self._argv:
            sys.argv[:] = self._argv
        if sys.getrecursionlimit() != self._recursion:
            sys.setrecursionlimit(self._recursion)

    def _restore_environ(self):
        wanted = {os.fsdecode(k): os.fsdecode(v) for k, v in self._environ.items()}
        os.environ.clear()
        os.environ.update(wanted)

    def _restore_signals(self):
        _signal.setitimer(_signal.ITIMER_REAL, 0)     # a pending alarm would end the next job
        _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
        _signal.set_wakeup_fd(-1)
        for number, handler in self._signals:
            if _signal.getsignal(number) is not handler:
                _signal.signal(number, _signal.SIG_DFL if handler is None else handler)

    def threads_left(self):
        """Names of the threads that the job has left running."""
        if threading.active_count() <= self._threads:
            return []
        known = [t for t in threading.enumerate() if t is not threading.main_thread() and not _ours(t)]
        for thread in known:
            thread.join(THREAD_GRACE / len(known))
        return [t.name for t in known if t.is_alive()]

    # -- processes

    @staticmethod
    def _children_reaped():
        """Grows with each child that was waited for: every process has page faults."""
        return resource.getrusage(resource.RUSAGE_CHILDREN).ru_minflt

    def end_children(self):
        """Kills what the job has started and left, wherever it has gone. Pids that would not die (rarely any)."""
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            if self._children_reaped() == self._children:
                return []       # never had a child: the common case, two system calls
        left = self._hunter.kill(self._process, {os.getpid()})
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass
        self._children = self._children_reaped()
        return left


def _ours(thread):
    return thread.name == "stoker-io" or type(thread).__name__ == "FinalizerWorker"


class Memory:
    """Resident memory of this process, in bytes, without opening a file each time."""

    def __init__(self):
        fd = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        self._fd = proc.keep_fd(fd)
        os.close(fd)
        self._page = os.sysconf("SC_PAGESIZE")
        self._base = self._resident()

    def _resident(self):
        return int(os.pread(self._fd, 64, 0).split()[1]) * self._page

    def growth(self):
        try:
            return self._resident() - self._base
        except (OSError, IndexError, ValueError):
            return 0            # the job has closed or replaced the descriptor
