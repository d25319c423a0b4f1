"""The class-data archive (AppCDS): classes of the JDK, Spark and Scala as the JVM wants them in memory.

A JVM that maps one starts Spark in less than half the time. It fits one JDK, one pyspark and one class path; the JVM
itself refuses what does not fit, and crashes on what is damaged. Hence a folder holds, for each `key`:

    <key>.jsa       the archive, renamed into place when it was complete
    <key>.json      its size and SHA-256; written last, so that an archive without it counts as none
    <key>.checked   the file that was last found to have that SHA-256, by inode and times: it is not read again
    <key>.lock      flocked by the process that makes it;  <key>.tmp/  where it does so

`python -m stoker_runner.class_data FOLDER SETTINGS [PARENT]` makes one and ends: with status 0 when it is there or another
process is making it, else with 1 and the cause as its last line; with the process PARENT at the latest. SETTINGS is the
JSON text of Archive.settings. The keeper uses what is there (Archive.usable()) and tells the server what is missing
(PROTOCOL.md section 5).
"""
import contextlib
import fcntl
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback

from . import launch, proc

FOLDER = "STOKER_CLASS_DATA"    # environment: the folder; without it there are no archives
# What decides about the class path, in Spark's settings and in the environment of its launcher.
PATH_SETTINGS = ("spark.driver.extraClassPath", "spark.driver.defaultExtraClassPath")
PATH_VARIABLES = ("SPARK_DIST_CLASSPATH", "SPARK_CONF_DIR", "HADOOP_CONF_DIR", "YARN_CONF_DIR", "SPARK_PREPEND_CLASSES")
# Options of the JVM that an archive depends on, and those of users who have their own thoughts about it.
LAYOUT = re.compile(r"-XX:(?:[+-]Use\w+GC|[+-]UseCompressed\w+|ObjectAlignmentInBytes=\d+)(?!\S)")
OWN_ARCHIVE = re.compile(r"(?:^|\s)['\"]?(?:-Xshare\b|-XX:(?:SharedArchiveFile|ArchiveClassesAtExit|[+-]AutoCreateSharedArchive"
                         r"|SharedClassListFile|DumpLoadedClassList|AOT\w+)\b)")
QUIET = "-Xlog:cds=off -Xlog:cds+dynamic=off"       # a refused archive costs time, not lines in everybody's log

MAKE_SECONDS = 1800     # it has the lowest priority
MOST_BYTES = 4 << 30


