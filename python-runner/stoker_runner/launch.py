"""Starts the driver JVM of a context and its SparkContext: settings, command, and what went wrong.

Which settings win: the user's (spec.json's spark_conf) beat all of DEFAULTS; REQUIRED, and HIVE in a hive context, beat
the user's, because Stoker's answers would be wrong otherwise. extraJavaOptions are joined, ours first, so that the
user's win where they collide (K6).
"""
import hashlib
import os
import re
import shlex
import shutil
import signal
import socket
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
    "spark.files.useFetchCache": "false",       # executors would keep each file twice
    "spark.port.maxRetries": "128",             # contexts count their UI up from one port
}
REQUIRED = {
    # K3: else what the status tracker says of running tasks is stale. Jobs may ask it, and so do the tests of cancels.
    "spark.ui.liveUpdate.period": "0",
}
HIVE = {"spark.sql.catalogImplementation": "hive"}  # K5: a worker's enableHiveSupport() comes too late
JAVA_OPTIONS = "spark.driver.extraJavaOptions"
DAEMON = "spark.python.daemon.module"
OUR_DAEMON = "stoker_daemon_"
OUR_JAVA_OPTIONS = "-XX:-UsePerfData"           # no /tmp/hsperfdata file per context

TEMP = "tmp"    # in the context's directory, and so gone with it

READY_POLL_SECONDS = 0.02
MASTER_SECONDS, MASTER_TRY_SECONDS, MASTER_PAUSE_SECONDS = 10.0, 3.0, 0.5
# What a JVM or spark-submit prints before it gives up: lines that tell the cause, and lines that never do.
CAUSE = re.compile(r"(Exception in thread|Error|Caused by:|Invalid|Unrecognized|Could not|[\w.]+(Exception|Error):|"
                   r"\d\d/\d\d/\d\d \S+ (ERROR|FATAL) )")
NOISE = re.compile(r"(WARNING|Usage:|Using Spark's default|Setting default log level|To adjust logging|\s+at |"
                   r"\d\d/\d\d/\d\d \S+ (WARN|INFO) )")
SAID_BYTES = 65536
FEW_LINES = 4
# How a JVM ends that found something impossible in its own memory, such as a damaged class-data archive.
CRASHES = frozenset((signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE, signal.SIGTRAP))
# How a driver says that its heap is used up: SparkExitCode.OOM, when a thread of Spark's own, such as a local task,
# finds out; else by -XX:+ExitOnOutOfMemoryError and -XX:+CrashOnOutOfMemoryError, which are for the user to set: a JVM
# that many jobs use need not end because one of them asked for too much. The lines are those of JDK 17.
OOM_STATUS = 52
OOM_LINES = {3: "Terminating due to java.lang.OutOfMemoryError",
             -signal.SIGABRT: "Aborting due to java.lang.OutOfMemoryError"}


class CannotStart(Exception):
    """Why Spark could not be started, in words that need no traceback."""


class JvmExited(CannotStart):
    """The JVM ended while Spark was started."""


def spark_home():
    return _find_spark_home()


def java():
    """The program that spark-submit takes for its JVM, without links; its bare name when it is not there."""
    home = os.environ.get("JAVA_HOME")
    return os.path.realpath(os.path.join(home, "bin", "java") if home else shutil.which("java") or "java")


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
    if not _in_defaults_file(DAEMON):
        conf[DAEMON] = _daemon_module(os.path.join(folder, "python"))
    conf.update(user)
    conf.update(REQUIRED)
    if spec.get("kind") == "hive":
        conf.update(HIVE)
    conf[JAVA_OPTIONS] = (options + " " + user.get(JAVA_OPTIONS, "")).strip()
    return conf


def with_java_options(conf, options):
    """The settings with these options of the JVM as well, before all others."""
    return dict(conf, **{JAVA_OPTIONS: (options + " " + conf.get(JAVA_OPTIONS, "")).strip()})


def _hive(conf, folder):
    """K5: an embedded Derby metastore serves one JVM; a user who has a real metastore sets its URL and wins."""
    conf["spark.hadoop.javax.jdo.option.ConnectionURL"] = (
        "jdbc:derby:;databaseName=%s;create=true" % os.path.join(folder, "metastore_db"))
    return " -Dderby.stream.error.file=" + shlex.quote(os.path.join(folder, "derby.log"))


def _daemon_module(folder):
    """Writes executor_daemon.py under a name that no other file has: the working directory of executors comes first on
    their path. Local executors find it in the JVM's PYTHONPATH; others get it by daemon_file()."""
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "executor_daemon.py"), "rb") as f:
        text = f.read()
    name = OUR_DAEMON + hashlib.sha256(text).hexdigest()[:16]
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, name + ".py"), "wb") as f:
        f.write(text)
    return name


def is_our_daemon(module):
    """Whether a value of DAEMON names executor_daemon.py, and not a user's own."""
    return (module or "").startswith(OUR_DAEMON)


def daemon_file(conf, folder):
    """What executors elsewhere need before their first Python task; None when they need nothing."""
    path = os.path.join(folder, "python", conf.get(DAEMON, "") + ".py")
    return path if not is_local(conf["spark.master"]) and os.path.isfile(path) else None


