"""The keeper's work in the JVM: gateways of workers, cancels and their confirmation (rules K1-K4, K7, A3, A9, A10).

Every method may be called from any thread; call each from a fresh one: what a thread's JVM twin has for local
properties ends with it.
"""
import contextlib
import threading
import time
import traceback

from . import jvm, needs
from .objects import Shelf
from .sets import Sets

LOOK_SECONDS = 0.03         # between two looks at what a cancel has left
GONE_SECONDS = 60.0         # for what a dead worker has left; the keeper then gives up and says so in the log
MOST_SEEN = 1000            # tags whose cancels are remembered
CALL_PATIENCE = 0.3         # for a call whose caller is gone to return by itself; then its thread is interrupted
FRAMES = 6                  # from a thread's first on, among which py4j names the command that it executes
SCHEDULER_SECONDS = 10      # for the DAG scheduler to answer; it is tried again
CALL_SECONDS = 5.0          # for one that no interrupt ends, an endless loop in Java: nothing but the JVM's end helps


class Cancelled:
    """What a cancel has met. jobs: Spark jobs that were active; tasks: of their stages, running at the first look;
    streams: queries that were stopped; rounds: how often it has looked."""

    def __init__(self):
        self.jobs = self.tasks = self.streams = self.rounds = 0

    def body(self):
        return dict(vars(self))


