"""How far jobs are in Spark: what the server asks keepers, and what it makes of their answers.

The fake keeper writes down what it is asked, and answers with a file. Time is told by the questions in a context of its
own, where a job uses Spark all the time.
"""

import json
import os
import signal

import openapi
import pytest
from kit import Flags, make_zip, scratch, unique, wait_for
from test_events import follow

KINDS = ("spark_jobs", "stages", "tasks")


def counts(total=0, done=0, active=0, failed=0):
    return {"total": total, "done": done, "active": active, "failed": failed}


def entry(job, attempt=1, **tasks):
    """What a keeper says of an attempt."""
    return {"job": job, "attempt": attempt, "jobs": counts(1, active=1), "stages": counts(2, 1, 1), "tasks": counts(**tasks)}


class Place:
    """A context whose keeper tells progress, and its jobs."""

    def __init__(self, server, app, wish=None, **settings):
        self.server, self.app, self.name = server, app, unique("place")
        server.create(self.name, wish, **{"max-jobs-per-context": 4, **settings})
        self.id = server.context_row(self.name)[0]

    def file(self, name):
        return self.server.path("contexts", self.id, name)

    def answers(self, told):
        """From now on the keeper says this: the list of entries, or the fields of the message."""
        with open(self.file("next"), "w") as f:
            json.dump(told, f)
        os.rename(self.file("next"), self.file("progress"))

    def looks(self):
        """What the keeper was asked: lists of attempts."""
        if not os.path.exists(self.file("looks")):
            return []
        with open(self.file("looks")) as f:
            return [json.loads(line) for line in f.read().split("\n")[:-1]]

    def wait_looks(self, more):
        """Until it was asked so often again, and a first time."""
        before = len(self.looks())
        wait_for(lambda: len(self.looks()) >= before + more, lambda: "looks: %s" % self.looks())

    def start(self, flags, spark=True, **fake):
        """A job that runs until the flag "go"; its id."""
        job = self.server.start_job(
            self.name, self.app, {"spark": spark, "wait": flags.path("go"), "touch": flags.path("on"), **fake}
        )
        flags.wait("on")
        os.unlink(flags.path("on"))
        return job


def progress(server, job):
    return server.get("/v1/jobs/" + job).json["progress"]


def wait_progress(server, job, **tasks):
    found = wait_for(
        lambda: (lambda p: p if p and p["tasks"] == counts(**tasks) else None)(progress(server, job)),
        lambda: "tasks %s in %s" % (tasks, progress(server, job)),
    )
    assert found["spark_jobs"] == counts(1, active=1) and found["stages"] == counts(2, 1, 1)
    return found


@pytest.fixture(scope="module")
def flags_of_module():
    with scratch() as folder:
        yield Flags(folder)


@pytest.fixture(scope="module")
def clock(shared, shared_app, flags_of_module):
    """A context that is asked again and again."""
    place = Place(shared, shared_app)
    place.start(flags_of_module)
    yield place
    flags_of_module.up("go")
    shared.delete("/contexts/" + place.name, force="true")


@pytest.fixture
def place(server, app):
    """A function that makes one. What is left of it ends with the test."""
    made = []

    def make(**kw):
        made.append(Place(server, app, **kw))
        return made[-1]

    yield make
    for one in made:
        server.delete("/contexts/" + one.name, force="true")


def told_of(follower, job):
    return [e for e in follower.data_of if e["type"] == "job.progress" and e["job"] == job]


# ---- the job's object


def test_a_job_shows_its_progress_until_it_ends(server, place, flags):
    where = place()
    job = where.start(flags)
    assert progress(server, job) is None
    wait_for(where.looks, "the first question")
    assert where.looks()[0] == [{"job": job, "attempt": 1}]
    assert progress(server, job) is None  # of one that has not begun anything in Spark nothing is said
    where.answers([entry(job, total=10, active=4)])
    first = wait_progress(server, job, total=10, active=4)
    where.answers([entry(job, total=10, done=7, active=3, failed=1)])
    second = wait_progress(server, job, total=10, done=7, active=3, failed=1)
    assert first["at"] < second["at"]
    wait_for(lambda: progress(server, job)["at"] > second["at"], "another look, which has found the same")
    listed = server.get("/v1/jobs", context=where.name).json["jobs"]
    assert [j["progress"]["tasks"] for j in listed] == [counts(10, 7, 3, 1)]
    flags.up("go")
    server.wait_job(job, "FINISHED")
    assert progress(server, job) is None


