"""Jobs that do things to their process or take their time. In any context unless said otherwise."""

import os
import sys
import threading
import time

from sparkjobserver.api import SparkJob


class Job(SparkJob):
    """Base: the config is the data."""

    def validate(self, context, runtime, config):
        return config


class Nothing(Job):
    """Does nothing. No config. Result: null."""

    def run_job(self, context, runtime, data):
        return None


class Echo(Job):
    """Result: {"config": the job's config, "context": the context's settings, "job": the job's id}."""

    def run_job(self, context, runtime, data):
        return {'config': data, 'context': runtime.contextConfig, 'job': runtime.jobId}


class Big(Job):
    """Result: a list of `rows` strings of `size` characters. Config: rows, size."""

    def run_job(self, context, runtime, data):
        return ['x' * data['size']] * data['rows']


class Prints(Job):
    """Prints "out N" to stdout and "err N" to stderr for N in range(lines), from Python and from a child process.

    Config: lines. Result: null."""

    def run_job(self, context, runtime, data):
        for number in range(data['lines']):
            print('out', number)
            print('err', number, file=sys.stderr)
        sys.stdout.flush()
        os.system('echo child out; echo child err >&2')


class Pid(Job):
    """Result: the id of its process, which tells whether two jobs had the same worker."""

    def run_job(self, context, runtime, data):
        return os.getpid()


class Sleeps(Job):
    """Sleeps in Python. Config: seconds. Result: "slept"."""

    def run_job(self, context, runtime, data):
        time.sleep(data['seconds'])
        return 'slept'


class Swallows(Job):
    """Sleeps and ignores every KeyboardInterrupt: only a kill ends it early. Config: seconds. Result: "slept"."""

    def run_job(self, context, runtime, data):
        end = time.monotonic() + data['seconds']
        while time.monotonic() < end:
            try:
                time.sleep(end - time.monotonic())
            except KeyboardInterrupt:
                print('not me', file=sys.stderr)
        return 'slept'


class TasksSleep(Job):
    """In a SparkSession: two Spark tasks that sleep on the executors. Config: seconds. Result: 2."""

    def run_job(self, context, runtime, data):
        seconds = data['seconds']
        return context.sparkContext.parallelize(range(2), 2).map(lambda n: time.sleep(seconds)).count()


class Appends(Job):
    """Appends the line "JOB PID" to a file in one write, then sleeps: each attempt leaves one line.

    Config: file; seconds (0 unless given). Result: the job's id."""

    def run_job(self, context, runtime, data):
        descriptor = os.open(data['file'], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.write(descriptor, f'{runtime.jobId} {os.getpid()}\n'.encode())
        os.close(descriptor)
        time.sleep(data.get('seconds', 0))
        return runtime.jobId


class ClosesDescriptors(Job):
    """Closes every descriptor from 3 up, the runner's and py4j's with them. Result: "closed"."""

    def run_job(self, context, runtime, data):
        os.closerange(3, 65536)
        return 'closed'


class LeavesThread(Job):
    """Leaves a thread running. Config: seconds, how long. Result: "left"."""

    def run_job(self, context, runtime, data):
        threading.Thread(target=time.sleep, args=(data['seconds'],), name='left-behind', daemon=True).start()
        return 'left'


class LeavesChild(Job):
    """Leaves a child process running in a session of its own. Config: seconds. Result: its process id."""

    def run_job(self, context, runtime, data):
        import subprocess
        return subprocess.Popen(['sleep', str(data['seconds'])], start_new_session=True).pid


class ChangesProcess(Job):
    """Changes working directory, environment, sys.path, umask. Result: what they were before, to compare two runs."""

    def run_job(self, context, runtime, data):
        before = [os.getcwd(), os.environ.get('STOKER_LEFT'), '/left' in sys.path, os.umask(0)]
        os.chdir('/')
        os.environ['STOKER_LEFT'] = 'left'
        sys.path.append('/left')
        return before
