"""failure: the error object of every kind of exception a job can end with."""

import json
import sys

import pytest
from py4j.protocol import Py4JNetworkError

from stoker_runner import failure, loading, sets
from stoker_runner.failure import JobError

JAVA = '''org.apache.spark.SparkException: Job aborted due to stage failure: Task 0 in stage 0.0 failed 1 times
Lost task 0.0 in stage 0.0 (TID 0): java.lang.IllegalStateException: low

Driver stacktrace:
\tat org.apache.spark.scheduler.DAGScheduler.abortStage(DAGScheduler.scala:1)
Caused by: java.lang.RuntimeException: middle
\tat a.B.c(B.java:1)
\tSuppressed: java.lang.Exception: beside
\t\tat a.B.d(B.java:2)
Caused by: java.lang.IllegalStateException: low
second line
\tat a.B.e(B.java:3)
\t... 12 more
'''


class Py4JJavaError(Exception):
    """As py4j's: its text comes from the JVM, which is asked each time."""

    def __init__(self, answer, errmsg='An error occurred while calling o1.collect.\n'):
        super().__init__()
        self.errmsg = errmsg
        self.answer = answer
        self.asked = 0

    def __str__(self):
        self.asked += 1
        if self.answer is None:
            raise Py4JNetworkError('gone')
        return f'{self.errmsg}: {self.answer}'


class Captured(Exception):
    """As pyspark's CapturedException, with the stack trace that is shown when the debug setting is on."""

    def __init__(self, stack, desc='[TABLE_OR_VIEW_NOT_FOUND] The table'):
        super().__init__()
        self._desc = desc
        self._stackTrace = stack

    def __str__(self):
        return f'{self._desc}\n\nJVM stacktrace:\n{self._stackTrace}'


def described(exc, phase='run'):
    return failure.describe(exc, phase)


def failing_job(binaries, *body):
    """Returns the error object of a job whose run_job has the lines `body`; it is in jobs/failing.py from line 4 on."""
    lines = ['class Job:', '    def validate(self, *_): pass', '    def run_job(self, *_):']
    lines += ['        ' + line for line in body]
    binaries({'jobs/__init__.py': '', 'jobs/failing.py': '\n'.join(lines) + '\n',
              'jobs/helper.py': 'def low(x):\n    return helper_name\n'})
    job = loading.load_job('jobs.failing.Job')
    with pytest.raises(JobError) as caught:
        loading.run_class_job(job, None, lambda: None, '{}')
    return described(caught.value)


def test_every_field_of_a_plain_failure(binaries):
    assert failing_job(binaries, "raise ValueError('Deliberate failure')") == {
        'code': 'USER_EXCEPTION', 'message': 'Deliberate failure', 'class': 'ValueError', 'exit_code': 4,
        'raised_by': 'run_job', 'retry': 'never', 'file': 'jobs/failing.py', 'line': 4,
        'source': "raise ValueError('Deliberate failure')", 'cause': None,
        'traceback': 'Traceback (most recent call last):\n'
                     '  File "jobs/failing.py", line 4, in run_job\n'
                     "    raise ValueError('Deliberate failure')\n"
                     'ValueError: Deliberate failure'}


def test_the_line_is_the_users_innermost_not_the_librarys(binaries):
    error = failing_job(binaries, 'import json', "json.loads('{')")
    assert (error['class'], error['line'], error['source']) == ('json.decoder.JSONDecodeError', 5, "json.loads('{')")
    assert 'json/decoder.py' in error['traceback']
    assert 'loading.py' not in error['traceback'] and 'test_failure.py' not in error['traceback'].split('json')[0]


def test_the_line_may_be_in_another_module_of_the_binary(binaries):
    error = failing_job(binaries, 'from jobs import helper', 'list(map(helper.low, [1]))')
    assert (error['file'], error['line'], error['source']) == ('jobs/helper.py', 2, 'return helper_name')
    assert error['message'] == "name 'helper_name' is not defined"


def test_chained_exceptions_are_all_in_the_traceback(binaries):
    error = failing_job(binaries, 'try:', "    {}['x']", 'except KeyError as e:', "    raise OSError('outer') from e")
    assert (error['class'], error['line']) == ('OSError', 7)
    assert 'direct cause' in error['traceback'] and "KeyError: 'x'" in error['traceback']


def test_suppressed_exceptions_are_not_in_the_traceback(binaries):
    error = failing_job(binaries, 'try:', "    {}['x']", 'except KeyError:', "    raise OSError('outer') from None")
    assert error['traceback'] == ('Traceback (most recent call last):\n'
                                  '  File "jobs/failing.py", line 7, in run_job\n'
                                  "    raise OSError('outer') from None\n"
                                  'OSError: outer')