class Gateways:
    def __init__(self, sc, spark, files):
        """files: the folder of what workers send to executors elsewhere."""
        self._sc, self._jsc, self._jvm = sc, sc._jsc.sc(), sc._jvm
        self._spark = spark
        self._lock = threading.Lock()
        self._admitting = threading.Lock()
        self._seen = {}                                         # tag -> _Seen, of the latest cancels
        self._servers = {}                                      # worker -> its Py4JServer
        self._stopping = set()                                  # ids of streams whose stop() has not returned
        self._heir = self._jsc.collectionAccumulator()          # A3: for what outlives its maker
        self._streams = jvm.shared_map(self._jvm, jvm.STREAMS)
        self._sets = Sets(sc, files)
        self._sets_lock = threading.Lock()
        self._remover = None                                    # the timer of _remove_files(), when there is one
        self.objects = Shelf(sc, spark)
        self._leaving = set()           # workers that gone() is about
        self._left = {}                 # dead ones whose files something needs -> whether nothing of them runs any more
        self._kept = False              # something of dead workers is needed for as long as there is the context
        self._news = jvm.shared_map(self._jvm, jvm.NEWS)

    def workers(self):
        with self._lock:
            return list(self._servers)

    # -- K1

    def admit(self, worker):
        """{port, secret} of the worker's own server. Its threads inherit the tag, whatever the worker does later."""
        with self._admitting:           # asked twice at once, it is still one server
            with self._lock:
                server = self._servers.get(worker)
            if server is None:
                server = self._start_server(worker)
        return {"port": server.getListeningPort(), "secret": server.secret()}

    def _start_server(self, worker):
        self._sc.setLocalProperty(jvm.TAGS, jvm.worker_tag(worker))
        self._sc.setLocalProperty("spark.job.interruptOnCancel", "true")
        try:
            server = self._jvm.org.apache.spark.api.python.Py4JServer(self._jsc.conf())
            server.start()
        finally:
            self._jsc.setLocalProperties(self._jvm.java.util.Properties())
        with self._lock:
            self._servers[worker] = server
        return server

    def gone(self, worker):
        """The worker has ended, in whatever way: nothing of it stays in the JVM but what something needs."""
        with self._lock:
            if worker in self._leaving or worker in self._left:
                return              # said twice, by a server that came back meanwhile
            self._leaving.add(worker)
            server = self._servers.get(worker)
        try:
            cleared = self._clear_dead(worker, server)
            with self._lock:
                known = self._servers.pop(worker, None) is not None
            for step in (server.shutdown if known else None, lambda: self._inherit_accumulator(worker),
                         lambda: self._release_names(worker)):
                try:
                    if step:
                        step()
                except Exception:       # the others must not be left out for it: nobody asks again
                    traceback.print_exc()
            with self._sets_lock:
                self._left[worker] = cleared
                jvm.shared_map(self._jvm, jvm.BORROWED).remove(worker)
                self._part()
        finally:
            with self._lock:
                self._leaving.discard(worker)

    def dropped(self):
        """Whether a worker has dropped a named object, so that the files of a dead one may go."""
        return bool(self._left) and self._news.remove(jvm.DROPPED) is not None

    def keeps(self):
        """Whether anything needs the binaries of workers that have ended."""
        return self._kept or bool(self._left)

    def tidy(self):
        """Named objects have been dropped."""
        with self._sets_lock:
            if self._left:
                self._part()

    def _part(self):
        """Ends what is left of dead workers, but of those whose files a named object or a live worker needs. What one has left in the
        session, or what may still run, needs its set for as long as there is the context."""
        kept = needs.parse(jvm.shared_map(self._jvm, jvm.KEPT).toString())
        # In this order: a worker may borrow what another drops just then.
        needed = self.objects.needed() | needs.parse(jvm.shared_map(self._jvm, jvm.BORROWED).toString())
        for worker, cleared in list(self._left.items()):
            if worker in needed and worker not in kept and cleared:
                continue
            try:
                self._delete_temp_dir(worker, worker in kept or worker in needed)
            except Exception:       # a directory is no reason to keep the rest
                traceback.print_exc()
            self._kept = self._kept or worker in kept or not cleared
            self._sets.leave(worker, worker in kept or not cleared)
            del self._left[worker]
        if self._remover is None:
            self._plan_removal()

    def _plan_removal(self):
        """Of files of uses that have ended, for when nobody may fetch them any more. The lock is held."""
        seconds = self._sets.next_removal()
        self._remover = None
        if seconds is not None:
            self._remover = threading.Timer(seconds, self._remove_files)
            self._remover.daemon = True
            self._remover.start()

    def _remove_files(self):
        with self._sets_lock:
            with contextlib.suppress(Exception):    # the JVM may be about to end; else it is tried again
                self._sets.remove_files()
            self._plan_removal()

    def _clear_dead(self, worker, server):
        """What it has in Spark. The JVM may answer late, or not at all for a while. False when something may be left."""
        deadline = time.monotonic() + GONE_SECONDS
        while True:
            calls = Calls(server)
            try:
                return self._clear(jvm.worker_tag(worker), deadline, calls) is not None and not calls.given_up
            except Exception:
                if time.monotonic() > deadline:
                    traceback.print_exc()
                    return False
            time.sleep(LOOK_SECONDS)

    def _release_names(self, worker):
        """Named objects that it was about to create when it died: another may."""
        locks = jvm.shared_map(self._jvm, jvm.NAMED_LOCKS)
        for name, holder in list(locks.items()):
            if holder == worker:
                locks.remove(name, worker)

    def _inherit_accumulator(self, worker):
        """A3: named objects and UDFs of the dead still carry its accumulator, and no task of theirs could be serialized
        once the collector behind it is collected as garbage."""
        java = jvm.shared_map(self._jvm, jvm.ACCUMULATORS).remove(worker)
        if java:
            getattr(java, "metadata_$eq")(self._heir.metadata())
            self._heir.reset()

    def _delete_temp_dir(self, worker, kept):
        """A9; in the JVM, which also forgets its shutdown hook. The broadcasts of what others need are in it."""
        path = jvm.shared_map(self._jvm, jvm.TEMP_DIRS).remove(worker)
        if path and not kept:
            self._jvm.org.apache.spark.util.Utils.deleteRecursively(self._jvm.java.io.File(path))

    # -- K2, K3, K7

    def cancel(self, job, attempt, worker=None):
        """Returns a Cancelled, once no Spark job of the attempt is active and no task of theirs runs.

        worker: that which ran the attempt, when it is done with it: then nothing of it may come any more either, so
        the calls must have returned that it left in the JVM.
        """
        with self._lock:
            server = self._servers.get(worker)
        return self._clear(jvm.attempt_tag(job, attempt), None, Calls(server), job)

    def _clear(self, tag, deadline, calls, group=None):
        """Again and again, for a loop of the user's may submit one more. A Cancelled, or None when something is left at the
        deadline (monotonic time, or None). group: a job group of which no Spark job is wanted any more; its next ones are refused, which spares the killing of tasks.

        The order counts: what makes Spark jobs, then the jobs, then their tasks.
        """
        found, seen = Cancelled(), self._seen_of(tag)
        seen.tasks = max(seen.tasks, self._running_tasks(tag))
        while True:
            over = calls.over()
            active = self._cancel_jobs(tag)
            running = self._stop_streams(tag)
            tasks = self._running_tasks(tag, cancelled=True)
            seen.jobs.update(active)
            seen.streams.update(running)
            found.rounds += 1
            if found.rounds == 1 and group:
                self._jsc.cancelJobGroupAndFutureJobs(group, "cancelled with tag " + tag)
            found.jobs, found.tasks, found.streams = len(seen.jobs), seen.tasks, len(seen.streams)
            if over and not active and not running and not tasks:
                return found
            if deadline is not None and time.monotonic() > deadline:
                print("stoker: Spark jobs with tag %s are still active" % tag, flush=True)
                return None
            time.sleep(LOOK_SECONDS)

    def _seen_of(self, tag):
        """What all cancels of one tag have met together: the second begins while the first goes on."""
        with self._lock:
            seen = self._seen.pop(tag, None) or _Seen()
            self._seen[tag] = seen
            if len(self._seen) > MOST_SEEN:
                del self._seen[next(iter(self._seen))]
            return seen

    def _cancel_jobs(self, tag):
        """Cancels what has the tag. The ids of those that were active: by the scheduler's own account, for the status
        tracker learns of a new job somewhat later."""
        scala = self._jvm.scala.concurrent
        future = self._jsc.cancelJobsWithTagWithFuture(tag, "cancelled with tag " + tag)
        cancelled = self._jvm.org.apache.spark.util.ThreadUtils.awaitReady(
            future, scala.duration.Duration.create(SCHEDULER_SECONDS, "s")).value().get().get()
        return [cancelled.apply(i).jobId() for i in range(cancelled.size())]

    def _task_sets(self, node):
        """All below a pool, which with FAIR holds pools. Not by getSortedTaskSetQueue(): it leaves out task sets of which
        every task is launched, and cancelled ones."""
        queue = node.schedulableQueue()     # null: a task set
        return [node] if queue is None else [found for each in list(queue.toArray()) for found in self._task_sets(each)]

    def _running_tasks(self, tag, cancelled=False):
        """Tasks that run now, by the scheduler's account (K3: a job that is not active any more may have some). A stage
        that was cancelled stays in it until its last task has ended, so nothing is asked of the status tracker, which
        lists each Spark job that the tag has had. cancelled: of such stages only, for another job may share one that
        goes on."""
        count = 0
        for manager in self._task_sets(self._jsc.taskScheduler().rootPool()):
            properties = manager.taskSet().properties()
            if properties and tag in (properties.getProperty(jvm.TAGS) or "").split(","):
                if not cancelled or manager.isZombie():
                    count += manager.runningTasks()
        return count

    def _stop_streams(self, tag):
        """Asks streams with the tag to stop; the ids of those that are still there. One that waits for its trigger has
        no Spark job, so no tag finds it: the map does."""
        left = []
        for query in list(self._spark._jsparkSession.sharedState().activeStreamingQueries().values()):
            key = query.id().toString()
            if tag not in (self._streams.get(key) or "").split(","):
                continue
            left.append(key)
            with self._lock:
                known = key in self._stopping
                self._stopping.add(key)
            if not known:
                threading.Thread(target=self._stop_stream, args=(query, key), daemon=True).start()
        return left

    def _stop_stream(self, query, key):
        """stop() waits for the stream's thread, which may sit in a callback into a worker that does not answer."""
        try:
            query.stop()
            self._streams.remove(key)
        finally:
            with self._lock:
                self._stopping.discard(key)


