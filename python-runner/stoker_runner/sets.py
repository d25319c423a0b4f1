"""Binary sets in use, and the end of those that are not: their executor processes, their files (rules A10, K4).

The workers of a context that are bound to one set share a *use* of it, named by the worker that began it. Without a
worker it is idle; when LINGER others have become idle after it, it ends, for ever: who binds the set again begins
another use. So what belongs to a use that has ended can be removed while a new one begins. Executors keep apart processes
and files of different uses. A use never ends when one of its workers has left something that needs it in the JVM: a named
object, a view, a UDF.

Each use has a *place*, the smallest number that no other has. When it has ended, the next use takes the place. On a
cluster that is what keeps Python processes apart: an executor makes a pool of them, with a thread that never ends, for
each environment it sees, so there are as many as there were places, and not one for each use. Two uses that had one place
are kept apart by its generation, the number of uses that have ended there (executor_daemon.py).

The maps jvm.SETS and jvm.PLACES change by compare-and-swap only. An entry of SETS: "<use> <worker> <worker> ...", and marks
among the workers. One of PLACES: the worker that began the use.
"""
import itertools
import os
import time

from py4j.java_gateway import get_field

from . import jvm, launch

KEPT = "(kept)"                 # a mark: something needs the use after its worker
IDLE = "(idle)"                 # a mark: had no worker once; an entry that says only this may end
LINGER = 2                      # idle uses that go on, for a set whose workers retire after each job
LIST = "stoker-retired-%d.txt"  # to executors elsewhere, see executor_daemon.py
LIST_END = "end"
LIST_LENGTH = 2000              # names of files; an executor that runs no task meanwhile keeps those that are older
SETTLE_SECONDS = 60.0           # a Spark job is submitted, and known to the status tracker, in less
LOOK_SECONDS = 1.0              # between two looks whether Spark jobs have ended
MONITOR = "Idle Worker Monitor"


def join(sets, places, binary_set, worker):
    """For a worker that binds itself to a set: the use that it takes part in. sets, places: the shared maps."""
    while True:
        entry = sets.get(binary_set)
        if entry is None:
            place = next(n for n in map(str, itertools.count()) if places.putIfAbsent(n, worker) is None)
            use = "%s.%s" % (worker, place)
            if sets.putIfAbsent(binary_set, "%s %s" % (use, worker)) is None:
                return use
            places.remove(place, worker)
        elif sets.replace(binary_set, entry, "%s %s" % (entry, worker)):
            return entry.split()[0]


def _parts(use):
    """(the worker that began it, its place)"""
    worker, _, place = use.rpartition(".")
    return worker, place


def environment_name(binary_set, use, local):
    """STOKER_BINARIES of the use: what keeps its executor processes apart from those of all others there are."""
    return "%s.%s" % (binary_set, use) if local else "place-" + _parts(use)[1]


def file_name(digest, use):
    """How a binary of the use is called on executors elsewhere."""
    return "stoker-%s-%s.zip" % (digest[:16], use)


