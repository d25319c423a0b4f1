"""What a job may change in its process, put back after it (rule A5 without Spark).

Modules stay loaded: they belong to the binary set that the worker is bound to, and so does what they change while they
are imported, since they are not imported again. note() is therefore called again after an import, whether it stands at the
top of a job's file or in run_job(); what differs from the last note after a job was changed by the job. Where the two cannot
be told apart (an import that changes something after the job has, one that fails) the worker retires. So it does when
something cannot be put back, or not without harm to modules that are loaded. Not undone: atexit handlers (they never run,
since workers leave by _exit), gc.freeze().

Main thread only. restore() runs after every job, so it asks little: about 15 microseconds when nothing is to be done.
"""
import _locale
import _signal
import _thread
import asyncio.events   # noqa: F401: in _BINDINGS
import contextvars
import csv
import ctypes
import decimal
import functools
import gc
import locale
import multiprocessing.context
import operator
import os
import random
import resource
import signal
import socket
import sys
import threading
import time
import warnings

from . import imports, proc
from .hunt import Hunter
from .loggers import Loggers
from .patches import NAMES, Patches

THREAD_GRACE = 0.1          # seconds for a thread that is just ending
MOST_DESCRIPTORS = 100      # that the jobs of a worker may leave open together

# Names that are put back when they are bound to something else: (module, name).
_BINDINGS = (
    ("sys", "excepthook"), ("sys", "displayhook"), ("sys", "unraisablehook"), ("sys", "breakpointhook"),
    ("sys", "tracebacklimit"), ("sys", "dont_write_bytecode"), ("sys", "path"), ("sys", "argv"), ("sys", "meta_path"),
    ("sys", "path_hooks"), ("sys", "modules"), ("os", "environ"), ("threading", "excepthook"),
    ("threading", "_trace_hook"), ("threading", "_profile_hook"), ("warnings", "filters"), ("tempfile", "tempdir"),
    ("asyncio.events", "_event_loop_policy"), ("ssl", "_create_default_https_context"), ("urllib.request", "_opener"),
)
_PANDAS_OPTIONS = "pandas._config.config"
_LOOKED_AT = {module for module, _ in _BINDINGS} | NAMES | {_PANDAS_OPTIONS, "numpy.random"}
_ABSENT = object()
_JOBS_OWN = contextvars.ContextVar("stoker", default=False)     # True in what in_own_context() calls
_RLIMITS = sorted({value for name, value in vars(resource).items() if name.startswith("RLIMIT_")})
_RLIMITS_ASKED = (resource.RLIMIT_AS, resource.RLIMIT_NOFILE)   # after every job; the others when setrlimit() was called
_libc = ctypes.CDLL(None)
_environ = ctypes.c_void_p.in_dll(_libc, "environ")


def _values():
    """(name, function that gets, function that sets) of what the interpreter and the kernel keep for the process."""
    yield "sys.setrecursionlimit", sys.getrecursionlimit, sys.setrecursionlimit
    yield "sys.setswitchinterval", sys.getswitchinterval, sys.setswitchinterval
    yield "sys.settrace", sys.gettrace, sys.settrace
    yield "sys.setprofile", sys.getprofile, sys.setprofile
    if hasattr(sys, "get_int_max_str_digits"):
        yield "sys.set_int_max_str_digits", sys.get_int_max_str_digits, sys.set_int_max_str_digits
    yield "gc.enable", gc.isenabled, lambda on: gc.enable() if on else gc.disable()
    yield "gc.set_threshold", gc.get_threshold, lambda levels: gc.set_threshold(*levels)
    yield "gc.set_debug", gc.get_debug, gc.set_debug
    yield "socket.setdefaulttimeout", socket.getdefaulttimeout, socket.setdefaulttimeout
    yield "threading.stack_size", threading.stack_size, threading.stack_size
    yield "csv.field_size_limit", csv.field_size_limit, csv.field_size_limit
    yield ("locale", functools.partial(_locale.setlocale, _locale.LC_ALL, None),
           functools.partial(locale.setlocale, locale.LC_ALL))
    yield ("nice value", functools.partial(os.getpriority, os.PRIO_PROCESS, 0),
           functools.partial(os.setpriority, os.PRIO_PROCESS, 0))
    yield "processor affinity", functools.partial(os.sched_getaffinity, 0), functools.partial(os.sched_setaffinity, 0)
    yield "process group", os.getpgrp, lambda group: os.setpgid(0, group)
    yield "user id", os.geteuid, os.seteuid
    for limit in _RLIMITS_ASKED:
        yield ("resource limit", functools.partial(resource.getrlimit, limit),
               functools.partial(resource.setrlimit, limit))


