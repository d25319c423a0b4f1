"""Jobs that do not end by themselves, each in a way of its own. In any context of a session.

Whatever code of theirs runs, in whatever process, appends the line "PID START" (field 22 of /proc/PID/stat) to the file
`beat` about every 30 ms while it runs. What cannot (a call that does not come back to Python) does so once, before.
"""

import ctypes
import os
import subprocess
import sys
import threading
import time

from sparkjobserver.api import SparkJob

from stoker_jobs.process import append

LONG = 600      # seconds: much longer than any test
BOMB = 300      # processes that a bounded fork bomb makes in all


def beat(path):
    with open('/proc/self/stat') as f:
        append(path, '%d %s\n' % (os.getpid(), f.read().rpartition(')')[2].split()[19]))


def beat_on(path, value=None):
    """Beats for LONG. The code of tasks, threads, batches and children."""
    end = time.monotonic() + LONG
    while time.monotonic() < end:
        beat(path)
        time.sleep(0.03)
    return value


def tasks(spark, path, count=2):
    """A Spark job with that many tasks."""
    return spark.sparkContext.parallelize(range(count), count).map(lambda n: beat_on(path, n)).count()


# ---- in Python

def sleep(spark, path):
    beat(path)
    time.sleep(LONG)


def busy(spark, path):
    begun = time.monotonic()
    beats = 0
    while time.monotonic() < begun + LONG:
        if time.monotonic() > begun + beats * 0.03:
            beat(path)
            beats += 1


def swallow(spark, path):
    while True:
        try:
            beat_on(path)
        except KeyboardInterrupt:
            pass


def cleans_up(spark, path):
    try:
        beat_on(path)
    finally:
        beat_on(path)


def c_lock(spark, path):
    """In C, without the GIL, where no signal ends the wait."""
    libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(128)
    libc.pthread_mutex_lock(mutex)
    beat(path)
    libc.pthread_mutex_lock(mutex)


def c_with_gil(spark, path):
    """In C, with the GIL: no thread of the process runs Python code."""
    beat(path)
    while True:
        ctypes.PyDLL(None).sleep(LONG)


def thread(spark, path):
    """The interrupt ends the main thread only."""
    threading.Thread(target=beat_on, args=(path,), daemon=True).start()
    time.sleep(LONG)


# ---- in Spark

def rdd(spark, path):
    tasks(spark, path)


def shuffle(spark, path):
    """Beats in the second stage, whose tasks have fetched what the first one wrote."""
    pairs = spark.sparkContext.parallelize(range(100), 2).map(lambda n: (n % 10, n))
    pairs.groupByKey(2).mapValues(len).map(lambda pair: beat_on(path, pair)).count()


def udf(spark, path):
    from pyspark.sql.functions import udf as make
    spark.range(0, 2, 1, 2).select(make(lambda n: beat_on(path, n), 'long')('id')).collect()


def pandas_udf(spark, path):
    from pyspark.sql.functions import pandas_udf as make

    def on_series(n):
        return beat_on(path, n)
    spark.range(0, 2, 1, 2).select(make(on_series, 'long')('id')).collect()


def swallows_in_spark(spark, path):
    """Starts another Spark job whenever one is cancelled."""
    while True:
        try:
            tasks(spark, path)
        except BaseException:
            pass


def in_tasks(spark, path):
    """The tasks catch whatever would end them."""
    def stubborn(n):
        while True:
            try:
                beat_on(path)
            except BaseException:
                pass
    spark.sparkContext.parallelize(range(2), 2).map(stubborn).count()


