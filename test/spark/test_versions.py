"""Many versions of a binary, uploaded and run one after the other, take no more room than a few of them.

VERSIONS (20 unless given): how many. ON_CLUSTER=1: on a standalone cluster too, where it does not hold yet: four files and some
threads for each version stay (docs/status.md). What was measured is printed, as a table (pytest -s), whether the test passes or not.
"""
import collections
import os
import zipfile

import measure
import pytest
from cluster import START, Cluster
from server import Stoker, wait_until

VERSIONS = int(os.environ.get("VERSIONS", 20))
SAMPLES = 10
SLOW = 240.0    # seconds for a job
MIB = 1 << 20
# What Spark remembers of ended jobs grows up to these numbers, whoever runs them.
FORGETFUL = {"spark.ui.retainedJobs": "10", "spark.ui.retainedStages": "10", "spark.ui.retainedTasks": "50",
             "spark.sql.ui.retainedExecutions": "10"}
SETTINGS = dict(FORGETFUL, **{"spark.executorEnv.STOKER_DAEMON_IDLE": "1", "max-jobs": "2"})
VERSION = '''
"""A module with %d KiB of ballast."""
N = %d
BALLAST = """%s"""


def number(_):
    import version
    return version.N


class Run:
    def validate(self, context, runtime, config):
        return config

    def run_job(self, context, runtime, data):
        return context.sparkContext.parallelize(range(2), 2).map(number).collect()
'''
Sample = collections.namedtuple("Sample", "version processes python heap threads listed files bytes")


class Local:
    def __init__(self, folder):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def settings(self, **more):
        return dict({"spark.master": "local[2]"}, **more)

    def processes(self):
        return []

    folder = None


@pytest.mark.parametrize("where", [Local, Cluster] if os.environ.get("ON_CLUSTER") else [Local])
def test_old_versions_take_no_room(where, tmp_path):
    with where(tmp_path / "cluster") as cluster, Stoker(tmp_path, context_create_timeout=START) as stoker:
        stoker.upload_jobs("jobs", "suite")
        context = stoker.create_running("py", **cluster.settings(**SETTINGS))
        samples = []
        print("\n%s: %s; KiB of PSS, heap and files" % (where.__name__, ", ".join(Sample._fields)))
        for n in range(1, VERSIONS + 1):
            upload(stoker, n)
            assert run(stoker) == [n, n]
            if n % max(1, VERSIONS // SAMPLES) == 0:
                samples.append(settled_sample(stoker, context, cluster, n))
                show(samples[-1])
        assert_flat(samples)
        stoker.delete_context("py")
        assert stoker.left_of(context["id"]) == []
        wait_until(lambda: not cluster.processes(), lambda: "end of %s" % cluster.processes())


def run(stoker, class_path="version.Run", app="many"):
    """The result of a job."""
    ended = stoker.ended(stoker.submit(class_path, app=app), SLOW)
    assert ended["status"] == "FINISHED", ended
    return ended["result"]


def upload(stoker, n):
    path = os.path.join(stoker.folder, "many.zip")
    with zipfile.ZipFile(path, "w") as z:
        z.writestr("version.py", VERSION % (64, n, "%064d\n" % n * 1000))
    stoker.upload("many", path)


def settled_sample(stoker, context, cluster, n):
    """Executor processes of sets out of use need a moment to end, and on a cluster a task that tells them to."""
    run(stoker)
    few = []

    def settled():
        few[:] = [p for p in stoker.processes(context["id"]) + cluster.processes() if p.kind.startswith("python")]
        return len(few) <= MOST
    wait_until(settled, lambda: "%d Python processes instead of %d" % (len(few), MOST), SLOW)
    return sample(stoker, context, cluster, n)


# Zygote, keeper, three workers in two slots; for each of five sets (three with a worker, two that linger) on executors:
# a daemon and a process on two of them, or a daemon and two processes on one.
MOST = 5 + 5 * 4


def sample(stoker, context, cluster, n):
    found = {p.pid: p for p in stoker.processes(context["id"]) + cluster.processes()}.values()
    java = [p.pid for p in found if p.kind == "java"]
    python = [p.pid for p in found if p.kind.startswith("python")]
    files = measure.tree_size(stoker.path("contexts", context["id"]))
    if cluster.folder:
        files = [a + b for a, b in zip(files, measure.tree_size(cluster.folder))]
    return Sample(n, len(python), sum(map(measure.pss, python)), sum(map(measure.live_heap, java)),
                  sum(map(measure.threads, java)), run(stoker, "stoker_jobs.executors.Listed", "jobs"), *files)


def show(sample):
    print(*(n >> 10 if n > MIB else n for n in sample), flush=True)


def assert_flat(samples):
    """The second half against the first, which begins when all has been loaded once."""
    half = len(samples) // 2
    first, second = samples[1:half], samples[half:]

    def most(of, field):
        return max(getattr(s, field) for s in of)
    assert most(second, "python") <= 1.25 * most(first, "python") + 50 * MIB
    assert most(second, "heap") <= most(first, "heap") + 8 * MIB
    assert most(second, "listed") <= most(first, "listed") + 2
    assert most(second, "files") <= most(first, "files") + 20
