"""What an exception of a job tells: the code of its failure, and whether doing the same again can help.

The codes are for the user, so they say what is to be done about a failure, not where it was noticed: a file that is
not there is INPUT_MISSING when Spark, the job's own process or a task looks for it. docs/errors.md has them all.

The rule is that an exception which the job's own code raised, with a `raise` of its own, is the job's business and
stays USER_EXCEPTION (SPARK_TASK_FAILED in a task) whatever its class, unless it names another one as its cause
(`raise ... from e`). Everything else is judged by facts: class, Spark's error condition, SQLSTATE, errno; by texts, of
two tables, only where there is nothing else. An exception that was being handled when a library raised its own counts
too; one that the job's own code was handling does not, since the job knew about it.

Asks the JVM about exceptions of Java, a few calls for each; one that does not answer is done without.
"""
import builtins
import dis
import errno
import re
import socket
from typing import NamedTuple, Optional

NEVER, MAY_HELP, WITH_MORE_MEMORY = 'never', 'may-help', 'with-more-memory'


class Verdict(NamedTuple):
    """code: None when nothing but the phase tells it."""
    code: Optional[str]
    retry: str


_RETRY = {
    'EXITED': NEVER, 'KILLED': NEVER, 'OUT_OF_MEMORY': WITH_MORE_MEMORY, 'DRIVER_OUT_OF_MEMORY': WITH_MORE_MEMORY,
    'EXECUTOR_LOST': MAY_HELP, 'CONNECTION_FAILED': MAY_HELP, 'DISK_FULL': MAY_HELP, 'CONTEXT_LOST': MAY_HELP,
    'CONTEXT_STOPPED': MAY_HELP,
}

_ERRNO = {
    **dict.fromkeys((errno.ENOENT,), 'INPUT_MISSING'),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), 'PERMISSION_DENIED'),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), 'DISK_FULL'),
    **dict.fromkeys((errno.ENOMEM,), 'OUT_OF_MEMORY'),
    **dict.fromkeys((errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE, errno.ETIMEDOUT,
                     errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENETUNREACH, errno.ENETDOWN, errno.ENETRESET,
                     errno.ENOTCONN), 'CONNECTION_FAILED'),
}

# By the name of a class in the line of descent, with its module unless it is builtin.
_PYTHON = {
    'MemoryError': 'OUT_OF_MEMORY',
    '_pickle.PicklingError': 'SERIALIZATION_FAILED',
    'py4j.protocol.Py4JNetworkError': 'CONTEXT_LOST',
    'pyhocon.exceptions.ConfigException': 'CONFIG_INVALID',
    'pyspark.errors.exceptions.base.ParseException': 'SPARK_PARSE',
    'pyspark.errors.exceptions.base.AnalysisException': 'SPARK_ANALYSIS',
    'socket.gaierror': 'CONNECTION_FAILED',
    'ssl.SSLError': 'CONNECTION_FAILED',
    'ConnectionError': 'CONNECTION_FAILED',
}

# Of PySpark's own exceptions.
_PYTHON_CONDITIONS = {
    'CONTEXT_ONLY_VALID_ON_DRIVER': 'SERIALIZATION_FAILED',
    'RDD_TRANSFORM_ONLY_VALID_ON_DRIVER': 'SERIALIZATION_FAILED',
    'PYTHON_VERSION_MISMATCH': 'PYTHON_MISMATCH',
}

