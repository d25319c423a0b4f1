"""verdicts: what exceptions tell, without Spark. The corpus on real Spark is test/spark/test_failures.py."""

import concurrent.futures
import errno
import glob
import http.client
import json
import multiprocessing
import os
import pickle
import socket
import ssl
import subprocess
import threading
import types
import urllib.error
import zipfile

import pyspark
import pytest
from py4j.clientserver import JavaClient, JavaParameters, PythonParameters
from py4j.protocol import Py4JNetworkError
from pyhocon import ConfigFactory
from pyspark.errors.error_classes import ERROR_CLASSES_MAP
from pyspark.errors.exceptions import base

from stoker_runner import failure, loading, verdicts
from stoker_runner.failure import JobError

NEVER, MAY_HELP, MORE = verdicts.NEVER, verdicts.MAY_HELP, verdicts.WITH_MORE_MEMORY


class Java:
    """A Throwable as py4j shows it."""

    def __init__(self, name, message=None, cause=None, condition=None, state=None):
        self.name, self.message, self.cause, self.condition, self.state = name, message, cause, condition, state

    def getClass(self):
        return self

    def getName(self):
        return self.name

    def getMessage(self):
        return self.message

    def getCause(self):
        return self.cause

    def getCondition(self):
        if self.condition is None:
            raise AttributeError('Method getCondition([]) does not exist')
        return self.condition

    def getSqlState(self):
        return self.state


class Py4JJavaError(Exception):
    def __init__(self, thrown):
        super().__init__()
        self.java_exception = thrown

    def __str__(self):
        return f'An error occurred while calling o1.collect.\n: {self.java_exception.name}'


class AnalysisException(Exception):
    """As pyspark's, which keep the exception of the JVM."""

    def __init__(self, thrown):
        super().__init__(thrown.message)
        self._origin = thrown


def caught(function, *arguments):
    """The exception that a call ends with, as a library's: the frame that raised it is not the job's."""
    try:
        function(*arguments)
    except BaseException as exc:
        return exc
    raise AssertionError('nothing was raised')


def verdict(exc):
    job_error = JobError('USER_EXCEPTION', None, 4, raised_by='run_job')
    job_error.__cause__ = exc
    error = failure.describe(job_error, 'run')
    return error['code'], error['retry']


SPARK = 'org.apache.spark.SparkException'
ABORTED = 'Job aborted due to stage failure: Task 0 in stage 0.0 failed 4 times, most recent failure: Lost task 0.0 '


def aborted(cause=None, text=''):
    return Py4JJavaError(Java(SPARK, ABORTED + text, cause))


def task(text, frame='File "/home/me/jobs.py", line 3, in look\n    do(n)'):
    """The exception of a task's Python, whose traceback ends with `text`."""
    return Py4JJavaError(Java(
        'org.apache.spark.api.python.PythonException',
        '[PYTHON_EXCEPTION] An exception was thrown from the Python worker: Traceback (most recent call last):\n'
        f'  File "/x/pyspark.zip/pyspark/worker.py", line 1, in main\n    process()\n  {frame}\n    ~~^^~~\n'
        f'{text}\n SQLSTATE: 38000', condition='PYTHON_EXCEPTION', state='38000'))