class Sets:
    """The keeper's side. folder: where workers put what they send to executors. Calls must not overlap."""

    def __init__(self, sc, folder):
        self._jsc, self._jvm, self._folder = sc._jsc.sc(), sc._jvm, folder
        self._sc = sc
        self._local = launch.is_local(sc.master)
        # Without our daemon nobody on executors elsewhere sees that a place has another use.
        self._places_return = self._local or launch.is_our_daemon(sc.getConf().get(launch.DAEMON))
        self._sets = jvm.shared_map(self._jvm, jvm.SETS)
        self._places = jvm.shared_map(self._jvm, jvm.PLACES)
        self._generations = {}  # environment name of a place -> how many uses have ended there
        self._idle = []         # (binary set, use) that had no worker, oldest first
        self._retired = []      # names of files in the last list
        self._lists = 0
        self._removals = []     # _Removal objects, oldest first
        self._settle_seconds = float(os.environ.get("STOKER_SETTLE_SECONDS", SETTLE_SECONDS))
        self._env_vars = None   # the Java field PythonWorkerFactory.envVars

    def leave(self, worker, kept):
        """The worker has ended, and all its Spark jobs have. kept: what it has left needs the use."""
        for binary_set in list(self._sets.keySet()):
            self._leave(binary_set, worker, kept)
        self._leave_place(worker)
        while len(self._idle) > LINGER:
            binary_set, use = self._idle.pop(0)
            if self._sets.remove(binary_set, "%s %s" % (use, IDLE)):    # else it has a worker again
                self._end_use(binary_set, use)
                if self._places_return:
                    began, place = _parts(use)
                    self._places.remove(place, began)

    def _leave(self, binary_set, worker, kept):
        while True:
            use, *members = (self._sets.get(binary_set) or "-").split()
            if worker not in members:
                return
            left = [m for m in members if m not in (worker, IDLE)]
            if kept and KEPT not in left:
                left.append(KEPT)
            if self._sets.replace(binary_set, " ".join([use, *members]), " ".join([use, *(left or [IDLE])])):
                break
        if not left:
            self._idle = [entry for entry in self._idle if entry != (binary_set, use)] + [(binary_set, use)]

    def _leave_place(self, worker):
        """A worker that ended while it bound itself may have taken a place and begun no use."""
        began = {_parts(entry.split()[0]) for entry in list(self._sets.values())}
        for place in list(self._places.keySet()):
            if (worker, place) not in began:
                self._places.remove(place, worker)

    def _end_use(self, binary_set, use):
        name = environment_name(binary_set, use, self._local)
        self._end_processes(name)
        if not self._local:
            self._generations[name] = self._generations.get(name, 0) + 1
            self._retire_files(use)

    # -- processes of the driver JVM: those of local executors; on a cluster such as plan a query

    def _end_processes(self, name):
        """Spark has no call that ends a PythonWorkerFactory: its thread, which is one for each, is found by name. The
        environment of a place comes again, and its factory goes on with another daemon; no local one does."""
        for thread in self._threads():
            if not (thread and thread.getName().startswith(MONITOR)):
                continue
            factory = get_field(thread, "$outer")
            found = self._environment_of(factory).get("STOKER_BINARIES")
            if found.isDefined() and found.get() == name:
                factory.stop()
                if self._local:
                    thread.setUncaughtExceptionHandler(self._silence())
                    thread.interrupt()

    def _threads(self):
        group = self._jvm.Thread.currentThread().getThreadGroup()
        while group.getParent() is not None:
            group = group.getParent()
        threads = self._sc._gateway.new_array(self._jvm.Thread, 2 * group.activeCount() + 64)
        return [threads[n] for n in range(group.enumerate(threads, True))]

    def _environment_of(self, factory):
        if self._env_vars is None:
            self._env_vars = factory.getClass().getDeclaredField("envVars")
            self._env_vars.setAccessible(True)
        return self._env_vars.get(factory)

    def _silence(self):
        """A handler that does nothing: an interrupt ends the thread by an exception, which would be printed."""
        handler = self._jvm.java.lang.Class.forName("java.lang.Thread$UncaughtExceptionHandler")
        return self._jvm.java.beans.EventHandler.create(handler, self._jvm.Object(), "hashCode")

    # -- executors elsewhere

    def _retire_files(self, use):
        """New tasks are not told to fetch the files any more, and a list tells executors to remove what they have.

        Lists are files of their own, each with all that the one before it had: executors fetch it with their next task.
        A list is there before the one that it replaces is taken away, and before the place is free, so every task of the
        place's next use brings this list or a later one.
        """
        ends = "-%s.zip" % use, "/" + LIST % self._lists    # its binaries, and the list before this one
        keys = [key for key in self._sc.listFiles if key.endswith(ends)]
        files = [os.path.basename(key) for key in keys]
        self._retired = (self._retired + files)[-LIST_LENGTH:]
        self._lists += 1
        os.makedirs(self._folder, exist_ok=True)
        path = os.path.join(self._folder, LIST % self._lists)
        with open(path, "w") as f:
            f.write("\n".join(["%s %d" % place for place in self._generations.items()] + [*self._retired, LIST_END, ""]))
        self._sc.addFile(path)
        listed = self._jsc.addedFiles().get("default").get()
        for key in keys:
            listed.remove(key)
        self._removals.append(_Removal(files))

    def remove_files(self):
        """A Spark job fetches all that was listed when it was submitted, with its last task too: the files stay until
        every job of that time has ended."""
        now = time.monotonic()
        if not self._removals or now - self._removals[0].since < self._settle_seconds:
            return
        active = set(self._sc.statusTracker().getActiveJobsIds())
        copies = self._jvm.org.apache.spark.SparkFiles.getRootDirectory()   # the driver has fetched them too
        for removal in list(self._removals):
            if now - removal.since < self._settle_seconds:
                break
            removal.jobs = active if removal.jobs is None else removal.jobs & active
            if not removal.jobs:
                self._removals.remove(removal)
                for name in removal.files:
                    _unlink(os.path.join(self._folder, name))
                    _unlink(os.path.join(copies, name))

    def next_removal(self):
        """Seconds until remove_files() may have something to do. None: not before another use ends."""
        if not self._removals:
            return None
        return max(self._removals[0].since + self._settle_seconds - time.monotonic(), LOOK_SECONDS)


class _Removal:
    def __init__(self, files):
        self.files, self.since = files, time.monotonic()
        self.jobs = None        # Spark jobs that may still fetch them; None: not looked yet


def _unlink(path):
    try:
        os.unlink(path)
    except OSError:
        pass
