"""The jobs of the soak test. Each writes what it does into the account, a file outside the server's state directory.

Lines, each in one write: "WHAT JOB TOKEN TIME PID ...". WHAT is `begin` (validate() was called), `beat` (user code
runs, in Spark's executors too), `child` (a process was started: its pid and start time follow) or `end` (run_job
returns). A job is not told its attempt: one that runs in two attempts has two `begin`. The config has `account` (the
file), `token` (what the client calls this job) and what the class asks for.
"""

import os
import subprocess
import sys
import threading
import time

from sparkjobserver.api import SparkJob, ValidationProblem

from .version import VERSION

BEAT_SECONDS = 0.05


def write(account, what, job, token, *more):
    """Adds a line to the account."""
    words = (what, job, token, '%.6f' % time.time(), os.getpid()) + more
    descriptor = os.open(account, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(descriptor, (' '.join(map(str, words)) + '\n').encode())
    finally:
        os.close(descriptor)


def beat(account, job, token, seconds):
    """Writes `beat` for so long. Returns how often."""
    end, n = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        write(account, 'beat', job, token)
        time.sleep(BEAT_SECONDS)
        n += 1
    return n


def stage(spark, account, job, token, seconds):
    """A Spark stage of two tasks whose Python code beats for so long."""
    return spark.sparkContext.parallelize(range(2), 2).map(lambda _: beat(account, job, token, seconds) > 0).count()


class Job(SparkJob):
    """Base. Result: {"token", "version" of these files, "value" of the class}."""

    def validate(self, context, runtime, config):
        self.account, self.job, self.token = config['account'], runtime.jobId, config['token']
        write(self.account, 'begin', self.job, self.token)
        return config

    def run_job(self, context, runtime, data):
        value = self.work(context, data)
        write(self.account, 'end', self.job, self.token)
        return {'token': self.token, 'version': VERSION, 'value': value}

    def work(self, spark, data):
        return None


class Nothing(Job):
    """Value: null."""


class Sleeps(Job):
    """Config: seconds. Value: null."""

    def work(self, spark, data):
        time.sleep(data['seconds'])


class Counts(Job):
    """Config: n, k. Value: [sum of k*i for i < n, the versions of these files that Spark's Python tasks saw]."""

    def work(self, spark, data):
        k = data['k']
        rdd = spark.sparkContext.parallelize(range(data['n']), 2)
        pairs = rdd.map(lambda i: (i * k, VERSION)).reduceByKey(lambda a, b: a).map(lambda p: (p[0], [p[1]]))
        total, versions = pairs.reduce(lambda a, b: (a[0] + b[0], sorted(set(a[1] + b[1]))))
        return [total, versions]


class Frames(Job):
    """Config: n. Value: n, counted by Spark."""

    def work(self, spark, data):
        return spark.range(data['n']).count()


class Prints(Job):
    """Config: lines. Value: null."""

    def work(self, spark, data):
        for number in range(data['lines']):
            print(self.token, number)
            print(self.token, number, file=sys.stderr)


class Big(Job):
    """Config: size. Value: a string so long."""

    def work(self, spark, data):
        return 'x' * data['size']


class Changes(Job):
    """Changes what the next job of the same worker must not see. Value: whether it saw nothing itself."""

    def work(self, spark, data):
        old = os.umask(0)
        clean = 'STOKER_SOAK' not in os.environ and '/soak' not in sys.path and os.getcwd() != '/' and old != 0
        os.environ['STOKER_SOAK'] = self.token
        sys.path.append('/soak')
        os.chdir('/')
        return clean


class Child(Job):
    """Leaves a child in a session of its own. Value: null."""

    def work(self, spark, data):
        child = subprocess.Popen(['sleep', '3600'], start_new_session=True)
        with open('/proc/%d/stat' % child.pid) as f:
            start = f.read().rpartition(')')[2].split()[19]
        write(self.account, 'child', self.job, self.token, child.pid, start)


class Raises(Job):
    """Fails with its token."""

    def work(self, spark, data):
        raise ValueError(self.token)


class Invalid(Job):
    """validate() says no."""

    def validate(self, context, runtime, config):
        super().validate(context, runtime, config)
        return [ValidationProblem(self.token)]


class Exits(Job):
    """Config: status."""

    def work(self, spark, data):
        os._exit(data['status'])


class Crashes(Job):
    """Dies of a segmentation fault."""

    def work(self, spark, data):
        import ctypes
        import resource
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        ctypes.string_at(0)


class Hangs(Job):
    """One blocking call. Config: seconds."""

    def work(self, spark, data):
        time.sleep(data['seconds'])


class Busy(Job):
    """Python that never waits. Config: seconds."""

    def work(self, spark, data):
        end, next_beat = time.monotonic() + data['seconds'], 0
        while time.monotonic() < end:
            if time.monotonic() >= next_beat:
                write(self.account, 'beat', self.job, self.token)
                next_beat = time.monotonic() + BEAT_SECONDS


class Swallows(Job):
    """Ignores every KeyboardInterrupt. Config: seconds."""

    def work(self, spark, data):
        end = time.monotonic() + data['seconds']
        while time.monotonic() < end:
            try:
                beat(self.account, self.job, self.token, end - time.monotonic())
            except KeyboardInterrupt:
                pass


class Stage(Job):
    """A long Spark stage with Python tasks. Config: seconds."""

    def work(self, spark, data):
        stage(spark, self.account, self.job, self.token, data['seconds'])


class Threads(Job):
    """The same from a thread of its own, under a job group of its own. Config: seconds."""

    def work(self, spark, data):
        def run():
            spark.sparkContext.setJobGroup('mine', 'my own group')
            stage(spark, self.account, self.job, self.token, data['seconds'])
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join()


class Meets(Job):
    """Waits until `n` jobs have come to the folder `place`: they have slots at the same time. Value: n."""

    def work(self, spark, data):
        open(os.path.join(data['place'], self.job), 'w').close()
        while len(os.listdir(data['place'])) < data['n']:
            time.sleep(0.02)
        return data['n']
