"""results: what becomes of a job's return value."""

import collections
import dataclasses
import datetime
import decimal
import enum
import json
import os
import time
import tracemalloc
import types

import numpy
import pandas
import pytest
from pyspark.sql import Row

from sparkjobserver import api
from stoker_runner import results
from stoker_runner.failure import JobError

D = decimal.Decimal


class Color(enum.Enum):
    RED = 'red'


class Number(enum.IntEnum):
    ONE = 1


class Name(str, enum.Enum):
    ANN = 'ann'


Point = collections.namedtuple('Point', 'x y')


@dataclasses.dataclass
class Box:
    width: int


def unused():
    raise AssertionError('no file was wanted')


def text(value):
    """Returns the JSON of a value, which must be short, and checks the length."""
    encoded = results.encode(value, 65536, 1 << 30, unused)
    assert encoded.file is None and encoded.bytes == len(encoded.text.encode())
    return encoded.text


def refused(value):
    """Returns the message of the RESULT_NOT_JSON that a value gives."""
    with pytest.raises(JobError) as caught:
        results.encode(value, 65536, 1 << 30, unused)
    assert (caught.value.code, caught.value.exit_code) == ('RESULT_NOT_JSON', 1)
    return caught.value.message


NESTED = [1]
for _ in range(499):
    NESTED = [NESTED]


@pytest.mark.parametrize('value,expected', [
    (None, 'null'), (True, 'true'), (5, '5'), (1250.0, '1250.0'), ('é"\n\x01', '"é\\"\\n\\u0001"'),
    (2**63 - 1, '9223372036854775807'), (-2**63, '-9223372036854775808'),
    ([], '[]'), ({}, '{}'), ((), '[]'), (set(), '[]'), ([[]], '[[]]'),
    ({'b': 1, 'a': [True, None, 'x']}, '{"b":1,"a":[true,null,"x"]}'),
    ((1, (2,)), '[1,[2]]'), (Point(1, 2), '[1,2]'), (Row(name='bob', age=20), '["bob",20]'),
    ([Row(name='bob', at=datetime.date(2020, 1, 1))], '[["bob","2020-01-01"]]'),
    (collections.defaultdict(int, {'a': 1}), '{"a":1}'), (collections.OrderedDict(b=1, a=2), '{"b":1,"a":2}'),
    (collections.Counter('aab'), '{"a":2,"b":1}'), (types.MappingProxyType({'a': 1}), '{"a":1}'),
    ({1: 'x', 'a': 2}, '{"1":"x","a":2}'), ({True: 1, None: 2, 1.5: 3, D('2.0'): 4},
                                                     '{"true":1,"null":2,"1.5":3,"2.0":4}'),
    ({datetime.date(2020, 1, 1): 1, Color.RED: 2, numpy.int64(3): 4}, '{"2020-01-01":1,"red":2,"3":4}'),
    ({('a', 1): 2, ('b', ('c', True)): 3}, '{"[a, 1]":2,"[b, [c, true]]":3}'), ({Name.ANN: 1}, '{"ann":1}'),
    ({3, 1, 2}, '[1,2,3]'), (frozenset('ba'), '["a","b"]'), ([{2, 1}], '[[1,2]]'),
    (range(3), '[0,1,2]'), (collections.deque([1, 'x']), '[1,"x"]'), ({'b': 1, 'a': 2}.keys(), '["b","a"]'),
    ({'b': 1, 'a': 2}.values(), '[1,2]'), ({'b': 1}.items(), '[["b",1]]'),
    (D('1.10'), '"1.10"'), ([D('1E+3')], '["1E+3"]'),
    (datetime.date(2020, 1, 2), '"2020-01-02"'), (datetime.time(1, 2), '"01:02:00"'),
    (datetime.datetime(2020, 1, 1), '"2020-01-01 00:00:00.0"'),
    ([datetime.datetime(2020, 1, 1, 2, 3, 4, 500)], '["2020-01-01 02:03:04.0005"]'),
    (datetime.datetime(1, 1, 1), '"0001-01-01 00:00:00.0"'),
    (b'a\xff\x80', '["97","-1","-128"]'), (bytearray(b'a'), '["97"]'), ([memoryview(b'a')], '[["97"]]'),
    (float('nan'), 'null'), ([1.0, float('nan')], '[1.0,null]'), ({'x': [float('nan')]}, '{"x":[null]}'),
    (Color.RED, '"red"'), ([Number.ONE, Name.ANN], '[1,"ann"]'),
    (numpy.int64(5), '5'), (numpy.float64(1.5), '1.5'), (numpy.float32('nan'), 'null'), (numpy.bool_(True), 'true'),
    (numpy.str_('x'), '"x"'), ([numpy.arange(4).reshape(2, 2)], '[[[0,1],[2,3]]]'), (numpy.array(3), '3'),
    (numpy.array([1.5, float('nan')]), '[1.5,null]'), (numpy.array(['a', None], dtype=object), '["a",null]'),
    (numpy.datetime64('2020-01-01T02:03:04.5', 'ns'), '"2020-01-01 02:03:04.5"'),
    (numpy.array(['2020-01-01', 'NaT'], 'M8[D]'), '["2020-01-01 00:00:00.0",null]'),
    (pandas.Timestamp('2020-01-01 00:00:00.000000001'), '"2020-01-01 00:00:00.000000001"'),
    ([pandas.NaT, pandas.NA], '[null,null]'),
    (['\U0001f600'], '["😀"]'),
    (NESTED, '[' * 500 + '1' + ']' * 500),
])
def test_values(value, expected):
    assert text(value) == expected