@pytest.mark.parametrize('exc,code,retry', [
    # Python's own, by class and errno
    (OSError(errno.ENOENT, 'x'), 'INPUT_MISSING', NEVER),
    (OSError(errno.EACCES, 'x'), 'PERMISSION_DENIED', NEVER),
    (OSError(errno.EPERM, 'x'), 'PERMISSION_DENIED', NEVER),
    (OSError(errno.EROFS, 'x'), 'PERMISSION_DENIED', NEVER),
    (OSError(errno.ENOSPC, 'x'), 'DISK_FULL', MAY_HELP),
    (OSError(errno.EDQUOT, 'x'), 'DISK_FULL', MAY_HELP),
    (OSError(errno.ENOMEM, 'x'), 'OUT_OF_MEMORY', MORE),
    (OSError(errno.EHOSTUNREACH, 'x'), 'CONNECTION_FAILED', MAY_HELP),
    (OSError(errno.EISDIR, 'x'), 'USER_EXCEPTION', NEVER),
    (OSError('No space left on device'), 'USER_EXCEPTION', NEVER),
    (ConnectionRefusedError(errno.ECONNREFUSED, 'x'), 'CONNECTION_FAILED', MAY_HELP),
    (http.client.RemoteDisconnected('x'), 'CONNECTION_FAILED', MAY_HELP),
    (socket.timeout('timed out'), 'CONNECTION_FAILED', MAY_HELP),
    (socket.gaierror(socket.EAI_NONAME, 'x'), 'CONNECTION_FAILED', MAY_HELP),
    (ssl.SSLError(1, 'x'), 'CONNECTION_FAILED', MAY_HELP),
    (ssl.SSLCertVerificationError(1, 'x'), 'CONNECTION_FAILED', NEVER),
    (TimeoutError(), 'USER_EXCEPTION', MAY_HELP),
    (MemoryError(), 'OUT_OF_MEMORY', MORE),
    (pickle.PicklingError('x'), 'SERIALIZATION_FAILED', NEVER),
    (pickle.UnpicklingError('x'), 'USER_EXCEPTION', NEVER),
    (Py4JNetworkError('Answer from Java side is empty'), 'CONTEXT_LOST', MAY_HELP),
    (ValueError('Connection reset, [Errno 2], No space left on device'), 'USER_EXCEPTION', NEVER),
    # Java's, by class, condition and state
    (Py4JJavaError(Java('java.lang.OutOfMemoryError', 'Java heap space')), 'DRIVER_OUT_OF_MEMORY', MORE),
    (Py4JJavaError(Java(SPARK, 'Not enough memory to build and broadcast', Java('java.lang.OutOfMemoryError'))),
     'DRIVER_OUT_OF_MEMORY', MORE),
    (aborted(Java('java.lang.OutOfMemoryError', 'Java heap space')), 'EXECUTOR_LOST', MORE),
    (aborted(Java('java.lang.OutOfMemoryError', 'Java heap space'), 'in stage 0.0 (TID 1) (localhost executor driver): x'),
     'DRIVER_OUT_OF_MEMORY', MORE),
    (Py4JJavaError(Java('org.apache.spark.memory.SparkOutOfMemoryError', 'x', condition='UNABLE_TO_ACQUIRE_MEMORY')),
     'SPARK_TASK_FAILED', MORE),
    (aborted(Java('java.lang.ArithmeticException', 'x')), 'SPARK_TASK_FAILED', NEVER),
    (aborted(text='ExecutorLostFailure (executor 1 exited unrelated to the running tasks) Reason: gone'),
     'EXECUTOR_LOST', MAY_HELP),
    (aborted(text='ExecutorLostFailure (executor 1 exited) Reason: Command exited with code 52'), 'EXECUTOR_LOST', MORE),
    (aborted(text='ExecutorLostFailure (executor 1 exited) Reason: Command exited with code 137'),
     'EXECUTOR_LOST', MORE),
    (aborted(text='ExecutorLostFailure (executor 1 exited) Reason: Command exited with code 1'),
     'EXECUTOR_LOST', MAY_HELP),
    (aborted(Java('org.apache.spark.shuffle.FetchFailedException', 'x', Java('java.net.ConnectException'))),
     'EXECUTOR_LOST', MAY_HELP),
    (aborted(Java(SPARK, 'Python worker exited unexpectedly (crashed)', Java('java.net.SocketException', 'reset'))),
     'EXECUTOR_LOST', MAY_HELP),
    (Py4JJavaError(Java('java.io.IOException', 'a.B: No space left on device')), 'DISK_FULL', MAY_HELP),
    (aborted(Java('java.nio.file.FileSystemException', '/x: No space left on device')), 'DISK_FULL', MAY_HELP),
    (Py4JJavaError(Java('java.io.FileNotFoundException', '/x (Permission denied)')), 'PERMISSION_DENIED', NEVER),
    (Py4JJavaError(Java('java.io.FileNotFoundException', '/x (No such file or directory)')), 'INPUT_MISSING', NEVER),
    (Py4JJavaError(Java('org.apache.hadoop.security.AccessControlException', 'x')), 'PERMISSION_DENIED', NEVER),
    (Py4JJavaError(Java('java.lang.RuntimeException', 'x', Java('java.net.UnknownHostException', 'h'))),
     'CONNECTION_FAILED', MAY_HELP),
    (Py4JJavaError(Java(SPARK, 'Could not execute broadcast in 300 secs', Java('java.util.concurrent.TimeoutException'),
                        condition='_LEGACY_ERROR_TEMP_2097')), 'SPARK_TASK_FAILED', MAY_HELP),
    (Py4JJavaError(Java(SPARK, 'Task not serializable', Java('java.io.NotSerializableException', 'a.B'))),
     'SERIALIZATION_FAILED', NEVER),
    (Py4JJavaError(Java('java.lang.IllegalStateException', 'Cannot call methods on a stopped SparkContext.')),
     'CONTEXT_STOPPED', MAY_HELP),
    (aborted(Java('java.io.IOException', 'Cannot run program "/opt/python3.9": error=2', Java('java.io.IOException'))),
     'PYTHON_MISMATCH', NEVER),
    (Py4JJavaError(Java('java.io.IOException', 'Cannot run program "git": error=2')), 'USER_EXCEPTION', NEVER),
    (Py4JJavaError(Java('java.lang.IllegalArgumentException', 'x')), 'USER_EXCEPTION', NEVER),
    (AnalysisException(Java('org.apache.spark.sql.AnalysisException', 'x', condition='PATH_NOT_FOUND',
                            state='42K03')), 'INPUT_MISSING', NEVER),
    (AnalysisException(Java('org.apache.spark.sql.AnalysisException', 'x', condition='UNRESOLVED_COLUMN.WITH_SUGGESTION',
                            state='42703')), 'SPARK_ANALYSIS', NEVER),
    (AnalysisException(Java('org.apache.spark.sql.AnalysisException', 'x', Java('java.net.ConnectException'))),
     'CONNECTION_FAILED', MAY_HELP),
    (AnalysisException(Java('org.apache.spark.sql.catalyst.parser.ParseException', 'x', condition='A', state='0A000')),
     'SPARK_PARSE', NEVER),
    (Py4JJavaError(Java('org.apache.spark.SparkUnsupportedOperationException', 'x', condition='A', state='0A000')),
     'SPARK_ANALYSIS', NEVER),
    (Py4JJavaError(Java('org.apache.spark.SparkArithmeticException', 'x', condition='DIVIDE_BY_ZERO', state='22012')),
     'SPARK_TASK_FAILED', NEVER),
    (Py4JJavaError(Java('org.apache.spark.SparkIllegalArgumentException', 'x',
                        condition='INVALID_CONF_VALUE.TYPE_MISMATCH', state='22022')), 'CONFIG_INVALID', NEVER),
    # a text that looks like one of Java decides nothing
    (Py4JJavaError(Java('java.lang.RuntimeException', 'Caused by: java.lang.OutOfMemoryError: Java heap space')),
     'USER_EXCEPTION', NEVER),
    # Python of tasks, as their traceback tells
    (task('ZeroDivisionError: by zero'), 'SPARK_TASK_FAILED', NEVER),
    (task('MemoryError'), 'OUT_OF_MEMORY', MORE),
    (task("FileNotFoundError: [Errno 2] No such file or directory: '/x'"), 'INPUT_MISSING', NEVER),
    (task('FileNotFoundError: no customers'), 'SPARK_TASK_FAILED', NEVER),
    (task('MemoryError', 'File "/home/me/jobs.py", line 3, in look\n    raise MemoryError'), 'SPARK_TASK_FAILED', NEVER),
    (task('ConnectionResetError: [Errno 104] Connection reset by peer'), 'CONNECTION_FAILED', MAY_HELP),
    (task('BrokenPipeError: [Errno 32] Broken pipe'), 'SPARK_TASK_FAILED', NEVER),
    (task('BrokenPipeError: [Errno 32] Broken pipe', 'File "/usr/lib/python3.11/socket.py", line 3, in write\n    do(n)'),
     'CONNECTION_FAILED', MAY_HELP),
    (task('ValueError: java.net.ConnectException'), 'SPARK_TASK_FAILED', NEVER),
    (task("_pickle.PicklingError: Can't pickle x"), 'SERIALIZATION_FAILED', NEVER),
    (task("TypeError: cannot pickle 'generator' object"), 'SERIALIZATION_FAILED', NEVER),
    (task('pyspark.errors.exceptions.base.PySparkRuntimeError: [PYTHON_VERSION_MISMATCH] Python in worker',
          'File "/x/pyspark.zip/pyspark/worker_util.py", line 3, in check\n    raise PySparkRuntimeError('),
     'PYTHON_MISMATCH', NEVER),
    (task('mod.Error: several\nlines: of text'), 'SPARK_TASK_FAILED', NEVER),
    (task('  not a line that Python prints'), 'SPARK_TASK_FAILED', NEVER),
])
def test_what_an_exception_tells(exc, code, retry):
    assert verdict(exc) == (code, retry)


