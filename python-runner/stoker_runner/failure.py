"""Failures of jobs: the exception the runner raises for them, and the error object of PROTOCOL.md section 7.

The JVM is only called about exceptions of its own: for the text, once, and by verdicts.py; a call may fail and is then
done without. Any thread may call any function; `code_roots` is only written by loading.open_binaries().
"""

import importlib
import json
import linecache
import os
import re
import sysconfig
import traceback

from . import verdicts
from .verdicts import NEVER, Verdict

# Folders with the user's code, as they stand on sys.path. Their files are shown relative to them.
code_roots = []

# What an exception means, by the phase it ended, when nothing better is known: (code, exit code of Spark Job Server,
# method of the job that it came out of).
PHASES = {
    'load': ('IMPORT_FAILED', 1, None),
    'validate': ('VALIDATE_EXCEPTION', 3, 'validate'),
    'run': ('USER_EXCEPTION', 4, 'run_job'),
    'result': ('RESULT_NOT_JSON', 1, None),
    'attach': ('CONTEXT_FAILED', None, None),
    'start': ('CONTEXT_FAILED', None, None),
}
_OF_CONTEXT = ('attach', 'start')

# The longest texts, in characters. The whole object, written as JSON in ASCII, has at most _OBJECT_LIMIT bytes: the
# 256 KiB of the protocol less room for stderr_tail and log_tail, 4 KiB each and up to six bytes for one of theirs.
_LIMITS = {'message': 8192, 'class': 512, 'traceback': 98304, 'file': 4096, 'source': 1024, 'cause': 16384}
_OBJECT_LIMIT = 208 * 1024
_PROBLEMS, _PROBLEM_LIMIT = 100, 1000
_FRAMES = 2000
_CHAIN = 50

_RUNNER = os.path.dirname(os.path.abspath(__file__)) + os.sep
_HIDDEN = (_RUNNER, '<frozen importlib', importlib.__file__)
_INSTALLED = tuple({sysconfig.get_path(name) + os.sep for name in ('stdlib', 'platstdlib', 'purelib', 'platlib')})

# A file in a binary as executors elsewhere have it (sets.file_name()).
_SHIPPED = re.compile(r'/stoker-[0-9a-f]{16}-[^/]+\.zip/(.+)$')

_TRACEBACK = 'Traceback (most recent call last):\n'
_FRAME = re.compile(r'^ +File "(.+)", line (\d+), in .+(?:\n +(.+))?', re.MULTILINE)


class JobError(Exception):
    """A job cannot be loaded, run or answered for.

    code: one of PROTOCOL.md section 7. message: text, or None to take it from the exception that this one was raised
    from (`raise JobError(...) from exc`), which also gives class, traceback, file, line and cause. exit_code: Spark Job
    Server's number for it, int or None. problems: texts, for VALIDATION_FAILED. raised_by: the method of the job that
    the exception came out of, 'constructor', 'validate' or 'run_job'; then `code` is what holds unless the exception
    tells more (verdicts.py).
    """

    def __init__(self, code, message, exit_code=1, problems=None, raised_by=None):
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.exit_code = exit_code
        self.problems = problems
        self.raised_by = raised_by

    def __str__(self):
        return self.code if self.message is None else f'{self.code}: {self.message}'


def describe(exc, phase):
    """Makes the error object (a dict, PROTOCOL.md section 7) of an exception.

    exc: any exception, raised or not; a JobError says its own code. phase: what it ended: 'load', 'validate', 'run',
    'result', 'attach' or 'start'. Never raises an Exception, whatever `exc` does when it is looked at.
    """
    if isinstance(exc, SystemExit):
        exc = exited(exc, phase)
    code, exit_code, raised_by = PHASES.get(phase, PHASES['run'])
    message, problems, subject = None, None, exc
    judged = phase not in _OF_CONTEXT
    if isinstance(exc, KeyboardInterrupt):
        code, message, exit_code, raised_by, judged = 'KILLED', 'the job was interrupted', None, None, False
    elif isinstance(exc, JobError):
        code, message, exit_code, problems, subject = exc.code, exc.message, exc.exit_code, exc.problems, exc.__cause__
        raised_by = exc.raised_by
        judged = raised_by is not None
    error = {'code': code, 'message': message, 'class': None, 'traceback': None, 'file': None, 'line': None,
             'source': None, 'cause': None, 'exit_code': exit_code, 'raised_by': raised_by,
             'retry': verdicts.retry_of(code)}
    if subject is not None:
        try:
            fields, verdict = _look_at(subject, message)
            error.update(fields)
            if judged and verdict.code:
                error['code'], error['retry'] = verdict
            elif error['retry'] == NEVER and not isinstance(subject, KeyboardInterrupt):
                error['retry'] = verdict.retry
        except Exception as broken:
            error['class'] = class_name(subject)
            error['message'] = message or f'{error["class"]} (cannot be described: {class_name(broken)})'
    error['message'] = error['message'] or code
    if code == 'EXITED':
        error['exit_status'] = exit_code
    if problems is not None:
        error['problems'] = [_cut(_clean(text), _PROBLEM_LIMIT) for text in problems[:_PROBLEMS]]
        if len(problems) > _PROBLEMS:
            error['problems'].append(f'... and {len(problems) - _PROBLEMS} more')
    return _fit(error)


