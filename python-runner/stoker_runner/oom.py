"""What the kernel's out-of-memory killer has done in this control group.

It names no process, but it counts: the file memory.events (cgroups v2) has how many processes of the group were ended,
because the memory of the group or of the machine was used up, and poll() tells when that changes. So one that ends by
SIGKILL just then is most likely the one; what ends at another time is not. The machine's own count (/proc/vmstat) is of no
use: it says neither where nor when.
"""
import os
import time

RECENT_SECONDS = 10.0   # from the kernel's choice of a process to its end, which takes long when memory is short


class OomKills:
    def __init__(self, path=None):
        """path: of the file; None: of this process's group."""
        path = path or _own_path()
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC) if path else -1     # to poll for POLLPRI; -1: nobody counts
        self._count = self._read() or 0
        self._times = []        # monotonic, of kills that no end is put down to

    def _read(self):
        """None when the file does not tell, or is no more: a group can be left and removed."""
        try:
            lines = os.pread(self.fd, 4096, 0).splitlines()     # from the beginning, else poll() reports the same again
            return next(int(line.split()[1]) for line in lines if line.startswith(b"oom_kill "))
        except (OSError, StopIteration):
            self.close()
            return None

    def close(self):
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1

    def look(self):
        """The count may have changed."""
        count = self._read() if self.fd >= 0 else None
        if count is not None:
            self._times += [time.monotonic()] * (count - self._count)
            self._count = count

    def take(self):
        """A process was ended by SIGKILL: whether that may have been the kernel. Each of its kills counts for one."""
        self.look()
        self._times = [each for each in self._times if time.monotonic() - each <= RECENT_SECONDS]
        return bool(self._times and self._times.pop())


def _own_path():
    try:
        with open("/proc/self/cgroup") as f:
            group = next(line[3:].rstrip("\n") for line in f if line.startswith("0::"))
    except (OSError, StopIteration):
        return None
    # A container may see its own group as the root of the tree, and its path as the machine has it.
    paths = ["/sys/fs/cgroup%s/memory.events" % each for each in (group.rstrip("/"), "")]
    return next(filter(os.path.exists, paths), None)