def test_jobs_are_not_mixed_up(server, place, flags):
    here, there = place(), place()
    a, b, c = here.start(flags), here.start(flags), there.start(flags)
    here.answers([entry(b, total=5, done=2), entry(a, total=3), entry(c, total=1), entry(a, attempt=2, total=9)])
    there.answers([entry(c, total=7, done=7), entry(a, total=1), entry("none", total=1)])
    wait_progress(server, a, total=3)
    wait_progress(server, b, total=5, done=2)
    wait_progress(server, c, total=7, done=7)
    for where in (here, there):
        where.wait_looks(2)
    assert [progress(server, job)["tasks"]["total"] for job in (a, b, c)] == [3, 5, 7]
    assert sorted(each["job"] for each in here.looks()[-1]) == sorted([a, b])


# ---- questions


def test_nobody_is_asked_as_long_as_no_job_has_called_spark(place, flags, clock):
    where = place()
    where.start(flags, spark=False)
    clock.wait_looks(3)
    assert where.looks() == []


def test_nobody_is_asked_any_more_when_the_job_has_ended(server, place, flags, clock):
    where = place()
    job = where.start(flags)
    idle = where.start(Flags(flags.path("")), spark=False, wait=flags.path("never"))
    where.wait_looks(2)
    assert all(look == [{"job": job, "attempt": 1}] for look in where.looks())
    flags.up("go")
    server.wait_job(job, "FINISHED")
    asked = len(where.looks())
    clock.wait_looks(3)
    assert len(where.looks()) <= asked + 1  # one may have been on its way
    assert server.job(idle)["status"] == "RUNNING"


def test_a_keeper_that_does_not_answer_is_asked_once(server, place, flags, clock):
    """And again when it has dialled again: its answer may have been lost."""
    where = place(wish={"keeper": "no_answer"})
    job = where.start(flags)
    where.wait_looks(1)
    clock.wait_looks(3)
    assert len(where.looks()) == 1
    os.kill(server.pid(where.name, "k"), signal.SIGUSR1)
    where.wait_looks(1)
    flags.up("go")
    server.wait_job(job, "FINISHED")


def test_an_old_keeper_is_not_asked(server, place, flags, clock):
    where = place(wish={"keeper": "old"})
    job = where.start(flags)
    clock.wait_looks(3)
    assert where.looks() == [] and progress(server, job) is None


@pytest.mark.own_server
def test_nothing_is_asked_of_a_job_that_is_being_cancelled(daemon, flags):
    server = daemon(cancel_grace="30s", stop_grace="30s").start()
    app = server.upload("app")
    here, clock = Place(server, app), Place(server, app)
    clock.start(flags)
    job = here.start(flags, do="stubborn", until=flags.path("until"), wait=flags.path("on"))
    here.wait_looks(1)
    cancelled = server.background("DELETE", "/v1/jobs/" + job)
    wait_for(lambda: server.get("/v1/jobs/" + job).json["state"] == "CANCELLING", "CANCELLING")
    asked = len(here.looks())
    clock.wait_looks(3)
    assert len(here.looks()) <= asked + 1
    flags.up("until")
    assert cancelled().json["state"] in ("FINISHED", "KILLED")
    flags.up("go")


GARBAGE = [
    {},
    {"attempts": None},
    {"attempts": "all"},
    {"attempts": {"job": 1}},
    {"attempts": [None, 7, [], "x", {}]},
    lambda job: [{"job": job}],
    lambda job: [{"job": job, "attempt": 1}],
    lambda job: [{**entry(job), "attempt": "1"}],
    lambda job: [{**entry(job), "job": 1}],
    lambda job: [{**entry(job), "tasks": []}],
    lambda job: [{**entry(job), "tasks": {**counts(), "total": -1}}],
    lambda job: [{**entry(job), "tasks": {**counts(), "done": 0.5}}],
    lambda job: [{**entry(job), "stages": {"total": 1}}],
    lambda job: [{**entry(job), "jobs": {**counts(), "failed": "0"}}],
    lambda job: [{**entry(job), "attempt": 1 << 40}],
    lambda job: [{**entry(job), "attempt": (1 << 32) + 1}],
]


def test_what_is_no_progress_is_passed_over(server, place, flags):
    where = place()
    job = where.start(flags)
    for garbage in GARBAGE:
        where.answers(garbage(job) if callable(garbage) else garbage)
        where.wait_looks(2)
        assert progress(server, job) is None, garbage
    where.answers([entry(job, total=2, active=1)])
    wait_progress(server, job, total=2, active=1)
    where.answers([{**entry(job), "tasks": None}])
    where.wait_looks(2)
    assert progress(server, job)["tasks"] == counts(2, active=1)