def invalid(problems):
    """Makes the error object of a job whose validate() found problems (a list of texts)."""
    return describe(JobError('VALIDATION_FAILED', '; '.join(problems), 1, list(problems)), 'validate')


def exited(exc, phase):
    """Makes the JobError of a SystemExit: what sys.exit() was given, and the exit status it stands for."""
    when = {'load': ' while it was loaded', 'validate': ' in validate()'}.get(phase, '')
    status = exc.code
    if status is None:
        status, shown = 0, ''
    elif isinstance(status, int):
        status = shown = int(status)
    else:
        status, shown = 1, _cut(_safe(repr, status), 500)
    error = JobError('EXITED', f'the job called sys.exit({shown}){when}', max(-2**31, min(status, 2**31 - 1)))
    error.__cause__ = exc
    return error


def class_name(exc):
    """Returns the name of an exception's class, with its module unless it is a builtin."""
    kind = type(exc)
    module = kind.__module__
    return kind.__qualname__ if module in ('builtins', '__main__', None) else f'{module}.{kind.__qualname__}'


def text_of(exc):
    """Returns `class: text` of an exception on one line or a few, whatever its __str__ does. May call the JVM once."""
    text = _message(exc, _safe(str, exc))
    return class_name(exc) if text == class_name(exc) else f'{class_name(exc)}: {text}'


def has_user_frame(exc):
    """Tells whether the traceback of `exc` passes through other code than the runner's and the import system's."""
    return any(not frame.f_code.co_filename.startswith(_HIDDEN) for frame, _ in traceback.walk_tb(exc.__traceback__))


def _look_at(exc, message):
    """Returns the fields of the error object that come from the exception, and the Verdict on it; `message` is used
    when it is not None."""
    summary = traceback.TracebackException(type(exc), exc, exc.__traceback__, limit=-_FRAMES, compact=True)
    chain = list(_chain(exc, summary))
    cause = next(filter(None, (_java_cause(each, text) for each, text, _ in chain)), None)
    found = _own_line(chain)
    verdict = _judge(chain)
    for _, _, each in chain:
        _strip(each)
    fields = {
        'class': class_name(exc),
        'message': _message(exc, chain[0][1]) if message is None else message,
        'traceback': ''.join(summary.format()).rstrip('\n'),
        'file': found[0], 'line': found[1], 'source': found[2],
        'cause': cause,
    }
    return fields, verdict


def _judge(chain):
    try:
        return verdicts.judge([(exc, text) for exc, text, _ in chain], _is_own)
    except Exception:
        return Verdict(None, NEVER)


def _is_own(filename):
    """Tells whether a file is the job's code, be it in a binary or elsewhere."""
    return _relative(filename) is not None or not (
        filename.startswith(('<', _RUNNER)) or os.path.abspath(filename).startswith(_INSTALLED))


def _chain(exc, summary):
    """Yields (exception, its text, its TracebackException), from the exception to what it came from, members of an
    exception group after it."""
    waiting = [(exc, summary)]
    for _ in range(_CHAIN):
        if not waiting:
            return
        exc, summary = waiting.pop(0)
        yield exc, _summary_text(exc, summary), summary
        if summary.__cause__ is not None:
            waiting.append((exc.__cause__, summary.__cause__))
        elif summary.__context__ is not None:
            waiting.append((exc.__context__, summary.__context__))
        if isinstance(exc, BaseExceptionGroup):     # others may have anything under that name
            waiting.extend(zip(exc.exceptions, getattr(summary, 'exceptions', None) or ()))


def _summary_text(exc, summary):
    """Returns str(exc) as traceback has already asked for it, so that the JVM is not asked again."""
    text = getattr(summary, '_str', None)
    return text if isinstance(text, str) else _safe(str, exc)


