"""Jobs that fail, each in a way of its own. In any context unless said otherwise; no config unless said otherwise."""

import ctypes
import os
import signal
import sys

from sparkjobserver.api import SparkJob


class Failing(SparkJob):
    """Base: validate finds nothing to say."""

    def validate(self, context, runtime, config):
        return config


class RunRaises(Failing):
    """run_job raises ValueError."""

    def run_job(self, context, runtime, data):
        raise ValueError('Deliberate failure')


class ValidateRaises(SparkJob):
    """validate raises ValueError."""

    def validate(self, context, runtime, config):
        raise ValueError('Deliberate failure')


class Problems(SparkJob):
    """validate finds two problems."""

    def validate(self, context, runtime, config):
        from sparkjobserver.api import build_problems
        return build_problems(['first problem', 'second problem'])


class NeedsArguments(Failing):
    """Cannot be made."""

    def __init__(self, name):
        super().__init__()


class Exits(Failing):
    """Calls sys.exit(status). Config: status."""

    def run_job(self, context, runtime, data):
        sys.exit(data['status'])


class Vanishes(Failing):
    """Calls os._exit(status). Config: status."""

    def run_job(self, context, runtime, data):
        print('last words', file=sys.stderr, flush=True)
        os._exit(data['status'])


class Segfaults(Failing):
    """Reads where there is no memory."""

    def run_job(self, context, runtime, data):
        print('reading address 0', file=sys.stderr, flush=True)
        return ctypes.string_at(0)


class Signalled(Failing):
    """Sends itself a signal. Config: signal, a number."""

    def run_job(self, context, runtime, data):
        os.kill(os.getpid(), data['signal'])
        signal.pause()


class TaskRaises(Failing):
    """In a SparkSession: its code on an executor raises ZeroDivisionError."""

    def run_job(self, context, runtime, data):
        return context.sparkContext.parallelize([1, 0]).map(lambda n: 1 // n).collect()


class NoSuchTable(Failing):
    """In a SparkSession: SQL that Spark refuses."""

    def run_job(self, context, runtime, data):
        return context.sql('SELECT * FROM no_such_table').collect()


class JavaRaises(Failing):
    """In a SparkSession: a Java exception with a cause."""

    def run_job(self, context, runtime, data):
        return context.range(2).selectExpr("raise_error('deliberate')").collect()


class StopsSpark(Failing):
    """In a SparkSession: tries to stop the SparkContext that it shares."""

    def run_job(self, context, runtime, data):
        context.sparkContext.stop()
        return 'stopped'


class RaisesLater(Failing):
    """Raises from a function that was called with a cause of its own."""

    def run_job(self, context, runtime, data):
        try:
            return {}['missing']
        except KeyError as missing:
            raise RuntimeError('could not look it up') from missing


class NoRunJob:
    """Is not a job: it has no run_job()."""

    def validate(self, context, runtime, config):
        return config


class ReturnsFrame(Failing):
    """In a SparkSession: returns {"rows": [1, a DataFrame]}."""

    def run_job(self, context, runtime, data):
        return {'rows': [1, context.range(2)]}
