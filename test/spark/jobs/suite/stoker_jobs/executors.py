"""Jobs that show what executors have of them. In a SparkSession."""

import os

from .process import Job


def where(_):
    """Where the executor has found this module and the job API."""
    import sparkjobserver
    import stoker_jobs.executors
    return os.getcwd(), stoker_jobs.executors.__file__, sparkjobserver.__file__


class WhereFrom(Job):
    """Result: for each of two tasks its working directory, the path of this module, the path of sparkjobserver."""

    def run_job(self, context, runtime, data):
        return context.sparkContext.parallelize(range(2), 2).map(where).collect()


class UsesUdf(Job):
    """Calls a UDF by name. Config: name. Result: its value of 1."""

    def run_job(self, context, runtime, data):
        return context.sql('select %s(1)' % data['name']).collect()[0][0]


def increment(number):
    return number + 1


class LeavesUdf(Job):
    """Registers a UDF, which all jobs of the context may use. Config: name. Result: its value of 1."""

    def run_job(self, context, runtime, data):
        context.udf.register(data['name'], increment, 'long')
        return context.sql('select %s(1)' % data['name']).collect()[0][0]


class Listed(Job):
    """Result: how many files each task is told of."""

    def run_job(self, context, runtime, data):
        return len(context.sparkContext.listFiles)
