"""tables: DataFrames of pandas and tables of Arrow as results, in all forms. Those of Spark: test/spark/test_results.py."""

import datetime
import decimal
import io
import json
import os
import time
import tracemalloc
import types

import numpy
import pandas
import pyarrow
import pyarrow.csv
import pyarrow.parquet
import pytest

from stoker_runner import results, sink, tables, wish
from stoker_runner.failure import JobError

D = decimal.Decimal
UTC = datetime.timezone.utc
AT = datetime.datetime(2020, 1, 31, 12, 0, 0, 250000)
SPEC = {'max_result': 1 << 30}

FLAT = pyarrow.table({
    'n': pyarrow.array([1, None, 3], pyarrow.int64()),
    'x': pyarrow.array([0.5, None, 1e300], pyarrow.float64()),
    's': pyarrow.array(['', None, 'a "b",\nc'], pyarrow.string()),
    'yes': pyarrow.array([True, None, False], pyarrow.bool_()),
    'd': pyarrow.array([D('1.50'), None, D('-12345678901234567890.12')], pyarrow.decimal128(38, 2)),
    'day': pyarrow.array([datetime.date(2020, 1, 31), None, datetime.date(1, 1, 1)], pyarrow.date32()),
    'at': pyarrow.array([AT, None, AT], pyarrow.timestamp('us', tz='UTC')),
    'local': pyarrow.array([AT, None, AT], pyarrow.timestamp('us')),
})
NESTED = pyarrow.table({
    'list': pyarrow.array([[1, None], None, []], pyarrow.list_(pyarrow.int64())),
    'struct': pyarrow.array([{'a': 1, 'b': 'x'}, None, {'a': None, 'b': None}]),
    'map': pyarrow.array([[('k', 1)], None, []], pyarrow.map_(pyarrow.string(), pyarrow.int64())),
    'bytes': pyarrow.array([b'\x00\xff', None, b''], pyarrow.binary()),
})


@pytest.fixture
def write(tmp_path):
    """A function that writes a value in a form; returns the bytes of the file."""
    def write(value, form, limit=1 << 30):
        path = tmp_path / 'r'
        size = tables.encode(value, form, limit, lambda: str(path))
        data = path.read_bytes()
        assert size == len(data)
        path.unlink()
        return data
    return write


@pytest.fixture
def refused(tmp_path):
    """A function that returns the (code, message) with which a value is refused; no file is left."""
    def refused(value, form, limit=1 << 30):
        with pytest.raises(JobError) as caught:
            tables.encode(value, form, limit, lambda: str(tmp_path / 'r'))
        assert os.listdir(tmp_path) == []
        return caught.value.code, caught.value.message
    return refused


def read(data, form):
    source = io.BytesIO(data)
    return pyarrow.ipc.open_stream(source).read_all() if form == 'arrow' else pyarrow.parquet.read_table(source)


def rows(value):
    encoded = results.encode(value, 1 << 20, 1 << 30, None)
    return json.loads(encoded.text)


@pytest.mark.parametrize('form', ['arrow', 'parquet'])
@pytest.mark.parametrize('value', [FLAT, NESTED, FLAT.slice(0, 0)], ids=['flat', 'nested', 'empty'])
def test_arrow_tables_come_back_as_they_were(write, form, value):
    found = read(write(value, form), form)
    assert found.equals(value) if form == 'arrow' else found.to_pylist() == value.to_pylist()
    assert str(found.schema.types[0]).replace('element', 'item') == str(value.schema.types[0])


def test_csv(write):
    assert write(FLAT, 'csv').decode() == (
        '"n","x","s","yes","d","day","at","local"\n'
        '1,0.5,"",true,1.50,2020-01-31,2020-01-31 12:00:00.250000Z,2020-01-31 12:00:00.250000\n'
        ',,,,,,,\n'
        '3,1e+300,"a ""b"",\nc",false,-12345678901234567890.12,0001-01-01,2020-01-31 12:00:00.250000Z,'
        '2020-01-31 12:00:00.250000\n')


def test_times_of_any_zone_are_in_utc_as_csv(write):
    def table(zone):
        at = pyarrow.array([AT, None], pyarrow.timestamp('ms', tz='UTC')).cast(pyarrow.timestamp('ms', tz=zone))
        return pyarrow.table({'at': at, 'kind': at.dictionary_encode()})
    assert write(table('Europe/Berlin'), 'csv') == write(table('+05:30'), 'csv') == (
        b'"at","kind"\n2020-01-31 12:00:00.250Z,2020-01-31 12:00:00.250Z\n,\n')