# Java's. These say more than what caused them, the others less: of a chain the innermost counts.
_JAVA_OUTER = {
    'org.apache.spark.shuffle.FetchFailedException': 'EXECUTOR_LOST',
    'org.apache.spark.shuffle.MetadataFetchFailedException': 'EXECUTOR_LOST',
    'org.apache.spark.sql.catalyst.parser.ParseException': 'SPARK_PARSE',
}
_JAVA = {
    'java.io.FileNotFoundException': 'INPUT_MISSING',
    'java.nio.file.NoSuchFileException': 'INPUT_MISSING',
    'org.apache.hadoop.mapred.InvalidInputException': 'INPUT_MISSING',
    'org.apache.hadoop.mapreduce.lib.input.InvalidInputException': 'INPUT_MISSING',
    'java.nio.file.AccessDeniedException': 'PERMISSION_DENIED',
    'org.apache.hadoop.security.AccessControlException': 'PERMISSION_DENIED',
    'org.apache.hadoop.fs.permission.AccessControlException': 'PERMISSION_DENIED',
    'java.io.NotSerializableException': 'SERIALIZATION_FAILED',
    'com.esotericsoftware.kryo.KryoException': 'SERIALIZATION_FAILED',
    'net.razorvine.pickle.PickleException': 'SERIALIZATION_FAILED',
    'java.net.ConnectException': 'CONNECTION_FAILED',
    'java.net.NoRouteToHostException': 'CONNECTION_FAILED',
    'java.net.SocketException': 'CONNECTION_FAILED',
    'java.net.SocketTimeoutException': 'CONNECTION_FAILED',
    'java.net.UnknownHostException': 'CONNECTION_FAILED',
    'java.nio.channels.ClosedChannelException': 'CONNECTION_FAILED',
    'java.nio.channels.UnresolvedAddressException': 'CONNECTION_FAILED',
    'javax.net.ssl.SSLException': 'CONNECTION_FAILED',
    'javax.net.ssl.SSLHandshakeException': 'CONNECTION_FAILED',
    'org.apache.hadoop.net.ConnectTimeoutException': 'CONNECTION_FAILED',
    'org.apache.hadoop.hdfs.protocol.DSQuotaExceededException': 'DISK_FULL',
}
_JAVA_MEMORY = 'java.lang.OutOfMemoryError'
_JAVA_TIMEOUTS = {'java.util.concurrent.TimeoutException', 'org.apache.spark.rpc.RpcTimeoutException'}

# Spark's error conditions, in full or their first part.
_CONDITIONS = {
    'PATH_NOT_FOUND': 'INPUT_MISSING',
    'FAILED_READ_FILE.FILE_NOT_EXIST': 'INPUT_MISSING',
    'LOAD_DATA_PATH_NOT_EXISTS': 'INPUT_MISSING',
    'TABLE_OR_VIEW_NOT_FOUND': 'INPUT_MISSING',
    'VIEW_NOT_FOUND': 'INPUT_MISSING',
    'SCHEMA_NOT_FOUND': 'INPUT_MISSING',
    'CATALOG_NOT_FOUND': 'INPUT_MISSING',
    'PARTITIONS_NOT_FOUND': 'INPUT_MISSING',
    'INVALID_CONF_VALUE': 'CONFIG_INVALID',
    'INVALID_SPARK_CONFIG': 'CONFIG_INVALID',
    'CANNOT_MODIFY_CONFIG': 'CONFIG_INVALID',
    'CANNOT_MODIFY_STATIC_CONFIG': 'CONFIG_INVALID',
    'SQL_CONF_NOT_FOUND': 'CONFIG_INVALID',
    'FAILED_JDBC.CONNECTION': 'CONNECTION_FAILED',
}
# Spark ran out of its share of the heap, which is not the end of the JVM.
_CONDITIONS_OF_MEMORY = {'UNABLE_TO_ACQUIRE_MEMORY', 'AGGREGATE_OUT_OF_MEMORY', 'POINTER_ARRAY_OUT_OF_MEMORY',
                         'SPILL_OUT_OF_MEMORY'}

