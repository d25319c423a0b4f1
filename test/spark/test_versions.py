"""Many versions of a binary, uploaded and run one after the other, take no more room than a few of them.

VERSIONS (20 unless given): how many. What was measured is printed, as a table (pytest -s), whether the test passes or not.
"""
import collections
import os

import measure
import pytest
from cluster import Cluster
from server import Stoker, wait_until

VERSIONS = int(os.environ.get("VERSIONS", 20))
SAMPLES = 10
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
Sample = collections.namedtuple("Sample", "version processes python heap threads listed files")


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


@pytest.mark.parametrize("where", [Local, Cluster])
def test_old_versions_take_no_room(where, tmp_path):
    with where(tmp_path / "cluster") as cluster, Stoker(tmp_path) as stoker:
        stoker.upload_jobs("jobs", "suite")
        context = stoker.create_running("py", **cluster.settings(**SETTINGS))
        samples = []
        for n in range(1, VERSIONS + 1):
            upload(stoker, n)
            assert stoker.value("version.Run", app="many") == [n, n]
            if n % max(1, VERSIONS // SAMPLES) == 0:
                samples.append(settled_sample(stoker, context, cluster, n))
        show(where.__name__, samples)
        assert_flat(samples)
        stoker.delete_context("py")
        assert stoker.left_of(context["id"]) == []
        wait_until(lambda: not cluster.processes(), lambda: "end of %s" % cluster.processes())


def upload(stoker, n):
    import zipfile
    path = os.path.join(stoker.folder, "many.zip")
    with zipfile.ZipFile(path, "w") as z:
        z.writestr("version.py", VERSION % (64, n, "%064d\n" % n * 1000))
    stoker.upload("many", path)


def settled_sample(stoker, context, cluster, n):
    """Executor processes of sets out of use need a moment to end, and on a cluster a task that tells them to."""
    stoker.value("version.Run", app="many")
    few = []

    def settled():
        few[:] = [p for p in stoker.processes(context["id"]) + cluster.processes() if p.kind.startswith("python")]
        return len(few) <= MOST
    wait_until(settled, lambda: "%d Python processes instead of %d" % (len(few), MOST))
    return sample(stoker, context, cluster, n)


# Zygote, keeper, three workers in two slots; executors: a daemon and a worker of it for each of two bound sets and two JVMs,
# or two workers of one daemon; and as many that are just ending.
MOST = 5 + 16


def sample(stoker, context, cluster, n):
    found = {p.pid: p for p in stoker.processes(context["id"]) + cluster.processes()}.values()
    java = [p.pid for p in found if p.kind == "java"]
    python = [p.pid for p in found if p.kind.startswith("python")]
    files = measure.tree_size(stoker.path("contexts", context["id"]))
    if cluster.folder:
        files = [a + b for a, b in zip(files, measure.tree_size(cluster.folder))]
    return Sample(n, len(python), sum(map(measure.pss, python)), sum(map(measure.live_heap, java)),
                  sum(map(measure.threads, java)), stoker.value("stoker_jobs.executors.Listed"), tuple(files))


def show(title, samples):
    print("\n%s: versions, Python processes, their PSS in MiB, live heap of the JVMs in MiB, threads of the JVMs, files "
          "that tasks are told of, files and KiB in scratch folders" % title)
    for s in samples:
        print("%5d %4d %8.1f %8.2f %5d %4d %6d %8d" % (
            s.version, s.processes, s.python / MIB, s.heap / MIB, s.threads, s.listed, s.files[0], s.files[1] >> 10))


def assert_flat(samples):
    """The second half against the first, which begins when all has been loaded once."""
    half = len(samples) // 2
    first, second = samples[1:half], samples[half:]

    def most(of, field):
        return max(getattr(s, field) for s in of)
    assert most(second, "python") <= 1.25 * most(first, "python") + 50 * MIB
    assert most(second, "heap") <= most(first, "heap") + 8 * MIB
    assert most(second, "listed") <= most(first, "listed") + 2