def test_csv_reads_back(write):
    names = [name for name in FLAT.column_names if name not in ('at', 'local')]
    options = pyarrow.csv.ConvertOptions(column_types=FLAT.select(names).schema, strings_can_be_null=True,
                                         quoted_strings_can_be_null=False, include_columns=names)
    found = pyarrow.csv.read_csv(io.BytesIO(write(FLAT, 'csv')), convert_options=options,
                                 parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True))
    assert found.equals(FLAT.select(names))
    assert write(FLAT.slice(0, 0), 'csv') == b'"n","x","s","yes","d","day","at","local"\n'


def test_json_rows():
    found = rows(FLAT)
    assert found[0]['d'] == '1.50' and found[0]['day'] == '2020-01-31' and found[0]['local'] == '2020-01-31 12:00:00.25'
    assert found[1] == dict.fromkeys(FLAT.column_names)
    assert rows(NESTED)[0] == {'list': [1, None], 'struct': {'a': 1, 'b': 'x'}, 'map': {'k': 1}, 'bytes': ['0', '-1']}
    assert rows(FLAT.slice(0, 0)) == []


@pytest.mark.parametrize('kind, value', [
    ('list<item: int64>', [1]), ('struct<a: int64>', {'a': 1}), ('binary', b'x'), ('duration[us]', datetime.timedelta(1))])
def test_what_csv_cannot_hold_is_named(refused, kind, value):
    code, message = refused(pyarrow.table({'id': [1], 'odd one': [value]}), 'csv')
    assert code == 'RESULT_FORMAT' and message.startswith(f"column 'odd one' is of type {kind}, which csv cannot hold")


def test_what_the_others_cannot_hold_is_named(refused):
    odd = pyarrow.table({'id': [1], 'odd': pyarrow.array([(1, 2, 3)], pyarrow.month_day_nano_interval())})
    assert refused(odd, 'parquet')[1].startswith(
        "column 'odd' is of type month_day_nano_interval, which parquet cannot hold")
    assert refused(pyarrow.table([[1], [2]], ['a', 'a']), 'arrow') == (
        'RESULT_FORMAT', "the result has two columns with the name 'a': give each its own")
    with pytest.raises(JobError, match=r"result\[0\].t is a timedelta"):
        rows(pyarrow.table({'t': [datetime.timedelta(1)]}))


@pytest.mark.parametrize('value', [[1], {'a': 1}, None, 'text', object(), pandas.DataFrame])
def test_what_is_no_table(refused, value):
    code, message = refused(value, 'parquet')
    assert code == 'RESULT_FORMAT' and message.startswith(f'the result is a {type(value).__qualname__}: parquet takes a table')


FRAME = pandas.DataFrame({
    'n': [1, 2, 3], 'x': [0.5, None, 2.5], 's': ['a', None, ''], 'at': [pandas.Timestamp(AT), pandas.NaT, pandas.Timestamp(AT)],
    'd': [D('1.5'), None, D('2.25')], 'list': [[1, 2], None, []], 'kind': pandas.Categorical(['u', 'v', None]),
    'big': pandas.array([1, None, 2**62], 'Int64')})


@pytest.mark.parametrize('form', ['arrow', 'parquet'])
def test_pandas(write, form):
    found = read(write(FRAME, form), form).to_pydict()
    assert found['n'] == [1, 2, 3] and found['x'] == [0.5, None, 2.5] and found['s'] == ['a', None, '']
    assert [None if at is None else at.to_pydatetime() for at in map(lambda t: t and pandas.Timestamp(t), found['at'])] == [AT, None, AT]
    assert found['d'] == [D('1.50'), None, D('2.25')] and found['list'] == [[1, 2], None, []]
    assert found['kind'] == ['u', 'v', None] and found['big'] == [1, None, 2**62]


def test_pandas_as_csv_and_json(write):
    frame = FRAME.drop(columns='list')
    found = pandas.read_csv(io.BytesIO(write(frame, 'csv')), parse_dates=['at'], dtype={'big': 'Int64'},
                            keep_default_na=False, na_values={name: [''] for name in ('x', 'at', 'd', 'big', 'kind')})
    assert list(found['n']) == [1, 2, 3] and found['at'][0] == AT and list(found['big'])[2] == 2**62
    assert rows(frame)[0] == {'n': 1, 'x': 0.5, 's': 'a', 'at': '2020-01-31 12:00:00.25', 'd': '1.50', 'kind': 'u', 'big': 1}
    assert rows(frame)[1] == {'n': 2, 'x': None, 's': None, 'at': None, 'd': None, 'kind': 'v', 'big': None}


