"""Starts the driver JVM of a context and its SparkContext: settings, command, and what went wrong.

Which settings win: the user's (spec.json's spark_conf) beat all of DEFAULTS; REQUIRED, and HIVE in a hive context, beat
the user's, because Stoker's answers would be wrong otherwise. extraJavaOptions are joined, ours first, so that the
user's win where they collide (K6).
"""
import os
import re
import shlex
import signal
import subprocess
import tempfile
import time

from pyspark.find_spark_home import _find_spark_home
from pyspark.serializers import UTF8Deserializer, read_int

from . import proc

DEFAULTS = {
    "spark.master": "local[*]",
    "spark.scheduler.mode": "FAIR",
    "spark.ui.showConsoleProgress": "false",    # it would write into the log a bar per job
    "spark.python.task.killTimeout": "100ms",   # K3: executor-side user code ends soon after a cancel
    "spark.files.overwrite": "true",            # K4
    "spark.port.maxRetries": "128",             # contexts count their UI up from one port
}
REQUIRED = {
    # K3: else the count of running tasks is stale, and a cancel would be "confirmed" early.
    "spark.ui.liveUpdate.period": "0",
}
HIVE = {"spark.sql.catalogImplementation": "hive"}  # K5: a worker's enableHiveSupport() comes too late
JAVA_OPTIONS = "spark.driver.extraJavaOptions"
OUR_JAVA_OPTIONS = "-XX:-UsePerfData"           # no /tmp/hsperfdata file per context

TEMP = "tmp"    # in the context's directory, and so gone with it

READY_POLL_SECONDS = 0.02
# What a JVM or spark-submit prints before it gives up: lines that tell the cause, and lines that never do.
CAUSE = re.compile(r"(Exception in thread|Error|Caused by:|Invalid|Unrecognized|Could not|[\w.]+(Exception|Error):)")
NOISE = re.compile(r"(WARNING|Usage:|Using Spark's default|Setting default log level|To adjust logging|\s+at |"
                   r"\d\d/\d\d/\d\d \S+ (WARN|INFO) )")
SAID_BYTES = 16384


class JvmExited(Exception):
    """The JVM ended before it could be talked to."""


def spark_conf(spec, folder):
    """The settings a context starts with, as a dict of strings. folder: the context's directory."""
    user = {k: str(v) for k, v in (spec.get("spark_conf") or {}).items()}
    conf = dict(DEFAULTS, **{
        "spark.app.name": spec.get("name") or spec["context"],
        "spark.sql.warehouse.dir": os.path.join(folder, "warehouse"),
    })
    if user.get("spark.master", conf["spark.master"]).startswith("local"):
        conf["spark.driver.host"] = conf["spark.driver.bindAddress"] = "127.0.0.1"
    options = "%s -Djava.io.tmpdir=%s" % (OUR_JAVA_OPTIONS, shlex.quote(os.path.join(folder, TEMP)))
    if spec.get("kind") == "hive":
        options += _hive(conf, folder)
    conf.update({"spark.hadoop." + k: str(v) for k, v in (spec.get("hadoop_conf") or {}).items()})
    conf.update(user)
    conf.update(REQUIRED)
    if spec.get("kind") == "hive":
        conf.update(HIVE)
    conf[JAVA_OPTIONS] = (options + " " + user.get(JAVA_OPTIONS, "")).strip()
    return conf


def _hive(conf, folder):
    """K5: an embedded Derby metastore serves one JVM; a user who has a real metastore sets its URL and wins."""
    conf["spark.hadoop.javax.jdo.option.ConnectionURL"] = (
        "jdbc:derby:;databaseName=%s;create=true" % os.path.join(folder, "metastore_db"))
    return " -Dderby.stream.error.file=" + shlex.quote(os.path.join(folder, "derby.log"))


