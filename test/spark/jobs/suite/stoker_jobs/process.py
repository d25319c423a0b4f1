"""Jobs that do things to their process or take their time. In any context unless said otherwise."""

import os
import sys
import threading
import time

from sparkjobserver.api import SparkJob


def append(path, text):
    """Appends text to a file, which it makes, in one write."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.write(descriptor, text.encode())
    os.close(descriptor)


def wait_for(path, beat=None):
    """Returns when the file `path` exists. Adds a byte to the file `beat` meanwhile, every 50 ms."""
    while not os.path.exists(path):
        if beat is not None:
            append(beat, '.')
        time.sleep(0.05)


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


class PrintsForever(Job):
    """Prints until it is ended. Config: catch, true to go on after a KeyboardInterrupt."""

    def run_job(self, context, runtime, data):
        while True:
            try:
                while True:
                    print('x' * 1000)
            except KeyboardInterrupt:
                if not data['catch']:
                    raise


class Pid(Job):
    """Result: the id of its process, which tells whether two jobs had the same worker."""

    def run_job(self, context, runtime, data):
        return os.getpid()


class Sleeps(Job):
    """Makes the file `on`, then sleeps in Python. Config: on, seconds. Result: "slept"."""

    def run_job(self, context, runtime, data):
        append(data['on'], '')
        time.sleep(data['seconds'])
        return 'slept'


class Swallows(Job):
    """Sleeps too, and ignores every KeyboardInterrupt: only a kill ends it early. `on` has its process id.

    Config: on, seconds. Result: "slept"."""

    def run_job(self, context, runtime, data):
        end = time.monotonic() + data['seconds']
        append(data['on'], str(os.getpid()))
        while time.monotonic() < end:
            try:
                time.sleep(end - time.monotonic())
            except KeyboardInterrupt:
                print('not me', file=sys.stderr)
        return 'slept'


class Appends(Job):
    """Appends the line "JOB PID" to a file in one write: each attempt leaves one line. Then waits for a file.

    Config: file; go, the file to wait for (none unless given). Result: the job's id."""

    def run_job(self, context, runtime, data):
        append(data['file'], f'{runtime.jobId} {os.getpid()}\n')
        self.work(context, data)
        return runtime.jobId

    def work(self, context, data):
        """What the job does after its line."""
        if 'go' in data:
            wait_for(data['go'])


class AppendsInTasks(Appends):
    """In a SparkSession: the same, but two Spark tasks wait, each with a byte to the file `beat` every 50 ms.

    Config: file, go, beat. Result: the job's id."""

    def work(self, context, data):
        go, beat = data['go'], data['beat']
        spark = getattr(context, 'sparkContext', context)
        if spark.parallelize(range(2), 2).map(lambda n: wait_for(go, beat)).count() != 2:
            raise ValueError('a task is missing')


class Waits(Job):
    """Makes the file `on`, then waits for the file `go`. Result: its process id."""

    def run_job(self, context, runtime, data):
        append(data['on'], '')
        wait_for(data['go'])
        return os.getpid()


class Counts(Job):
    """Waits as Waits does, then has Spark sum up n numbers. Config: on, go, n. Result: the sum."""

    def run_job(self, context, runtime, data):
        append(data['on'], '')
        wait_for(data['go'])
        spark = getattr(context, 'sparkContext', context)
        return spark.parallelize(range(data['n']), 2).map(lambda n: n).sum()


class ClosesDescriptors(Job):
    """Closes every descriptor from 3 up, the runner's and py4j's with them. Result: "closed"."""

    def run_job(self, context, runtime, data):
        os.closerange(3, 65536)
        return 'closed'


class LeavesThread(Job):
    """Leaves a thread running. Config: seconds, how long. Result: its process id."""

    def run_job(self, context, runtime, data):
        threading.Thread(target=time.sleep, args=(data['seconds'],), name='left-behind', daemon=True).start()
        return os.getpid()


class LeavesChild(Job):
    """Leaves a child process running in a session of its own. Config: seconds. Result: its process id."""

    def run_job(self, context, runtime, data):
        import subprocess
        return subprocess.Popen(['sleep', str(data['seconds'])], start_new_session=True).pid


class ChangesProcess(Job):
    """Changes working directory, environment, sys.path, umask.

    Result: {"pid": its process id, "before": what they were}."""

    def run_job(self, context, runtime, data):
        before = [os.getcwd(), os.environ.get('STOKER_LEFT'), '/left' in sys.path, os.umask(0)]
        os.chdir('/')
        os.environ['STOKER_LEFT'] = 'left'
        sys.path.append('/left')
        return {'pid': os.getpid(), 'before': before}