def test_time_zones_are_dropped_in_local_time(monkeypatch):
    monkeypatch.setenv('TZ', 'Europe/Vienna')
    time.tzset()
    try:
        noon = datetime.datetime(2020, 7, 1, 12, tzinfo=datetime.timezone.utc)
        assert text(noon) == '"2020-07-01 14:00:00.0"'
        assert text(pandas.Timestamp(noon)) == '"2020-07-01 14:00:00.0"'
    finally:
        monkeypatch.undo()
        time.tzset()


def test_the_longest_walk_and_the_short_cut_write_the_same():
    rows = [{'n': n, 'x': n / 7, 's': 'é' * (n % 50), 'd': D(n), 't': (n, None, True)} for n in range(3000)]
    value = {'rows': rows, 'by': {str(n): n for n in range(1000)}, 'nan': [float('nan')] * 200,
             'numbers': {n: n for n in range(200)}}
    expected = json.dumps(value, default=str, ensure_ascii=False, separators=(',', ':')).replace('NaN', 'null')
    assert results.encode(value, 1 << 30, 1 << 30, unused).text == expected


@pytest.mark.parametrize('value,message', [
    (float('inf'), 'result is inf: JSON has no infinite numbers'),
    ({'a': [1, {'b': float('-inf')}]}, 'result.a[1].b is -inf: JSON has no infinite numbers'),
    (2**63, 'result is an integer of more than 64 bits: return str(...) of it'),
    ([numpy.uint64(2**63)], 'result[0] is an integer of more than 64 bits: return str(...) of it'),
    ({'k': -2**63 - 1}, 'result.k is an integer of more than 64 bits: return str(...) of it'),
    ('ab\ud800', 'result has a lone surrogate at character 2: it is not text'),
    ({'a b': ['x', '\udfff']}, "result['a b'][1] has a lone surrogate at character 0: it is not text"),
    ({'rows': [1, 2, 3, {'x': pandas.DataFrame()}]},
     "result.rows[3].x is a pandas DataFrame: return .to_dict('records') of it"),
    (pandas.Series([1]), 'result is a pandas Series: return .tolist() of it'),
    ((n for n in 'ab'), 'result is a generator: return list(...) of it'),
    ([map(str, 'ab')], 'result[0] is an iterator (map): return list(...) of it'),
    (datetime.timedelta(1), 'result is a timedelta: return .total_seconds() of it'),
    (Box(1), 'result is a dataclass (Box): return dataclasses.asdict(...) of it'),
    (api.build_problems(['x']),
     'result[0] is a ValidationProblem: problems are returned by validate(), not by run_job()'),
    ([object()], 'result[0] is of class object: a result is made of dict, list, str, int, float, bool and None'),
    (Box, 'result is of class type: a result is made of dict, list, str, int, float, bool and None'),
    (1j, 'result is of class complex: a result is made of dict, list, str, int, float, bool and None'),
    ([api], 'result[0] is of class module: a result is made of dict, list, str, int, float, bool and None'),
    ({'m': {1: 1, '1': 2}}, "result.m['1'] has more than one key that reads like this"),
    ({'m': [{'a': 1, object: 2}]}, 'result.m[0] has a key that is of class type: make it a str'),
])
def test_refused_values_are_named_by_their_path(value, message):
    assert refused(value) == message