# What only a text tells: (class of Java or Python, pattern, code), as seen in PySpark 4.3.0 on JDK 17 and Python 3.11.
_OUTER_TEXTS = (
    ('org.apache.spark.SparkException', r'ExecutorLostFailure|FetchFailedException', 'EXECUTOR_LOST'),
    ('org.apache.spark.SparkException', r'Python worker exited unexpectedly', 'EXECUTOR_LOST'),
    ('org.apache.spark.SparkException', r'is bigger than spark\.driver\.maxResultSize', 'RESULT_TOO_LARGE'),
)
_REFUSED = r'(Permission denied|Operation not permitted|Read-only file system)\)?$'
_FULL = r'(No space left on device|Disk quota exceeded)\)?$'
_TEXTS = (
    ('java.io.FileNotFoundException', _REFUSED, 'PERMISSION_DENIED'),
    ('java.nio.file.FileSystemException', _REFUSED, 'PERMISSION_DENIED'),
    ('java.io.IOException', _REFUSED, 'PERMISSION_DENIED'),
    ('java.io.FileNotFoundException', _FULL, 'DISK_FULL'),
    ('java.nio.file.FileSystemException', _FULL, 'DISK_FULL'),
    ('java.io.IOException', _FULL, 'DISK_FULL'),
    ('org.apache.hadoop.fs.FSError', _FULL, 'DISK_FULL'),
    ('java.io.IOException', r'Cannot run program "[^"]*python[^"]*"', 'PYTHON_MISMATCH'),
    ('org.apache.spark.SparkException', r'^Task not serializable', 'SERIALIZATION_FAILED'),
    ('org.apache.spark.SparkException', r'SparkContext (was|has been) shut ?down', 'CONTEXT_STOPPED'),
    ('java.lang.IllegalStateException', r'stopped SparkContext', 'CONTEXT_STOPPED'),
    ('TypeError', r'^cannot pickle ', 'SERIALIZATION_FAILED'),
    ('TimeoutError', r'^timed out$', 'CONNECTION_FAILED'),     # the socket module's, which has no errno
)
_ABORTED = 'Job aborted due to stage failure'
_LOCAL_EXECUTOR = '(localhost executor driver)'      # one that has the driver's heap
# How it is said that an executor was ended for its memory: its JVM by itself (52), by the kernel (137), by YARN.
_EXECUTOR_MEMORY = re.compile(r'code:? (52|137)\b|\bOOM|exceeding (physical |virtual )?memory limits|OutOfMemory', re.I)

# SQLSTATE begins with: the statement is wrong. Any other is of its execution.
_STATEMENT = ('42', '0A')

_TRACEBACK = 'Traceback (most recent call last):\n'
_FRAME = re.compile(r'^ +File "(.+)", line \d+, in .+\n +(.+)', re.MULTILINE)
_LIBRARY = re.compile(r'/(site|dist)-packages/|/pyspark(\.zip)?/|/lib/python3[^/]*/')
_NETWORK = 'socket', 'ssl', 'http.client'
_NETWORK_FILE = re.compile(r'/(socket|ssl|http/client)\.py$')
_LOOKED_AT = 100        # values of a function, and of each object among them
_LAST_LINE = re.compile(r'^([A-Za-z_][\w.]*)(?:: (.*))?$', re.DOTALL)
_OS_ERROR = re.compile(r'^\[Errno (-?\d+)\] ')
_CONDITION = re.compile(r'^\[([A-Z][A-Z0-9_.]+)\] ')
_RAISE = dis.opmap['RAISE_VARARGS']
_LEVELS = 12


class _Java(NamedTuple):
    """One exception of a chain in the JVM. condition, state: of Spark, or None."""
    name: str
    message: str
    condition: Optional[str]
    state: Optional[str]


class _Python(NamedTuple):
    """An exception of Python, of this process or as a task has told of it. kinds: names of its classes. by_socket: whether
    it is one of a connection, where the class does not tell."""
    kinds: tuple
    text: str
    errno: Optional[int]
    condition: Optional[str]
    by_socket: bool


def judge(chain, is_own):
    """The Verdict on an exception.

    chain: [(exception, its text)], from the exception to what it came from. is_own(file name): whether that is code
    of the job. Raises nothing that the exceptions do not raise when they are looked at.
    """
    texts = {id(exc): text for exc, text in chain}
    retry = NEVER
    for exc in _deciding(chain[0][0], is_own):
        text = texts.get(id(exc), '')
        thrown = _java_chain(exc)
        found = _of_spark(exc, thrown) if thrown else _by_class(exc, text, is_own)
        if found.code:
            return found
        if found.retry != NEVER:
            retry = found.retry
    return Verdict(None, retry)


