"""Ways to break the start of a context, on real Spark: POST /contexts answers with an error that names the cause and has
the last lines of the log, and nothing is left.
"""
import glob
import os
import shutil
import signal
import socket
import sys
import time

import pytest
from server import Background, Stoker, wait_until

OPTIONS = "spark.driver.extraJavaOptions"
BOUND = 400.0   # seconds that a failed start may take on a busy machine; alone, the slowest takes 15


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A Java and a Python that the tests can break: links to the real ones."""
    folder = tmp_path_factory.mktemp("places")
    (folder / "java" / "bin").mkdir(parents=True)
    (folder / "java" / "bin" / "java").symlink_to(os.path.realpath(
        os.path.join(os.environ["JAVA_HOME"], "bin", "java") if os.environ.get("JAVA_HOME") else shutil.which("java")))
    python = folder / "python"
    bare = os.path.join(sys.base_prefix, "bin", "python3")      # of which the environment was made
    python.write_text('#!/bin/sh\n[ -e "%s/bare" ] && exec "%s" "$@"\nexec "%s" "$@"\n' % (folder, bare, sys.executable))
    python.chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def stoker(places, tmp_path_factory):
    with Stoker(tmp_path_factory.mktemp("stoker"), java_home=str(places / "java"), python=str(places / "python"),
                context_create_timeout="10min") as stoker:
        yield stoker


@pytest.fixture(autouse=True)
def nothing_is_left(stoker):
    """A start that has succeeded by mistake is not in the way of the next test."""
    yield
    for name in stoker.get("/contexts"):
        stoker.delete_context(name)


@pytest.fixture
def taken():
    """A port of 127.0.0.1 that somebody listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        yield s.getsockname()[1]