def _message(exc, text):
    """Returns the text of an exception without the stack traces of the JVM that pyspark puts in it."""
    known = getattr(exc, 'errmsg' if _is_java(exc) else '_desc', None)
    if isinstance(known, str) and text.startswith('<'):
        text = f'{known.strip()} (the JVM did not answer when it was asked for details)'
    text = text.split('\n\nJVM stacktrace:', 1)[0]
    if _is_java(exc):
        text = text.split('\n\tat ', 1)[0].split('\n\nDriver stacktrace:', 1)[0].replace('\n: ', ' ', 1)
    if _is_java(exc) or hasattr(exc, '_stackTrace'):
        text = _without_traceback(text)
    return text.strip() or class_name(exc)


def _without_traceback(text):
    """Takes the traceback of an executor's Python out of Spark's message; leaves the exception it ends with."""
    head, found, rest = text.partition(_TRACEBACK)
    if not found:
        return text
    lines = rest.split('\n')
    start = max((number for number, line in enumerate(lines) if line.startswith('  ')), default=-1) + 1
    return f'{head.rstrip()} ' + '\n'.join(lines[start:])


def _is_java(exc):
    """Tells whether this is py4j's exception for one of Java; py4j need not be imported for that."""
    return any(kind.__name__ == 'Py4JJavaError' for kind in type(exc).__mro__)


def _java_cause(exc, text):
    """Returns `class: message` of the innermost Java exception, read from the text of its stack trace, or None."""
    if not _is_java(exc):
        text = getattr(exc, '_stackTrace', None)
    if not isinstance(text, str):
        return None
    head, found, last = text.rpartition('\nCaused by: ')
    if not found:
        last = text.split('\n: ', 1)[1] if _is_java(exc) and '\n: ' in text else text
        if last.startswith('<'):
            return None
    for end in ('\n\tat ', '\n\t... ', '\n\nDriver stacktrace:'):
        last = last.split(end, 1)[0]
    return last.strip() or None


def _own_line(chain):
    """Returns (file, line, source) of the innermost line of the user's code, or three None."""
    for _, text, summary in chain:
        where = getattr(summary, 'filename', None)
        if where is not None and _relative(where) is not None and summary.lineno is not None:
            line = int(summary.lineno)
            return _relative(where), line, (summary.text or linecache.getline(where, line)).strip()
        if _TRACEBACK in text:  # of Python code on an executor
            for where, line, source in reversed(_FRAME.findall(text)):
                if _relative(where) is not None:
                    return _relative(where), int(line), source.strip()
        for frame in reversed(summary.stack):
            if _relative(frame.filename) is not None:
                return _relative(frame.filename), frame.lineno, (frame.line or '').strip()
    for _, _, summary in chain:
        for frame in reversed(summary.stack):
            if _is_own(frame.filename):
                return frame.filename, frame.lineno, (frame.line or '').strip()
    return None, None, None


def _strip(summary):
    """Takes the runner's frames out of one TracebackException and names the user's files as `file` does."""
    summary.stack[:] = [frame for frame in summary.stack if not frame.filename.startswith(_HIDDEN)]
    for frame in summary.stack:
        frame.filename = _relative(frame.filename) or frame.filename
    if getattr(summary, 'filename', None) is not None:
        summary.filename = _relative(summary.filename) or summary.filename


def _relative(filename):
    """Returns the path of a file of the user's code inside its binary, here or on an executor; None when it is not one."""
    for root in code_roots:
        if filename.startswith(root + os.sep):
            return filename[len(root) + 1:]
    shipped = _SHIPPED.search(filename)
    return shipped.group(1) if shipped else None


def _safe(function, value):
    """Returns function(value), str or repr, and `<...>` when that raises."""
    try:
        return function(value)
    except Exception as broken:
        return f'<{function.__name__}() of {type(value).__qualname__} raised {class_name(broken)}>'


def _clean(text):
    """Makes text fit to be JSON in UTF-8: lone surrogates and NUL become their escapes."""
    return str(text).replace('\0', '\\x00').encode('utf-8', 'backslashreplace').decode()


def _cut(text, limit):
    """Cuts text in the middle, to `limit` characters and a note that says how many are missing."""
    if len(text) <= limit:
        return text
    return f'{text[:limit // 2]}\n... [{len(text) - limit // 2 * 2} characters cut] ...\n{text[-(limit // 2):]}'


def _fit(error):
    """Cleans and cuts the texts of an error object until all of it is short enough."""
    for name, limit in _LIMITS.items():
        if error[name] is not None:
            error[name] = _cut(_clean(error[name]), limit)
    while len(json.dumps(error)) > _OBJECT_LIMIT:
        longest = max((name for name in _LIMITS if error[name]), key=lambda name: len(json.dumps(error[name])))
        if len(error[longest]) < 200:
            error['problems'] = error['problems'][:len(error['problems']) // 2]
            continue
        error[longest] = _cut(error[longest], len(error[longest]) // 2)
    return error
