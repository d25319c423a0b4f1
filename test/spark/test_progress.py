"""How far real jobs are in Spark, through the real server: their tasks wait for files, so each number is known."""
import http.client
import itertools
import json
import threading

import pytest
from server import SPARK, wait_until

TASKS, THREADS, QUERY = "stoker_jobs.progress.Tasks", "stoker_jobs.progress.Threads", "stoker_jobs.progress.Query"
STREAM, MANY, NO_SPARK = "stoker_jobs.progress.Stream", "stoker_jobs.progress.Many", "stoker_jobs.progress.NoSpark"
# Four tasks at once, which may fail twice.
STOKER = {"spark_conf": ["%s=%s" % pair for pair in {**SPARK, "spark.master": "local[4,3]"}.items()]}

pytestmark = pytest.mark.usefixtures("py", "nothing_runs_on")


def start(stoker, files, cls=TASKS, name="t", **config):
    return stoker.submit(cls, dict(config, folder=files.folder, name=name))


def progress(stoker, job):
    return stoker.get("/v1/jobs/" + job)["progress"]


def counts(found):
    """{kind: (total, done, active, failed)}"""
    return found and {kind: tuple(found[kind][field] for field in ("total", "done", "active", "failed"))
                      for kind in ("spark_jobs", "stages", "tasks")}


def wait_counts(stoker, job, **kinds):
    """Until these kinds have these numbers. The progress."""
    def fits():
        found = progress(stoker, job)
        return found and all(counts(found)[kind] == numbers for kind, numbers in kinds.items()) and found
    return wait_until(fits, lambda: "%s in %s" % (kinds, counts(progress(stoker, job))))


def go(files, *numbers, name="t"):
    for number in numbers:
        files.make("%s-%d" % (name, number))


class Follower(threading.Thread):
    """GET /v1/events of a job, until it has ended. events: [(type, data)]."""

    def __init__(self, stoker, job):
        super().__init__(daemon=True)
        self.connection = http.client.HTTPConnection(stoker.address, timeout=120)
        self.connection.request("GET", "/v1/events?job=" + job)
        self.reply, self.events = self.connection.getresponse(), []
        self.start()

    def run(self):
        kind = None
        for line in self.reply:
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name == "event":
                kind = value
            elif name == "data":
                self.events.append((kind, json.loads(value)))
                if kind == "job.ended":
                    break

    def ended(self):
        self.join(60)
        assert not self.is_alive(), self.events
        self.connection.close()
        return self.events

    def tasks(self):
        return [counts(data["progress"])["tasks"] for kind, data in list(self.events) if kind == "job.progress"]


@pytest.mark.parametrize("group", [None, "mine"])
def test_every_step_of_a_job_is_seen(stoker, files, group):
    """Whatever job group it gives itself."""
    job = start(stoker, files, tasks=6, hold=files.path("hold"), **({"group": group} if group else {}))
    follower = Follower(stoker, job)
    wait_counts(stoker, job, tasks=(8, 0, 4, 0), stages=(2, 0, 1, 0), spark_jobs=(1, 0, 1, 0))
    wait_until(lambda: follower.tasks()[-1:] == [(8, 0, 4, 0)], lambda: follower.events)
    go(files, 0, 1)
    wait_counts(stoker, job, tasks=(8, 2, 4, 0))
    wait_until(lambda: follower.tasks()[-1:] == [(8, 2, 4, 0)], lambda: follower.events)
    go(files, 2, 3, 4)
    wait_counts(stoker, job, tasks=(8, 5, 1, 0), stages=(2, 0, 1, 0))
    go(files, 5)
    wait_counts(stoker, job, tasks=(8, 8, 0, 0), stages=(2, 2, 0, 0), spark_jobs=(1, 1, 0, 0))
    wait_until(lambda: follower.tasks()[-1:] == [(8, 8, 0, 0)], lambda: follower.events)
    files.make("hold")
    assert stoker.result(job) == 15 and progress(stoker, job) is None
    seen = follower.tasks()
    assert follower.ended()[-1][0] == "job.ended"
    steps = [step for step, _ in itertools.groupby(numbers[1:] for numbers in seen)]
    assert steps == sorted(set(steps), key=lambda numbers: numbers[:2])     # forwards; Spark corrects `total` when it likes


def test_a_task_that_fails_is_counted(stoker, files):
    job = start(stoker, files, tasks=4, fails=1)
    wait_counts(stoker, job, tasks=(6, 0, 4, 1))
    go(files, 0, 2, 3)
    wait_counts(stoker, job, tasks=(6, 3, 1, 1), stages=(2, 0, 1, 0), spark_jobs=(1, 0, 1, 0))
    go(files, 1)
    assert stoker.result(job) == 6