def test_the_index_of_pandas(write):
    """A level with a name is a column, one without is not."""
    assert rows(pandas.DataFrame({'a': [1]}, index=[7])) == [{'a': 1}]
    assert rows(pandas.DataFrame({'a': [1]}, index=pandas.Index([7], name='id'))) == [{'id': 7, 'a': 1}]
    grouped = pandas.DataFrame({'k': ['u', 'v'], 'j': [1, 2], 'a': [3, 4]}).groupby(['k', 'j']).sum()
    assert write(grouped, 'csv') == b'"k","j","a"\n"u",1,3\n"v",2,4\n'
    assert write(pandas.Series([1, 2], name='a'), 'csv') == b'"a"\n1\n2\n'
    assert write(pandas.Series([1]), 'csv') == b'"value"\n1\n'


def test_columns_of_pandas_that_do_not_fit(refused):
    code, message = refused(pandas.DataFrame({'id': [1, 2], 'odd': [1, 'x']}), 'arrow')
    assert code == 'RESULT_FORMAT' and message.startswith("column 'odd' is of type object, of which Arrow can make no column: ")
    assert "'z' is of type complex128" in refused(pandas.DataFrame({'z': [1j]}), 'parquet')[1]


class Frame:
    """Of Spark, with a column of a type that Arrow does not have."""

    def __init__(self):
        field = types.SimpleNamespace(name='odd', dataType=object(), nullable=True)
        field.dataType = types.SimpleNamespace(simpleString=lambda: 'odd type')
        self.schema = types.SimpleNamespace(fields=[field])
        self.sparkSession = types.SimpleNamespace(conf={})


def test_a_column_of_spark_that_does_not_fit(monkeypatch):
    with pytest.raises(JobError, match="column 'odd' is of type odd type, of which Arrow can make no column"):
        tables._of_spark(Frame())
    monkeypatch.setattr('pyspark.sql.pandas.types.to_arrow_type', lambda kind: None)    # that of another version
    with pytest.raises(TypeError, match='unexpected keyword'):
        tables._of_spark(Frame())


def windows(sizes, parallelism):
    """The windows in which partitions of these sizes (bytes) are collected."""
    found = tables._Windows(len(sizes), parallelism)
    for window in found:
        yield window
        for n in window:
            found.bytes += sizes[n]


@pytest.mark.parametrize('parallelism, most', [(1, 4), (2, 8), (1000, 64)])
def test_partitions_are_collected_together(parallelism, most):
    """Large ones that come after empty ones are not many at once, and then one by one."""
    found = list(windows([0] * 300 + [100 << 20] * 200, parallelism))
    assert sum(found, []) == list(range(500))
    assert max(map(len, found)) == most and [len(window) for window in found[:2]] == [1, 4]
    first = next(n for n, window in enumerate(found) if window[-1] >= 300)
    assert all(len(window) == 1 for window in found[first + 2:]) and len(found[first + 1]) <= most
    assert [len(window) for window in windows([16 << 20] * 9, 8)] == [1, 4, 4]
    assert list(windows([], 8)) == []


def test_pieces_of_pandas_have_one_type(write):
    """A column whose first pieces are all null is what its later ones are."""
    n = 2 * 16384 + 1
    frame = pandas.DataFrame({'s': [None] * (n - 1) + ['end'], 'n': numpy.arange(n)})
    found = read(write(frame, 'arrow'), 'arrow')
    assert found.schema.types == [pyarrow.string(), pyarrow.int64()] and found['s'][n - 1].as_py() == 'end'
    assert read(write(frame, 'parquet'), 'parquet').num_rows == n
    assert len(rows(frame)) == n


def test_readers_and_batches(write):
    batch = pyarrow.record_batch({'a': [1, 2]})
    reader = pyarrow.RecordBatchReader.from_batches(batch.schema, iter([batch, batch]))
    assert read(write(reader, 'parquet'), 'parquet').to_pydict() == {'a': [1, 2, 1, 2]}
    assert write(batch, 'csv') == b'"a"\n1\n2\n'