class Jvm:
    """The driver JVM as a child of the calling thread, which must live as long as it should (PR_SET_PDEATHSIG)."""

    def __init__(self, conf, folder):
        self._folder = folder
        self._info = os.path.join(tempfile.mkdtemp(prefix="gateway-", dir=folder), "info")
        self._log_start = _size(self._log())
        os.makedirs(os.path.join(folder, TEMP), mode=0o700, exist_ok=True)
        home = _find_spark_home()
        parent = os.getpid()

        def in_child():
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            proc.die_with_parent(parent)
        self.process = subprocess.Popen(
            [os.path.join(home, "bin", "spark-submit"), "--properties-file", self._properties(conf, home),
             "pyspark-shell"],
            stdin=subprocess.PIPE, preexec_fn=in_child, env=self._environment(conf, home))
        self.pid = self.process.pid

    def _properties(self, conf, home):
        """In a file, for a command line can be read by everybody. --properties-file hides spark-defaults.conf, so that
        comes first in it: the last line of a key counts."""
        path = os.path.join(self._folder, "spark.properties")
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as f:
            f.write(_defaults_file(home))
            for key, value in conf.items():
                f.write("%s=%s\n" % (_escape(key), _escape(value)))
        return path

    def _environment(self, conf, home):
        env = dict(os.environ, SPARK_HOME=home, SPARK_CONNECT_MODE="0", _PYSPARK_DRIVER_CONN_INFO_PATH=self._info)
        if conf["spark.master"].startswith("local"):
            env.setdefault("SPARK_LOCAL_IP", "127.0.0.1")   # the UI listens there, and has no password
        if "spark.local.dir" not in conf:
            # Not as a setting, which would also reach executors on other machines.
            env.setdefault("SPARK_LOCAL_DIRS", os.path.join(self._folder, "local"))
        return env

    def wait_ready(self, give_up):
        """{port, secret} of pyspark's own gateway. give_up(): true when the start is no longer wanted. JvmExited."""
        try:
            while not os.path.isfile(self._info):
                if self.process.poll() is not None:
                    raise JvmExited("the JVM ended %s before Spark could be started%s" % (
                        describe(self.process.returncode), self._said()))
                if give_up():
                    raise JvmExited("the start was given up")
                time.sleep(READY_POLL_SECONDS)
            with open(self._info, "rb") as f:       # renamed into place by Spark, hence complete
                return {"port": read_int(f), "secret": UTF8Deserializer().loads(f)}
        finally:
            if os.path.exists(self._info):
                os.unlink(self._info)
            os.rmdir(os.path.dirname(self._info))

    def _log(self):
        return os.path.join(self._folder, "context.log")

    def _said(self):
        """The first lines that it printed and that are not noise: what follows them is spark-submit's usage."""
        try:
            with open(self._log(), "rb") as f:
                f.seek(self._log_start)
                lines = f.read(SAID_BYTES).decode("utf-8", "replace").splitlines()
        except OSError:
            return ""
        said = [line.strip() for line in lines if line.strip() and not NOISE.match(line)]
        cause = [line for line in said if CAUSE.match(line)]
        return ": " + "; ".join((cause or said)[:3])[:1000] if said else ""

    def end(self, seconds):
        """Ends the JVM, by closing its standard input first; returns when it is gone."""
        try:
            self.process.stdin.close()
        except OSError:
            pass
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _size(path):
    try:
        return os.path.getsize(path)
    except OSError:
        return 0


def describe(returncode):
    """How a process ended, in words, from subprocess's returncode."""
    if returncode < 0:
        try:
            return "by signal %s" % signal.Signals(-returncode).name
        except ValueError:
            return "by signal %d" % -returncode
    return "with status %d" % returncode


def _defaults_file(home):
    folder = os.environ.get("SPARK_CONF_DIR") or os.path.join(home, "conf")
    try:
        with open(os.path.join(folder, "spark-defaults.conf"), encoding="utf-8") as f:
            return f.read() + "\n"
    except OSError:
        return ""


def _escape(text):
    """For java.util.Properties: separators and comment signs are escaped wherever they stand."""
    out = []
    for c in text:
        if c in "\\=:#! ":
            out.append("\\" + c)
        else:
            out.append({"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(c, c))
    return "".join(out)