class _Seen:
    def __init__(self):
        self.jobs, self.streams, self.tasks = set(), set(), 0


class Calls:
    """What the JVM executes for a worker at this moment: a call goes on when its caller is gone, and may start Spark
    jobs for as long as it does. Each connection to the worker's server has a thread."""

    def __init__(self, server):
        """server: the worker's Py4JServer, or None when it has none any more."""
        self._server, self._connections = server, None
        self._began, self._interrupted = time.monotonic(), 0.0
        self.given_up = False

    def over(self):
        """Whether none is left. Interrupts what does not return; gives up on what no interrupt ends."""
        if self._server is None:
            return True
        threads = self._executing()
        if not threads:
            return True
        now = time.monotonic()
        if now > self._began + CALL_SECONDS:
            print("stoker: a call that a job has made does not come back from the JVM", flush=True)
            self._server, self.given_up = None, True
            return True
        if now > max(self._began, self._interrupted) + CALL_PATIENCE:
            self._interrupted = now
            for thread in threads:
                thread.interrupt()
        return False

    def _executing(self):
        """Threads of connections that execute a command; the others wait for one."""
        if self._connections is None:
            server = self._server.server().getJavaServer()
            self._connections = _field(server, server.getClass().getSuperclass(), "connections")
        found = []
        for connection in list(self._connections.toArray()):
            thread = _field(connection, connection.getClass(), "jvmThread")
            frames = thread.getStackTrace() if thread else ()
            names = [frames[i].getClassName() for i in range(max(0, len(frames) - FRAMES), len(frames))]
            if any(name.startswith("py4j.commands.") for name in names):
                found.append(thread)
        return found


def _field(instance, cls, name):
    """A field of a Java object that has no getter."""
    field = cls.getDeclaredField(name)
    field.setAccessible(True)
    return field.get(instance)