def spark_threads(spark, path):
    """Spark jobs of three threads; the main thread waits for them."""
    threads = [threading.Thread(target=tasks, args=(spark, path, 1)) for _ in range(3)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()


def spark_group(spark, path):
    """A job group and tags of its own, and none of the old ones."""
    spark.sparkContext.setJobGroup('mine', 'a group of the job\'s own')
    spark.sparkContext.clearJobTags()
    spark.sparkContext.addJobTag('mine-too')
    tasks(spark, path)


def in_the_jvm(spark, path):
    """A call that comes back from the JVM when it likes."""
    beat(path)
    spark.sparkContext._jvm.java.lang.Thread.sleep(1000 * LONG)


# ---- streams

def rate(spark):
    return spark.readStream.format('rate').option('rowsPerSecond', 20).option('numPartitions', 1).load()


def stream(spark, path):
    from pyspark.sql.functions import udf as make

    def slow(n):
        for _ in range(10):
            beat(path)
            time.sleep(0.03)
        return n
    rate(spark).select(make(slow, 'long')('value')).writeStream.format('noop').start().awaitTermination()


def idle_stream(spark, path):
    """It waits for its trigger: no Spark job is active."""
    def batch(frame, number):
        beat(path)
    rate(spark).writeStream.trigger(processingTime='%d seconds' % LONG).foreachBatch(batch).start().awaitTermination()


def new_stream(spark, path):
    """Interrupted when Spark has started the stream and Python has not heard of it yet."""
    class Slow:
        def __init__(self, writer):
            self.writer = writer

        def start(self):
            query = self.writer.start()
            beat(path)
            time.sleep(0.5)
            return query
    writer = rate(spark).writeStream.format('noop').trigger(processingTime='%d seconds' % LONG)
    writer._jwrite = Slow(writer._jwrite)
    writer.start()
    time.sleep(LONG)


def two_streams(spark, path):
    """One beats in the driver, the other in tasks."""
    def in_driver(frame, number):
        beat_on(path)

    def in_tasks(frame, number):
        tasks(frame.sparkSession, path, 1)
    rate(spark).writeStream.foreachBatch(in_driver).start()
    rate(spark).writeStream.foreachBatch(in_tasks).start().awaitTermination()


# ---- processes

LOOP = 'read -r s < /proc/$$/stat; set -- ${s##*)}; while :; do echo "$$ ${20}" >> "$0"; sleep 0.03; done'


def child(spark, path):
    subprocess.run(['sh', '-c', LOOP, path])


def child_in_a_session_of_its_own(spark, path):
    subprocess.Popen(['sh', '-c', LOOP, path], start_new_session=True)
    time.sleep(LONG)


def child_without_an_environment(spark, path):
    """Nothing tells whose it was: neither group nor parent nor environment."""
    subprocess.run(['setsid', '--fork', 'env', '-i', 'PATH=/usr/bin:/bin', 'sh', '-c', LOOP, path], env={})
    time.sleep(LONG)


def multiprocess(spark, path):
    import multiprocessing
    with multiprocessing.get_context('fork').Pool(3) as pool:
        pool.map(beat_on, [path] * 3)


def fork_bomb(spark, path):
    """Each process makes others for as long as they have not been BOMB in all; those in sessions of their own too."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        beat(path)
        append(path + '.forks', '.')
        if os.path.getsize(path + '.forks') <= BOMB and os.fork() == 0:
            if os.getpid() % 3 == 0:
                os.setsid()
        time.sleep(0.03)


class Stuck(SparkJob):
    """Calls the function `how` of this module. Config: how, beat."""

    def validate(self, context, runtime, config):
        return config

    def run_job(self, context, runtime, data):
        return getattr(sys.modules[__name__], data['how'])(context, data['beat'])


class StuckInValidate(Stuck):
    """Does so in validate()."""

    def validate(self, context, runtime, config):
        return self.run_job(context, runtime, config)


class Short(SparkJob):
    """Counts for `seconds` in Python, or with `spark` in many small Spark jobs. Result: `n`."""

    def validate(self, context, runtime, config):
        return config

    def run_job(self, context, runtime, data):
        end = time.monotonic() + data['seconds']
        while time.monotonic() < end:
            if data['spark']:
                context.sparkContext.parallelize(range(10), 2).map(lambda n: n).sum()
        return data['n']


class Sum(SparkJob):
    """Result: the sum of the first n numbers, by Spark's executors in Python."""

    def validate(self, context, runtime, config):
        return config

    def run_job(self, context, runtime, data):
        return context.sparkContext.parallelize(range(data['n']), 2).map(lambda n: n).sum()


class Temporary(SparkJob):
    """Result: where the JVM and where Python make temporary files."""

    def validate(self, context, runtime, config):
        return config

    def run_job(self, context, runtime, data):
        import tempfile
        return [context.sparkContext._jvm.java.lang.System.getProperty('java.io.tmpdir'), tempfile.gettempdir()]


class Looks(SparkJob):
    """What Spark still does for another job, seen from the outside. Config: job, its id.

    Result: {"jobs": its active Spark jobs, "known": all Spark jobs that it has had, "tasks": threads of executors that
    run a task of any of its stages, "all_tasks": of anybody's, "calls": threads of the JVM that sleep for any worker,
    "streams": active streaming queries of all jobs}."""

    def validate(self, context, runtime, config):
        return config

    def run_job(self, context, runtime, data):
        import re
        java, tracker = context.sparkContext._jsc.sc(), context.sparkContext.statusTracker()
        java.listenerBus().waitUntilEmpty()     # the tracker hears of what the scheduler knows already
        jobs = [tracker.getJobInfo(job) for job in java.statusTracker().getJobIdsForTag('stoker-%s.1' % data['job'])]
        stages = {stage for job in jobs if job for stage in job.stageIds}
        threads = [each.toString() for each in context.sparkContext._jvm.org.apache.spark.util.Utils.getThreadDump()]
        tasks = [re.search(r'Executor task launch worker for task [\d.]+ in stage (\d+)\.', each) for each in threads]
        tasks = [int(found[1]) for found in tasks if found]
        return {'jobs': sum(job is not None and job.status == 'RUNNING' for job in jobs), 'known': len(jobs),
                'tasks': sum(stage in stages for stage in tasks), 'all_tasks': len(tasks),
                'calls': sum('py4j.commands' in each and 'java.lang.Thread.sleep' in each for each in threads),
                'streams': context._jsparkSession.sharedState().activeStreamingQueries().size()}