def test_syntax_error_in_evaluated_text_points_at_the_call(binaries):
    error = failing_job(binaries, "eval('1 +')")
    assert (error['class'], error['file'], error['line'], error['source']) == (
        'SyntaxError', 'jobs/failing.py', 4, "eval('1 +')")


def test_recursion_error(binaries):
    error = failing_job(binaries, 'self.run_job()')
    assert (error['class'], error['line']) == ('RecursionError', 4)
    assert error['message'].startswith('maximum recursion depth exceeded')
    assert 'Previous line repeated' in error['traceback'] and len(error['traceback']) < 2000


def test_code_outside_the_binaries_is_named_by_its_path():
    try:
        raise ValueError('here')
    except ValueError as exc:
        error = described(exc)
    assert error['file'] == __file__ and error['source'] == "raise ValueError('here')"


def test_an_exception_that_was_never_raised():
    error = described(ValueError('x'))
    assert (error['traceback'], error['file'], error['line'], error['source']) == ('ValueError: x', None, None, None)


@pytest.mark.parametrize('phase,code,exit_code', [
    ('load', 'IMPORT_FAILED', 1), ('validate', 'VALIDATE_EXCEPTION', 3), ('run', 'USER_EXCEPTION', 4),
    ('result', 'RESULT_NOT_JSON', 1), ('attach', 'CONTEXT_FAILED', None), ('start', 'CONTEXT_FAILED', None),
    ('unknown', 'USER_EXCEPTION', 4)])
def test_the_phase_decides_unless_the_error_says_itself(phase, code, exit_code):
    error = described(ValueError(), phase)
    assert (error['code'], error['exit_code'], error['message']) == (code, exit_code, 'ValueError')
    error = described(JobError('RESULT_TOO_LARGE', 'long', 1), phase)
    assert (error['code'], error['exit_code'], error['message']) == ('RESULT_TOO_LARGE', 1, 'long')
    assert error['class'] is None


def test_interrupt_and_exit():
    error = described(KeyboardInterrupt())
    assert (error['code'], error['message'], error['exit_code']) == ('KILLED', 'the job was interrupted', None)
    error = described(SystemExit(5))
    assert (error['code'], error['message'], error['exit_code']) == ('EXITED', 'the job called sys.exit(5)', 5)
    assert (error['class'], error['exit_status']) == ('SystemExit', 5)


def test_validation_problems():
    error = failure.invalid(['a', 'b'])
    assert (error['code'], error['message'], error['problems'], error['exit_code']) == (
        'VALIDATION_FAILED', 'a; b', ['a', 'b'], 1)
    many = failure.invalid(['\x01' * 5000] * 500)
    assert many['problems'][-1] == '... and 400 more' or len(many['problems']) < 101
    assert len(json.dumps(many)) < 256 * 1024


def test_str_that_raises():
    class Broken(Exception):
        def __str__(self):
            raise RuntimeError('no')

    error = described(Broken())
    assert error['class'].endswith('Broken') and error['message'] == '<exception str() failed>'
    assert failure.text_of(Broken()).endswith(': <str() of '
                                              'test_str_that_raises.<locals>.Broken raised RuntimeError>')


def test_an_exception_that_cannot_be_looked_at():
    class Broken(Exception):
        @property
        def __cause__(self):
            raise RuntimeError('no')

    error = described(Broken())
    assert error['code'] == 'USER_EXCEPTION' and 'Broken' in error['message']


@pytest.mark.skipif(sys.version_info < (3, 11), reason='no exception groups')
def test_exception_group(binaries):
    error = failing_job(binaries, 'found = []', 'try:', "    int('x')", 'except ValueError as e:',
                        '    found.append(e)',
                        "raise ExceptionGroup('several', found)")
    assert (error['class'], error['message'], error['line']) == ('ExceptionGroup', 'several (1 sub-exception)', 9)
    assert "ValueError: invalid literal for int() with base 10: 'x'" in error['traceback']
    assert 'loading.py' not in error['traceback']


def test_text_is_valid_utf8_without_nul():
    error = described(ValueError('a\ud800b\0c'))
    assert error['message'] == 'a\\ud800b\\x00c'
    json.dumps(error, ensure_ascii=False).encode()


def test_long_texts_are_cut_in_the_middle():
    error = described(ValueError('a' * 5000 + 'b' * 100000 + 'c' * 5000))
    assert error['message'] == 'a' * 4096 + '\n... [101808 characters cut] ...\n' + 'c' * 4096
    assert error['traceback'].endswith('c') and 'characters cut' in error['traceback']


