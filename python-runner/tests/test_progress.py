"""How far attempts are in Spark, from what Spark's status store says; the store is a list of ours."""
import json
import threading
from types import SimpleNamespace

import pytest

from stoker_runner import attach, keeper, progress, worker
from stoker_runner.progress import Progress, Sums, attempts_of, counts


def info(number, attempt="a.1", status="RUNNING", stages=(0,), tasks=4, **more):
    """JobData of a Spark job, as JSON."""
    return dict({"jobId": number, "status": status, "stageIds": list(stages), "jobTags": ["stoker-w-1", "stoker-" + attempt],
                 "numTasks": tasks, "numActiveTasks": 0, "numCompletedTasks": 0, "numSkippedTasks": 0, "numFailedTasks": 0,
                 "numKilledTasks": 0, "numCompletedIndices": 0, "numActiveStages": 0, "numCompletedStages": 0,
                 "numSkippedStages": 0, "numFailedStages": 0}, **more)


def ended(number, attempt="a.1", tasks=4, **more):
    return info(number, attempt, "SUCCEEDED", tasks=tasks, **dict(
        {"numCompletedTasks": tasks, "numCompletedIndices": tasks, "numCompletedStages": 1}, **more))


def stage(number, tasks, done=0):
    return {number: {"stageId": number, "numTasks": tasks, "numCompletedIndices": done}}


@pytest.mark.parametrize("found, stages, tasks, of_stages", [
    (info(1, numActiveTasks=3, numActiveStages=1), stage(0, 4), [4, 0, 3, 0], [1, 0, 1, 0]),
    (info(1, stages=(0, 1), tasks=9, numCompletedIndices=2, numActiveTasks=4, numActiveStages=1), stage(0, 6, 2),
     [9, 2, 4, 0], [2, 0, 1, 0]),
    # its last stage runs and the one before never has: it is skipped
    (info(1, stages=(4, 5), tasks=9, numActiveTasks=3, numActiveStages=1), stage(5, 3), [3, 0, 3, 0], [1, 0, 1, 0]),
    # its last stage runs, the one before is done
    (info(1, stages=(4, 5), tasks=9, numCompletedIndices=7, numActiveTasks=2, numActiveStages=1, numCompletedStages=1),
     stage(5, 3, 1), [9, 7, 2, 0], [2, 1, 1, 0]),
    # Spark has run a stage again: no more is to be done than there was
    (info(1, stages=(4, 5), tasks=9, numCompletedIndices=8, numCompletedTasks=12, numActiveStages=1, numFailedStages=1,
          numFailedTasks=3), stage(5, 3, 0), [9, 8, 0, 3], [1, 0, 1, 1]),
    # what ended with tasks that still run, and what was skipped
    (info(1, status="FAILED", stages=(4, 5), tasks=9, numActiveTasks=2, numFailedTasks=4, numSkippedTasks=3,
          numSkippedStages=1, numFailedStages=1), {}, [6, 0, 0, 4], [1, 0, 0, 1]),
    (info(1, stages=(), tasks=0), {}, [0, 0, 0, 0], [0, 0, 0, 0]),
])
def test_one_spark_job(found, stages, tasks, of_stages):
    got = counts(found, stages)
    assert (got["tasks"], got["stages"]) == (tasks, of_stages)
    assert got["jobs"][0] == 1 and sum(got["jobs"][1:]) == 1


def test_attempts_are_known_by_their_tags():
    assert attempts_of(info(1, "b3c.12")) == ["b3c.12"]
    assert attempts_of({"jobTags": ["stoker-w-12ab34cd", "mine", "x.1", "stoker-a.1", "stoker-b.2"]}) == ["a.1", "b.2"]
    assert attempts_of({"jobTags": None}) == attempts_of({}) == []


def test_ended_and_running_ones_are_added_up():
    sums = Sums()
    assert sums.take([info(2, numActiveTasks=1)], [ended(0), ended(1, "b.1"), info(2, numActiveTasks=1)]) == []
    assert sums.next == 3
    assert sums.of(["a.1", "b.1", "c.1"], {}) == {
        "a.1": {"jobs": [2, 1, 1, 0], "stages": [2, 1, 0, 0], "tasks": [8, 4, 1, 0]},
        "b.1": {"jobs": [1, 1, 0, 0], "stages": [1, 1, 0, 0], "tasks": [4, 4, 0, 0]}}
    assert sums.of(["b.1"], {}).keys() == {"b.1"}


