"""The zygote of a context (PROTOCOL.md sections 2 and 4): imports what workers need, forks them, and ends them.

One thread for all its life and no py4j, so that forking is safe. It is the parent and subreaper of everything in the
context, hence the only process that may kill a group without racing against the reuse of its id.
"""
import gc
import importlib
import os
import select
import signal
import sys
import time
import traceback

from . import connection, proc
from .hunt import Hunter
from .limits import MemoryWatch, size_text
from .logs import discard_empty
from .oom import OomKills
from .verdicts import WITH_MORE_MEMORY

REQUIRED = ("pyspark", "py4j.clientserver", "pyspark.sql", "stoker_runner.keeper", "stoker_runner.worker")
OPTIONAL = (    # by environment and version of pyspark
    "numpy", "pandas", "pyarrow", "pyhocon", "pyspark.cloudpickle", "pyspark.sql.functions", "pyspark.sql.types",
    "pyspark.sql.udf", "pyspark.sql.context", "pyspark.sql.streaming", "pyspark.sql.pandas.types",
    "pyspark.sql.pandas.conversion", "pyspark.sql.pandas.functions", "pyspark.sql.classic.dataframe",
    "pyspark.sql.classic.column", "pyspark.testing.utils",     # the last is needed by py4j conversions, of all things
)
# Seen by every fork. PYTHONHASHSEED (A6): rdd.lookup() needs one hash in the driver and the executors. The others keep
# OpenBLAS and Arrow from starting threads at import (A7).
ENVIRONMENT = {"PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}
NOT_OURS = ("STOKER_PROCESS",)     # when the server itself runs inside a job of another Stoker

MOST_TEMP_BYTES = 70        # multiprocessing adds 32
ACK_SECONDS = 2.0           # for the last `exited` to be acknowledged
TERM_GRACE_MS = 5000
ORPHAN_SECONDS = 600.0
WORKER_OOM_SCORE = 500      # of 1000: the kernel takes a job before the JVM, the keeper and the server
CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE)


class Child:
    """A keeper or worker. Times: start_time in clock ticks since boot."""

    def __init__(self, process, role, pid):
        self.process, self.role, self.pid = process, role, pid
        self.start_time = proc.start_time(pid)
        self.reason = None          # why we killed it, for `exited`
        self.code = None            # what that is to its job, when not what the signal says

    def body(self):
        return {"process": self.process, "role": self.role, "pid": self.pid, "start_time": self.start_time}


class ForkFailed(Exception):
    """The kernel gives no process now."""


