"""Jobs whose tasks wait for files, so that a test knows how far they are. In a SparkSession.

Config: `folder` and `name`; task i goes on when the file <folder>/<name>-<i> exists.
"""

import os
import threading
import time

from .process import Job, wait_for


def waits(data, name=None):
    """A function for tasks: waits for the file of its number, and gives the number back."""
    folder, name, fails = data['folder'], name or data['name'], data['fails'] if 'fails' in data else None

    def task(number):
        failed = os.path.join(folder, '%s-%d-failed' % (name, number))
        if number == fails and not os.path.exists(failed):
            open(failed, 'w').close()
            raise ValueError('the first attempt of task %d' % number)
        wait_for(os.path.join(folder, '%s-%d' % (name, number)))
        return number

    return task


class Tasks(Job):
    """A stage of `tasks` tasks that wait, and one of two that add. `group`: a job group of its own. `fails`: a task that fails once.
    `hold`: a file to wait for before the end. Result: the sum."""

    def run_job(self, context, runtime, data):
        sc, n = context.sparkContext, data['tasks']
        if 'group' in data:
            sc.setJobGroup(data['group'], 'a group of the job')
        pairs = sc.parallelize(range(n), n).map(waits(data)).map(lambda i: (i % 2, i))
        result = sum(value for _, value in pairs.reduceByKey(lambda a, b: a + b, 2).collect())
        if 'hold' in data:
            wait_for(data['hold'])
        return result


class Threads(Job):
    """`threads` threads with a job group each and one Spark job of two tasks each, called <name><thread>."""

    def run_job(self, context, runtime, data):
        sc = context.sparkContext

        def run(number):
            sc.setJobGroup('group-%d' % number, 'one of many')
            sc.parallelize(range(2), 2).map(waits(data, '%s%d' % (data['name'], number))).count()

        threads = [threading.Thread(target=run, args=(i,)) for i in range(data['threads'])]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


class Query(Job):
    """A query of which Spark plans the second half when the first is done: four tasks, then three that wait."""

    def run_job(self, context, runtime, data):
        rows = context.range(0, 400, 1, 4).repartition(3, 'id').selectExpr('id + 1 AS id')
        task = waits(data)
        return sorted(rows.rdd.mapPartitionsWithIndex(lambda i, _: [task(i)]).collect())


class Stream(Job):
    """A streaming query that goes on until the file `stop` exists."""

    def run_job(self, context, runtime, data):
        rows = context.readStream.format('rate').option('rowsPerSecond', 20).load()
        query = rows.writeStream.format('noop').trigger(processingTime='100 milliseconds').start()
        wait_for(data['stop'])
        query.stop()


class Many(Job):
    """`first` Spark jobs of one task each, one after the other; then waits for the file `hold`, with no Spark job."""

    def run_job(self, context, runtime, data):
        one = context.sparkContext.parallelize([1], 1)
        for _ in range(data['first']):
            one.count()
        wait_for(data['hold'])


class NoSpark(Job):
    """Never calls Spark. Waits for the file `hold`. Result: seconds that it took."""

    def run_job(self, context, runtime, data):
        began = time.monotonic()
        wait_for(data['hold'])
        return time.monotonic() - began