def is_local(master):
    """Executors run in the driver's JVM, and see this machine's folders."""
    return master == "local" or master.startswith("local[")


class Jvm:
    """The driver JVM as a child of the calling thread, which must live as long as it should (PR_SET_PDEATHSIG)."""

    def __init__(self, conf, folder):
        """CannotStart when there is no such program, or nothing to connect to."""
        self._folder = folder
        await_master(conf["spark.master"])
        self._info = os.path.join(tempfile.mkdtemp(prefix="gateway-", dir=folder), "info")
        self._log_start = _size(self._log())
        os.makedirs(os.path.join(folder, TEMP), mode=0o700, exist_ok=True)
        home = spark_home()
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
            f.write(defaults_file(home))
            for key, value in conf.items():
                f.write("%s=%s\n" % (_escape(key), _escape(value)))
        return path

    def _environment(self, conf, home):
        env = dict(os.environ, SPARK_HOME=home, SPARK_CONNECT_MODE="0", _PYSPARK_DRIVER_CONN_INFO_PATH=self._info)
        env["PYTHONPATH"] = os.pathsep.join(
            [os.path.join(self._folder, "python"), *filter(None, [env.get("PYTHONPATH")])])
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
                    raise self.exited("before Spark could be started")
                if give_up():
                    raise JvmExited("the start was given up")
                time.sleep(READY_POLL_SECONDS)
            with open(self._info, "rb") as f:       # renamed into place by Spark, hence complete
                return {"port": read_int(f), "secret": UTF8Deserializer().loads(f)}
        finally:
            if os.path.exists(self._info):
                os.unlink(self._info)
            os.rmdir(os.path.dirname(self._info))

    def exited(self, when):
        """A JvmExited for a process that has ended: how, and what it said."""
        return JvmExited("the JVM ended %s %s%s" % (describe(self.process.returncode), when, self._said()))

    def _log(self):
        return os.path.join(self._folder, "context.log")

    def _said(self):
        """What it printed, without noise; of much, what names causes, at the beginning and at the end."""
        try:
            with open(self._log(), "rb") as f:
                f.seek(self._log_start)
                lines = f.read(SAID_BYTES).decode("utf-8", "replace").splitlines()
        except OSError:
            return ""
        said = [line.strip() for line in lines if line.strip() and not NOISE.match(line)]
        if len(said) > FEW_LINES:
            said = [line for line in said if CAUSE.match(line)] or said[:FEW_LINES]
        said = list(dict.fromkeys(line[:300] for line in said))     # without repetitions
        if len(said) > FEW_LINES:
            said = said[:FEW_LINES // 2] + said[-FEW_LINES // 2:]
        return ": " + "; ".join(said) if said else ""

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


def await_master(master):
    """Spark tries a standalone master for a minute and then gives up with less of a reason. A short restart is waited for."""
    if not master.startswith("spark://"):
        return
    deadline = time.monotonic() + MASTER_SECONDS
    while True:
        causes = []
        for address in master[len("spark://"):].split(","):
            host, _, port = address.rpartition(":")
            try:
                socket.create_connection((host.strip("[]"), int(port)), MASTER_TRY_SECONDS).close()
                return
            except ValueError:
                return      # not an address: Spark says so
            except (OSError, OverflowError) as e:
                causes.append("%s: %s" % (address, getattr(e, "strerror", None) or e))
        if time.monotonic() >= deadline:
            raise CannotStart("the standalone master %s cannot be reached (%s)" % (master, "; ".join(causes)))
        time.sleep(MASTER_PAUSE_SECONDS)


def _size(path):
    try:
        return os.path.getsize(path)
    except OSError:
        return 0


def crashed(returncode):
    """Whether subprocess's returncode tells of a crash; None: it has not ended."""
    return returncode is not None and -returncode in CRASHES


def out_of_heap(returncode, said):
    """Whether a JVM has ended because its heap was used up. said: the last that it printed."""
    return returncode == OOM_STATUS or returncode in OOM_LINES and OOM_LINES[returncode] in said


def describe(returncode):
    """How a process ended, in words, from subprocess's returncode."""
    if returncode < 0:
        try:
            return "by signal %s" % signal.Signals(-returncode).name
        except ValueError:
            return "by signal %d" % -returncode
    return "with status %d" % returncode


def defaults_file(home):
    folder = os.environ.get("SPARK_CONF_DIR") or os.path.join(home, "conf")
    try:
        with open(os.path.join(folder, "spark-defaults.conf"), encoding="utf-8") as f:
            return f.read() + "\n"
    except OSError:
        return ""


def _in_defaults_file(key):
    return re.search(r"^\s*%s[\s=:]" % re.escape(key), defaults_file(spark_home()), re.M) is not None


def _escape(text):
    """For java.util.Properties: separators and comment signs are escaped wherever they stand."""
    out = []
    for c in text:
        if c in "\\=:#! ":
            out.append("\\" + c)
        else:
            out.append({"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(c, c))
    return "".join(out)