def test_what_does_not_run_any_more_is_to_be_read():
    sums = Sums()
    sums.take([], [info(0), info(1)])
    assert sums.take([info(1)], []) == [0]
    sums.end(ended(0))
    assert sums.of(["a.1"], {})["a.1"]["jobs"] == [2, 1, 1, 0]
    assert sums.take([info(1)], [ended(2)]) == []           # came and went between two looks
    assert sums.take([], []) == [1]
    sums.forgotten(1)
    assert sums.of(["a.1"], {})["a.1"]["jobs"] == [3, 2, 0, 0]
    assert sums.of(["a.1"], {})["a.1"]["tasks"] == [12, 8, 0, 0]
    assert sums.take([], []) == []


def test_one_that_ends_while_it_is_looked_at_counts_once():
    """The list of running ones is older than that of new ones."""
    sums = Sums()
    sums.take([info(0)], [ended(0)])
    assert sums.take([], []) == [] and sums.of(["a.1"], {})["a.1"]["jobs"] == [1, 1, 0, 0]
    sums.take([], [info(1)])                                # and one that has begun in between
    assert sums.of(["a.1"], {})["a.1"]["jobs"] == [2, 1, 1, 0]


def test_only_so_many_attempts_are_remembered(monkeypatch):
    monkeypatch.setattr(progress, "MOST_KEPT", 2)
    sums = Sums()
    sums.take([], [ended(0, "a.1"), ended(1, "b.1"), ended(2, "a.1"), ended(3, "c.1"), ended(4, "d.1")])
    assert sums.of(["b.1"], {}).keys() == {"b.1"}           # and those that are asked about
    assert sums.of(["a.1", "b.1", "c.1", "d.1"], {}).keys() == {"b.1", "c.1", "d.1"}


def test_one_that_reaches_the_store_after_a_later_one_counts():
    sums = Sums()
    for new in ([ended(100)], [ended(99), ended(100)], [ended(99), ended(100), info(98)], [ended(98), ended(99), ended(100)]):
        assert sums.take([], new) == []
        assert sums.first() == 101 - progress.BEHIND
    assert sums.of(["a.1"], {})["a.1"]["jobs"] == [3, 3, 0, 0]
    sums.take([], [ended(200)])
    assert sums.of(["a.1"], {})["a.1"]["jobs"] == [4, 4, 0, 0] and sums._counted == {200}


class Views(list):
    add = list.append


class View:
    def __init__(self, kind):
        self.kind, self.begin, self.by = kind, 0, None

    def index(self, by):
        self.by = by
        return self

    def first(self, value):
        if value is not True:
            self.begin = value
        return self

    def last(self, value):
        return self


class Store:
    """Spark's, with JobData and StageData by number. Asked for JSON, it says how often; on_view() is called after each view."""

    def __init__(self):
        self.jobs, self.stages, self.calls, self.on_view = {}, {}, 0, lambda: None

    def count(self, kind):
        return len(self.jobs)

    def view(self, kind):
        return View(kind)

    def read(self, kind, number):
        if number not in self.jobs:
            raise RuntimeError("java.util.NoSuchElementException")
        return {"info": self.jobs[number]}

    def writeValueAsString(self, what):
        self.calls += 1
        if isinstance(what, dict):
            return json.dumps(what)
        found = []
        for view in what:
            listed = self.stages if view.kind == "stages" else self.jobs
            found.append([{"info": dict(each)} for number, each in listed.items()
                          if view.by == "active" or (each["status"] == "RUNNING" if view.by else number >= view.begin)])
            self.on_view()
        return json.dumps(found)


@pytest.fixture
def store():
    return Store()


