"""How far attempts are in Spark: their Spark jobs, stages and tasks, by the status store that Spark keeps for its own UI.

Every Spark job carries the tag of its attempt, whatever thread or job group has started it (K2), and so does what the
store knows of it. A look is one call into the JVM, which answers with JSON, and one for each Spark job that has ended
since the last one.
"""
import collections
import json

KINDS = ("jobs", "stages", "tasks")
FIELDS = ("total", "done", "active", "failed")
MOST_KEPT = 1000            # attempts that nobody asks about, whose ended Spark jobs are remembered
BEHIND = 16                 # Spark jobs that may reach the store after one with a higher number
TAG = "stoker-"             # and the attempt: "<job>.<number>"; the tag of a worker has no point
LONG = 1 << 33              # a time in ms that py4j sends as a long, before any that Spark writes down
RUNNING = ("RUNNING", "UNKNOWN")
# What may be long and nobody asks for.
LEFT_OUT = {"JobData": ("name", "description", "jobGroup", "killedTasksSummary"),
            "StageData": ("name", "description", "details", "rddIds", "accumulatorUpdates", "tasks", "executorSummary",
                          "speculationSummary", "killedTasksSummary", "failureReason", "peakExecutorMetrics",
                          "taskMetricsDistributions", "executorMetricsDistributions")}


def counts(info, stages):
    """{kind: [total, done, active, failed]} of one Spark job. info: its JobData; stages: id -> StageData of active ones.

    done counts a task once, however often it was run. total is what Spark means to run: it finds out late that a stage can
    be skipped because its output is still there. A stage has a higher number than those it needs, so when the last one runs,
    the others are done or skipped.
    """
    running = info["status"] in RUNNING
    ids = info["stageIds"]
    done, total = info["numCompletedIndices"], info["numTasks"] - info["numSkippedTasks"]
    n_stages = len(ids) - info["numSkippedStages"]
    last = stages.get(max(ids)) if running and ids else None
    if last:
        total = min(total, done + max(0, last["numTasks"] - last["numCompletedIndices"]))
        n_stages = min(n_stages, info["numCompletedStages"] + 1)
    return {"jobs": [1, int(info["status"] == "SUCCEEDED"), int(running), int(info["status"] == "FAILED")],
            "stages": [max(n_stages, info["numCompletedStages"]), info["numCompletedStages"],
                       info["numActiveStages"] if running else 0, info["numFailedStages"]],
            "tasks": [max(total, done), done, info["numActiveTasks"] if running else 0, info["numFailedTasks"]]}


def attempts_of(info):
    """The attempts, as "<job>.<number>", whose tags a Spark job has."""
    return [tag[len(TAG):] for tag in info.get("jobTags") or () if tag.startswith(TAG) and "." in tag]


class Sums:
    """What all Spark jobs of each attempt come to. Knows nothing of the JVM."""

    def __init__(self):
        self.next = 0               # the first Spark job that was not seen yet
        self._open = {}             # id -> JobData of a Spark job when it was last seen, running
        self._counted = set()       # ids of ended ones that may be seen again
        self._ended = collections.OrderedDict()     # attempt -> {kind: [...]} of its ended ones

    def take(self, active, new):
        """Lists of JobData: those that ran when the JVM was asked, then those from first() on. The ids of those that have
        ended since the last look: the caller has to read them and call end()."""
        now = {info["jobId"]: info for info in active + new if info["jobId"] not in self._counted}
        ended = [number for number in self._open if number not in now]
        for number, info in now.items():
            self.next = max(self.next, number + 1)
            if info["status"] in RUNNING:
                self._open[number] = info
            else:
                self.end(info)
        self._counted = {number for number in self._counted if number >= self.first()}
        return ended

    def first(self):
        """The first Spark job that may be new."""
        return max(0, self.next - BEHIND)

    def end(self, info):
        """A Spark job has ended so."""
        self._open.pop(info["jobId"], None)
        self._counted.add(info["jobId"])
        for attempt in attempts_of(info):
            _add(self._ended.setdefault(attempt, _zero()), counts(info, {}))
            self._ended.move_to_end(attempt)

    def forgotten(self, number):
        """Spark does not know any more how that Spark job has ended: it did what it was last seen to have done."""
        self.end(dict(self._open[number], status="FORGOTTEN"))

    def of(self, attempts, stages):
        """{attempt: {kind: [...]}} of those of the attempts that have had a Spark job. stages: as for counts()."""
        found = {}
        for attempt in attempts:
            if attempt in self._ended:
                found[attempt] = _add(_zero(), self._ended[attempt])
                self._ended.move_to_end(attempt)
        while len(self._ended) > len(found) + MOST_KEPT:
            self._ended.popitem(last=False)
        for info in self._open.values():
            for attempt in attempts_of(info):
                if attempt in attempts:
                    _add(found.setdefault(attempt, _zero()), counts(info, stages))
        return found