def _pandas_options():
    """The same for these. They are read where pandas has them, but set by its function, since some are followed by others."""
    config = sys.modules[_PANDAS_OPTIONS]
    places = []
    for key in config._registered_options:
        *groups, name = key.split(".")
        places.append((key, functools.reduce(operator.getitem, groups, config._global_config), name))

    def set_all(values):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")     # some are deprecated
            for (key, group, name), value in zip(places, values):
                if group[name] != value:
                    config.set_option(key, value)
    return "pandas options", lambda: [group[name] for _, group, name in places], set_all


class ProcessState:
    """The state as it was at the last note()."""

    def __init__(self, context, process, folder):
        """folder: the working directory of jobs."""
        self._process, self._hunter = process, Hunter(context)
        self._folder_path = folder
        self._folder, self._folder_identity = -1, None
        self.find_folder()
        self._umask = os.umask(0)
        os.umask(self._umask)
        self._values = list(_values())
        self._lock = threading.Lock()       # of _watch_new()
        self._seeds, self._limits = Seeds(), Limits()
        self._loggers = Loggers()
        self._bare_threads = BareThreads()
        self._patches = Patches()
        self._import_reason = None
        self.note()
        self._threads = threading.active_count()
        self._lowest = self._lowest_descriptor()
        imports.watch(self._before_import, self._after_import)

    def note(self):
        """Takes everything as it is now for what it shall be."""
        default = multiprocessing.context._default_context
        self._bindings = [(vars(default), "_actual_context", default._actual_context)]
        self._noted = [(name, get, set_, get()) for name, get, set_ in self._values]
        self._patches.note()
        self._looked_at = set()     # modules of which anything is noted
        self._watch_new()
        lists = [(each, list(each)) for each in (sys.path, sys.argv, sys.meta_path, sys.path_hooks, warnings.filters)]
        # _signal: the functions of signal turn every number into an enum, which would be half the cost of restore().
        self._signals = [(n, _signal.getsignal(n)) for n in range(1, 32) if n not in (signal.SIGKILL, signal.SIGSTOP)]
        self._loggers.note()
        self._lists = lists
        self._environ = dict(os.environ._data)  # encoded: decoding it all after every job would cost most of restore()
        self._note_block()
        self._rest = self._rest_now()

    def _watch_new(self):
        """Takes what modules keep that were not loaded before for what it shall be. Any thread."""
        with self._lock:
            new = {name for name in _LOOKED_AT if name in sys.modules} - self._looked_at
            for module, name in _BINDINGS:
                if module in new:
                    names = vars(sys.modules[module])
                    self._bindings.append((names, name, names.get(name, _ABSENT)))
            if _PANDAS_OPTIONS in new:
                name, get, set_ = _pandas_options()
                self._noted.append((name, get, set_, get()))
            self._seeds.watch()
            self._patches.watch(new)
            self._looked_at |= new

    # -- imports

    def _now(self):
        """All that is noted, as it is now, to be compared by _same()."""
        objects = [_signal.getsignal(n) for n, _ in self._signals]
        objects += [names.get(name, _ABSENT) for names, name, _ in self._bindings]
        values = [get() for _, get, _, _ in self._noted], [list(each) for each, _ in self._lists]
        return objects, (*values, *self._rest_now())

    def _as_noted(self):
        """What _now() would return if nothing had changed."""
        objects = [handler for _, handler in self._signals] + [value for _, _, value in self._bindings]
        values = [value for _, _, _, value in self._noted], [wanted for _, wanted in self._lists]
        return objects, (*values, *self._rest)

    def _rest_now(self):
        return dict(os.environ), _block_entries(), self._loggers.configured(), self._patches.found()

    def _before_import(self):
        """None when the state cannot be told, whatever a job has made of it."""
        try:
            return self._now(), _context()
        except Exception:
            return None

    def _after_import(self, name, before, loaded):
        """What a module has changed is kept when the job had changed nothing before, and nobody else could meanwhile."""
        if before is None:
            reason = "came after its job had changed what cannot be read any more"
        else:
            try:
                reason = self._keep_import(*before, loaded)
            except Exception as e:
                reason = "left what cannot be noted (%s)" % e
        if reason:
            self._import_reason = self._import_reason or "module %s, imported while its job ran, %s" % (name, reason)

    def _keep_import(self, state, context, loaded):
        if not _same(_context(), context):
            return "changed context variables, which end with the job"
        changed = not _same(self._now(), state)
        if changed and loaded and self._alone() and _same(state, self._as_noted()):
            self.note()
            return None
        if _n_looked_at() != len(self._looked_at):
            self._watch_new()
        return "changed the process, and so may its job have" if changed else None

    def _alone(self):
        """Whether no other thread could change anything now."""
        return (threading.current_thread() is threading.main_thread() and
                (threading.active_count() <= self._threads or not self._others()))

    # -- after a job

    def restore(self):
        """None, or why the process is not what it was."""
        reason = None
        self._restore_signals()
        for name, get, set_, value in self._noted:
            if get() != value:
                failed = _put_back(name, get, set_, value)
                reason = reason or failed
        try:
            self._restore_folder()
        except OSError as e:
            reason = reason or "it cannot go back to its working directory (%s)" % e
        os.umask(self._umask)
        for names, name, value in self._bindings:
            if names.get(name, _ABSENT) is not value:
                _rebind(names, name, value)
        for each, wanted in self._lists:
            if each != wanted:
                each[:] = wanted
                if each is warnings.filters:
                    warnings._filters_mutated()
        if self._block_changed() or os.environ._data != self._environ:
            self._restore_environ()
        self._seeds.restore()
        self._loggers.restore()
        return (self._limits.restore() or self._import_reason or self._patches.found() or reason or
                self._descriptors_left())

    def _restore_signals(self):
        for timer in (_signal.ITIMER_REAL, _signal.ITIMER_VIRTUAL, _signal.ITIMER_PROF):
            _signal.setitimer(timer, 0)     # a pending alarm would end the next job
        _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
        _signal.set_wakeup_fd(-1)
        for number, handler in self._signals:
            if _signal.getsignal(number) is not handler:
                _signal.signal(number, _signal.SIG_DFL if handler is None else handler)

    # -- the working directory

    def _open_folder(self):
        folder = os.open(self._folder_path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if self._folder < 0:
                self._folder = proc.keep_fd(folder)
            else:
                os.dup2(folder, self._folder, inheritable=False)
        finally:
            os.close(folder)
        self._folder_identity = proc.identity(self._folder)

    def _restore_folder(self):
        try:
            os.fchdir(self._folder)
        except OSError:         # a job that closes every descriptor has closed this one
            os.chdir(self._folder_path)

    def find_folder(self):
        """Before a job: all processes of the context have this folder, and a job of any of them may have deleted it."""
        try:
            st = os.stat(self._folder_path)
            if (st.st_dev, st.st_ino) == self._folder_identity:
                return
        except OSError:
            pass
        os.makedirs(self._folder_path, exist_ok=True)
        self._open_folder()
        os.chdir(self._folder_path)

    # -- the environment: that of Python, and that of C, which putenv() and libraries change without Python's knowledge

    def _note_block(self):
        self._block = _environ.value
        self._block_bytes = ctypes.string_at(self._block, 8 * (_block_length() + 1)) if self._block else b""

    def _block_changed(self):
        """Every change of the environment replaces a pointer in its block, or the block."""
        block = _environ.value
        return block != self._block or ctypes.string_at(block, len(self._block_bytes)) != self._block_bytes

    def _restore_environ(self):
        wanted = {os.fsdecode(k): os.fsdecode(v) for k, v in self._environ.items()}
        for entry in _block_entries():
            name = os.fsdecode(entry.partition(b"=")[0])
            if name and name not in wanted:
                os.unsetenv(name)
        os.environ.clear()
        os.environ.update(wanted)
        time.tzset()
        self._note_block()

    # -- descriptors

    @staticmethod
    def _lowest_descriptor():
        try:
            fd = os.dup(0)
        except OSError:
            return 0
        os.close(fd)
        return fd

    def _descriptors_left(self):
        """They are taken from the lowest up, so the next one tells how many there are. A few may be a module's own."""
        left = self._lowest_descriptor() - self._lowest
        return None if left < MOST_DESCRIPTORS else "its jobs have left %d descriptors open" % left

    # -- threads

    def threads_left(self):
        """Names of the threads that the job has left running."""
        bare = self._bare_threads.left()
        if threading.active_count() <= self._threads:
            return bare
        known = self._others()
        for thread in known:
            thread.join(THREAD_GRACE / len(known))
        return [t.name for t in known if t.is_alive()] + bare

    @staticmethod
    def _others():
        """Without what stands for a thread that threading has not started: it cannot be waited for, nor does it end."""
        return [t for t in threading.enumerate()
                if t is not threading.main_thread() and not _ours(t) and not isinstance(t, threading._DummyThread)]

    # -- processes

    def end_children(self):
        """Kills what the job has started and left, wherever it has gone. Pids that would not die (rarely any)."""
        left = []
        if not self._reaped():
            left = self._hunter.kill(self._process, os.getpid(), {os.getpid()})
            self._reaped()
        _forget_helpers()
        return left

    @staticmethod
    def _reaped():
        """Takes up all children that have ended; whether none is left, not even of a child's, for this process is a
        subreaper. Nearly always there was none: one system call."""
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return True
        return False


class BareThreads:
    """Threads that are started with _thread, which threading does not know of. _thread counts one from when it first runs, which
    may be after its job has ended; so they are counted here."""

    def __init__(self):
        self._alive, self._start = set(), _thread.start_new_thread
        _thread.start_new_thread = _thread.start_new = self.start   # threading keeps the one that it has

    def start(self, function, args, kwargs=None):
        if not callable(function) or not isinstance(args, tuple):
            return self._start(function, args)      # which says what is wrong
        token = object()

        def run():
            try:
                function(*args, **(kwargs or {}))
            finally:
                self._alive.discard(token)
        self._alive.add(token)
        try:
            return self._start(run, ())
        except BaseException:
            self._alive.discard(token)
            raise

    def left(self):
        end = time.monotonic() + THREAD_GRACE
        while self._alive and time.monotonic() < end:
            time.sleep(0.001)
        return ["one of _thread"] if self._alive else []


def _n_looked_at():
    """How many of the modules are loaded of which anything is noted."""
    return sum(name in sys.modules for name in _LOOKED_AT)


def _put_back(name, get, set_, value):
    try:
        set_(value)
    except (OSError, ValueError, RecursionError, locale.Error) as e:
        return "its job changed its %s, which cannot be put back (%s)" % (name, e)
    return None if get() == value else "its job changed its %s, which cannot be put back" % name


def _ours(thread):
    return thread.name == "stoker-io" or type(thread).__name__ == "FinalizerWorker"


def _rebind(names, name, value):
    if value is _ABSENT:
        names.pop(name, None)
    else:
        names[name] = value


def _block_entries():
    """The environment of C as it is now, `name=value` each."""
    entries, block = [], _environ.value
    while block:
        pointer = ctypes.c_void_p.from_address(block + 8 * len(entries)).value
        if not pointer:
            break
        entries.append(ctypes.string_at(pointer))
    return entries


def _block_length():
    return len(_block_entries())


def _forget_helpers():
    """Processes that multiprocessing keeps for itself are dead now; it would wait for them, or write to them."""
    children = sys.modules.get("multiprocessing.process")
    if children:
        children._children.clear()
    server = getattr(sys.modules.get("multiprocessing.forkserver"), "_forkserver", None)
    if server:
        if server._forkserver_alive_fd is not None:
            os.close(server._forkserver_alive_fd)
        server._forkserver_address = server._forkserver_alive_fd = server._forkserver_pid = None
    tracker = getattr(sys.modules.get("multiprocessing.resource_tracker"), "_resource_tracker", None)
    if tracker and tracker._fd is not None:
        os.close(tracker._fd)
        tracker._fd = tracker._pid = None


class Limits:
    """The resource limits. To ask for all of them takes longer than the rest of restore(), so calls are noted."""

    def __init__(self):
        self._changed = False
        self._set, self._process_set = resource.setrlimit, resource.prlimit
        self._values = [(each, resource.getrlimit(each)) for each in _RLIMITS]
        resource.setrlimit, resource.prlimit = self._noting(self._set), self._noting(self._process_set)

    def _noting(self, function):
        @functools.wraps(function)
        def limit(*args):
            self._changed = True
            return function(*args)
        return limit

    def restore(self):
        if not self._changed:
            return None
        self._changed = False
        reasons = [_put_back("resource limit", functools.partial(resource.getrlimit, each),
                             functools.partial(self._set, each), value)
                   for each, value in self._values if resource.getrlimit(each) != value]
        return next(filter(None, reasons), None)


class Seeds:
    """The random generators of the process. A worker must not repeat what its zygote, hence every other worker, draws;
    and a job that has seeded them must not make those after it repeat itself."""

    def __init__(self):
        self._seeded = False
        self._seeds = {}        # name of a module -> its seed()
        self.watch()
        self._reseed()

    def watch(self):
        """Those that are loaded; a new one has seeded itself."""
        for name, setter in (("random", "setstate"), ("numpy.random", "set_state")):
            module = sys.modules.get(name)
            if module and name not in self._seeds:
                self._seeds[name] = module.seed
                for each in ("seed", setter):
                    setattr(module, each, self._noting(getattr(module, each)))

    def _noting(self, function):
        @functools.wraps(function)
        def seed(*args, **kwargs):
            self._seeded = True
            return function(*args, **kwargs)
        return seed

    def _reseed(self):
        for seed in self._seeds.values():
            seed()

    def restore(self):
        if self._seeded:
            self._seeded = False
            self._reseed()


def in_own_context(function, *args):
    """Calls a function with context variables of its own: what it changes there (decimal's context, numpy's error
    state, a library's settings) ends with it."""
    return contextvars.copy_context().run(_with_own_decimals, function, *args)


def _with_own_decimals(function, *args):
    _JOBS_OWN.set(True)
    decimal.setcontext(decimal.getcontext().copy())
    return function(*args)


def _context():
    """The context variables of a job and the settings of its decimals, to be compared by _same()."""
    if not _JOBS_OWN.get():
        return [], None
    d = decimal.getcontext()
    objects = [each for pair in contextvars.copy_context().items() for each in pair]
    return objects, (d.prec, d.rounding, d.Emin, d.Emax, d.capitals, d.clamp, dict(d.traps))


def _same(one, other):
    """Whether two (objects, values) are: the objects themselves, the values by what they are."""
    return len(one[0]) == len(other[0]) and all(map(operator.is_, one[0], other[0])) and one[1] == other[1]


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
