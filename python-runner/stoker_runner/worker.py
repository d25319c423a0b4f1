"""A worker (PROTOCOL.md section 6): attaches to the context's JVM and runs one job after another.

The main thread runs the jobs, sends their results and, while it has nothing to run, reads the Link. The I/O thread
reads it while a job runs for longer than a moment (takeover.py), and watches that job. Worker._turn is held by the one who
reads; what else they share is guarded by Worker._lock; the Link has its own.
"""
import faulthandler
import fcntl
import os
import queue
import select
import sys
import threading
import time
import traceback

from . import connection, failure, jvm, limits, loading, proc, results, tables, wish as wishes
from .attach import attach
from .failure import JobError
from .interrupts import Interrupts
from .logs import LogPair
from .named import JvmNamedObjects
from .restore import Memory, ProcessState, in_own_context
from .runtime import Runtime
from .shipping import Shipping
from .spec import read_spec
from .takeover import BLIND_SECONDS, Takeover

TAKEOVER_SECONDS = 0.02     # a job may be told of an interrupt so much later
TICK_SECONDS = 1.0          # how often a running job is looked after
FIRST_CALL_SECONDS = 0.25   # and whether it has called Spark, until it has
LOG_GRACE = 5.0             # for a job that prints too much to end by an interrupt
RESET_SECONDS = 10.0        # for what is done between jobs; a call into a broken gateway may hang
TELL_SECONDS = 5.0          # for `failed` to find a server
MAX_DONE = connection.MAX_FRAME_UP - 4096
LAST_WORDS_SECONDS = 10.0   # for the context of a JVM that has ended to end, with its hooks and the keeper's word of it
CLOSED = "a job has closed the worker's descriptors"