@pytest.mark.parametrize('cause,code', [
    (caught(open, '/nowhere/x'), 'INPUT_MISSING'),
    (caught(pickle.dumps, threading.Lock()), 'SERIALIZATION_FAILED'),
    (caught(bytearray, 1 << 60), 'OUT_OF_MEMORY'),
    (caught(ConfigFactory.from_dict({}).get_string, 'a.b'), 'CONFIG_INVALID'),
])
def test_what_really_raised_exceptions_tell(cause, code):
    assert verdict(cause)[0] == code


class Client:
    """As of a library: its method fails, and the socket is an attribute."""

    def __init__(self, sock):
        self.sock = sock

    def send(self):
        self.sock.sendall(b'x')


def broken(way):
    """The exception of a write to somebody who has gone."""
    here, there = socket.socketpair()
    there.close()
    with here:
        if way == 'socket':
            return caught(lambda sock: sock.sendall(b'x'), here)
        if way == 'attribute':
            return caught(Client(here).send)
        if way == 'file':
            return caught(here.makefile('wb', buffering=0).write, b'x')
        connection = http.client.HTTPConnection('localhost')
        connection.sock = here
        return caught(connection.request, 'POST', '/', 'x')


@pytest.mark.parametrize('way', ['socket', 'attribute', 'file', 'http'])
def test_a_socket_whose_peer_has_gone_is_a_connection(way):
    assert verdict(broken(way)) == ('CONNECTION_FAILED', MAY_HELP)