@pytest.fixture
def free():
    """A port that nobody listens on, and that nobody is given meanwhile."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        yield s.getsockname()[1]


def refused(stoker, cause, log, create):
    """create() must fail. cause: parts of the message; log: parts of what follows the traceback. The error object."""
    began = time.monotonic()
    reply = create()
    assert time.monotonic() - began < BOUND
    assert (reply.status, reply.body["status"]) == (500, "CONTEXT INIT ERROR"), reply
    error = reply.body["result"]
    for text in cause:
        assert text in error["message"], error
    for text in log:
        assert text in error["stack"], error
    context = stoker.context("broken")
    assert context["state"] == "ERROR" and context["endTime"] != "Empty"
    assert stoker.left_of(context["id"]) == []
    assert stoker.get("/contexts") == [] and stoker.processes() == []
    with open(stoker.path("logs", "context.%s.log" % context["id"]), errors="replace") as f:
        said = [line for line in f.read().splitlines() if line.strip() and not line.startswith("stoker:")]
    assert not said or any(line in error["stack"] for line in said[-40:]), (said, error)
    return error


# settings of the context: parts of the message, parts of the log
SETTINGS = {
    "master-unknown": ({"spark.master": "nonsense["}, ["Master must either be yarn or start with spark"], ["SparkException"]),
    "master-odd": ({"spark.master": "local[4"}, ["Could not parse Master URL: 'local[4'"], ["SparkException"]),
    "yarn-unconfigured": ({"spark.master": "yarn"}, ["HADOOP_CONF_DIR or YARN_CONF_DIR must be set"], ["SparkException"]),
    "memory-nonsense": ({"launcher.spark.driver.memory": "99999999999999g"}, ["Invalid maximum heap size"],
                        ["Could not create the Java Virtual Machine"]),
    "memory-too-much": ({"launcher.spark.driver.memory": "200000g"}, ["Could not reserve enough space"],
                        ["Error occurred during initialization of VM"]),
    "memory-too-little": ({"launcher.spark.driver.memory": "64m"}, ["System memory", "must be at least"],
                          ["IllegalArgumentException"]),
    "plugin-unknown": ({"spark.plugins": "no.such.Plugin"}, ["no.such.Plugin"], ["ClassNotFoundException: no.such.Plugin"]),
    "listener-unknown": ({"spark.extraListeners": "no.such.Listener"}, ["no.such.Listener"],
                         ["ClassNotFoundException: no.such.Listener"]),
    "serializer-unknown": ({"spark.serializer": "no.such.Serializer"}, ["no.such.Serializer"],
                           ["ClassNotFoundException: no.such.Serializer"]),
    "file-missing": ({"spark.files": "/nowhere/table.csv"}, ["/nowhere/table.csv"], ["FileNotFoundException"]),
    "event-log-missing": ({"spark.eventLog.enabled": "true", "spark.eventLog.dir": "/nowhere/events"}, ["/nowhere/events"],
                          ["FileNotFoundException"]),
    "pools-missing": ({"spark.scheduler.allocation.file": "/nowhere/pools.xml"}, ["/nowhere/pools.xml"],
                      ["FileNotFoundException"]),
    # (options that are not known are ignored: Spark's own -XX:+IgnoreUnrecognizedVMOptions makes the JVM do so)
    "option-wrong": ({OPTIONS: "-XX:MaxMetaspaceSize=lots"}, ["Improperly specified VM option 'MaxMetaspaceSize=lots'"],
                     ["Could not create the Java Virtual Machine"]),
    "options-collide": ({OPTIONS: "-XX:+UseG1GC -XX:+UseSerialGC"}, ["Multiple garbage collectors selected"],
                        ["Error occurred during initialization of VM"]),
    "heap-as-option": ({OPTIONS: "-Xmx1g"}, ["Not allowed to specify max heap(Xmx) memory settings"], []),
    "agent-missing": ({OPTIONS: "-javaagent:/nowhere/agent.jar"}, ["/nowhere/agent.jar"], ["agent"]),
    "local-dir-unwritable": ({"spark.local.dir": "/proc/nowhere"}, ["Failed to create any local dir"], ["/proc/nowhere"]),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting(stoker, name):
    settings, cause, log = SETTINGS[name]
    refused(stoker, cause, log, lambda: stoker.create("broken", **settings))


def test_no_master_answers(stoker, free):
    """Spark itself tries for a minute and says that all masters are unresponsive."""
    master = "spark://127.0.0.1:%d" % free
    refused(stoker, [master + " cannot be reached (127.0.0.1:%d: Connection refused)" % free], [],
            lambda: stoker.create("broken", **{"spark.master": master}))


def test_a_jar_that_cannot_be_fetched(stoker, free):
    refused(stoker, ["Connection refused"], ["ConnectException"],
            lambda: stoker.create("broken", **{"spark.jars": "http://127.0.0.1:%d/my.jar" % free}))


def test_the_ui_has_no_port(stoker, taken):
    refused(stoker, ["Failed to bind", "'SparkUI' failed"], ["BindException"],
            lambda: stoker.create("broken", **{"spark.ui.enabled": "true", "spark.ui.port": taken,
                                               "spark.port.maxRetries": 0}))


def test_the_driver_has_no_port(stoker, taken):
    refused(stoker, ["Address already in use", "sparkDriver"], ["BindException"],
            lambda: stoker.create("broken", **{"spark.driver.port": taken, "spark.port.maxRetries": 0}))


@pytest.mark.parametrize("settings, cause", [
    ({"spark.hadoop.javax.jdo.option.ConnectionURL": "jdbc:nonsense:metastore"}, "jdbc:nonsense:metastore"),
    ({"spark.sql.hive.metastore.version": "0.1"}, "0.1"),
], ids=["url", "version"])
def test_no_metastore(stoker, settings, cause):
    refused(stoker, [cause], ["Exception"], lambda: stoker.create("broken", "Hive", **settings))


@pytest.fixture
def java(places):
    """The path of the Java; it is mended after the test."""
    path = str(places / "java" / "bin" / "java")
    os.rename(path, path + ".good")
    yield path
    os.rename(path + ".good", path)


def test_java_is_gone(stoker, java):
    refused(stoker, ["bin/java", "No such file"], ["bin/java"], lambda: stoker.create("broken"))


def test_java_gives_up(stoker, java):
    with open(java, "w") as f:
        f.write("#!/bin/sh\necho 'Error: the licence has expired' >&2\nexit 9\n")
    os.chmod(java, 0o755)
    refused(stoker, ["the licence has expired"], ["the licence has expired"], lambda: stoker.create("broken"))


def test_python_has_no_pyspark(stoker, places):
    (places / "bare").touch()
    try:
        refused(stoker, ["No module named 'pyspark'"], ["Traceback", "stoker_runner"], lambda: stoker.create("broken"))
    finally:
        (places / "bare").unlink()


def test_the_jvm_is_killed_as_it_starts(stoker):
    create = Background(stoker.create, "broken")
    pid = wait_until(lambda: next((p.pid for p in stoker.processes() if is_spark(p.pid)), None), "the JVM")
    os.kill(pid, signal.SIGKILL)
    refused(stoker, ["the JVM ended by signal SIGKILL"], [], create.value)


def is_spark(pid):
    try:
        with open("/proc/%d/cmdline" % pid, "rb") as f:
            return b"org.apache.spark.deploy.SparkSubmit" in f.read().split(b"\0")[-10:]
    except OSError:
        return False


def test_the_keeper_is_killed_as_spark_starts(stoker):
    create = Background(stoker.create, "broken")
    pid = wait_until(lambda: next((p.pid for p in stoker.processes() if is_spark(p.pid)), None), "the JVM")
    with open("/proc/%d/stat" % pid) as f:
        keeper = int(f.read().rpartition(")")[2].split()[1])
    os.kill(keeper, signal.SIGKILL)
    refused(stoker, ["the keeper process of the context was ended by signal 9"], [], create.value)


def test_a_good_one_after_all_these(stoker):
    stoker.create_running("good")
    stoker.delete_context("good")
    assert stoker.processes() == []
    assert glob.glob(stoker.path("contexts", "*")) == []