def test_two_jobs_at_once_are_not_mixed_up(stoker, files):
    a, b = start(stoker, files, name="a", tasks=2), start(stoker, files, name="b", tasks=3)
    found = [wait_until(lambda: progress(stoker, job), "progress of " + job) for job in (a, b)]
    assert [each["tasks"]["total"] for each in found] == [4, 5]
    go(files, 0, name="a")
    wait_counts(stoker, a, tasks=(4, 1, 1, 0), spark_jobs=(1, 0, 1, 0))
    wait_counts(stoker, b, tasks=(5, 0, 3, 0), spark_jobs=(1, 0, 1, 0))
    go(files, 0, 1, name="b")
    wait_counts(stoker, b, tasks=(5, 2, 1, 0))
    assert counts(progress(stoker, a))["tasks"] == (4, 1, 1, 0)
    go(files, 1, name="a")
    go(files, 2, name="b")
    assert [stoker.result(job) for job in (a, b)] == [1, 3]


def test_all_threads_of_a_job_count_whatever_their_groups(stoker, files):
    job = start(stoker, files, THREADS, threads=2)
    wait_counts(stoker, job, tasks=(4, 0, 4, 0), stages=(2, 0, 2, 0), spark_jobs=(2, 0, 2, 0))
    go(files, 0, 1, name="t1")
    wait_counts(stoker, job, tasks=(4, 2, 2, 0), stages=(2, 1, 1, 0), spark_jobs=(2, 1, 1, 0))
    go(files, 0, 1, name="t0")
    assert stoker.result(job) is None


def test_a_query_that_is_planned_while_it_runs(stoker, files):
    """Its second Spark job has the stage of the first one too, which Spark skips: the tasks of it count once."""
    job = start(stoker, files, QUERY)
    wait_counts(stoker, job, tasks=(7, 4, 3, 0), stages=(2, 1, 1, 0), spark_jobs=(2, 1, 1, 0))
    go(files, 1)
    wait_counts(stoker, job, tasks=(7, 5, 2, 0), stages=(2, 1, 1, 0))
    go(files, 0, 2)
    assert stoker.result(job) == [0, 1, 2]


def test_a_stream_goes_on_and_on(stoker, files):
    job = start(stoker, files, STREAM, stop=files.path("stop"))
    first = wait_until(lambda: progress(stoker, job), "its first Spark job")["spark_jobs"]["total"]
    wait_until(lambda: progress(stoker, job)["spark_jobs"]["done"] > first + 2, "more of them")
    files.make("stop")
    assert stoker.result(job) is None


def test_spark_jobs_that_are_over_before_the_next_look_count(stoker, files):
    job = start(stoker, files, MANY, first=30, hold=files.path("hold"))
    wait_counts(stoker, job, tasks=(30, 30, 0, 0), stages=(30, 30, 0, 0), spark_jobs=(30, 30, 0, 0))
    files.make("hold")
    assert stoker.result(job) is None


def test_a_job_that_does_not_call_spark_has_none(stoker, files):
    """And the one after it in the same process has its own only. A job beside it says how time goes by."""
    job = start(stoker, files, NO_SPARK, hold=files.path("hold"))
    beside = start(stoker, files, MANY, first=3, hold=files.path("hold"))
    wait_counts(stoker, beside, spark_jobs=(3, 3, 0, 0))
    assert progress(stoker, job) is None
    files.make("hold")
    stoker.result(job)
    stoker.result(beside)
    after = start(stoker, files, tasks=1)
    wait_counts(stoker, after, tasks=(3, 0, 1, 0), spark_jobs=(1, 0, 1, 0))
    go(files, 0)
    stoker.result(after)


def test_after_the_death_of_the_server_the_next_one_tells(stoker, files):
    job = start(stoker, files, tasks=3)
    go(files, 2)
    wait_counts(stoker, job, tasks=(5, 1, 2, 0))
    stoker.kill()
    go(files, 0)
    stoker.start()
    wait_counts(stoker, job, tasks=(5, 2, 1, 0), stages=(2, 0, 1, 0))
    follower = Follower(stoker, job)
    wait_until(lambda: follower.tasks() == [(5, 2, 1, 0)], lambda: follower.events)
    go(files, 1)
    assert stoker.result(job) == 3
    follower.ended()


def test_a_job_is_cancelled_while_it_is_looked_at(stoker, files):
    job = start(stoker, files, tasks=6)
    wait_counts(stoker, job, tasks=(8, 0, 4, 0))
    assert stoker.delete(job).body == {"status": "KILLED"}
    assert progress(stoker, job) is None