@pytest.mark.parametrize('way', ['stdin', 'pipe', 'multiprocessing'])
def test_a_child_of_the_job_that_does_not_read_is_the_jobs_own_business(way):
    with subprocess.Popen(['true'], stdin=subprocess.PIPE, bufsize=0) as child:
        child.wait()
        if way == 'stdin':
            exc = caught(lambda: child.stdin.write(b'x'))
        elif way == 'pipe':
            exc = caught(os.write, child.stdin.fileno(), b'x')
        else:
            reader, writer = multiprocessing.Pipe(duplex=False)
            reader.close()
            exc = caught(writer.send, 'x')
            writer.close()
    assert isinstance(exc, BrokenPipeError)
    assert verdict(exc) == ('USER_EXCEPTION', NEVER)


# `raise` in the job's own code

def raised(function):
    return caught(function)


def test_what_the_job_raises_itself_is_its_own():
    def by_hand(exc):
        def raising():
            raise exc
        return raising
    for exc in (MemoryError(), FileNotFoundError(errno.ENOENT, 'x'), pickle.PicklingError('x'), OSError(errno.ENOSPC, 'x')):
        assert verdict(raised(by_hand(exc))) == ('USER_EXCEPTION', NEVER)
    assert verdict(raised(by_hand(ConnectionError('the shop is closed')))) == ('USER_EXCEPTION', MAY_HELP)


def test_what_the_job_has_handled_does_not_count():
    def handled():
        try:
            open('/nowhere/x')
        except OSError:
            raise ValueError('no input')
    assert verdict(raised(handled)) == ('USER_EXCEPTION', NEVER)


def test_a_cause_that_the_job_names_counts():
    def named():
        try:
            open('/nowhere/x')
        except OSError as e:
            raise ValueError('no input') from e
    assert verdict(raised(named)) == ('INPUT_MISSING', NEVER)


def test_a_failure_that_is_raised_again_stays_what_it_is():
    def again():
        try:
            open('/nowhere/x')
        except OSError:
            raise
    assert verdict(raised(again)) == ('INPUT_MISSING', NEVER)

    def later():
        try:
            open('/nowhere/x')
        except OSError as e:
            kept = e
        raise kept
    assert verdict(raised(later)) == ('INPUT_MISSING', NEVER)