@pytest.fixture
def look(store, monkeypatch):
    """Progress on that store: a function of attempts, that gives (jobs, tasks) by attempt."""
    monkeypatch.setattr(Progress, "__init__", lambda self: None)
    made = Progress()
    made._store = made._json = store
    made._jobs, made._stages, made._views, made._from, made._sums = "jobs", "stages", None, 0, Sums()
    made._jvm = SimpleNamespace(java=SimpleNamespace(util=SimpleNamespace(ArrayList=Views)))

    def call(*attempts):
        found = made.look([{"job": job, "attempt": number} for job, number in attempts])
        assert all(set(each) == {"job", "attempt", "jobs", "stages", "tasks"} for each in found)
        return {(each["job"], each["attempt"]): (each["jobs"]["total"], each["jobs"]["done"], each["tasks"]["done"])
                for each in found}
    call.made = made
    return call


def test_a_look_is_one_call_and_one_for_each_that_has_ended(look, store):
    store.jobs = {0: info(0), 1: info(1), 30: ended(30)}
    assert look(("a", 1)) == {("a", 1): (3, 1, 4)} and store.calls == 1
    assert look(("a", 1)) == {("a", 1): (3, 1, 4)} and store.calls == 2 and look.made._new.begin == 31 - progress.BEHIND
    store.jobs[0] = ended(0)
    del store.jobs[1]                                       # ended, and Spark has forgotten it
    assert look(("a", 1)) == {("a", 1): (3, 2, 8)} and store.calls == 4
    assert look(("a", 1), ("a", 2)) == {("a", 1): (3, 2, 8)} and store.calls == 5
    assert look() == {}


def test_what_spark_did_before_anybody_asked_counts(look, store):
    store.jobs = {0: ended(0, "b.1"), 1: ended(1)}
    look(("a", 1))
    store.jobs = {}
    assert look(("b", 1)) == {("b", 1): (1, 1, 4)}


def test_a_task_that_ends_while_it_is_looked_at_is_in_the_total(look, store):
    """The first stage of three tasks is skipped, of which Spark knows later; the last one has four."""
    store.jobs = {0: info(0, stages=(0, 1), tasks=7)}
    store.stages = stage(1, 4)

    def task_ends():
        store.jobs[0]["numCompletedIndices"] += 1
        store.stages[1]["numCompletedIndices"] += 1

    look(("a", 1))
    store.on_view = task_ends
    each, = look.made.look([{"job": "a", "attempt": 1}])
    assert each["tasks"]["total"] >= 4, each


# ---------------------------------------------------------------- the keeper


class Link:
    def __init__(self):
        self.sent, self.come = [], threading.Semaphore(0)

    def send(self, message):
        self.sent.append(message)
        self.come.release()
        return True

    def next(self):
        assert self.come.acquire(timeout=60)
        return self.sent[-1]


class Looks:
    def __init__(self, sc):
        self.fails = sc

    def look(self, attempts):
        if attempts in self.fails:
            raise RuntimeError("py4j has lost its connection")
        return attempts


@pytest.fixture
def made_keeper(tmp_path, monkeypatch):
    (tmp_path / "contexts" / "c").mkdir(parents=True)
    (tmp_path / "contexts" / "c" / "spec.json").write_text("{}")
    monkeypatch.setattr(keeper, "Progress", Looks)
    monkeypatch.setattr(keeper, "read_spec", lambda *_: {})
    made = keeper.Keeper(str(tmp_path), "c", "k")
    made.link, made.gateways, made.sc = Link(), object(), [["bad"]]
    return made


class Objects:
    """dropped: what drop() returns, or raises."""

    def drop(self, name):
        if isinstance(self.dropped, Exception):
            raise self.dropped
        return self.dropped


@pytest.mark.parametrize("dropped, tidied", [({"name": "x"}, 1), (None, 0), (OSError("no answer"), 0)])
def test_files_of_the_dead_are_looked_at_when_an_object_was_dropped(made_keeper, dropped, tidied):
    calls = []
    made_keeper.gateways = SimpleNamespace(objects=Objects(), tidy=lambda: calls.append(1), keeps=lambda: False)
    made_keeper.gateways.objects.dropped = dropped
    made_keeper.serve(made_keeper.drop, {"type": "drop", "name": "x", "request": "1"})
    assert [message["type"] for message in made_keeper.link.sent] == ["dropped"] and len(calls) == tidied