class Worker:
    def __init__(self, state_dir, context, process):
        self.state_dir, self.context, self.process = state_dir, context, process
        self.pid = os.getpid()
        self.folder = os.path.join(state_dir, "contexts", context)
        self.spec = read_spec(state_dir, context)
        self.interrupts = Interrupts()
        self.logs = LogPair(state_dir, process)
        self.inbox = queue.SimpleQueue()    # `run` frames, to the main thread
        self.takeover = Takeover(TAKEOVER_SECONDS)
        self.away = True                    # the main thread attaches or runs a job
        self._turn = threading.Lock()       # to read the link
        self.busy = self.open_busy()
        self.bound = None                   # the binary set
        self.jobs_run = 0
        self.state = self.said_state = "attaching"
        self.attach_ms = None
        self._lock = threading.Lock()
        self._attempts = {}                 # (job, attempt) -> its `run`: received and without a result yet
        self._results = {}                  # (job, attempt) -> body of its `done`, until it is acknowledged
        self._owed = set()                  # attempts whose `interrupt` is answered after their `done`
        self._spooled = set()               # attempts that have a spool file
        self._watch_at = 0.0                # monotonic time of the next look at a running job (I/O thread)
        self._said_spark = None             # the attempt of which the server was told that it uses Spark
        self._unsent = []                   # `interrupted` messages that found no server
        self.unsafe = False                 # code of an interrupted job may still run in this process
        self._retiring = None               # why this worker takes no more jobs
        self._too_large = None              # (attempt, monotonic time) of a job interrupted for its log
        self._began = 0.0                   # wall time at which the attempt that runs began
        self._settling = None               # (key, body, monotonic time) while the worker is reset after a job
        self.link = connection.Link(state_dir, self.hello, self.deliver, self.welcomed, self.lost, self.refused)

    def open_busy(self):
        fd = os.open(os.path.join(self.folder, "busy"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            return proc.keep_fd(fd)
        finally:
            os.close(fd)

    # -- main thread

    def run(self, gateway):
        """Returns the exit status, when attaching has failed; else the process ends in leave()."""
        began = time.monotonic()
        proc.become_subreaper()     # what jobs start and leave stays ours (hunt.py)
        threading.Thread(target=self.io, name="stoker-io", daemon=True).start()
        try:
            self.attachment = attach(self.process, self.interrupts, gateway)
            self.job_context = self.attachment.context_object(self.spec["kind"])
            self.attachment.rest()
        except Exception as e:
            return self.attach_failed(e)
        self.named = JvmNamedObjects(self.attachment, self.spec["settings"])
        self.logs.start()
        faulthandler.enable(2)      # a crash leaves its Python stack in the job's stderr
        self.process_state = ProcessState(self.context, self.process, os.path.join(self.folder, "work"))
        self.memory, self.limit = Memory(), limits.MemoryLimit(self.process)
        self.attach_ms = round(1000 * (time.monotonic() - began), 1)
        self.state = "ready"
        self.link.send({"type": "ready", "attach_ms": self.attach_ms})
        while True:
            self.come_back()
            run = self.next_run()
            self.go_away()
            fcntl.flock(self.busy, fcntl.LOCK_SH)
            self.take(run)
            self.unlock()

    def come_back(self):
        """The main thread reads the link again."""
        self.away = False
        self.takeover.disarm()
        if not self._turn.acquire(blocking=False):
            kicked = self.takeover.kick()   # if it cannot: settle() has seen it, or will after the next job
            self._turn.acquire()
            if kicked:
                self.takeover.calm()

    def go_away(self):
        self.away = True
        self._turn.release()
        if not self.takeover.arm():
            self._retiring = self._retiring or CLOSED

    def next_run(self):
        while True:
            try:
                return self.inbox.get_nowait()
            except queue.Empty:
                self.io_step()

    def attach_failed(self, e):
        traceback.print_exc()
        message = {"type": "failed", "error": failure.describe(e, "attach")}
        end = time.monotonic() + TELL_SECONDS
        while not self.link.send(message) and time.monotonic() < end:
            time.sleep(0.05)
        return 1

    def unlock(self):
        try:
            fcntl.flock(self.busy, fcntl.LOCK_UN)
        except OSError:
            self.busy = self.open_busy()    # the job has closed it

    def take(self, run):
        key, self._began = (run["job"], run["attempt"]), time.time()
        body = {"type": "done", "job": key[0], "attempt": key[1], "started": self._began,
                "stdout_bytes": 0, "stderr_bytes": 0}
        body.update(self.attempt(run, key))
        if os.getpid() != self.pid:
            os._exit(0)             # a fork that the job has made and that came back from its code
        body["ended"] = time.time()
        with self._lock:
            self._settling = key, body, time.monotonic()
        try:
            reason = self.settle(key, body)
            if run.get("isolated"):
                reason = reason or "isolation=process"
        except Exception as e:
            traceback.print_exc()
            reason = "it could not be put back as it was: %s" % e
            self.unsafe = self.interrupts.raised == key
            self.give_log(key, body)
        self.finish(key, body, reason)

    def attempt(self, run, key):
        """The outcome of an attempt, as fields of `done`."""
        fields = error = None
        self.phase = "load"
        try:
            try:
                self.process_state.find_folder()
                self.bind(run)
                self.attachment.begin(key[0], key[1], run.get("pool"), run.get("description"))
                self.limit.begin(run.get("max_memory"))
                self.interrupts.arm(key)
                fields = self.user_code(run)
            except BaseException as e:
                error = e
            self.interrupts.disarm()
        except KeyboardInterrupt as e:      # it rose between the end of the user code and disarm()
            self.interrupts.disarm()
            error = error or e
        limit = self.limit.end()
        if fields is not None:
            return fields
        try:
            return self.failed(error, key, limit)
        except BaseException as e:      # the job's own exception may raise anything when it is looked at
            code, exit_code, raised_by = failure.PHASES[self.phase]
            described = JobError(code, "%s (cannot be described: %s)" % (
                failure.class_name(_of_job(error)), failure.class_name(e)), exit_code, raised_by=raised_by)
            return {"outcome": "error", "error": failure.describe(described, self.phase)}

    def bind(self, run):
        """A worker sees one binary set in its life: two versions of a module never meet in it."""
        if self.bound is not None:
            if run["set"] != self.bound:
                raise RuntimeError("binary set %s in a worker of %s" % (run["set"], self.bound))
            return
        loading.open_binaries(run)
        paths = self.spec["python_paths"]
        sys.path += [p for p in paths if p not in sys.path]
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), *paths]))    # of its children
        self.attachment.bind(Shipping(run["set"], run["binaries"], paths, os.path.join(self.folder, "files")))
        self.process_state.note()
        self.bound = run["set"]

    def user_code(self, run):
        return in_own_context(self.run_class, loading.find_class(run["class"]), run)

    def run_class(self, made_from, run):
        job = loading.make_job(made_from, run["class"])
        wish = wishes.read(run["config"], self.spec)
        wishes.form_of(wish, job)           # a word that is none is better said now than after hours
        self.phase = "run"
        context = self.job_context
        if context is None:
            sc = self.attachment.sc
            context = loading.build_context(job, run["class"], self.spec["kind"], sc._gateway, sc._jsc, sc.getConf())
        outcome = loading.run_class_job(job, context, lambda: self.runtime(run["job"]), run["config"])
        if outcome.kind == "invalid":
            return {"outcome": "invalid", "error": failure.invalid(outcome.problems)}
        self.phase = "result"
        form = wishes.form_of(wish, job) or "json"
        name = "%s.%d.%s" % (run["job"], run["attempt"], tables.ENDINGS[form])
        if form != "json":
            size = tables.encode(outcome.value, form, wish.limit, lambda: self.result_path(name))
            return {"outcome": "finished", "result_file": name, "result_bytes": size}
        encoded = results.encode(outcome.value, self.spec["max_result_inline"], wish.limit,
                                 lambda: self.result_path(name))
        if encoded.text is not None:
            return {"outcome": "finished", "result": encoded.text}
        return {"outcome": "finished", "result_file": name, "result_bytes": encoded.bytes}

    def runtime(self, job):
        return Runtime(job, self.named, self.spec["settings"])

    def result_path(self, name):
        folder = os.path.join(self.state_dir, "results")
        os.makedirs(folder, mode=0o700, exist_ok=True)
        return os.path.join(folder, name)

    def failed(self, error, key, limit):
        """The outcome of an attempt that an exception has ended. limit: its max_memory, or None."""
        if self._too_large and self._too_large[0] == key:
            return {"outcome": "error", "error": self.log_too_large()}
        chain = list(_chain(error))
        if self.interrupts.raised == key and any(isinstance(e, KeyboardInterrupt) for e in chain):
            return {"outcome": "interrupted", "error": failure.describe(error, self.phase)}
        refusal = limits.refused(chain) if limit else None
        if refusal is not None:
            described = limits.out_of_memory(limit, refusal, _of_job(error))
            return {"outcome": "error", "error": failure.describe(described, self.phase)}
        if isinstance(error, KeyboardInterrupt):
            described = JobError("USER_EXCEPTION", "the job raised KeyboardInterrupt", 4, raised_by="run_job")
            described.__cause__ = error
            return {"outcome": "error", "error": failure.describe(described, self.phase)}
        fields = failure.describe(error, self.phase)
        # Whatever Java says while the JVM is shutting down may come of that.
        if (fields["code"] in ("CONTEXT_LOST", "CONTEXT_STOPPED") or fields.get("cause")) and self.jvm_ends():
            time.sleep(LAST_WORDS_SECONDS)  # the keeper knows why the JVM has ended; its word of it ends this process
        # The keeper's cancel stops the Spark job before the interrupt comes; that the call then failed is the cancel.
        cause = fields.get("cause") or ""
        cancelled = "cancel" in cause and (jvm.attempt_tag(*key) in cause or key[0] in cause)
        return {"outcome": "interrupted" if cancelled else "error", "error": fields}

    def jvm_ends(self):
        try:
            return jvm.shuts_down(self.attachment.sc._jvm)
        except Exception:
            return True

    def log_too_large(self):
        return failure.describe(JobError("LOG_TOO_LARGE", "the job printed more than %d bytes to one of its streams"
                                         % self.spec["max_log"], 4), "run")

    def settle(self, key, body):
        """Puts everything back as it was before the job. None, or why this worker cannot take another."""
        restored = self.logs.restore()
        self.quote_log(body)
        reason = self.attachment.reset()
        changed = self.process_state.restore()
        reason = reason or changed
        threads = self.process_state.threads_left()
        left = self.process_state.end_children()
        if restored:
            body["stdout_bytes"], body["stderr_bytes"] = self.logs.settle(*key)
        else:
            self.give_log(key, body)
            reason = "its job closed the descriptors of its log"
        if not self.takeover.intact():
            reason = reason or CLOSED
        if threads:
            reason = "its job left threads running: " + ", ".join(threads[:5])
        if left:
            reason = "processes of its job cannot be killed: %s" % left
        if self.interrupts.raised == key:   # anywhere, be it between two lines of a library that expects no such thing
            reason = reason or "its job was interrupted"
            self.unsafe = bool(threads or left)
        self.jobs_run += 1
        return reason or self.worn_out()

    def quote_log(self, body):
        if "error" in body and self.logs.sizes()[1]:
            body["error"].setdefault("stderr_tail", self.logs.tail("stderr"))

    def give_log(self, key, body):
        """To a job whose worker prints no more."""
        self.quote_log(body)
        body["stdout_bytes"], body["stderr_bytes"] = self.logs.give(*key)

    def worn_out(self):
        limit = self.spec["max_jobs_per_worker"]
        if limit and self.jobs_run >= limit:
            return "it has run %d jobs" % self.jobs_run
        growth = self.spec["max_worker_growth"]
        if growth and self.memory.growth() > growth:
            return "its memory has grown by %d MiB" % (self.memory.growth() >> 20)
        return None

    def finish(self, key, body, reason):
        """Hands the result over: from here on it is the server's, or the spool's."""
        with self._lock:
            self._settling = None
            if self._attempts.pop(key, None) is None:
                return                      # the I/O thread has given up on this attempt and is ending the process
            self._retiring = self._retiring or reason
            if self._retiring:
                body["retire"] = self._retiring
            self._results[key] = body
            owed = key in self._owed
        if not self.link.intact():
            self.spool(key, body)
            self.leave()
        frame = connection.encode(body)
        if len(frame) > MAX_DONE:
            frame = connection.encode(self.shrink(key, body))
        if not self.link.send_frame(frame):
            self.spool(key, body)
        if owed and self.unsafe:
            self.leave()            # with what runs on in here; the zygote's word of it is the answer
        if owed:
            self.answer(key, True)
            with self._lock:
                self._owed.discard(key)
                leave = self._over()
            if leave:
                self.leave()

    def _over(self):
        """Whether a worker that takes no more jobs has said all. The lock is held."""
        return self._retiring and not self._attempts and not self._results and not self._owed

    def shrink(self, key, body):
        """A `done` must fit a frame whatever max_result_inline says: the result goes to a file after all."""
        name = "%s.%d.json" % key
        data = body.pop("result").encode()
        with open(self.result_path(name), "wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        body.update(result_file=name, result_bytes=len(data))
        return body

    def spool(self, key, body):
        self._spooled.add(key)
        connection.write_spool(self.state_dir, "%s.%d" % key, body)

    def leave(self):
        """Ends the process with status 0. Any thread."""
        os._exit(0)

    # -- I/O thread

    def io(self):
        try:
            while True:
                while self.away:
                    with self._turn:
                        if self.away:
                            self.io_step_within_limit()
                self.takeover.wait()
        except BaseException:
            traceback.print_exc()
            os._exit(1)

    def io_step_within_limit(self):
        try:
            self.io_step()
        except MemoryError:
            self.limit.lift()       # the job is at its limit and goes on; from here on only the zygote keeps it
            self.link.step(False)

    # -- whoever has the turn

    def io_step(self):
        timeout = self.link.timeout()
        if not self.away and timeout is None:
            self.link.step(True)            # nothing else to wait for: one system call
            return
        if self._attempts:
            tick = TICK_SECONDS if self._said_spark in self._attempts else FIRST_CALL_SECONDS
            timeout = tick if timeout is None else min(timeout, tick)
        kickable = self.takeover.can_kick()
        if not kickable:
            timeout = BLIND_SECONDS if timeout is None else min(timeout, BLIND_SECONDS)
        fd = self.link.fileno()
        poller = select.poll()
        if fd >= 0:
            poller.register(fd, select.POLLIN)
        if kickable:
            poller.register(self.takeover.kicked, select.POLLIN)
        events = poller.poll(None if timeout is None else 1000 * timeout + 1)
        ready = any(f == fd for f, _ in events)
        if not self.link.intact():
            self.cut_off()
        self.link.step(ready)
        self.say_spark()
        if self._attempts and time.monotonic() >= self._watch_at:
            self._watch_at = time.monotonic() + TICK_SECONDS
            self.watch()

    def say_spark(self):
        """The server asks for the progress of jobs that use Spark. A short one is over before anybody would look."""
        key = self.attachment.caller() if self._attempts else None
        if key and key != self._said_spark and self.link.send({"type": "spark", "job": key[0], "attempt": key[1]}):
            self._said_spark = key

    def cut_off(self):
        """The job has closed the connection: there is nobody to talk to, and the descriptor's number may be one of the
        job's own by now. The main thread ends the process when the result is in the spool."""
        threading.Event().wait()

    def hello(self):
        with self._lock:
            self.said_state = "retiring" if self._retiring else self.state
            return {"role": "worker", "context": self.context, "process": self.process, "state": self.said_state,
                    "set": self.bound, "attempts": [{"job": j, "attempt": a} for j, a in self._attempts],
                    "results": [{"job": j, "attempt": a} for j, a in self._results]}

    def welcomed(self):
        """Says again what the last connection may have lost."""
        if self.state == "ready" and self.said_state == "attaching":
            self.link.send({"type": "ready", "attach_ms": self.attach_ms})
        with self._lock:
            bodies, answers = list(self._results.values()), self._unsent
            self._unsent = []
        self._said_spark = None
        for body in bodies:
            self.link.send(body)
        for answer in answers:
            self.link.send(answer)

    def lost(self):
        """Results that were sent and not acknowledged may have died with the server."""
        with self._lock:
            waiting = list(self._results.items())
        for key, body in waiting:
            self.spool(key, body)

    def refused(self, reason):
        print("stoker: the server refused this worker: %s" % reason, file=sys.stderr, flush=True)
        os._exit(0)

    def deliver(self, message):
        handler = {"run": self.on_run, "ack": self.on_ack, "interrupt": self.on_interrupt,
                   "retire": self.on_retire}.get(message["type"])
        if not handler:
            raise connection.BadFrame(message["type"])
        handler(message)

    def on_run(self, message):
        key = message["job"], message["attempt"]
        with self._lock:
            if key in self._attempts or key in self._results:
                return
            if self._retiring:          # never dropped in silence: the next `hello` denies it
                raise connection.BadFrame("`run` for a worker that retires: %s" % self._retiring)
            self._attempts[key] = message
        self._watch_at = time.monotonic() + TICK_SECONDS    # not at once: a short job is over by then
        self.inbox.put(message)

    def on_ack(self, message):
        key = message["job"], message["attempt"]
        with self._lock:
            if self._results.pop(key, None) is None:
                return
            leave = self._over()
        if key in self._spooled:
            self._spooled.discard(key)
            connection.forget_spool(self.state_dir, "%s.%d" % key)
        if leave:
            self.leave()

    def on_interrupt(self, message):
        key = message["job"], message["attempt"]
        with self._lock:
            running = key in self._attempts
            if running:
                self._owed.add(key)
        if running:
            self.interrupts.request(key)
        else:
            self.answer(key, False)

    def answer(self, key, current):
        message = {"type": "interrupted", "job": key[0], "attempt": key[1], "current": current}
        if not self.link.send(message):
            with self._lock:
                self._unsent.append(message)

    def on_retire(self, message):
        with self._lock:
            self._retiring = self._retiring or "the server asked it to"
            leave = self._over()
        if leave:
            self.leave()

    def watch(self):
        """Once a second while a job runs: its log, and the work after it."""
        now = time.monotonic()
        with self._lock:
            settling, key = self._settling, next(iter(self._attempts), None)
        if settling:
            if now - settling[2] > RESET_SECONDS:
                self.give_up(settling[0], settling[1], "the worker could not be reset after its job")
        elif self._too_large is None:
            if key and max(self.logs.sizes()) > self.spec["max_log"]:
                self._too_large = key, now
                self.interrupts.request(key)
        elif self._too_large[0] != key:
            self._too_large = None
        elif now - self._too_large[1] > LOG_GRACE:
            body = {"type": "done", "job": key[0], "attempt": key[1], "outcome": "error", "ended": time.time(),
                    "started": self._began, "error": self.log_too_large()}
            self.give_up(key, body, "its job printed too much and did not end")

    def give_up(self, key, body, reason):
        """The main thread does not come back: answers in its place and ends the process."""
        with self._lock:
            if self._attempts.pop(key, None) is None:
                return
        self.logs.silence()
        out, err = self.logs.give(*key)
        body = dict(body, stdout_bytes=out, stderr_bytes=err, retire=reason)
        self.spool(key, body)
        self.link.send(body)
        os._exit(0)


def _of_job(error):
    """The exception behind what the runner has made of it."""
    return error.__cause__ if isinstance(error, JobError) and error.__cause__ is not None else error


def _chain(error):
    """An exception and what it came from."""
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__context__ if error.__cause__ is None else error.__cause__   # the job's own may have any __bool__


def main(state_dir, context, process, gateway):
    return Worker(state_dir, context, process).run(gateway)
