"""A standalone Spark cluster on the loopback interface: a master and two workers, made of the pyspark under test.

    with Cluster(folder) as cluster:
        stoker.create_running("far", **cluster.settings())

Executors are this machine's processes too, but they find a job's code only where Spark has brought it.
"""
import glob
import os
import re
import shutil
import signal
import subprocess
import sys

import pyspark
from server import WAIT, process, wait_until

CLASSES = "org.apache.spark.deploy."
WORKERS = 2
START = "110s"      # context-create-timeout: three JVMs start at once


class Cluster:
    """folder: for logs and the executors' directories."""

    def __init__(self, folder):
        self.folder = str(folder)
        self.url = None
        self._started = []

    def __enter__(self):
        try:
            log = self._start("master", "master.Master", "--port", "0")
            self.url = wait_until(lambda: self._said(log, r"Starting Spark master at (spark://\S+)"),
                                  lambda: "master: " + self._text(log))
            self._ready(log, r"I have been elected leader")
            for n in range(WORKERS):
                log = self._start("worker%d" % n, "worker.Worker", "--port", "0", "--cores", "1", "--memory", "1g",
                                  "--work-dir", self.work_dir(n), self.url)
                self._ready(log, r"Successfully registered with master")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        """Ends what was started here, the workers first: they end their executors."""
        for started in reversed(self._started):
            started.send_signal(signal.SIGTERM)
            try:
                started.wait(WAIT)
            except subprocess.TimeoutExpired:
                started.kill()
                started.wait()
        self._started.clear()
        left = wait_until(lambda: not self.processes() or None, "end of the executors") and self.processes()
        assert not left, left
        for n in range(WORKERS):
            shutil.rmtree(self.work_dir(n), ignore_errors=True)

    def settings(self, **more):
        """Settings of a context on this cluster: one small executor on each worker."""
        return dict({"spark.master": self.url, "spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1",
                     "spark.executor.memory": "512m", "spark.executor.cores": "1", "spark.cores.max": str(WORKERS),
                     "spark.scheduler.minRegisteredResourcesRatio": "1.0"},
                    **more)

    def work_dir(self, n):
        return os.path.join(self.folder, "work%d" % n)

    def executor_dirs(self):
        """Where executors keep the files that Spark has brought them."""
        return [path for n in range(WORKERS) for path in glob.glob(os.path.join(self.work_dir(n), "app-*", "*"))]

    def processes(self):
        """Live processes of executors (java, python): those that run in one of the directories."""
        inside, found = os.path.realpath(self.folder) + "/work", []
        for link in glob.glob("/proc/[0-9]*/cwd"):
            try:
                if os.readlink(link).startswith(inside):
                    found.append(process(int(link.split("/")[2])))
            except OSError:
                continue
        return [each for each in found if each]

    def own_processes(self):
        """Pids of the master and the workers."""
        return [started.pid for started in self._started]

    def _start(self, name, cls, *arguments):
        """Starts one of the cluster's JVMs. The path of its log."""
        home = os.path.dirname(pyspark.__file__)
        log = os.path.join(self.folder, name + ".log")
        env = {key: value for key, value in os.environ.items() if not key.startswith(("STOKER", "SPARK_", "PYTEST_"))}
        env.update(SPARK_HOME=home, PYSPARK_PYTHON=sys.executable, SPARK_LOCAL_IP="127.0.0.1", SPARK_NO_DAEMONIZE="1",
                   SPARK_DAEMON_MEMORY="128m", SPARK_DAEMON_JAVA_OPTS="-XX:TieredStopAtLevel=1",
                   SPARK_LOCAL_DIRS=os.path.join(self.folder, "local"))
        env.pop("PYTHONPATH", None)     # or executors would find this tree in it
        os.makedirs(self.folder, exist_ok=True)
        with open(log, "wb") as out:
            self._started.append(subprocess.Popen(
                [os.path.join(home, "bin", "spark-class"), CLASSES + cls, "--host", "127.0.0.1", "--webui-port", "0",
                 *arguments], env=env, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=out, stderr=out))
        return log

    def _ready(self, log, pattern):
        wait_until(lambda: self._said(log, "(%s)" % pattern), lambda: "%s: %s" % (pattern, self._text(log)))

    def _said(self, log, pattern):
        assert self._started[-1].poll() is None, self._text(log)
        found = re.search(pattern, self._text(log))
        return found and found[1]

    @staticmethod
    def _text(log):
        with open(log, errors="replace") as f:
            return f.read()
