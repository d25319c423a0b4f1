"""A context on a standalone cluster, through the real server. Code, versions, cancels and clean-up reach the executors."""
import os
import re
import zipfile

import pytest
from cluster import START, Cluster
from measure import ask_jvm
from server import COUNTS, STRINGS, Stoker, assert_killed, wait_until
from test_failures import CASES, assert_told
from test_server import versions

OTHERS = 7      # sets after which one is out of use: three have workers, two linger
SLOW = 240.0    # seconds for a job: there are three JVMs, and their Python processes


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def stoker(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STOKER_SETTLE_SECONDS", "2")
        with Stoker(tmp_path_factory.mktemp("stoker"), worker_idle_timeout="1h",
                    context_create_timeout=START) as stoker:
            stoker.upload_jobs("jobs", "suite")
            yield stoker


@pytest.fixture(scope="module")
def far(stoker, cluster):
    """The context on the cluster: its object. Daemons leave soon, and workers of executors at once."""
    yield stoker.create_running("far", **cluster.settings(
        **{"spark.executorEnv.STOKER_DAEMON_IDLE": "0.5", "max-jobs": "2"}))
    stoker.delete_context("far")


def value(stoker, class_path, config="", app="jobs"):
    """Runs a job that must finish; the first of a set starts executor processes on each node. Its result."""
    ended = stoker.ended(stoker.submit(class_path, config, "far", app), SLOW)
    assert ended["status"] == "FINISHED", ended
    return ended["result"]


def shipped(cluster):
    """Names of the binaries that lie on executors."""
    return {name for folder in cluster.executor_dirs() for name in os.listdir(folder)
            if name.startswith("stoker-") and "-w-" in name}


def test_word_count(stoker, cluster, far):
    assert value(stoker, "stoker_jobs.word_count.SessionCount", STRINGS) == COUNTS


def test_code_of_a_job_comes_with_its_tasks(stoker, cluster, far):
    """Both executors import it from the archive that Spark has brought, not from a folder of the server."""
    seen = value(stoker, "stoker_jobs.executors.WhereFrom")
    assert len({folder for folder, *_ in seen}) == 2, "tasks ran on one executor only"
    for folder, *paths in seen:
        assert folder in cluster.executor_dirs()
        assert all(re.match(r"(\./|%s/)stoker-[^/]+\.zip/" % re.escape(folder), path) for path in paths), paths


def test_two_versions_side_by_side(stoker, cluster, far, files):
    """On the driver, in an RDD's function, in a SQL UDF and in a pandas UDF; the one holds its slot meanwhile."""
    stoker.upload_jobs("app1", "app_v1", "zip")
    stoker.upload_jobs("app2", "app_v2", "zip")
    held = stoker.submit("app.Version", {"go": files.path("go")}, "far", "app1")
    wait_until(lambda: files.exists("go.on"), "start of the job", SLOW)
    assert value(stoker, "app.Version", app="app2") == versions(2)
    files.make("go")
    assert stoker.ended(held, SLOW)["result"] == versions(1)
    assert value(stoker, "app.Version", app="app2") == versions(2)


@pytest.mark.parametrize("turn", ["first", "later"])
def test_cancel_of_a_long_stage_ends_its_code_on_executors(stoker, cluster, far, files, turn):
    """In a new worker, which has just shipped its binaries, as in one that is in use."""
    name = "jobs"
    if turn == "first":
        name = "cancel"
        stoker.upload_jobs(name, "suite", "zip")    # other bytes than those of `jobs`: another set
    job = stoker.submit("stoker_jobs.process.AppendsInTasks", {
        "file": files.path("log"), "go": files.path("never"), "beat": files.path("beat")}, "far", name)
    wait_until(lambda: files.size("beat") > 4, "heart beat of the tasks", SLOW)
    assert_killed(stoker, job)
    size = files.size("beat")
    assert value(stoker, "stoker_jobs.word_count.SessionCount", STRINGS) == COUNTS
    assert files.size("beat") == size


def test_what_is_left_of_a_set_out_of_use_goes(stoker, cluster, far):
    """With two slots there are few workers, and so few sets in use. Executors hear of it with their next task."""
    make_version(stoker, "before", 100)
    others = shipped(cluster)
    assert value(stoker, "version.Run", app="before") == [100, 100]
    before = shipped(cluster) - others
    assert before
    copies = [stoker.path("contexts", far["id"], "files", name) for name in before]
    assert all(map(os.path.exists, copies))
    wait_for_removal(stoker, cluster, before, 0)
    wait_until(lambda: not any(map(os.path.exists, copies)), "end of the driver's copies", SLOW)
    with open(stoker.path("contexts", far["id"], "context.log")) as log:
        assert "Traceback" not in log.read()


def test_executor_processes_serve_one_set_after_the_other(stoker, cluster, far):
    """Executors make no more pools of processes than there are sets in use. A process that had another set before knows
    nothing of it."""
    served = {}
    for n in range(200, 200 + 2 * OTHERS):
        make_version(stoker, "turn", n)
        for number, pid in value(stoker, "version.Where", app="turn"):
            assert number == n
            served.setdefault(pid, []).append(n)
    assert max(map(len, served.values())) > 1, served
    pools = {java.pid: ask_jvm(java.pid, "Thread.print").count('"Idle Worker Monitor')
             for java in cluster.processes() if java.kind == "java"}
    assert len(pools) == 2 and max(pools.values()) <= OTHERS + 1, pools


def test_a_task_that_changes_its_process_for_good_is_the_last_of_it(stoker, cluster, far):
    """Spark finds another process for the next task."""
    make_version(stoker, "limit", 300)
    found = [each for _ in range(4) for each in value(stoker, "version.LowerLimit", app="limit")]
    assert len(found) == 8 and len(set(found)) == 1


def test_a_udf_outlives_the_workers_of_its_set(stoker, cluster, far):
    """Its code stays where the executors are, when that of sets which came later has gone."""
    stoker.upload_jobs("left", "suite", "wheel")
    before = shipped(cluster)
    assert value(stoker, "stoker_jobs.executors.LeavesUdf", "name = left_udf", "left") == 2
    left = shipped(cluster) - before
    assert left
    make_version(stoker, "after0", 0)
    assert value(stoker, "version.Run", app="after0") == [0, 0]
    after = shipped(cluster) - before - left
    wait_for_removal(stoker, cluster, after, 10)
    assert value(stoker, "stoker_jobs.executors.UsesUdf", "name = left_udf") == 2
    assert left <= shipped(cluster)


@pytest.mark.parametrize("name", ["function_of_the_module_that_raises", "udf_that_raises", "a_task_whose_executor_is_killed"])
def test_a_failure_of_an_executor_is_told(stoker, cluster, far, name):
    """With the line in the archive that Spark has brought there. Spark tries a task four times."""
    stoker.upload_jobs("failing", "failing")
    job = stoker.submit("corpus.Fail", "case = %s" % name, "far", "failing")
    stoker.ended(job, SLOW)
    assert_told(stoker.get("/v1/jobs/" + job)["error"], CASES[name])


def wait_for_removal(stoker, cluster, names, first):
    """Runs sets of their own until executors have removed the files."""
    for n in range(first, first + OTHERS):
        make_version(stoker, "other%d" % n, n)
        assert value(stoker, "version.Run", app="other%d" % n) == [n, n]

    def gone():
        value(stoker, "version.Run", app="other%d" % n)
        return not names & shipped(cluster)
    wait_until(gone, lambda: "removal of %s" % (names & shipped(cluster)), SLOW)


def make_version(stoker, name, n):
    """Uploads version n of a module `version`, which no other has."""
    path = os.path.join(stoker.folder, name + ".zip")
    with zipfile.ZipFile(path, "w") as z:
        z.writestr("version.py", VERSION % n)
    stoker.upload(name, path)
    os.unlink(path)


VERSION = '''
N = %d


def number(_):
    import version
    return version.N


def where(_):
    import os
    import version
    return version.N, os.getpid()


def lower_limit(_):
    import resource
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, hard - 1), hard - 1))
    return hard


class Run:
    function = staticmethod(number)

    def validate(self, context, runtime, config):
        return config

    def run_job(self, context, runtime, data):
        return context.sparkContext.parallelize(range(2), 2).map(self.function).collect()


class Where(Run):
    function = staticmethod(where)


class LowerLimit(Run):
    function = staticmethod(lower_limit)
'''
