"""The result of a job as JSON.

A small result of plain values goes through the C encoder in one piece. Everything else is written piece by piece, each
piece by the C encoder where it is plain, so that a long result is never in memory as one text; only that way of writing
converts values and names the path of what it refuses. Any thread may call encode().
"""

import dataclasses
import datetime
import decimal
import enum
import itertools
import json
import sys
from collections import abc
from typing import NamedTuple, Optional

from stoker_runner import tables
from stoker_runner.failure import JobError
from stoker_runner.sink import Sink

_MAX_DEPTH = 500
_MAX_INT = 2**63 - 1
_MIN_INT = -2**63
# A piece that goes through the C encoder at once has at most so many values, a string counting one more for every
# 32 characters: about half a megabyte of JSON.
_PIECE = 16384
_BATCH = 64
_CHUNK = 65536
_HINTS = {
    'pyspark RDD': 'return .collect() or .take(n) of it',
    'pyspark DataFrame': 'return .collect() or .take(n) of it',
    'pandas DataFrame': "return .to_dict('records') of it",
    'pandas Series': 'return .tolist() of it',
    'generator': 'return list(...) of it',
    'iterator': 'return list(...) of it',
    'coroutine': 'run_job must not be async',
    'timedelta': 'return .total_seconds() of it',
    'dataclass': 'return dataclasses.asdict(...) of it',
    'ValidationProblem': 'problems are returned by validate(), not by run_job()',
}
_REFUSED = object()
_ALLOWED = 'a result is made of dict, list, str, int, float, bool and None'


class Encoded(NamedTuple):
    """A result as JSON: `text`, or the path of the `file` it was written to; `bytes`, its length in UTF-8."""
    text: Optional[str]
    file: Optional[str]
    bytes: int


def encode(value, max_inline, max_result, path_for_file):
    """Writes what run_job() returned as JSON.

    max_inline, max_result, path_for_file: as of sink.Sink. When this returns, the file and its directory are fsynced; when
    this raises, the file is removed.

    dict and other mappings -> object in their order, keys to text (1 "1", True "true", None "null", a tuple "[a, 1]");
    list, tuple, Row, range, deque, dict views -> array; set -> array, sorted if it can be; date "2020-01-31"; datetime
    "2020-01-31 12:00:00.0", in local time when it has a zone; time "12:00:00"; Decimal -> string; bytes -> array of
    strings, one for each signed byte; nan, NaT and NA -> null; Enum -> its value; numpy scalars and arrays -> what they
    hold. A table (tables.py) that is the result itself -> array of objects, one for each row.

    Raises JobError RESULT_NOT_JSON, which names the path of the value, RESULT_FORMAT for a table's column, or
    RESULT_TOO_LARGE; OSError when the file cannot be written; whatever a container raises when it is read.
    """
    text = _encode_plain(value, _MAX_DEPTH)
    if text is not None:
        length = len(text) if text.isascii() else len(text.encode())
        if length <= max_inline and length <= max_result:
            return Encoded(text, None, length)
    sink = Sink(max_inline, max_result, path_for_file)
    try:
        # A lone surrogate raises before anything of its piece is written.
        _Writer(lambda piece: sink.write(piece.encode())).put(_rows_of(value) if tables.is_table(value, series=False) else value)
        sink.finish()
        return Encoded(None if sink.path else sink.text(), sink.path, sink.bytes)
    except BaseException:
        sink.discard()
        raise


def _rows_of(value):
    return tables.Rows(tables.open_table(value))


def _encode_plain(value, depth):
    """Returns the JSON text of a small value of plain types with at most `depth` levels of containers, else None."""
    if not _is_plain(value, depth):
        return None
    try:
        text = _ENCODER.encode(value)
        if not text.isascii():
            text.encode()
        return text
    except (UnicodeEncodeError, RecursionError):
        return None


