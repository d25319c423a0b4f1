"""The keeper of a context (PROTOCOL.md section 5): holds the JVM and the SparkContext, and runs no user code.

Threads: the main thread starts Spark and then watches it; the I/O thread owns the Link; each request gets a thread of
its own, so that a slow cancel delays nobody, and a new py4j connection, whose JVM thread has no properties left over. Only
looks at the progress of jobs share one, since there are many of them.
"""
import fcntl
import os
import platform
import queue
import re
import select
import signal
import subprocess
import sys
import threading
import time
import traceback

from py4j.protocol import Py4JError, Py4JJavaError, Py4JNetworkError
from pyspark import SparkConf, SparkContext
from pyspark.java_gateway import launch_gateway
from pyspark.sql import SparkSession

from . import class_data, connection, failure, jvm, launch, proc
from .failure import JobError
from .gateways import Gateways
from .oom import OomKills
from .progress import Progress
from .spec import read_spec
from .verdicts import MAY_HELP, NEVER

ORPHAN_SECONDS = 600.0
WATCH_SECONDS = 1.0         # how soon a stopped SparkContext is noticed; a dead JVM is noticed at once
ANSWER_SECONDS = 3.0        # for the JVM to answer when it is to be stopped
STOP_SECONDS = 20.0         # for the JVM to leave once Spark is stopped
TELL_SECONDS = 3.0          # for a server to come and hear why the context has ended
LOG_TAIL = 4096
ADMIT_RETRIES = 3           # then the JVM is of no use any more
ADMIT_RETRY_SECONDS = 0.1
CANCEL_RETRY_SECONDS = 0.2
MOST_ASKED = 8              # questions for named objects at one time: each has a thread, and a JVM may answer none
OBJECTS_IN_FRAME = 200      # named objects; a name has 255 bytes at most, and six for each as JSON
GIVE_WAY_SECONDS = 1.0      # a look at progress waits so long for requests that are being served
CRASH_SECONDS = 10.0        # for a JVM that no longer answers to be gone
# What the JVM throws when a class is not what it was: with a class-data archive, that may be why.
BROKEN_CLASS = re.compile(r"java\.lang\.(\w*(Class|Field|Method)\w*|Verify|Linkage|Internal|Bootstrap\w*|UnsatisfiedLink)Error\b")
LOST_JVM = (Py4JNetworkError, OSError, EOFError)    # what py4j says when nobody answers