def test_what_a_library_was_handling_counts():
    inner = ConnectionRefusedError(errno.ECONNREFUSED, 'x')
    outer = urllib.error.URLError(inner)
    outer.__context__ = inner
    assert verdict(outer) == ('CONNECTION_FAILED', MAY_HELP)
    outer.__suppress_context__ = True
    assert verdict(outer) == ('USER_EXCEPTION', NEVER)


def test_members_of_a_group_count():
    group = pytest.importorskip('builtins').ExceptionGroup
    assert verdict(group('several', [ValueError(), OSError(errno.ENOSPC, 'x')])) == ('DISK_FULL', MAY_HELP)


def test_an_exception_out_of_a_pool_of_threads():
    with concurrent.futures.ThreadPoolExecutor() as pool:
        exc = caught(pool.submit(open, '/nowhere/x').result)
    assert verdict(exc) == ('INPUT_MISSING', NEVER)


def test_chains_without_an_end_come_to_one():
    first, second = ValueError(), ValueError()
    first.__cause__, second.__cause__ = second, first
    assert verdict(first) == ('USER_EXCEPTION', NEVER)
    thrown = Java('a.B')
    thrown.cause = thrown
    assert verdict(Py4JJavaError(thrown)) == ('USER_EXCEPTION', NEVER)


def test_a_jvm_that_does_not_answer_is_done_without():
    class Silent(Java):
        def getClass(self):
            raise Py4JNetworkError('gone')
    assert verdict(Py4JJavaError(Silent('a.B'))) == ('USER_EXCEPTION', NEVER)
    for kind, code in ((base.ParseException, 'SPARK_PARSE'), (base.AnalysisException, 'SPARK_ANALYSIS')):
        exc = kind('x')
        exc._origin = Silent('a.B')
        assert verdict(exc) == (code, NEVER)


def test_spark_knows_the_conditions_of_the_table():
    jars = os.path.join(os.path.dirname(pyspark.__file__), 'jars', 'spark-common-utils_*.jar')
    with zipfile.ZipFile(glob.glob(jars)[0]) as jar:
        known = json.loads(jar.read('error/error-conditions.json'))
    for name in {*verdicts._CONDITIONS, *verdicts._CONDITIONS_OF_MEMORY}:
        first, _, second = name.partition('.')
        assert first in known and (not second or second in known[first]['subClass']), name
    for name in verdicts._PYTHON_CONDITIONS:
        assert name in ERROR_CLASSES_MAP, name


def test_a_jvm_that_does_not_listen_any_more_is_no_connection_of_the_job():
    client = JavaClient(JavaParameters(port=1), PythonParameters(port=0), types.SimpleNamespace(pool=None))
    assert verdict(caught(client._create_new_connection)) == ('CONTEXT_LOST', MAY_HELP)


# the phases

@pytest.mark.parametrize('phase,code', [('load', 'DISK_FULL'), ('result', 'DISK_FULL'), ('validate', 'DISK_FULL'),
                                        ('run', 'DISK_FULL'), ('attach', 'CONTEXT_FAILED'), ('start', 'CONTEXT_FAILED')])
def test_the_verdict_holds_in_all_phases_but_those_of_the_context(phase, code):
    error = failure.describe(OSError(errno.ENOSPC, 'x'), phase)
    assert (error['code'], error['retry']) == (code, MAY_HELP)
    assert failure.describe(ValueError(), phase)['code'] == failure.PHASES[phase][0]


def test_what_says_its_own_code_keeps_it(binaries):
    binaries({'away.py': 'import socket\nsocket.create_connection(("127.0.0.1", 1))\n',
              'made.py': 'class Job:\n    def __init__(self):\n        open("/nowhere/x")\n'})
    error = failure.describe(caught(loading.find_class, 'away.Job'), 'load')
    assert (error['code'], error['retry'], error['raised_by']) == ('IMPORT_FAILED', MAY_HELP, None)
    error = failure.describe(caught(loading.load_job, 'made.Job'), 'load')
    assert (error['code'], error['raised_by'], error['exit_code']) == ('INPUT_MISSING', 'constructor', 1)
    assert (error['file'], error['line']) == ('made.py', 3)
