"""The pair of files that a worker's standard output and error go to (PROTOCOL.md section 6).

The pair is made once and handed to a job only when it has written something: two new files per job would cost more than
a small job does. All methods belong to the main thread, except sizes(), silence(), give() and tail().
"""
import contextlib
import io
import os
import sys
import threading

from . import proc

NAMES = ("stdout", "stderr")
TAIL = 4096                 # bytes


class LogPair:
    """stdout is descriptor 1 and stderr 2; each has a duplicate at a high number that jobs do not know of."""

    def __init__(self, state_dir, process):
        self._folder, self._process = os.path.join(state_dir, "logs"), process
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        self._kept = [proc.keep_fd(null), -1, -1]
        os.close(null)
        self._identity = [None, None, None]
        self._given = None, [0, 0]      # the last attempt that has got a pair, and the sizes
        self._giving = threading.Lock()
        self._streams = [sys.stdin, sys.stdout, sys.stderr]

    def start(self):
        """From here on output goes to the pair instead of the context's log."""
        for stream in self._streams[1:]:
            stream.flush()
            stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True, write_through=False)
        proc.line_buffer_c()
        self._open()

    def _open(self):
        for number, name in enumerate(NAMES, 1):
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
            fd = os.open(self._path(name), flags, 0o600)
            try:
                if self._kept[number] < 0:
                    self._kept[number] = proc.keep_fd(fd)
                else:
                    os.dup2(fd, self._kept[number], inheritable=False)
            finally:
                os.close(fd)
        for number in range(3):
            self._identity[number] = proc.identity(self._kept[number])
            os.dup2(self._kept[number], number)

    def _path(self, name):
        return _path(self._folder, self._process, name)

    def sizes(self):
        """Bytes written so far to stdout and stderr, as far as the descriptors are still ours."""
        return [self._size(1), self._size(2)]

    def _size(self, number):
        try:
            st = os.fstat(self._kept[number])
        except OSError:
            return 0
        return st.st_size if (st.st_dev, st.st_ino) == self._identity[number] else 0

    def tail(self, name):
        """The last TAIL bytes of a stream, as text."""
        try:
            with open(self._path(name), "rb") as f:
                f.seek(max(0, f.seek(0, os.SEEK_END) - TAIL))
                return f.read().decode("utf-8", "replace")
        except OSError:
            return ""

    def restore(self):
        """After a job: what Python and C hold back is written, and 0, 1 and 2 are what they were. False when that cannot
        be done because the job has closed the duplicates too."""
        proc.flush_c()
        sys.stdin, sys.stdout, sys.stderr = self._streams
        for stream in self._streams[1:]:
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        for number in range(3):
            if proc.identity(number) == self._identity[number]:
                continue
            if proc.identity(self._kept[number]) != self._identity[number]:
                return False
            os.dup2(self._kept[number], number)
        self._reopen_closed()
        return True

    def _reopen_closed(self):
        """For a job that has closed sys.stdout itself, which no dup2() mends."""
        for number, name in enumerate(("stdin", *NAMES)):
            if not self._streams[number].closed:
                continue
            raw = open(number, "wb" if number else "rb", closefd=False)
            self._streams[number] = io.TextIOWrapper(raw, "utf-8", "backslashreplace", line_buffering=True)
            setattr(sys, name, self._streams[number])

    def silence(self):
        """What a job that does not end goes on printing is dropped. Any thread."""
        for number in (1, 2):
            os.dup2(self._kept[0], number)

    def give(self, job, attempt):
        """The pair becomes the job's, with its descriptors; once for each attempt. The sizes in bytes."""
        with self._giving:
            if self._given[0] != (job, attempt):
                self._given = (job, attempt), self.sizes()
                for name in NAMES:
                    with contextlib.suppress(FileNotFoundError):
                        os.rename(self._path(name), os.path.join(self._folder, "%s.%d.%s" % (job, attempt, name)))
            return self._given[1]

    def settle(self, job, attempt):
        """After restore(): gives the pair to the job if it has written, and opens another. The sizes in bytes."""
        if not any(self.sizes()):
            return [0, 0]
        sizes = self.give(job, attempt)
        self._open()
        return sizes


def _path(folder, process, name):
    return os.path.join(folder, "%s.%s" % (process, name))


def discard_empty(state_dir, process):
    """Removes the pair of a worker that has ended if it is empty; else it is that of the job the worker died in."""
    paths = [_path(os.path.join(state_dir, "logs"), process, name) for name in NAMES]
    with contextlib.suppress(OSError):
        if not any(os.path.getsize(path) for path in paths):
            for path in paths:
                os.unlink(path)
