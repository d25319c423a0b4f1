"""Many versions of a binary, uploaded and run one after the other, take no more room than a few of them.

VERSIONS (12 unless given): how many. What was measured is printed, as a table (pytest -s), whether the test passes or not.
"""
import collections
import os
import zipfile

import measure
import pytest
from cluster import START, Cluster
from server import Stoker, wait_until

VERSIONS = int(os.environ.get("VERSIONS", 12))
STEP = max(3, VERSIONS // 20)   # versions from one sample to the next
SLOW = 240.0    # seconds for a job
KIB, MIB = 1 << 10, 1 << 20
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
Kind = collections.namedtuple("Kind", "processes rss largest heap native threads pools")
Sample = collections.namedtuple("Sample", "version kinds listed files bytes")

# Uses of binary sets at one time: three with a worker, two that linger, and one that ends while the next begins.
USES = 6
# Of each use, on executors: a daemon and a process on two of them, or a daemon and two processes on one.
PYTHON = 4 * USES
# On a cluster each has a file on the driver, Spark's copy of it, and one on each executor. So has the list of what is out of use; one
# more of those may be on its way out.
SHIPPED = 4 * USES
LISTS = 4 * 2


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

    own_processes = processes
    folder = None


@pytest.mark.parametrize("where", [Local, Cluster])
def test_old_versions_take_no_room(where, tmp_path, monkeypatch):
    monkeypatch.setenv("STOKER_SETTLE_SECONDS", "2")
    with where(tmp_path / "cluster") as cluster, Stoker(tmp_path, context_create_timeout=START) as stoker:
        stoker.upload_jobs("jobs", "suite")
        context = stoker.create_running("py", **cluster.settings(**SETTINGS))
        samples = []
        print("\n%s, KiB: %s" % (where.__name__, ", ".join(Kind._fields)))
        for n in range(1, VERSIONS + 1):
            upload(stoker, n)
            assert run(stoker) == [n, n]
            if n % STEP == 0:
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
    """Executor processes of sets out of use need a moment to end, and files to go: executors hear of it with a task. Of files only
    those are counted that belong to no use."""
    few = []

    def settled():
        assert run(stoker) == [n, n]
        few[:] = len(by_kind(stoker, context, cluster)["python"]), *shipped(stoker, context, cluster)
        return few[0] <= PYTHON and few[1] <= SHIPPED and few[2] <= LISTS
    wait_until(settled, lambda: "%s executor processes, files of uses, lists instead of %s" % (
        few, [PYTHON, SHIPPED, LISTS]), SLOW)
    listed = run(stoker, "stoker_jobs.executors.Listed", "jobs")
    files = list(measure.tree_size(stoker.path("contexts", context["id"])))
    if cluster.folder:
        files = [a + b for a, b in zip(files, measure.tree_size(cluster.folder))]
    files[0] -= sum(shipped(stoker, context, cluster))
    kinds = {name: kind(name, pids) for name, pids in by_kind(stoker, context, cluster).items()}
    return Sample(n, kinds, listed, *files)


def shipped(stoker, context, cluster):
    """How many files of uses there are, and how many lists."""
    roots = [stoker.path("contexts", context["id"]), *filter(None, [cluster.folder])]
    names = [name for root in roots for _, _, found in os.walk(root) for name in found if name.startswith("stoker-")]
    return sum("-w-" in name for name in names), sum("-retired-" in name for name in names)


def by_kind(stoker, context, cluster):
    """Pids. driver, executor: JVMs; python: what these start; master, worker JVMs: nodes; runners: workers of the context."""
    ours, far = ({p.pid: p.kind for p in found} for found in (stoker.processes(context["id"]), cluster.processes()))
    driver = {pid for pid, name in ours.items() if name == "java"}
    executor = {pid for pid, name in far.items() if name == "java"}
    runners = {pid for pid in ours if "stoker_runner.zygote" in measure.command(pid)}
    zygote = {pid for pid in runners if measure.parent(pid) not in runners}
    keeper = {measure.parent(pid) for pid in driver}
    return {"server": {stoker.process.pid}, "zygote": zygote, "keeper": keeper, "runners": runners - zygote - keeper,
            "driver": driver, "executor": executor, "nodes": set(cluster.own_processes()),
            "python": (set(ours) | set(far)) - driver - executor - runners}


def kind(name, pids):
    heap = native = pools = 0
    if name in ("driver", "executor", "nodes"):
        for pid in pids:
            live, addresses = measure.heap(pid)
            heap, native = heap + live, native + measure.native(pid, addresses)
            pools = max(pools, measure.ask_jvm(pid, "Thread.print").count('"Idle Worker Monitor'))
    sizes = list(map(measure.rss, pids)) or [0]
    return Kind(len(pids), sum(sizes), max(sizes), heap, native, sum(map(measure.threads, pids)), pools)


def show(sample):
    print("version %d: %d files listed, %d other files, %d KiB of all" % (sample.version, sample.listed, sample.files,
                                                               sample.bytes // KIB))
    for name, found in sample.kinds.items():
        print("    %-9s" % name, *("%8d" % (n // KIB if n > MIB else n) for n in found), flush=True)


def assert_flat(samples):
    """The second half against the first, which begins when all has been loaded once."""
    half = len(samples) // 2
    first, second = samples[1:half], samples[half:]
    versions = second[0].version - first[0].version

    def growth(value, of):
        return of(map(value, second)) - of(map(value, first))
    for sample in samples:
        assert all(found.pools <= USES + 1 for found in sample.kinds.values()), sample   # Spark's threads, one for each
    assert growth(lambda s: s.listed, max) <= 2
    # Of what follows the least: what is just about to be removed or freed comes on top.
    assert growth(lambda s: s.files, min) <= 4, [s.files for s in samples]
    for name in second[0].kinds:
        assert growth(lambda s: s.kinds[name].heap, min) <= 4 * MIB + 20 * KIB * versions, name
        assert growth(lambda s: s.kinds[name].native, min) <= 16 * MIB + 50 * KIB * versions, name
    for name in ("server", "zygote", "keeper"):
        assert growth(lambda s: s.kinds[name].rss, min) <= 4 * MIB + 20 * KIB * versions, name
    for name in ("runners", "python"):
        assert growth(lambda s: s.kinds[name].largest, min) <= 16 * MIB, name    # how many there are is settled