class Keeper:
    def __init__(self, state_dir, context, process):
        self.state_dir, self.context, self.process = state_dir, context, process
        self.folder = os.path.join(state_dir, "contexts", context)
        self.spec = read_spec(state_dir, context)
        self.orphan_seconds = float(os.environ.get("STOKER_ORPHAN_SECONDS", ORPHAN_SECONDS))
        self.state, self.phase_text = "new", None
        self.started = None         # body of `started`
        self.error = None           # why it failed or ended
        self._failing = threading.Lock()    # the first error counts
        self.reported = False       # the server was told so, or did not come to hear it
        self.jvm = self.java = None         # the process; pyspark's gateway to it
        self.archive = None         # the class-data archive that the JVM has mapped
        self.oom = OomKills()
        self.gateways = None        # Gateways, once Spark is up
        self.looks = None           # queue of `look` messages, once the first has come
        self.serving = 0            # requests that are being served
        self.served = threading.Condition()     # guards it
        self.wake = threading.Event()       # the main thread has something to look at
        self.stopping = False
        self.told = threading.Event()       # a server knows of the end
        self._asked = threading.BoundedSemaphore(MOST_ASKED)
        self._telling, self._told_keeps = threading.Lock(), False   # the last `keeps`
        self.wake_read, self.wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.link = connection.Link(state_dir, self.hello, self.deliver, welcomed=self.welcomed, refused=self.refused)

    # -- main thread

    def run(self):
        """Returns the exit status."""
        signal.signal(signal.SIGTERM, lambda *_: None)      # the I/O thread reads of it: this one may be in a call
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.set_wakeup_fd(self.wake_write, warn_on_full_buffer=False)
        threading.Thread(target=self.io, name="stoker-io", daemon=True).start()
        try:
            self.start()
        except Exception as e:
            if not self.stopping:
                e = self.why(e)
                if not isinstance(e, launch.CannotStart):
                    traceback.print_exception(e)
                self.fail("failed", "CONTEXT_FAILED", str(e) if isinstance(e, launch.CannotStart) else e)
                self.end_jvm()
                return 1
        else:
            self.watch()
        if self.error:
            return 1
        self.stop_spark()
        return 0

    def start(self):
        """Starts Spark, with a class-data archive when there is one. What fails because of the archive ends the archive."""
        conf = launch.spark_conf(self.spec, self.folder)
        archive = class_data.of(conf)
        if archive and archive.usable():
            self.archive = archive
            try:
                self.start_spark(launch.with_java_options(conf, archive.options()))
            except Exception as e:
                if self.stopping or not self.suspects_archive(e):
                    raise
                print("stoker: the start has failed with a class-data archive and is tried again without: %s" % e,
                      file=sys.stderr, flush=True)
                self.archive = None
                self.start_again(conf, archive)
        else:
            self.start_spark(conf)
        if archive and not archive.exists():
            self.started["class_data"] = {"key": archive.key, "settings": archive.settings}
        self.state = "running"
        self.link.send(dict(self.started, type="started"))
        status = self.jvm.process.poll()
        if status is not None:
            self.jvm_ended(status)      # before watch_jvm took notice

    def why(self, error):
        """What py4j says of a JVM that has ended tells nothing of the cause."""
        if isinstance(error, LOST_JVM) and self.jvm:
            try:
                self.jvm.process.wait(CRASH_SECONDS)
                return self.jvm.exited("while Spark was started")
            except subprocess.TimeoutExpired:
                pass
        return error

    def suspects_archive(self, error):
        """Whether the archive may be why the start has failed. When Spark says why, it is not."""
        if isinstance(error, Py4JJavaError):
            return BROKEN_CLASS.search(str(error)) is not None
        if isinstance(error, LOST_JVM):
            try:
                return launch.crashed(self.jvm.process.wait(CRASH_SECONDS))
            except subprocess.TimeoutExpired:
                return False
        if isinstance(error, launch.JvmExited):
            status = self.jvm.process.returncode
            return launch.crashed(status) or (status is not None and status > 0)
        return isinstance(error, (Py4JError, TypeError, AttributeError))    # of classes that py4j does not find

    def start_again(self, conf, archive):
        """Without the archive, which is removed when its guilt is certain: the JVM crashed, or does better without it."""
        crashed = launch.crashed(self.jvm.process.poll())
        if crashed:
            archive.discard()
        self.end_jvm()
        for name in ("_gateway", "_jvm", "_active_spark_context"):     # of the one that failed
            setattr(SparkContext, name, None)
        SparkSession._instantiatedSession = None
        self.start_spark(conf)
        archive.discard()

    def start_spark(self, conf):
        self.phase("launching jvm")
        self.jvm = launch.Jvm(conf, self.folder)
        gateway = self.jvm.wait_ready(lambda: self.stopping)
        os.environ["PYSPARK_GATEWAY_PORT"] = str(gateway["port"])
        os.environ["PYSPARK_GATEWAY_SECRET"] = gateway["secret"]
        threading.Thread(target=self.watch_jvm, name="stoker-jvm", args=(self.jvm,), daemon=True).start()
        self.phase("starting spark context")
        self.java = launch_gateway()
        sc = SparkContext(gateway=self.java, conf=SparkConf(loadDefaults=False).setAll(list(conf.items())))
        signal.signal(signal.SIGINT, signal.SIG_IGN)    # over the handler of _do_init
        self.sc = sc
        daemon_file = launch.daemon_file(conf, self.folder)
        if daemon_file:
            sc.addFile(daemon_file)
        spark = SparkSession(sc)    # the JVM's default session is there before any worker comes
        if self.spec["kind"] == "hive":
            spark.catalog.databaseExists("default")     # opens the metastore: what is wrong with it fails the start
        self.gateways = Gateways(sc, spark, os.path.join(self.folder, "files"))
        self.started = {"application_id": sc.applicationId, "ui_url": sc.uiWebUrl, "spark_version": sc.version,
                        "python_version": platform.python_version(), "master": sc.master, "jvm_pid": self.jvm.pid}

    def watch(self):
        """Until Spark has ended or shall end."""
        while not self.stopping and not self.reported:
            self.oom.look()
            self.wake.wait(WATCH_SECONDS)
            self.wake.clear()
            if self.stopping or self.error:
                continue            # watch_jvm may be telling the server just now
            try:
                stopped = self.sc._jsc.sc().isStopped() and not jvm.shuts_down(self.java.jvm)
            except Exception:
                continue            # the JVM is ending: watch_jvm tells how
            if stopped:
                self.fail("ended", "CONTEXT_STOPPED", "the SparkContext was stopped from within")
                continue
            try:
                if self.gateways.dropped():
                    self.spawn(self.tidy, {"type": "tidy"})
            except Exception:
                pass                # as above

    def watch_jvm(self, jvm):
        """In a thread of its own: waits for the JVM's end."""
        status = jvm.process.wait()
        if self.state == "running":
            self.jvm_ended(status)

    def jvm_ended(self, status):
        if self.archive and launch.crashed(status):
            self.archive.doubt()        # it may be why; but a job can crash a JVM too, and others are glad of it
        if self.stopping:
            return
        ended = "the driver JVM ended %s" % launch.describe(status)
        if launch.out_of_heap(status, self.log_tail()):
            self.fail("ended", "DRIVER_OUT_OF_MEMORY", ended + ": its heap was used up; see spark.driver.memory")
        elif status == -signal.SIGKILL and self.oom.take():
            self.fail("ended", "DRIVER_OUT_OF_MEMORY", ended + ", when the kernel ended a process of this control group "
                      "because memory was used up: most likely this one")
        else:
            self.fail("ended", "CONTEXT_LOST", ended)

    def fail(self, state, code, cause):
        """Tells the server and waits for it, within reason. cause: an exception or a text."""
        if not isinstance(cause, Exception):
            cause = JobError(code, cause, None)
        error = dict(failure.describe(cause, "start"), log_tail=self.log_tail())
        if state == "ended" and error["retry"] == NEVER:
            error["retry"] = MAY_HELP
        with self._failing:
            if self.error:
                return
            self.error, self.state = error, state
        print("stoker: %s" % error["message"], file=sys.stderr, flush=True)
        if not self.link.send({"type": state, "error": error}):
            self.told.wait(TELL_SECONDS)    # `hello` and what welcomed() sends tell it
        self.reported = True
        self.wake.set()

    def log_tail(self):
        sys.stderr.flush()
        try:
            with open(os.path.join(self.folder, "context.log"), "rb") as f:
                f.seek(max(0, f.seek(0, os.SEEK_END) - LOG_TAIL))
                return f.read().decode("utf-8", "replace")
        except OSError:
            return ""

    def ask_stop(self):
        if not self.stopping:
            self.stopping = True
            threading.Thread(target=self.end_silent_jvm, name="stoker-stop", daemon=True).start()
        self.wake.set()

    def end_silent_jvm(self):
        """A JVM that does not answer (stopped, or hung) would keep stop_spark() waiting for ever: it is killed."""
        if not self.java:
            return          # start() waits for nothing else
        asked = threading.Thread(target=self.ask_jvm, name="stoker-ask", daemon=True)
        asked.start()
        end = time.monotonic() + ANSWER_SECONDS
        while asked.is_alive() and time.monotonic() < end:
            asked.join(0.05)
            found = proc.stat(self.jvm.pid)
            if asked.is_alive() and found and found.state in "tT":
                break
        if asked.is_alive():
            print("stoker: the driver JVM does not answer and is killed", file=sys.stderr, flush=True)
            self.jvm.process.kill()

    def ask_jvm(self):
        try:
            self.java.jvm.java.lang.System.nanoTime()
        except Exception:
            pass            # an answer too

    def stop_spark(self):
        try:
            if self.gateways:
                self.sc.stop()
        except Exception:
            traceback.print_exc()
        self.end_jvm()

    def end_jvm(self):
        if self.jvm:
            self.jvm.end(STOP_SECONDS if self.gateways else 1.0)

    def phase(self, text):
        self.state, self.phase_text = "starting", text
        self.link.send({"type": "phase", "phase": text})

    # -- I/O thread

    def io(self):
        with open(os.path.join(self.folder, "busy"), "ab") as busy:
            while not self.link.closed:
                poller = select.poll()
                poller.register(self.wake_read, select.POLLIN)
                if self.link.fileno() >= 0:
                    poller.register(self.link.fileno(), select.POLLIN)
                timeout = self.link.timeout()
                ready = dict(poller.poll(None if timeout is None else 1000 * timeout + 1))
                if self.wake_read in ready and signal.SIGTERM in os.read(self.wake_read, 4096):
                    self.ask_stop()
                self.link.step(self.link.fileno() in ready)
                if self.orphaned(busy):
                    self.link.close()
                    self.ask_stop()

    def orphaned(self, busy):
        """The lock is kept once we have it: no worker may take up a job after we have given up."""
        if self.link.welcome or time.monotonic() - self.link.last_welcome < self.orphan_seconds:
            return False
        try:
            fcntl.flock(busy, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        print("stoker: no server for %g s and no job in flight: the context ends" % self.orphan_seconds,
              file=sys.stderr, flush=True)
        return True

    def hello(self):
        hello = {"role": "keeper", "context": self.context, "process": self.process, "state": self.state,
                 "workers": self.gateways.workers() if self.gateways else [], "keeps": self.keeps(), "looks": True}
        if self.state == "running":
            hello["started"] = self.started
        if self.error:
            hello["error"] = self.error
        return hello

    def welcomed(self):
        """What may have changed between `hello` and `welcome` is said again."""
        if self.error:
            self.link.send({"type": self.state, "error": self.error})
            self.told.set()
        elif self.state == "running":
            self.link.send(dict(self.started, type="started"))
            self.tell_keeps(again=True)
        elif self.state == "starting":
            self.link.send({"type": "phase", "phase": self.phase_text})

    def refused(self, reason):
        print("stoker: the server refused the keeper: %s" % reason, file=sys.stderr, flush=True)
        self.ask_stop()

    def deliver(self, message):
        kind = message["type"]
        if kind == "stop":
            self.ask_stop()
        elif kind in ("admit", "gone", "cancel", "objects", "drop"):
            self.spawn(getattr(self, kind), message)
        elif kind == "look":
            if self.looks is None:
                self.looks = queue.SimpleQueue()
                threading.Thread(target=self.answer_looks, name="stoker-look", daemon=True).start()
            self.looks.put(message)
        else:
            raise connection.BadFrame(kind)

    def spawn(self, handler, message):
        threading.Thread(target=self.serve, args=(handler, message), name="stoker-" + message["type"], daemon=True).start()

    # -- request threads

    def serve(self, handler, message):
        with self.served:
            self.serving += 1
        try:
            if self.gateways and not self.stopping:
                handler(message)
        except Exception:
            if not self.over():
                traceback.print_exc()
        finally:
            with self.served:
                self.serving -= 1
                self.served.notify_all()

    def over(self):
        """The context ends: no request is answered any more."""
        return self.stopping or self.error is not None

    def admit(self, message):
        """The server waits for the answer: what cannot admit workers for a while is no context."""
        worker = message["worker"]
        for tries_left in range(ADMIT_RETRIES, -1, -1):
            try:
                gateway = self.gateways.admit(worker)
                break
            except Exception as e:
                if self.over():
                    return
                traceback.print_exc()
                if not tries_left:
                    error = JobError("CONTEXT_LOST", "the driver JVM makes no gateway for a worker", None)
                    error.__cause__ = e
                    self.fail("ended", "CONTEXT_LOST", error)
                    return
            time.sleep(ADMIT_RETRY_SECONDS)
        self.link.send(dict(gateway, type="admitted", worker=worker))

    def gone(self, message):
        try:
            self.gateways.gone(message["worker"])
        finally:
            self.tell_keeps()

    def tidy(self, message):
        try:
            self.gateways.tidy()
        finally:
            self.tell_keeps()

    def keeps(self):
        return self.gateways is not None and self.gateways.keeps()

    def tell_keeps(self, again=False):
        """When it has changed, or again; `hello` tells it too."""
        with self._telling:
            any_kept = self.keeps()
            if again or any_kept != self._told_keeps:
                self._told_keeps = any_kept
                self.link.send({"type": "keeps", "any": any_kept})

    def cancel(self, message):
        """Until it is confirmed, whatever the JVM answers: the server waits for nothing else."""
        began, told, final = time.monotonic(), False, bool(message.get("final"))
        while True:
            try:
                found = self.gateways.cancel(message["job"], message["attempt"], message["worker"] if final else None)
                break
            except Exception:
                if self.over():
                    return
                if not told:
                    traceback.print_exc()
                told = True
            time.sleep(CANCEL_RETRY_SECONDS)
        self.link.send({"type": "cancelled", "worker": message.get("worker"), "job": message["job"],
                        "attempt": message["attempt"], "final": final, **found.body(),
                        "elapsed_ms": round(1000 * (time.monotonic() - began), 1)})

    def objects(self, message):
        """Named objects, some in each frame."""
        def ask():
            found = self.gateways.objects.list()
            return [{"objects": found[n:n + OBJECTS_IN_FRAME], "more": n + OBJECTS_IN_FRAME < len(found)}
                    for n in range(0, len(found) or 1, OBJECTS_IN_FRAME)]
        self.answer(message, "objects", ask)

    def drop(self, message):
        answer, = self.answer(message, "dropped", lambda: [{"object": self.gateways.objects.drop(message["name"])}])
        if answer.get("object"):
            self.tidy(message)

    def answer(self, message, kind, ask):
        """Sends a frame for each dict that ask() returns, or why it has failed. Returns these dicts."""
        if self._asked.acquire(blocking=False):
            try:
                frames = ask()
            except Exception as e:
                if not self.over():
                    traceback.print_exc()
                frames = [{"error": failure.describe(e, "start")["message"]}]
            finally:
                self._asked.release()
        else:
            frames = [{"error": "the driver JVM has not answered %d earlier questions for named objects yet" % MOST_ASKED}]
        for frame in frames:
            self.link.send(dict(frame, type=kind, request=message["request"]))
        return frames

    # -- the thread of looks

    def answer_looks(self):
        """Each is answered, that the server may ask again."""
        progress, told = None, False
        while True:
            attempts = self.looks.get()["attempts"]
            with self.served:
                self.served.wait_for(lambda: not self.serving, GIVE_WAY_SECONDS)
            found = []
            try:
                if self.gateways and not self.over():
                    progress = progress or Progress(self.sc)
                    found = progress.look(attempts)
            except Exception:
                if not told and not self.over():
                    traceback.print_exc()
                told = True
            self.link.send({"type": "progress", "attempts": found})


def main(state_dir, context, process, gateway=None):
    return Keeper(state_dir, context, process).run()