def _is_plain(value, depth):
    """Tells whether the C encoder writes a value as encode() promises: all of it of plain types, finite, at most
    `depth` levels of containers and not more than _PIECE values."""
    count = 0
    level = ((value,),)
    while level:
        if depth < 0:
            return False
        depth -= 1
        below = []
        for container in level:
            count += len(container)
            if count > _PIECE:
                return False
            if type(container) is dict:
                for key in container:
                    if type(key) is not str:
                        return False
                    count += len(key) >> 5
                container = container.values()
            for each in container:
                kind = type(each)
                if kind is str:
                    count += len(each) >> 5
                elif kind is int:
                    if not _MIN_INT <= each <= _MAX_INT:
                        return False
                elif kind is float:
                    if each - each != 0:  # nan or infinite
                        return False
                elif kind is list or kind is dict or kind is tuple or kind.__base__ is tuple:
                    below.append(each)
                elif each is not None and kind is not bool and kind not in _TEXTS:
                    return False
        level = below
    return count <= _PIECE


class _Writer:
    """Writes one value of any size, depth first and without recursion. write: called with each piece of the text."""

    def __init__(self, write):
        self._write = write
        self._path = []  # keys (str) and indexes (int) that lead to the value at hand
        self._open = set()  # ids of the containers on that path

    def put(self, value):
        """Writes the value; called once."""
        steps = [self._steps(value)]
        while steps:
            for inner in steps[-1]:
                steps.append(self._steps(inner))
                break
            else:
                steps.pop()

    def _steps(self, value):
        """Writes a value, and yields each value inside it that is to be written before it goes on."""
        if self._write_plain(value):
            return
        plain = _convert(value)
        if plain is _REFUSED:
            what, instead = _describe(value)
            self._refuse(f'is {what}: {instead}')
        if isinstance(plain, str):
            self._write_string(plain)
        elif isinstance(plain, float):
            self._write_float(plain)
        elif isinstance(plain, int) and not isinstance(plain, bool):
            self._write_int(plain)
        elif plain is None or isinstance(plain, bool):
            self._write(_ENCODER.encode(plain))
        else:
            self._enter(value)
            yield from self._object(plain) if isinstance(plain, abc.Mapping) else self._array(plain)
            self._path.pop()
            self._open.discard(id(value))

    def _enter(self, container):
        """Goes one level down; refuses what contains itself or is too deep."""
        if id(container) in self._open:
            self._refuse('contains itself')
        if len(self._path) >= _MAX_DEPTH:
            self._refuse(f'is nested deeper than {_MAX_DEPTH} levels')
        self._open.add(id(container))
        self._path.append(None)

    def _array(self, values):
        """Writes an array; yields the elements that cannot be written with their neighbours."""
        self._write('[')
        values = iter(values)
        index = 0
        while batch := list(itertools.islice(values, _BATCH)):
            if index:
                self._write(',')
            if self._write_plain(batch, brackets=False):
                index += len(batch)
                continue
            for place, value in enumerate(batch):
                if place:
                    self._write(',')
                self._path[-1] = index
                index += 1
                yield value
        self._write(']')

    def _object(self, mapping):
        """Writes an object; yields the values that cannot be written with their neighbours."""
        self._write('{')
        seen = None if all(type(key) is str for key in mapping) else set()
        items = iter(mapping.items())
        first = True
        while batch := list(itertools.islice(items, _BATCH)):
            if not first:
                self._write(',')
            first = False
            if seen is None and self._write_plain(dict(batch), brackets=False):
                continue
            for place, (key, value) in enumerate(batch):
                self._path[-1] = None
                self._path[-1] = text = self._key_text(key)
                if seen is not None:
                    if text in seen:
                        self._refuse('has more than one key that reads like this')
                    seen.add(text)
                if place:
                    self._write(',')
                self._write_string(text)
                self._write(':')
                yield value
        self._write('}')

    def _write_plain(self, value, brackets=True):
        """Writes a value, with or without its own brackets, if it is small and plain; tells whether it did."""
        text = _encode_plain(value, _MAX_DEPTH - len(self._path) + (not brackets))
        if text is None:
            return False
        self._write(text if brackets else text[1:-1])
        return True

    def _write_string(self, text):
        """Writes a string of any length."""
        self._write('"')
        for start in range(0, len(text), _CHUNK):
            try:
                self._write(_ENCODER.encode(text[start:start + _CHUNK])[1:-1])
            except UnicodeEncodeError as exc:
                self._refuse(f'has a lone surrogate at character {start + text[start:].index(exc.object[exc.start])}: '
                             'it is not text')
        self._write('"')

    def _write_float(self, number):
        if number in (float('inf'), float('-inf')):
            self._refuse(f'is {number}: JSON has no infinite numbers')
        self._write('null' if number != number else float.__repr__(number))

    def _write_int(self, number):
        if not _MIN_INT <= number <= _MAX_INT:
            self._refuse('is an integer of more than 64 bits: return str(...) of it')
        self._write(int.__repr__(number))

    def _key_text(self, key):
        """Returns the text of a key of an object."""
        if isinstance(key, tuple):
            return f'[{", ".join(self._key_text(part) for part in key)}]'
        plain = _convert(key)
        if isinstance(plain, str):
            return plain
        if plain is None or isinstance(plain, bool):
            return _ENCODER.encode(plain)
        if isinstance(plain, int):
            return int.__repr__(plain)
        if isinstance(plain, float):
            return float.__repr__(plain)
        return self._refuse(f'has a key that is {_describe(key)[0]}: make it a str')

    def _refuse(self, why):
        """Raises RESULT_NOT_JSON for the value at hand."""
        path = ''.join(f'[{part}]' if isinstance(part, int) else f'.{part}' if part.isidentifier() else f'[{part!r}]'
                       for part in self._path if part is not None)
        if len(path) > 1000:
            path = f'{path[:500]} ... {path[-500:]}'
        raise JobError('RESULT_NOT_JSON', f'result{path} {why}')