@pytest.mark.parametrize('form', ['csv', 'parquet', 'arrow'])
def test_the_limit(refused, form):
    code, message = refused(pyarrow.table({'a': numpy.random.default_rng(1).random(100000)}), form, sink.Limit(50000, sink.JOB))
    assert code == 'RESULT_TOO_LARGE'
    assert message.startswith("the result is longer than max-result, 50000 bytes by the job's own limit; it was stopped at ")


def test_no_file_is_left_when_the_rows_cannot_be_read(tmp_path):
    def batches():
        yield pyarrow.record_batch({'a': [1]})
        raise KeyboardInterrupt
    for form in ('csv', 'parquet', 'arrow'):
        reader = pyarrow.RecordBatchReader.from_batches(pyarrow.schema([('a', pyarrow.int64())]), batches())
        with pytest.raises(KeyboardInterrupt):
            tables.encode(reader, form, 1 << 30, lambda: str(tmp_path / 'r'))
        assert os.listdir(tmp_path) == []


@pytest.mark.parametrize('form', ['json', 'csv', 'parquet', 'arrow'])
def test_a_long_table_is_never_in_memory_as_a_whole(tmp_path, form, monkeypatch):
    """Neither as Python objects, nor as text, nor as Arrow: batches come from a generator and go."""
    def batches():
        for start in range(0, (20 if form == 'json' else 400) * 10000, 10000):
            yield pyarrow.record_batch({'n': numpy.arange(start, start + 10000),
                                        'x': numpy.random.default_rng(start).random(10000)})

    schema = pyarrow.schema([('n', pyarrow.int64()), ('x', pyarrow.float64())])
    reader = pyarrow.RecordBatchReader.from_batches(schema, batches())
    before, most = pyarrow.total_allocated_bytes(), []

    class Watched(sink.Sink):
        def write(self, data):
            most.append((pyarrow.total_allocated_bytes() - before, tracemalloc.get_traced_memory()[0]))
            return super().write(data)

    monkeypatch.setattr(tables, 'Sink', Watched)
    monkeypatch.setattr(results, 'Sink', Watched)
    monkeypatch.setattr(tables, '_GROUP_BYTES', 1 << 20)
    path = str(tmp_path / 'r')
    tracemalloc.start()
    try:
        if form == 'json':
            size = results.encode(reader, 65536, 1 << 30, lambda: path).bytes
        else:
            size = tables.encode(reader, form, 1 << 30, lambda: path)
    finally:
        tracemalloc.stop()
    assert size > (7_000_000 if form == 'json' else 50_000_000) and os.path.getsize(path) == size
    assert max(arrow for arrow, _ in most) < 12_000_000 and max(python for _, python in most) < 3_000_000


def test_plain_results_do_not_pay_for_tables():
    start = time.process_time()
    for _ in range(10000):
        tables.is_table({'a': 1})
    assert time.process_time() - start < 1


@pytest.mark.parametrize('config, form, limit, by', [
    ('{}', None, 1 << 30, sink.SERVER),
    ('{"stoker": {}}', None, 1 << 30, sink.SERVER),
    ('{"stoker": {"result-format": "csv", "max-result": 100}}', 'csv', 100, sink.JOB),
    ('{"stoker": {"max-result": 9999999999}}', None, 1 << 30, sink.SERVER),
    ('{"x": {"stoker": {"result-format": "csv"}}}', None, 1 << 30, sink.SERVER)])
def test_wishes(config, form, limit, by):
    found = wish.read(config, SPEC)
    assert (found.form, found.limit, found.limit.by) == (form, limit, by)


def test_wishes_that_cannot_be():
    for config in ('{"stoker": {"result-format": "xml"}}', '{"stoker": {"max-result": "1g"}}', '{"stoker": {"max-result": true}}'):
        with pytest.raises(JobError) as caught:
            wish.read(config, SPEC)
        assert caught.value.code == 'CONFIG_INVALID' and 'stoker.' in caught.value.message
    assert wish.read('{}', dict(SPEC, max_result_by='context')).limit.by == sink.CONTEXT


def test_the_form_of_a_job():
    class Job:
        result_format = 'csv'

    asked, unasked = wish.Wish('arrow', 1), wish.Wish(None, 1)
    assert wish.form_of(asked, Job()) == 'arrow' and wish.form_of(unasked, Job()) == 'csv'
    assert wish.form_of(unasked, object()) is None
    job = Job()
    job.result_format = 'cvs'
    with pytest.raises(JobError, match="result_format of the job must be one of json, csv, parquet, arrow, not 'cvs'"):
        wish.form_of(unasked, job)
