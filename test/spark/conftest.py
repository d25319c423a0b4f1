"""One FakeServer and one Spark context serve as many tests as possible: a JVM takes 5 s to start.

Tests of the real server share one of their module, `stoker`, and its session context, `py`. What a module wants of them it
says in STOKER (keys of the configuration file) and PY (settings of the context).
"""
import os
import subprocess
import sys
import time

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import RUNNER_DIR, WAIT, FakeContext, FakeServer  # noqa: E402
from server import CLASS_DATA, COUNTS, STRINGS, Files, Stoker  # noqa: E402


FIRST = ("test_class_data.py", "test_cancel.py", "test_versions.py", "test_cluster.py")


def pytest_collection_modifyitems(items):
    """What takes long begins first: run-checks has two files at a time, and at its end none of them should wait for the other."""
    items.sort(key=lambda item: item.path.name not in FIRST)


@pytest.fixture(scope="session", autouse=True)
def class_data():
    """The class-data archive that all contexts of the tests use. It is made here when it is missing, and not beside a test."""
    os.makedirs(CLASS_DATA, exist_ok=True)
    subprocess.run([sys.executable, "-m", "stoker_runner.class_data", CLASS_DATA, "{}"], stdin=subprocess.DEVNULL, check=True,
                   env=dict(os.environ, PYTHONPATH=RUNNER_DIR, PYTHONHASHSEED="0"), timeout=1800)


@pytest.fixture(scope="session")
def server():
    server = FakeServer()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def context(server):
    """A started context; its user settings collide with Stoker's own on purpose (K3, K6)."""
    context = FakeContext(server, spark_conf={
        "spark.driver.extraJavaOptions": "-Dstoker.test=yes", "spark.ui.liveUpdate.period": "7s",
        "spark.task.maxFailures": "1"})
    try:
        context.start()
        yield context
    finally:
        status = context.end()
    assert status == 0, context.log()


@pytest.fixture
def workers(server, context):
    """A function that gives a ready worker, ended after the test."""
    server.acks = server.welcomes = True
    made = []

    def make(**kw):
        made.append(context.worker(**kw))
        return made[-1]
    yield make
    for worker in made:
        if not context.seen("z", "exited", process=worker.name):
            worker.kill()


@pytest.fixture
def own_context(server):
    """A function that makes a context of the test's own, not yet started."""
    made = []

    def make(**kw):
        made.append(FakeContext(server, **kw))
        return made[-1]
    yield make
    for context in made:
        context.end()


@pytest.fixture(scope="module")
def stoker(tmp_path_factory, request):
    """The module's server, with the jobs of the suite."""
    with Stoker(tmp_path_factory.mktemp("stoker"), **getattr(request.module, "STOKER", {})) as stoker:
        stoker.upload_jobs("jobs", "suite")
        yield stoker


@pytest.fixture(scope="module")
def py(stoker, request):
    """The module's session context: its object."""
    return stoker.create_running("py", **getattr(request.module, "PY", {}))


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path)


@pytest.fixture
def nothing_runs_on(stoker):
    """A test that has failed leaves a server, and no job in the way of the next one."""
    yield
    if stoker.process is None:
        stoker.start()
    for job in stoker.get("/jobs", status="running", limit=100):
        stoker.delete(job["jobId"])


@pytest.fixture
def good_after(stoker, py):
    """After the test the context still is the same one, and does what it is told."""
    yield
    assert stoker.value("stoker_jobs.word_count.SessionCount", STRINGS) == COUNTS
    assert stoker.context("py") == py


@pytest.fixture
def flag(tmp_path):
    """Files by which a job on its way tells the test how far it is, and the test tells the job."""
    return Flag(tmp_path)


class Flag:
    def __init__(self, folder):
        self.folder = folder

    def path(self, name):
        return str(self.folder / name)

    def raise_(self, name):
        open(self.path(name), "w").close()

    def wait(self, name, timeout=WAIT):
        wait_until(lambda: os.path.exists(self.path(name)), timeout, "flag %s" % name)


def wait_until(condition, timeout=WAIT, what="condition"):
    """The first true value of condition(); for what sends no event."""
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, "%s did not come in %g s" % (what, timeout)
        time.sleep(0.01)


# For jobs: raise_flag(path), wait_flag(path).
FLAGS = """
import os, threading, time
def raise_flag(path):
    open(path, "w").close()
def wait_flag(path):
    while not os.path.exists(path):
        time.sleep(0.01)
"""
