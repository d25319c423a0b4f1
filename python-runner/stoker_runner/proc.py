"""What the runner asks the Linux kernel about processes and descriptors.

Nothing here knows of Spark, frames or jobs. All functions may be called from any thread. Facts come from proc(5); a
process that ends meanwhile reads as absent (None or an empty value), never as an exception.
"""
import ctypes
import fcntl
import os
import signal

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PROT_READ, _MAP_SHARED = 1, 1
_IOPRIO_WHO_PROCESS, _IOPRIO_CLASS_IDLE = 1, 3
_libc = ctypes.CDLL(None, use_errno=True)
_IOLBF = 1
_libc.fflush.argtypes = [ctypes.c_void_p]
_libc.setvbuf.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]

# Descriptors that must survive a job live up here, out of the way of code that closes "everything up to 256".
PRIVATE_FD = 700


def _prctl(option, value):
    if _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno))


def die_with_parent(parent, signum=signal.SIGKILL):
    """The kernel sends signum to this process when the thread of `parent` that forked it ends.

    Exits when `parent` is gone already.
    """
    _prctl(_PR_SET_PDEATHSIG, signum)
    if os.getppid() != parent:
        os._exit(1)


def become_subreaper():
    """Orphaned descendants become children of this process instead of init's."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def idle_io():
    """This process and what it forks use the disk when nobody else does, where the kernel's scheduler knows of it."""
    number = {"x86_64": 251, "aarch64": 30}.get(os.uname().machine)     # ioprio_set(2) has no wrapper
    if number:
        _libc.syscall(number, _IOPRIO_WHO_PROCESS, 0, _IOPRIO_CLASS_IDLE << 13)


def close_from(lowest):
    """Closes every descriptor from `lowest` up, as far as /proc lists them."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) >= lowest:
            try:
                os.close(int(name))
            except OSError:
                pass    # the one that listdir() had open


def keep_fd(fd):
    """A duplicate of fd at PRIVATE_FD or above, close-on-exec. The caller owns both."""
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, PRIVATE_FD)


def identity(fd):
    """(device, inode) of what fd refers to now, or None when it is closed."""
    try:
        st = os.fstat(fd)
    except OSError:
        return None
    return st.st_dev, st.st_ino


def _c_stdout():
    return ctypes.c_void_p.in_dll(_libc, "stdout")


def line_buffer_c():
    """What C code prints is written line by line, to a file too."""
    _libc.setvbuf(_c_stdout(), None, _IOLBF, 0)


def flush_c():
    """Writes what C code has printed and the C library holds back."""
    _libc.fflush(_c_stdout())


def boot_id():
    with open("/proc/sys/kernel/random/boot_id") as f:
        return f.read().strip()


def thread_count():
    """Threads of this process as the kernel counts them, those of C libraries included."""
    with open("/proc/self/status") as f:
        for line in f:
            if line.startswith("Threads:"):
                return int(line.split()[1])
    raise RuntimeError("/proc/self/status has no Threads line")


def _read(path):
    try:
        with open(path, "rb") as f:
            return f.read()
    except OSError:
        return b""


class Stat:
    """The fields of /proc/PID/stat that the runner needs."""

    __slots__ = ("pid", "state", "ppid", "pgid", "sid", "start_time")

    def __init__(self, pid, text):
        # The second field is the program's name in parentheses and may itself hold spaces and parentheses.
        fields = text.rsplit(b")", 1)[1].split()
        self.pid = pid
        self.state = fields[0].decode()
        self.ppid, self.pgid, self.sid = int(fields[1]), int(fields[2]), int(fields[3])
        self.start_time = int(fields[19])   # field 22: clock ticks since boot


def stat(pid):
    """The Stat of a process, zombies included, or None."""
    text = _read("/proc/%d/stat" % pid)
    return Stat(pid, text) if text else None


def start_time(pid):
    found = stat(pid)
    return found.start_time if found else None


def processes():
    """The Stat of every live process (zombies left out) of this user."""
    uid = os.getuid()
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            if os.stat("/proc/" + name).st_uid != uid:
                continue
        except OSError:
            continue
        found = stat(int(name))
        if found and found.state not in "ZX":
            yield found


def environ(pid):
    """The environment a process got at its last exec, as {bytes: bytes}; forks share that of their parent."""
    block = _read("/proc/%d/environ" % pid)
    return dict(entry.partition(b"=")[::2] for entry in block.split(b"\0") if entry)


def map_for_life(fd):
    """Maps the first page of fd, for reading, until this process and its forks end or exec. fd may be closed after.

    Not with the mmap module: its objects hold a low descriptor that a job may close.
    """
    if _libc.mmap(None, 1, _PROT_READ, _MAP_SHARED, fd, 0) == ctypes.c_void_p(-1).value:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno))


def maps_name(pid, name):
    """True when the process has a mapping of that name: what a fork inherits and an exec loses."""
    return name.encode() in _read("/proc/%d/maps" % pid)


class Usage:
    """Memory of a process in bytes, without what it maps from files. Zeros when it is gone."""

    __slots__ = ("data", "resident")

    def __init__(self, pid):
        sizes = _sizes("/proc/%d/status" % pid)
        self.data = sizes.get(b"VmData", 0)     # what RLIMIT_DATA limits: reserved, whether touched or not
        self.resident = sum(sizes.get(name, 0) for name in (b"RssAnon", b"RssShmem", b"VmSwap"))


def share(pid):
    """The same as Usage.resident, but pages that several processes have count in part for each (since Linux 5.9)."""
    sizes = _sizes("/proc/%d/smaps_rollup" % pid)
    if b"Pss_Anon" not in sizes:
        return Usage(pid).resident
    return sum(sizes.get(name, 0) for name in (b"Pss_Anon", b"Pss_Shmem", b"SwapPss"))


def _sizes(path):
    """{name: bytes} of the lines `name: N kB`."""
    lines = (line.split() for line in _read(path).splitlines())
    return {words[0][:-1]: int(words[1]) << 10 for words in lines if len(words) == 3 and words[2] == b"kB"}


def raise_oom_score(by):
    """The kernel, when memory is out, ends this process and its children before others of the same size."""
    with open("/proc/self/oom_score_adj", "r+") as f:
        f.write(str(min(1000, max(0, int(f.read())) + by)))


def kill(pid, signum=signal.SIGKILL):
    try:
        os.kill(pid, signum)
    except ProcessLookupError:
        pass


def kill_group(pgid, signum=signal.SIGKILL):
    try:
        os.killpg(pgid, signum)
    except (ProcessLookupError, PermissionError):
        pass