class Archive:
    """The archive that fits the JVM of some settings.

    settings: what it depends on of spark.driver.* and the JVM's options; the rest is the machine's.
    """

    def __init__(self, folder, settings):
        self.folder, self.settings = folder, settings
        facts = [settings, launch.java(), _jdk(launch.java()), _pyspark(), {k: os.environ.get(k) for k in PATH_VARIABLES}]
        self.key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
        self.path = self._file("jsa")

    def _file(self, extension):
        return os.path.join(self.folder, "%s.%s" % (self.key, extension))

    def exists(self):
        return os.path.exists(self._file("json"))

    def options(self):
        """For the JVM, in front of the user's."""
        return "-XX:SharedArchiveFile=%s %s" % (shlex.quote(self.path), QUIET)

    def usable(self):
        """Whether it is there and is what was written. One that is not is removed. What goes wrong here fails no start."""
        try:
            return self._usable()
        except (OSError, ValueError, AttributeError, TypeError):    # removed by another meanwhile, of another's making, ...
            return False

    def _usable(self):
        try:
            with open(self._file("json"), encoding="utf-8") as f:
                said = json.load(f)
            stamp = _stamp(self.path)
        except (OSError, ValueError):
            return False
        if os.stat(self.path).st_uid not in (0, os.getuid()):
            return False
        if stamp == self._checked():
            return True
        if stamp["size"] != said.get("size") or _sha256(self.path) != said.get("sha256"):
            print("stoker: %s is not what was written; it is removed" % self.path, file=sys.stderr, flush=True)
            self.discard()
            return False
        try:
            _write(self._file("checked"), json.dumps(stamp))
        except OSError:
            pass        # it is read again the next time
        return True

    def _checked(self):
        try:
            with open(self._file("checked"), encoding="utf-8") as f:
                return json.load(f)
        except (OSError, ValueError):
            return None

    def doubt(self):
        """It is read whole before it is used again."""
        with contextlib.suppress(OSError):
            os.unlink(self._file("checked"))

    def discard(self):
        """JVMs that have mapped it keep it."""
        for extension in ("json", "checked", "jsa"):
            try:
                os.unlink(self._file(extension))
            except OSError:
                pass

    def keep(self, made):
        """Moves a complete file into place."""
        said = {"size": os.path.getsize(made), "sha256": _sha256(made), "settings": self.settings}
        with open(made, "rb") as f:
            os.fsync(f.fileno())
        self.discard()
        os.rename(made, self.path)
        _write(self._file("json"), json.dumps(said))
        _write(self._file("checked"), json.dumps(_stamp(self.path)))

    def lock(self):
        """A descriptor that holds the right to make it, or None: somebody else has it."""
        fd = os.open(self._file("lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        return fd

    def workshop(self):
        """The folder in which the owner of the lock makes it, empty."""
        shutil.rmtree(self._file("tmp"), ignore_errors=True)
        os.mkdir(self._file("tmp"), 0o700)
        return self._file("tmp")


def of(conf):
    """The Archive for a JVM with these settings (a dict of launch.spark_conf()), or None when it shall have none."""
    folder = os.environ.get(FOLDER)
    options = conf.get(launch.JAVA_OPTIONS, "")
    if not folder or ":" in folder or OWN_ARCHIVE.search(options):     # ":" would part two archives for the JVM
        return None
    settings = {key: conf[key] for key in PATH_SETTINGS if conf.get(key)}
    layout = " ".join(LAYOUT.findall(options))
    if layout:
        settings[launch.JAVA_OPTIONS] = layout
    return Archive(folder, settings)


def _jdk(java):
    """What tells one JDK from another: paths can stay the same when it is replaced."""
    home = os.path.dirname(os.path.dirname(java))
    try:
        with open(os.path.join(home, "release"), encoding="utf-8", errors="replace") as f:
            release = f.read()
    except OSError:
        release = None
    return [release] + [_size_and_time(os.path.join(home, "lib", "server", name)) for name in ("libjvm.so", "classes.jsa")]


def _pyspark():
    import pyspark
    home = launch.spark_home()
    try:
        with os.scandir(os.path.join(home, "jars")) as entries:
            jars = sorted((e.name, e.stat().st_size, e.stat().st_mtime_ns) for e in entries)
    except OSError:
        jars = []
    return [pyspark.__version__, home, jars, launch.defaults_file(home)]


def _size_and_time(path):
    try:
        st = os.stat(path)
    except OSError:
        return None
    return [st.st_size, st.st_mtime_ns]


def _stamp(path):
    st = os.stat(path)
    return {"device": st.st_dev, "inode": st.st_ino, "size": st.st_size, "mtime": st.st_mtime_ns, "ctime": st.st_ctime_ns}


def _sha256(path):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _write(path, text):
    """The file is there in full or not at all."""
    fd, temporary = tempfile.mkstemp(prefix=os.path.basename(path) + ".", dir=os.path.dirname(path))
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as f:
            f.write(text)
            f.flush()
            os.fsync(f.fileno())
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


# ---------------------------------------------------------------- making one

class CannotMake(Exception):
    """Why there is no archive."""


class Maker:
    """Starts Spark once for its classes' sake, in a JVM that writes them down when it ends."""

    def __init__(self, archive):
        self.archive, self.folder, self.jvm = archive, archive.workshop(), None
        self.made = os.path.join(self.folder, "classes.jsa")

    def make(self):
        conf = self.conf()
        # The log of a context, where launch.Jvm reads why a start has failed.
        with open(os.path.join(self.folder, "context.log"), "ab") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        self.jvm = launch.Jvm(conf, self.folder)
        gateway = self.jvm.wait_ready(lambda: False)
        command = self.command()
        os.environ["PYSPARK_GATEWAY_PORT"] = str(gateway["port"])
        os.environ["PYSPARK_GATEWAY_SECRET"] = gateway["secret"]
        use_spark(conf, self.folder)
        self.jvm.end(MAKE_SECONDS)      # it writes the archive now
        if not os.path.exists(self.made) or not 0 < os.path.getsize(self.made) <= MOST_BYTES:
            raise CannotMake("the JVM ended %s and wrote no archive: %s" % (
                launch.describe(self.jvm.process.returncode), self.last_words()))
        self.try_it(command)
        self.archive.keep(self.made)

    def conf(self):
        settings = dict(self.archive.settings)
        options = "%s -XX:ArchiveClassesAtExit=%s %s -XX:TieredStopAtLevel=1" % (
            settings.pop(launch.JAVA_OPTIONS, ""), shlex.quote(self.made), QUIET)
        spec = {"context": "class-data", "kind": "session", "hadoop_conf": {}, "spark_conf": dict(settings, **{
            "spark.master": "local[2]", "spark.submit.deployMode": "client", "spark.plugins": "", "spark.ui.port": "0",
            "spark.ui.enabled": "true", "spark.jars.packages": "", "spark.driver.memory": "1g",
            "spark.sql.shuffle.partitions": "2", launch.JAVA_OPTIONS: options.strip()})}
        return launch.spark_conf(spec, self.folder)

    def command(self):
        """The JVM's command up to the class that it runs."""
        with open("/proc/%d/cmdline" % self.jvm.pid, "rb") as f:
            words = f.read().split(b"\0")
        return words[:words.index(b"org.apache.spark.deploy.SparkSubmit")]

    def try_it(self, command):
        """A JVM must be able to map it; none has to."""
        old = b"-XX:ArchiveClassesAtExit=" + os.fsencode(self.made)
        command = [b"-XX:SharedArchiveFile=" + os.fsencode(self.made) if word == old else word for word in command]
        done = subprocess.run([*command, b"-Xshare:on", b"-Xlog:disable", b"-version"], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=MAKE_SECONDS,
                              preexec_fn=_with_parent(os.getpid()))
        if done.returncode != 0:
            raise CannotMake("a JVM cannot use the archive: %s" % (
                done.stdout.decode("utf-8", "replace").strip()[-500:] or launch.describe(done.returncode)))

    def last_words(self):
        """What the JVM printed at last."""
        try:
            with open(os.path.join(self.folder, "context.log"), encoding="utf-8", errors="replace") as f:
                lines = [line.strip() for line in f.read()[-65536:].splitlines() if line.strip()]
        except OSError:
            lines = []
        return "; ".join(lines[-3:])[-500:] or "it printed nothing"

    def clean_up(self):
        """Also from a signal's handler, which may have interrupted a wait() for the JVM."""
        if self.jvm and self.jvm.process.returncode is None:
            try:
                os.kill(self.jvm.pid, signal.SIGKILL)
                os.waitpid(self.jvm.pid, 0)
            except (ProcessLookupError, ChildProcessError):
                pass
        shutil.rmtree(self.folder, ignore_errors=True)


def _with_parent(parent):
    def in_child():
        proc.die_with_parent(parent)
    return in_child


def use_spark(conf, folder):
    """What contexts and simple jobs do: the classes of this are in the archive."""
    from pyspark import SparkConf, SparkContext
    from pyspark.java_gateway import launch_gateway
    from pyspark.sql import SparkSession, functions

    from .gateways import Gateways
    sc = SparkContext(gateway=launch_gateway(), conf=SparkConf(loadDefaults=False).setAll(list(conf.items())))
    spark = SparkSession(sc)
    gateways = Gateways(sc, spark, os.path.join(folder, "files"))
    gateways.admit("w-00000000")
    gateways.gone("w-00000000")
    sc.parallelize(["a", "b", "a"], 2).map(lambda word: (word, 1)).reduceByKey(lambda a, b: a + b).collect()
    spark.range(1000).count()
    people = spark.createDataFrame([("bob", 20, 1.5), ("jon", 21, 2.5)], ["name", "age", "pay"])
    people.createOrReplaceTempView("people")
    spark.sql("SELECT age, avg(pay), count(*) FROM people GROUP BY age ORDER BY age").collect()
    spark.sql("SELECT name, rank() OVER (PARTITION BY age ORDER BY pay) FROM people").collect()
    people.withColumn("upper", functions.udf(str.upper)("name")).join(people, "name").collect()
    path = os.path.join(folder, "people")
    people.write.mode("overwrite").parquet(path)
    spark.read.parquet(path).filter("age > 20").collect()
    sc.stop()


def make(archive, say):
    """Returns the exit status. say: takes a line for people."""
    lock = archive.lock()
    if lock is None:
        say("another process makes %s" % archive.path)
        return 0
    if archive.usable():
        return 0
    maker = Maker(archive)

    def give_up(signum, _frame):
        maker.clean_up()
        if signum == signal.SIGALRM:
            say("class-data archive: not made within %d s" % MAKE_SECONDS)
        os._exit(1 if signum == signal.SIGALRM else 128 + signum)
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
        signal.signal(signum, give_up)
    signal.alarm(MAKE_SECONDS)
    try:
        maker.make()
        say("class-data archive %s made" % archive.path)
        return 0
    except Exception as e:
        say(traceback.format_exc())
        say("class-data archive: %s" % " ".join(str(e).split()))
        return 1
    finally:
        maker.clean_up()


def main(folder, settings, parent=None):
    """parent: the process that must live as long, which may have died before it was asked for; by default the one there is."""
    proc.die_with_parent(int(parent or os.getppid()))
    os.setpriority(os.PRIO_PROCESS, 0, 19)
    proc.idle_io()
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    os.environ.setdefault("PYSPARK_DRIVER_PYTHON", sys.executable)
    out = os.fdopen(os.dup(2), "w", buffering=1, errors="replace")
    return make(Archive(folder, json.loads(settings)), lambda text: print("stoker: " + text.rstrip(), file=out))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