def test_keeps_is_told_in_the_order_of_its_values(made_keeper):
    """A worker ends while the server is told again what it may have missed."""
    others = []

    def keeps():                # no more, by the time that it is told
        if not others:
            others.append(threading.Thread(target=made_keeper.tell_keeps))
            others[0].start()
            others[0].join(0.2)
            return True
        return False

    made_keeper.gateways, made_keeper.state, made_keeper.started = SimpleNamespace(keeps=keeps), "running", {}
    made_keeper._told_keeps = True
    made_keeper.welcomed()
    others[0].join(60)
    assert [message["any"] for message in made_keeper.link.sent if message["type"] == "keeps"][-1] is False


def test_each_look_is_answered(made_keeper, capfd):
    for attempts, found in ((["x"], ["x"]), (["bad"], []), (["bad"], []), (["y"], ["y"])):
        made_keeper.deliver({"type": "look", "attempts": attempts})
        assert made_keeper.link.next() == {"type": "progress", "attempts": found}
    assert capfd.readouterr().err.count("Traceback") == 1
    made_keeper.gateways = None                             # Spark is not up yet, or any more
    made_keeper.deliver({"type": "look", "attempts": ["z"]})
    assert made_keeper.link.next() == {"type": "progress", "attempts": []}


def test_requests_are_served_first(made_keeper, monkeypatch):
    monkeypatch.setattr(keeper, "GIVE_WAY_SECONDS", 60)
    go = threading.Event()
    served = threading.Thread(target=made_keeper.serve, args=(lambda _: go.wait(60), {}), daemon=True)
    served.start()
    while not made_keeper.serving:
        pass
    made_keeper.deliver({"type": "look", "attempts": ["x"]})
    assert not made_keeper.link.come.acquire(timeout=0.1)
    go.set()
    assert made_keeper.link.next()["attempts"] == ["x"]


def test_a_request_that_takes_long_does_not_keep_looks_back(made_keeper, monkeypatch):
    monkeypatch.setattr(keeper, "GIVE_WAY_SECONDS", 0.01)
    made_keeper.serving = 1
    made_keeper.deliver({"type": "look", "attempts": ["x"]})
    assert made_keeper.link.next()["attempts"] == ["x"]


def test_hello_says_that_looks_are_answered(made_keeper):
    made_keeper.gateways = None
    assert made_keeper.hello()["looks"] is True


# ---------------------------------------------------------------- the worker


class Attached:
    def __init__(self):
        self.key = None

    def caller(self):
        return self.key


def test_the_server_is_told_once_that_a_job_calls_spark():
    made = worker.Worker.__new__(worker.Worker)
    made.link, made.attachment, made._attempts, made._said_spark = Link(), Attached(), {("a", 1): {}}, None
    made.say_spark()
    assert made.link.sent == []
    made.attachment.key = ("a", 1)
    made.say_spark()
    made.say_spark()
    assert made.link.sent == [{"type": "spark", "job": "a", "attempt": 1}]
    made.attachment.key, made._attempts = ("a", 2), {("a", 2): {}}
    made.say_spark()
    assert made.link.sent[1:] == [{"type": "spark", "job": "a", "attempt": 2}]
    made._attempts = {}
    made.attachment.key = ("a", 3)
    made.say_spark()
    assert len(made.link.sent) == 2


def test_a_server_that_was_away_is_told_later():
    made = worker.Worker.__new__(worker.Worker)
    made.link, made.attachment, made._attempts, made._said_spark = Link(), Attached(), {("a", 1): {}}, None
    made.attachment.key = ("a", 1)
    made.link.send = lambda message: False
    made.say_spark()
    made.link = Link()
    made.say_spark()
    assert [message["type"] for message in made.link.sent] == ["spark"]


def test_a_job_is_its_callers_from_its_first_call_on():
    """Not while its binaries are made ready, nor when it is put away."""
    made = attach.Attachment("w-1", None)
    made.called = True                                      # by the job before
    assert made.caller() is None
    made.begin("a", 1, None, None)
    assert made.caller() is None
    made.called = True
    assert made.caller() == ("a", 1)
    made.spoiled = True
    made.drop_connections = made._reset_python = lambda: None
    made.reset()
    assert made.caller() is None