@pytest.mark.parametrize('text', ['\x01', '\U0001f600', '\ud800', 'é'])
def test_the_object_has_a_limit_whatever_the_characters(text):
    exc = Captured('x: ' + text * 300000, text * 300000)
    error = described(exc)
    assert len(json.dumps(error)) + 2 * 6 * 4096 <= 256 * 1024
    assert error['code'] == 'USER_EXCEPTION' and error['message'] and error['traceback'] and error['cause']


# Java

def test_java_error():
    exc = Py4JJavaError(JAVA)
    error = described(exc)
    assert error['cause'] == 'java.lang.IllegalStateException: low\nsecond line'
    assert error['message'] == (
        'An error occurred while calling o1.collect. org.apache.spark.SparkException: '
        'Job aborted due to stage failure: '
        'Task 0 in stage 0.0 failed 1 times\nLost task 0.0 in stage 0.0 (TID 0): java.lang.IllegalStateException: low')
    assert 'DAGScheduler.scala' in error['traceback']
    assert error['retry'] == 'never'
    assert exc.asked == 1


def test_java_error_without_a_cause_is_its_own():
    assert described(Py4JJavaError('java.lang.X: a\nb\n\tat y\n'))['cause'] == 'java.lang.X: a\nb'


def test_java_error_under_a_python_one():
    try:
        try:
            raise Py4JJavaError(JAVA)
        except Py4JJavaError:
            raise ValueError('mine')
    except ValueError as exc:
        error = described(exc)
    assert (error['message'], error['cause']) == ('mine', 'java.lang.IllegalStateException: low\nsecond line')


def test_java_error_of_a_dead_jvm():
    error = described(Py4JJavaError(None))
    assert error['message'] == ('An error occurred while calling o1.collect. '
                                '(the JVM did not answer when it was asked for details)')
    assert error['cause'] is None


def test_captured_exception():
    error = described(Captured('org.apache.spark.sql.AnalysisException: [T] The table\n\tat x\n'))
    assert error['message'] == '[TABLE_OR_VIEW_NOT_FOUND] The table'
    assert error['cause'] == 'org.apache.spark.sql.AnalysisException: [T] The table'
    assert described(Captured('a.B: x\n\tat y\nCaused by: c.D: z\n\tat y'))['cause'] == 'c.D: z'


@pytest.mark.parametrize('kind', [Py4JJavaError, Captured])
def test_exception_of_python_on_an_executor(binaries, kind):
    folder, = binaries({'jobs.py': ''})
    trace = ('An exception was thrown from the Python worker:\nTraceback (most recent call last):\n'
             '  File "/lib/pyspark.zip/pyspark/worker.py", line 4327, in invoke_udf\n    run_process()\n'
             f'  File "{folder}/jobs.py", line 9, in <lambda>\n    1 // n\n    ~~^^~~\n'
             '  File "/lib/numpy/core.py", line 5, in div\nZeroDivisionError: by zero\n SQLSTATE: 38000')
    exc = kind(trace + '\n\tat x\n') if kind is Py4JJavaError else Captured('a.B: ' + trace + '\n\tat x', trace)
    error = described(exc)
    assert error['message'].endswith(
        'An exception was thrown from the Python worker: ZeroDivisionError: by zero\n SQLSTATE: 38000')
    assert (error['file'], error['line'], error['source']) == ('jobs.py', 9, '1 // n')
    assert error['cause'].endswith(trace)


@pytest.mark.parametrize('folder', ['./', '/executor/app-1/0/'])
def test_a_file_that_was_shipped_to_an_executor_is_named_as_in_its_binary(folder):
    name = folder + sets.file_name(64 * 'a', 'w-00000001.2')
    trace = f'Traceback (most recent call last):\n  File "{name}/jobs/low.py", line 9, in half\n    1 // n\nValueError: x'
    error = described(Py4JJavaError(trace))
    assert (error['file'], error['line'], error['source']) == ('jobs/low.py', 9, '1 // n')


def test_real_pyspark_exceptions():
    from pyspark.errors import PySparkTypeError
    error = described(PySparkTypeError('no such type'))
    assert (error['class'], error['message'], error['cause']) == (
        'pyspark.errors.exceptions.base.PySparkTypeError', 'no such type', None)


@pytest.mark.parametrize('value', [None, ['text'], len, 3])
def test_an_attribute_named_exceptions_is_no_group(value):
    class BatchError(Exception):
        exceptions = value
    error = failure.describe(BatchError('why'), 'run')
    assert (error['message'], error['code']) == ('why', 'USER_EXCEPTION')