class Zygote:
    def __init__(self, state_dir, context):
        self.state_dir, self.context = state_dir, context
        self.children = {}          # process -> Child
        self.exits = {}             # process -> body of `exited`, until acknowledged
        self.told = set()           # of these, what the last `hello` named
        self.stopping = None        # monotonic time at which everything is killed, once `stop` has come
        self.ending = None          # monotonic time at which the zygote leaves, once the keeper has ended
        self.had_keeper = False
        self.to_import = list(OPTIONAL)     # while Spark starts
        self.hunter = Hunter(context)
        self.memory = MemoryWatch(self.hunter)
        self.oom = OomKills()
        self.orphan_seconds = float(os.environ.get("STOKER_ORPHAN_SECONDS", ORPHAN_SECONDS))
        self.wake_read, self.wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.link = connection.Link(state_dir, self.hello, self.deliver, self.welcomed, self.spool_exits,
                                    self.refused)

    # -- the loop

    def run(self):
        """Returns the exit status."""
        signal.signal(signal.SIGTERM, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self.wake_write, warn_on_full_buffer=False)
        while not self.finished():
            self.wait()
            self.reap()
            self.watch_memory()
            self.watch_clocks()
            if self.imports_now():
                import_some([self.to_import.pop(0)])
                self.freeze()
        self.spool_exits()
        return 0 if self.stopping is not None else 1

    def wait(self):
        """Until something is to be done, and takes what has come."""
        poller = select.poll()
        poller.register(self.wake_read, select.POLLIN)
        poller.register(self.memory.fd, select.POLLIN)
        if self.link.fileno() >= 0:
            poller.register(self.link.fileno(), select.POLLIN)
        if self.oom.fd >= 0:
            poller.register(self.oom.fd, select.POLLPRI)
        ready = dict(poller.poll(self.timeout_ms()))
        if self.wake_read in ready:
            self.on_signals(os.read(self.wake_read, 4096))
        if self.memory.fd in ready:
            self.memory.read()
        if self.oom.fd in ready:
            self.oom.look()
        self.link.step(self.link.fileno() in ready)

    def imports_now(self):
        """What workers will want is imported after the keeper was forked, which does without and has the JVM to wait for."""
        return self.to_import and self.had_keeper and self.stopping is None and self.ending is None

    def freeze(self):
        if not self.to_import:
            check_threads()
            gc.collect()
            gc.freeze()     # the collector of a fork leaves these pages shared

    def timeout_ms(self):
        if self.imports_now():
            return 0
        limits = [self.link.timeout(), self.until(self.stopping if self.children else None), self.until(self.ending),
                  self.memory.timeout()]
        if not self.had_keeper:
            limits.append(5.0)
        limits = [x for x in limits if x is not None]
        return None if not limits else 1000 * min(limits) + 1

    @staticmethod
    def until(moment):
        return None if moment is None else max(0.0, moment - time.monotonic())

    def finished(self):
        if self.children or self.ending is None:
            return False
        return not self.exits or time.monotonic() >= self.ending

    def watch_clocks(self):
        now = time.monotonic()
        if self.stopping is not None and now >= self.stopping and self.children:
            self.kill_all("the context's stop took longer than its grace")
            self.reap()
        if not self.had_keeper and not self.link.welcome and now - self.link.last_welcome > self.orphan_seconds:
            self.end()

    def watch_memory(self):
        for child, reason in self.memory.look(self.children):
            child.reason, child.code = child.reason or reason, "OUT_OF_MEMORY"
            self.end_group(child)
        self.reap()

    def on_signals(self, numbers):
        if signal.SIGTERM in numbers:
            self.stop(TERM_GRACE_MS)

    # -- messages

    def hello(self):
        self.told = set(self.exits)
        return {"role": "zygote", "context": self.context, "process": "z",
                "children": [c.body() for c in self.children.values()], "exits": list(self.exits.values())}

    def welcomed(self):
        """What has ended between `hello` and `welcome` is said now: nobody has heard of it."""
        for process, body in self.exits.items():
            if process not in self.told:
                self.link.send(dict(body, type="exited"))

    def deliver(self, message):
        handler = {"fork": self.on_fork, "kill": self.on_kill, "ack_exit": self.on_ack_exit,
                   "stop": self.on_stop}.get(message["type"])
        if not handler:
            raise connection.BadFrame(message["type"])
        handler(message)

    def on_fork(self, message):
        process, role = message["process"], message["role"]
        child = self.children.get(process)
        if child is None and self.ending is None and self.stopping is None and process not in self.exits:
            try:
                child = self.fork(process, role, message.get("gateway"))
            except ForkFailed as e:
                self.not_forked(process, role, str(e))
        if child is not None:
            self.link.send(dict(child.body(), type="forked"))

    def on_kill(self, message):
        child = self.children.get(message["process"])
        if child:
            child.reason = child.reason or "killed at the server's request"
            self.end_group(child)
            self.reap()

    def on_ack_exit(self, message):
        if self.exits.pop(message["process"], None):
            connection.forget_spool(self.state_dir, self.spool_name(message["process"]))

    def on_stop(self, message):
        self.stop(message.get("grace_ms") or 0)

    def refused(self, reason):
        print("stoker: the server refused this context: %s" % reason, file=sys.stderr, flush=True)
        self.kill_all("the server refused the context")
        self.end()

    # -- life of the children

    def fork(self, process, role, gateway):
        parent = os.getpid()
        if role == "worker" and self.to_import:
            import_some(self.to_import)
            self.to_import = []
            self.freeze()
        sys.stdout.flush()
        sys.stderr.flush()
        try:
            pid = os.fork()
        except OSError as e:        # EAGAIN, ENOMEM: too many processes, or too little memory, for now
            raise ForkFailed("fork failed: %s" % e)
        if pid == 0:
            self.become(process, role, gateway, parent)
        try:
            os.setpgid(pid, pid)    # the child does it too: whoever comes first
        except OSError:
            pass
        self.had_keeper = self.had_keeper or role == "keeper"
        child = self.children[process] = Child(process, role, pid)
        return child

    def not_forked(self, process, role, reason):
        """A process that never was is reported as one that has ended."""
        print("stoker: %s: %s" % (process, reason), file=sys.stderr, flush=True)
        self.report_exit({"process": process, "role": role, "pid": None, "status": None, "signal": None,
                          "at": time.time(), "core": False, "reason": reason})

    def become(self, process, role, gateway, parent):
        """In the fork: never returns."""
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            for signum in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
                signal.signal(signum, signal.SIG_DFL)
            os.setpgid(0, 0)
            proc.die_with_parent(parent)
            self.link.close()
            os.close(self.wake_read)
            os.close(self.wake_write)
            self.oom.close()
            os.environ["STOKER_PROCESS"] = process
            if role == "worker":
                self.offer_to_the_kernel()
            os.chdir(make_work(self.state_dir, self.context))   # a job may have deleted it
            self.hunter.mark(process)
            main = importlib.import_module("stoker_runner." + role).main     # imported by main()
            status = main(self.state_dir, self.context, process, gateway)
        except BaseException:
            traceback.print_exc()
        finally:
            try:
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(status)

    @staticmethod
    def offer_to_the_kernel():
        try:
            proc.raise_oom_score(WORKER_OOM_SCORE)
        except (OSError, ValueError):
            pass                    # a kernel without it

    def reap(self):
        """Settles every child that has ended, ours and those that orphans of a job left us."""
        while True:
            try:
                info = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if info is None:
                return
            child = next((c for c in self.children.values() if c.pid == info.si_pid), None)
            if child:
                self.settle(child, info)
            else:
                os.waitpid(info.si_pid, 0)

    def settle(self, child, info):
        """The child is dead but not reaped, so that its group id cannot be anybody else's yet."""
        self.end_group(child)
        os.waitpid(child.pid, 0)
        del self.children[child.process]
        discard_empty(self.state_dir, child.process)
        by_signal = info.si_code in (os.CLD_KILLED, os.CLD_DUMPED)
        retry = self.explain(child, info.si_status if by_signal else None)
        body = {"process": child.process, "role": child.role, "pid": child.pid,
                "status": None if by_signal else info.si_status, "signal": info.si_status if by_signal else None,
                "at": time.time(), "core": info.si_code == os.CLD_DUMPED, "reason": child.reason}
        if child.code:
            body["code"] = child.code
        if retry:
            body["retry"] = retry
        self.report_exit(body)

    def explain(self, child, signum):
        """Gives an end by a signal that nobody here has sent its reason. What helps, or None."""
        limit = self.memory.forget(child.process)
        if child.reason:
            return WITH_MORE_MEMORY if child.code else None
        if signum == signal.SIGKILL:
            if self.oom.take():
                child.code = "OUT_OF_MEMORY"
                child.reason = ("the job's process was ended by signal 9, which nobody in Stoker sent, when the kernel "
                                "ended a process of this control group because memory was used up: most likely this one")
            else:
                child.reason = "nobody in Stoker sent it; it may be the kernel's out-of-memory killer"
            return WITH_MORE_MEMORY
        if signum in CRASHES and limit:
            child.reason = ("it ran with max-memory = %s; libraries that do not expect a failing allocation end like this"
                            % size_text(limit))
            return WITH_MORE_MEMORY
        return None

    def report_exit(self, body):
        self.exits[body["process"]] = body
        if not self.link.send(dict(body, type="exited")):
            connection.write_spool(self.state_dir, self.spool_name(body["process"]), body)
        if body["role"] == "keeper":
            self.kill_all("the keeper of the context has ended")
            self.end()

    def end_group(self, child):
        """SIGKILL for the child's group and for what escaped it, until nothing of it is left alive."""
        proc.kill_group(child.pid)
        proc.kill(child.pid)        # it may have left its group; its pid is its own until it is reaped
        spare = {c.pid for c in self.children.values()} | {os.getpid()}
        left = self.hunter.kill(child.process, child.pid, spare)
        self.hunter.await_end(child.pid, spare)
        if left:
            print("stoker: processes of %s cannot be killed: %s" % (child.process, left), file=sys.stderr, flush=True)

    def kill_all(self, reason):
        """Workers first: they would only see the JVM vanish."""
        for child in sorted(self.children.values(), key=lambda c: c.role == "keeper"):
            child.reason = child.reason or reason
            proc.kill_group(child.pid)
            proc.kill(child.pid)

    def stop(self, grace_ms):
        """The end of the context at somebody's wish; a second call can only shorten the grace."""
        moment = time.monotonic() + grace_ms / 1000
        self.stopping = moment if self.stopping is None else min(moment, self.stopping)
        keepers = [c for c in self.children.values() if c.role == "keeper"]
        for child in keepers:
            proc.kill(child.pid, signal.SIGTERM)
            found = proc.stat(child.pid)
            if found and found.state in "tT":       # by SIGSTOP: it would not hear of it
                self.kill_all("the context was stopped")
        if not keepers:
            self.kill_all("the context was stopped")
            self.end()

    def end(self):
        if self.ending is None:
            self.ending = time.monotonic() + ACK_SECONDS

    # -- spool

    def spool_name(self, process):
        return "exit.%s.%s" % (self.context, process)

    def spool_exits(self):
        """What nobody has acknowledged must outlive this process and its connection."""
        for process, body in self.exits.items():
            connection.write_spool(self.state_dir, self.spool_name(process), body)