def retry_of(code):
    """Whether doing the same again can help, when nothing but the code is known."""
    return _RETRY.get(code, NEVER)


def _verdict(code):
    return Verdict(code, retry_of(code))


def _deciding(exc, is_own):
    """Yields the exceptions that count, the one that was seen first."""
    waiting, seen = [exc], set()
    while waiting and len(seen) < _LEVELS:
        exc = waiting.pop(0)
        if id(exc) in seen:
            continue
        seen.add(id(exc))
        yield exc
        if exc.__cause__ is not None:
            waiting.append(exc.__cause__)
        elif exc.__context__ is not None and not exc.__suppress_context__ and not _raised_by(exc, is_own):
            waiting.append(exc.__context__)
        if isinstance(exc, BaseExceptionGroup):
            waiting.extend(exc.exceptions)


def _raised_by(exc, is_own):
    """Whether a `raise` in the job's own code made this exception."""
    last = _innermost(exc)
    if last is None:
        return False
    code = last.tb_frame.f_code
    return is_own(code.co_filename) and code.co_code[last.tb_lasti] == _RAISE


def _innermost(exc):
    """Where an exception was raised, as the last part of its traceback; None when it never was."""
    last = exc.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return last


# ---- Python

def _by_class(exc, text, is_own):
    if _raised_by(exc, is_own):
        return Verdict(None, MAY_HELP if isinstance(exc, (ConnectionError, TimeoutError)) else NEVER)
    last = _innermost(exc)
    if isinstance(exc, OSError) and last and last.tb_frame.f_globals.get('__name__', '').startswith('py4j.'):
        return _verdict('CONTEXT_LOST')     # it is the JVM that does not answer
    kinds = tuple(_full_name(kind) for kind in type(exc).__mro__)
    number = exc.errno if isinstance(exc, OSError) else None
    by_socket = isinstance(exc, BrokenPipeError) and last is not None and _has_socket(last.tb_frame)
    return _of_python(_Python(kinds, text, number, getattr(exc, '_errorClass', None), by_socket))


def _has_socket(frame):
    """Whether the function that failed could write to a socket: it is a method of one, or has one at hand. It is told from the
    pipe to a process that the job has started by nothing else."""
    if frame.f_globals.get('__name__') in _NETWORK:
        return True
    for value in list(frame.f_locals.values())[:_LOOKED_AT]:
        if isinstance(value, socket.socket):
            return True
        try:
            names = object.__getattribute__(value, '__dict__')
            if any(isinstance(each, socket.socket) for each in list(names.values())[:_LOOKED_AT]):
                return True
        except Exception:       # no attributes, or of a kind of their own
            continue
    return False


def _full_name(kind):
    return kind.__qualname__ if kind.__module__ == 'builtins' else f'{kind.__module__}.{kind.__qualname__}'


def _of_python(facts):
    if 'ssl.SSLCertVerificationError' in facts.kinds:
        return Verdict('CONNECTION_FAILED', NEVER)
    if 'BrokenPipeError' in facts.kinds and not facts.by_socket:
        return Verdict(None, NEVER)
    code = _PYTHON_CONDITIONS.get(facts.condition)
    code = code or next((_PYTHON[kind] for kind in facts.kinds if kind in _PYTHON), None)
    code = code or (_ERRNO.get(facts.errno) if 'OSError' in facts.kinds else None)
    code = code or next((code for kind in facts.kinds for code in _by_text(_TEXTS, kind, facts.text)), None)
    if code is None and 'TimeoutError' in facts.kinds:
        return Verdict(None, MAY_HELP)
    return _verdict(code)


