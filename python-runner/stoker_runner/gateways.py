"""The keeper's work in the JVM: gateways of workers, cancels and their confirmation (rules K1-K4, K7, A3, A9, A10).

Every method may be called from any thread; call each from a fresh one: what a thread's JVM twin has for local
properties ends with it.
"""
import threading
import time

from . import jvm, launch
from .sets import Sets

LOOK_SECONDS = 0.03         # between two looks at what a cancel has left
GONE_SECONDS = 60.0         # for what a dead worker has left; the keeper then gives up and says so in the log


class Gateways:
    def __init__(self, sc, spark, files):
        """files: the folder of what workers send to executors elsewhere."""
        self._sc, self._jsc, self._jvm = sc, sc._jsc.sc(), sc._jvm
        self._spark = spark
        self._lock = threading.Lock()
        self._servers = {}                                      # worker -> its Py4JServer
        self._stopping = set()                                  # ids of streams whose stop() has not returned
        self._heir = self._jsc.collectionAccumulator()          # A3: for what outlives its maker
        self._streams = jvm.shared_map(self._jvm, jvm.STREAMS)
        self._sets = Sets(sc, files, launch.is_local(sc.master))
        self._sets_lock = threading.Lock()

    def workers(self):
        with self._lock:
            return list(self._servers)

    # -- K1

    def admit(self, worker):
        """{port, secret} of the worker's own server. Its threads inherit the tag, whatever the worker does later."""
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
        """The worker has ended, in whatever way: nothing of it stays in the JVM."""
        with self._lock:
            server = self._servers.pop(worker, None)
        if server is not None:
            server.shutdown()
        self._inherit_accumulator(worker)
        self._clear(jvm.worker_tag(worker), time.monotonic() + GONE_SECONDS)
        kept = bool(jvm.shared_map(self._jvm, jvm.KEPT).remove(worker))
        self._delete_temp_dir(worker, kept)
        self._release_names(worker)
        with self._sets_lock:
            self._sets.leave(worker, kept)

    def _release_names(self, worker):
        """Named objects that it was about to create when it died: another may."""
        locks = jvm.shared_map(self._jvm, jvm.NAMED_LOCKS)
        for name, holder in list(locks.items()):
            if holder == worker:
                locks.remove(name)

    def _inherit_accumulator(self, worker):
        """A3: named objects and UDFs of the dead still carry its accumulator, and no task of theirs could be serialized
        once the collector behind it is collected as garbage."""
        java = jvm.shared_map(self._jvm, jvm.ACCUMULATORS).remove(worker)
        if java:
            getattr(java, "metadata_$eq")(self._heir.metadata())
            self._heir.reset()

    def _delete_temp_dir(self, worker, kept):
        """A9; in the JVM, which also forgets its shutdown hook. The broadcasts of a named object keep the directory."""
        path = jvm.shared_map(self._jvm, jvm.TEMP_DIRS).remove(worker)
        if path and not kept:
            self._jvm.org.apache.spark.util.Utils.deleteRecursively(self._jvm.java.io.File(path))

    # -- K2, K3, K7

    def cancel(self, job, attempt):
        """Returns the number of Spark jobs that were active, once none is and no task of theirs runs."""
        return self._clear(jvm.attempt_tag(job, attempt), None)

    def _clear(self, tag, deadline):
        """Again and again, for a loop of the user's may submit one more. deadline: monotonic time, or None."""
        look = _Look(self._sc, self._jsc, tag)
        active = look.active_jobs()
        while True:
            self._sc.cancelJobsWithTag(tag)
            streams = self._stop_streams(tag)
            if not streams and look.quiet():
                return active
            if deadline is not None and time.monotonic() > deadline:
                print("stoker: Spark jobs with tag %s are still active" % tag, flush=True)
                return active
            time.sleep(LOOK_SECONDS)

    def _stop_streams(self, tag):
        """Asks streams with the tag to stop; how many are still there. One that waits for its trigger has no Spark job,
        so no tag finds it: the map does."""
        left = 0
        for query in list(self._spark._jsparkSession.sharedState().activeStreamingQueries().values()):
            key = query.id().toString()
            if tag not in (self._streams.get(key) or "").split(","):
                continue
            left += 1
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


class _Look:
    """What is active under a tag. Remembers what it has seen end: an attempt may have had thousands of Spark jobs."""

    def __init__(self, sc, jsc, tag):
        self._tracker, self._jsc, self._tag = sc.statusTracker(), jsc, tag
        self._ended = set()

    def _jobs(self):
        return [j for j in self._jsc.statusTracker().getJobIdsForTag(self._tag) if j not in self._ended]

    def active_jobs(self):
        count = 0
        for job in self._jobs():
            info = self._tracker.getJobInfo(job)
            count += bool(info and info.status == "RUNNING")
        return count

    def quiet(self):
        """K3: no active job, and no running task in any stage of its jobs; the first alone comes seconds too early."""
        return all([self._job_ended(job) for job in self._jobs()])

    def _job_ended(self, job):
        info = self._tracker.getJobInfo(job)
        if info and info.status == "RUNNING":
            return False
        for stage in info.stageIds if info else ():
            found = self._tracker.getStageInfo(stage)
            if found and found.numActiveTasks:
                return False
        self._ended.add(job)
        return True