def import_some(names):
    """As far as the environment has them."""
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError:
            pass
        except Exception as e:      # built for another version of something: only jobs that want it may fail by it
            print("stoker: cannot import %s: %s" % (name, e), file=sys.stderr, flush=True)


def check_threads():
    threads = proc.thread_count()
    if threads != 1:
        raise RuntimeError("the imports started %d threads: forking is not safe" % (threads - 1))


def reexec_if_needed():
    """The environment has to be right before the interpreter starts; a server that set it spares this exec."""
    wanted = {k: v for k, v in ENVIRONMENT.items() if os.environ.get(k) != v}
    if wanted or any(k in os.environ for k in NOT_OURS):
        env = {k: v for k, v in os.environ.items() if k not in NOT_OURS}
        env.update(wanted)
        os.execve(sys.executable, [sys.executable, "-m", "stoker_runner.zygote"], env)


def make_work(state_dir, context):
    """The working directory of everything in the context. One below the context's own, so that a job which deletes it
    takes nothing along that others need."""
    path = os.path.join(state_dir, "contexts", context, "work")
    os.makedirs(path, exist_ok=True)
    return path


def make_temp(state_dir, context):
    """The folder for temporary files of everything in the context, gone with it. By a short name: multiprocessing puts sockets
    there, whose paths may have 107 bytes; the descriptor is good while the zygote lives."""
    path = os.path.join(state_dir, "contexts", context, "tmp")
    os.makedirs(path, mode=0o700, exist_ok=True)
    if len(os.fsencode(path)) <= MOST_TEMP_BYTES:
        return path
    folder = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return "/proc/%d/fd/%d" % (os.getpid(), proc.keep_fd(folder))
    finally:
        os.close(folder)


def main():
    reexec_if_needed()
    if sys.path[0] in ("", os.getcwd()):
        del sys.path[0]     # the context's directory, where jobs may write what they like
    proc.close_from(3)
    proc.become_subreaper()
    state_dir, context = os.environ["STOKER_STATE_DIR"], os.environ["STOKER_CONTEXT"]
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    os.environ.setdefault("PYSPARK_DRIVER_PYTHON", sys.executable)
    os.environ["TMPDIR"] = make_temp(state_dir, context)
    for name in REQUIRED:
        importlib.import_module(name)
    check_threads()
    return Zygote(state_dir, context).run()


if __name__ == "__main__":
    sys.exit(main())