def _told_by_task(text):
    """What the text of a traceback, as a task has sent it, says of the exception at its end; None when it has none, or
    when the task's own code raised it."""
    _, found, rest = text.rpartition(_TRACEBACK)
    if not found:
        return None
    frames = _FRAME.findall(rest)
    if frames and frames[-1][1].startswith('raise ') and not _LIBRARY.search(frames[-1][0]):
        return None
    lines = rest.split('\n')
    end = max((number for number, line in enumerate(lines) if line.startswith('  ')), default=-1)
    match = _LAST_LINE.match('\n'.join(lines[end + 1:]).split('\n SQLSTATE: ', 1)[0].strip())
    if match is None:
        return None
    name, message = match.group(1), match.group(2) or ''
    kind = getattr(builtins, name, None)
    kinds = tuple(map(_full_name, kind.__mro__)) if isinstance(kind, type) else (name,)
    number, condition = _OS_ERROR.match(message), _CONDITION.match(message)
    return _Python(kinds, message, int(number.group(1)) if number else None, condition.group(1) if condition else None,
                   bool(frames and _NETWORK_FILE.search(frames[-1][0])))


def _by_text(table, name, text):
    return (code for kind, pattern, code in table if kind == name and re.search(pattern, text))


# ---- Java

def _java_chain(exc):
    """The exceptions of the JVM behind one of py4j or pyspark, the outermost first; [] when there is none or the JVM
    does not tell."""
    thrown, found = getattr(exc, 'java_exception', None) or getattr(exc, '_origin', None), []
    try:
        while thrown is not None and len(found) < _LEVELS:
            name = thrown.getClass().getName()
            of_spark = name.startswith('org.apache.spark.')
            found.append(_Java(name, thrown.getMessage() or '', _asked(thrown, 'getCondition') if of_spark else None,
                               _asked(thrown, 'getSqlState') if of_spark else None))
            thrown = thrown.getCause()
    except Exception:
        pass
    return found


def _asked(thrown, method):
    """What Spark says by a method that not all its exceptions have."""
    try:
        return getattr(thrown, method)()
    except Exception:
        return None


def _of_spark(exc, thrown):
    """The Verdict on a chain of exceptions of the JVM; it always has a code when Spark is in it."""
    for each in thrown:
        code = _JAVA_OUTER.get(each.name) or next(_by_text(_OUTER_TEXTS, each.name, each.message), None)
        if code == 'EXECUTOR_LOST' and _EXECUTOR_MEMORY.search(each.message):
            return Verdict(code, WITH_MORE_MEMORY)
        if code:
            return _verdict(code)
    in_task = any(each.message.startswith(_ABORTED) for each in thrown)
    elsewhere = in_task and not any(_LOCAL_EXECUTOR in each.message for each in thrown)
    for each in reversed(thrown):
        if each.name == _JAVA_MEMORY:
            return Verdict('EXECUTOR_LOST' if elsewhere else 'DRIVER_OUT_OF_MEMORY', WITH_MORE_MEMORY)
        condition = each.condition or ''
        if condition in _CONDITIONS_OF_MEMORY:
            return Verdict('SPARK_TASK_FAILED', WITH_MORE_MEMORY)
        code = next(_by_text(_TEXTS, each.name, each.message), None) or _JAVA.get(each.name)
        code = code or _CONDITIONS.get(condition) or _CONDITIONS.get(condition.partition('.')[0])
        if code:
            return _verdict(code)
        told = _told_by_task(each.message)
        found = _of_python(told) if told else Verdict(None, NEVER)
        if found.code:
            return found
    return Verdict(_by_state(exc, thrown, in_task),
                   MAY_HELP if any(each.name in _JAVA_TIMEOUTS for each in thrown) else NEVER)


def _by_state(exc, thrown, in_task):
    """The code of a failure of which no more is known than the part of Spark that it comes from."""
    if any(kind.__name__ == 'AnalysisException' for kind in type(exc).__mro__):
        return 'SPARK_ANALYSIS'
    state = next((each.state for each in thrown if each.state), None)
    if state:
        return 'SPARK_ANALYSIS' if state.startswith(_STATEMENT) else 'SPARK_TASK_FAILED'
    return 'SPARK_TASK_FAILED' if in_task or any(each.condition for each in thrown) else None