def test_pyspark_objects_are_recognised_without_a_context():
    from pyspark import RDD
    from pyspark.sql.classic.dataframe import DataFrame
    assert refused({'a': DataFrame.__new__(DataFrame)}) == \
        'result.a is a pyspark DataFrame: return .collect() or .take(n) of it'
    assert refused(object.__new__(RDD)) == 'result is a pyspark RDD: return .collect() or .take(n) of it'


def test_cycles():
    loop = {'a': []}
    loop['a'].append(loop)
    assert refused(loop) == 'result.a[0] contains itself'
    twice = [1]
    assert text([twice, twice]) == '[[1],[1]]'


def test_depth_501():
    assert refused([NESTED]) == f'result{"[0]" * 166}[0 ... 0]{"[0]" * 166} is nested deeper than 500 levels'


def test_depth_501_with_values_that_need_conversion():
    value = {1}
    for _ in range(499):
        value = [value]
    assert text(value) == '[' * 500 + '1' + ']' * 500
    assert refused([value]).endswith('[0] is nested deeper than 500 levels')


def test_a_failing_container_raises_its_own_error():
    class Broken(collections.abc.Mapping):
        def __getitem__(self, key):
            raise OSError('gone')

        def __iter__(self):
            return iter('a')

        def __len__(self):
            return 1

    with pytest.raises(OSError, match='gone'):
        results.encode(Broken(), 65536, 1 << 30, unused)


# long results

@pytest.mark.parametrize('value', ['é' * 40000, [1] * 40000, {str(n): n for n in range(10000)}, [float('nan')] * 20000,
                                   'x' * 300000, [['x' * 100] * 300] * 100])
def test_long_results_go_to_a_file(tmp_path, value):
    expected = json.dumps(value, ensure_ascii=False, separators=(',', ':')).replace('NaN', 'null').encode()
    path = str(tmp_path / 'r')
    assert results.encode(value, 65536, 1 << 30, lambda: path) == results.Encoded(None, path, len(expected))
    assert (tmp_path / 'r').read_bytes() == expected


def test_limits_are_exact(tmp_path):
    path = str(tmp_path / 'r')
    assert results.encode('xxx', 5, 5, unused).text == '"xxx"'
    assert results.encode('xxx', 4, 5, lambda: path) == (None, path, 5)
    os.unlink(path)
    for inline in (3, 5, 100):
        with pytest.raises(JobError) as caught:
            results.encode('xxx', inline, 4, lambda: path)
        assert (caught.value.code, caught.value.exit_code) == ('RESULT_TOO_LARGE', 1)
        assert caught.value.message == ("the result is longer than max-result, 4 bytes by the server's configuration; "
                                        'it was stopped at 5 bytes')
        assert not os.path.exists(path)


@pytest.mark.parametrize('last,code', [(object(), 'RESULT_NOT_JSON'), ('x' * 100000, 'RESULT_TOO_LARGE')])
def test_the_file_of_a_refused_result_is_removed(tmp_path, last, code):
    made = []

    def path():
        made.append(str(tmp_path / 'r'))
        return made[-1]

    with pytest.raises(JobError) as caught:
        results.encode([['y' * 1000] * 100, float('nan'), last], 1000, 150000, path)
    assert caught.value.code == code
    assert len(made) == 1 and os.listdir(tmp_path) == []


def test_a_file_that_cannot_be_written_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        results.encode('x' * 100, 10, 1000, lambda: str(tmp_path / 'missing' / 'r'))


def test_a_long_result_is_never_in_memory_as_text(tmp_path):
    value = [[n, 'x' * 90] for n in range(200000)]
    tracemalloc.start()
    encoded = results.encode(value, 65536, 1 << 30, lambda: str(tmp_path / 'r'))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert encoded.bytes > 20_000_000 and peak < 2_000_000


def test_a_small_result_costs_microseconds():
    value = {'a': 2, 'b': 1, 'rows': [[20, 1250.0], [21, 1500.0]]}
    best = min(timed(value) for _ in range(5))
    assert best < 50e-6  # 4 us alone on a machine


def timed(value):
    start = time.perf_counter()
    for _ in range(200):
        results.encode(value, 65536, 1 << 30, unused)
    return (time.perf_counter() - start) / 200