def _convert(value):
    """Makes None, bool, int, float, str, a mapping or an iterable of a value, or _REFUSED."""
    if isinstance(value, enum.Enum):
        value = value.value
    value = _from_numpy(value)
    kind = type(value)
    if value is None or kind is bool or kind.__name__ in ('NaTType', 'NAType'):
        return value if kind is bool else None
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__index__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, datetime.datetime):
        return _datetime_text(value)
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return str(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return [str(byte - 256 if byte > 127 else byte) for byte in bytes(value)]
    if isinstance(value, abc.Set) and not isinstance(value, abc.MappingView):
        try:
            return sorted(value)
        except Exception:
            return list(value)
    if isinstance(value, (abc.Mapping, abc.Sequence, abc.MappingView, tables.Rows)):
        return value
    return _REFUSED


def _from_numpy(value):
    """Makes plain Python of a numpy scalar or array; returns anything else as it is."""
    numpy = sys.modules.get('numpy')
    if numpy is None or not isinstance(value, (numpy.generic, numpy.ndarray)):
        return value
    if value.dtype.kind == 'M':
        value = value.astype('datetime64[us]')
    return value.tolist()


def _datetime_text(value):
    """Returns a datetime as Java's Timestamp writes it: the fraction has 1 to 9 digits and no zone."""
    nanoseconds = getattr(value, 'nanosecond', 0)
    if hasattr(value, 'to_pydatetime'):
        value = value.to_pydatetime(warn=False)
    if value.tzinfo is not None:
        value = value.astimezone().replace(tzinfo=None)
    fraction = f'{value.microsecond:06}{nanoseconds:03}'.rstrip('0') or '0'
    return f'{value.replace(microsecond=0).isoformat(" ")}.{fraction}'


def _describe(value):
    """Returns (what a value is, what to return instead), for messages."""
    kind = type(value)
    ancestors = {f'{base.__module__.partition(".")[0]} {base.__name__}' for base in kind.__mro__}
    names = {base.__name__ for base in kind.__mro__}
    for name, hint in _HINTS.items():
        if name in ancestors or name in names:
            return f'a {name}', hint
    if isinstance(value, abc.Iterator):
        return f'an iterator ({kind.__qualname__})', _HINTS['iterator']
    if dataclasses.is_dataclass(kind):
        return f'a dataclass ({kind.__qualname__})', _HINTS['dataclass']
    module = '' if kind.__module__ in ('builtins', '__main__') else f'{kind.__module__}.'
    return f'of class {module}{kind.__qualname__}', _ALLOWED


# The types that the C encoder hands to its default function, and how that makes text of them.
_TEXTS = {datetime.datetime: _datetime_text, datetime.date: datetime.date.isoformat, decimal.Decimal: str}
_ENCODER = json.JSONEncoder(ensure_ascii=False, check_circular=False, allow_nan=False, separators=(',', ':'),
                            default=lambda value: _TEXTS[type(value)](value))