def _zero():
    return {kind: [0] * len(FIELDS) for kind in KINDS}


def _add(to, numbers):
    for kind in KINDS:
        to[kind] = [a + b for a, b in zip(to[kind], numbers[kind])]
    return to


class Progress:
    """For one thread: its connection to the JVM stays."""

    def __init__(self, sc):
        self._jvm, self._gateway = sc._jvm, sc._gateway
        self._store = sc._jsc.sc().statusStore().store()
        self._jobs, self._stages = (self._class("status.%sDataWrapper" % kind) for kind in ("Job", "Stage"))
        self._json = self._mapper()
        self._views = None
        self._from = 0              # where the view of new ones begins
        self._sums = Sums()

    def look(self, attempts):
        """attempts: list of {job, attempt}. A list of {job, attempt, jobs, stages, tasks}, each of the last three
        {total, done, active, failed}, of those that have had a Spark job."""
        if not self._ready():
            return []
        if self._from != self._sums.first():
            self._from = self._sums.first()
            self._new.first(self._from)
        stages, active, new = json.loads(self._json.writeValueAsString(self._views))
        for number in self._sums.take([each["info"] for each in active], [each["info"] for each in new]):
            self._read_end(number)
        keys = {"%s.%d" % (each["job"], each["attempt"]): each for each in attempts}
        found = self._sums.of(keys, {each["info"]["stageId"]: each["info"] for each in stages})
        return [dict(job=keys[key]["job"], attempt=keys[key]["attempt"],
                     **{kind: dict(zip(FIELDS, numbers[kind])) for kind in KINDS}) for key, numbers in found.items()]

    def _read_end(self, number):
        try:
            wrapper = self._store.read(self._jobs, number)
        except Exception as e:
            if "NoSuchElement" not in str(e):
                raise
            self._sums.forgotten(number)
            return
        self._sums.take([], [json.loads(self._json.writeValueAsString(wrapper))["info"]])

    def _ready(self):
        """Makes the views when there is something to see: one that is made earlier stays empty."""
        if self._views is None:
            if not self._store.count(self._jobs) or not self._store.count(self._stages):
                return False
            views = self._jvm.java.util.ArrayList()
            # Stages before jobs, as they are read one after the other: a task that ends in between must not be missing in a total.
            views.add(self._store.view(self._stages).index("active").first(True).last(True))
            views.add(self._store.view(self._jobs).index("completionTime").last(LONG))      # those that run have -1
            self._new = self._store.view(self._jobs).first(self._from)
            views.add(self._new)
            self._views = views
        return True

    def _class(self, name):
        return self._jvm.java.lang.Class.forName("org.apache.spark." + name)

    def _mapper(self):
        """Java's objects to JSON."""
        jackson = self._jvm.com.fasterxml.jackson
        mapper = jackson.databind.ObjectMapper()
        mapper.registerModule(getattr(getattr(jackson.module.scala, "DefaultScalaModule$"), "MODULE$"))
        ignored = getattr(jackson.annotation, "JsonIgnoreProperties$Value")
        for name, fields in LEFT_OUT.items():
            names = self._gateway.new_array(self._jvm.java.lang.String, len(fields))
            for i, field in enumerate(fields):
                names[i] = field
            mapper.configOverride(self._class("status.api.v1." + name)).setIgnorals(ignored.forIgnoredProperties(names))
        return mapper