@pytest.mark.own_server
@pytest.mark.parametrize("way", ["restart", "stop"])
def test_progress_comes_again_after_a_restart(daemon, flags, way):
    server = daemon().start()
    where = Place(server, server.upload("app", make_zip()))
    job = where.start(flags)
    where.answers([entry(job, total=4, done=1)])
    wait_progress(server, job, total=4, done=1)
    if way == "restart":
        server.restart()
    else:
        server.stop(signal.SIGUSR2)
        server.start()
    wait_progress(server, job, total=4, done=1)
    flags.up("go")
    server.wait_job(job, "FINISHED")


# ---- events


def test_followers_are_told_of_changes(server, place, flags):
    where = place()
    job = where.start(flags)
    follower = follow(server, job=job)
    where.answers([entry(job, total=4)])
    follower.wait_for(lambda all: all[-1]["type"] == "job.progress")
    where.wait_looks(5)
    event = told_of(follower, job)
    assert len(event) == 1, "the same again is not told"
    assert event[0] == {
        "type": "job.progress",
        "time": event[0]["time"],
        "job": job,
        "context": where.name,
        "context_id": where.id,
        "attempt": 1,
        "progress": {"tasks": counts(4), "stages": counts(2, 1, 1), "spark_jobs": counts(1, active=1), "at": event[0]["time"]},
    }
    openapi.validate(json.dumps(event[0]["progress"]), "components", "schemas", "Progress")
    for done in range(1, 4):
        where.answers([entry(job, total=4, done=done)])
        follower.wait_for(lambda all, done=done: all[-1].get("progress", {}).get("tasks", {}).get("done") == done)
    flags.up("go")
    follower.wait_end_of(job)
    assert [e["progress"]["tasks"]["done"] for e in told_of(follower, job)] == [0, 1, 2, 3]
    types = [e["type"] for e in follower.data_of if e["type"] != "job.moved"]
    assert types == ["job.submitted"] + 4 * ["job.progress"] + ["job.ended"]


def test_progress_has_no_number_and_is_no_row(server, place, flags):
    where = place()
    job = where.start(flags)
    follower = follow(server, job=job)
    where.answers([entry(job, total=4)])
    follower.wait_for(lambda all: all[-1]["type"] == "job.progress")
    (start, _, _), (number, name, data) = follower.events[-2:]
    assert number is None and name == "job.progress" and "id" not in data
    assert follower.last == start == server.rows("SELECT max(seq) FROM events WHERE job_id = ?", job)[0][0]
    assert server.rows("SELECT count(*) FROM events WHERE kind LIKE '%progress%'")[0][0] == 0


def test_who_comes_back_is_told_the_newest_state_once(server, place, flags):
    where = place()
    job = where.start(flags)
    where.answers([entry(job, total=4, done=1)])
    first = follow(server, job=job)
    first.wait_for(lambda all: all[-1]["type"] == "job.progress")
    first.close()
    where.answers([entry(job, total=4, done=3)])
    wait_progress(server, job, total=4, done=3)
    again = follow(server, last=first.last, job=job)
    again.wait_for(lambda all: all and all[-1]["progress"]["tasks"]["done"] == 3)
    flags.up("go")
    again.wait_end_of(job)
    told = again.data_of
    assert [e["type"] for e in told][-1] == "job.ended" and "job.submitted" not in [e["type"] for e in told]
    late = follow(server, job=job).wait_end_of(job)
    assert told_of(late, job) == []


def test_filters_apply_to_progress(server, place, flags):
    here, there = place(), place()
    a, b, c = here.start(flags), here.start(flags), there.start(flags)
    wanted = {
        (): {a, b, c},
        ("type", "job"): {a, b, c},
        ("type", "job.progress"): {a, b, c},
        ("type", "job.ended"): set(),
        ("type", "context"): set(),
        ("context", here.name): {a, b},
        ("job", c): {c},
    }
    followers = {key: follow(server, **dict([key] if key else [])) for key in wanted}

    def told(follower):
        return {e["job"] for e in follower.data_of if e["type"] == "job.progress"} & {a, b, c}

    here.answers([entry(a, total=1), entry(b, total=1)])
    there.answers([entry(c, total=1)])
    for key, follower in followers.items():
        wait_for(lambda: told(follower) >= wanted[key], "%s" % (key,))
    flags.up("go")
    followers[("type", "job.ended")].wait_end_of(a, b, c)
    followers[("type", "job")].wait_end_of(a, b, c)
    assert {key: told(follower) for key, follower in followers.items()} == wanted
