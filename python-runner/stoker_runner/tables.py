"""Results that are tables: what counts as one, and how it is written as JSON, CSV, Parquet or an Arrow stream.

A table is read in batches and written batch by batch, so that neither it nor what is written of it is in memory as a
whole, unless the job has it there. Any thread may call any function; pyarrow is imported when the first table comes.
"""
import sys
from typing import Any, NamedTuple

from .failure import JobError
from .sink import Sink

# The forms of results and the endings of their files; docs/dialects/native.md.
ENDINGS = {'json': 'json', 'csv': 'csv', 'parquet': 'parquet', 'arrow': 'arrows'}

_BATCH_ROWS = 16384         # of pandas and Arrow tables
_JSON_ROWS = 512            # that are Python objects at one time
_GROUP_BYTES = 32 << 20     # of a row group of Parquet, in memory
_GROUP_ROWS = 1 << 20
_WINDOW_BYTES = 64 << 20    # of partitions that the driver may hold at one time
_WINDOW_WIDTH = 64          # of them: a window says nothing of how long those after it are
_WINDOW_ROUNDS = 4          # of tasks, in a window
_MISFIT = 'RESULT_FORMAT'


class Table(NamedTuple):
    """schema: pyarrow.Schema. batches: an iterator of pyarrow.RecordBatch with that schema, to be read once."""
    schema: Any
    batches: Any


class Rows:
    """The rows of a table as dicts, for the JSON writer."""

    def __init__(self, table):
        self._table = table

    def __iter__(self):
        for batch in self._table.batches:
            for start in range(0, batch.num_rows, _JSON_ROWS):
                yield from batch.slice(start, _JSON_ROWS).to_pylist(maps_as_pydicts='strict')


def is_table(value, series=True):
    """Whether open_table() can read it; a Series only with `series`. Costs nothing for what is plain."""
    reader = _reader(value) if type(value).__module__ != 'builtins' else None
    return reader is not None and (series or reader is not _of_series)


def open_table(value):
    """Returns the Table of a value for which is_table() holds. Raises JobError RESULT_FORMAT, which names the column that Arrow
    has no type for; whatever Spark raises."""
    table = _reader(value)(value)
    seen = set()
    for name in table.schema.names:
        if name in seen:
            raise JobError(_MISFIT, f"the result has two columns with the name '{name}': give each its own")
        seen.add(name)
    return table


def encode(value, form, max_result, path_for_file):
    """Writes a table as 'csv', 'parquet' or 'arrow' to a file.

    max_result, path_for_file: as of Sink. Returns the length of the file in bytes; it is on the disk then. When this raises, it
    is removed: JobError RESULT_FORMAT (the value is no table, or a column's type does not fit the form), RESULT_TOO_LARGE;
    OSError; what Spark raises.
    """
    if not is_table(value):
        raise JobError(_MISFIT, f'the result is a {type(value).__qualname__}: {form} takes a table, which is a DataFrame of '
                       'Spark or pandas, a Series, or a table of Arrow')
    table = open_table(value)
    check(table.schema, form)
    sink = Sink(-1, max_result, path_for_file)
    writer = None
    try:
        writer = _WRITERS[form](sink, table.schema)
        for batch in table.batches:
            writer.write(batch)
        writer.close()
        sink.finish()
        return sink.bytes
    except BaseException:
        sink.discard()
        if writer is not None:
            writer.abandon()
        raise


def check(schema, form):
    """Raises JobError RESULT_FORMAT for the first column whose type the form cannot hold."""
    import pyarrow as pa
    for field in schema:
        try:
            _WRITERS[form](_Nowhere(), pa.schema([field])).close()
        except (pa.ArrowException, NotImplementedError):
            _refuse(field.name, field.type, form)


def _refuse(name, kind, form):
    instead = {'csv': 'select to_json(...) or a text of it, or take parquet or arrow'}.get(form, 'convert it')
    raise JobError(_MISFIT, f"column '{name}' is of type {kind}, which {form} cannot hold: {instead}")


class _Nowhere(Sink):
    def __init__(self):
        super().__init__(1 << 62, 1 << 62, None)
        self._over = True


# -- writers: write(batch), close() writes what is left, abandon() after a failure

class _Csv:
    """Text in quotes, nulls as nothing, so that "" and null are told apart; times of a zone in UTC with a Z."""

    def __init__(self, sink, schema):
        import pyarrow as pa
        from pyarrow import csv
        types = pa.types
        fields = []
        for field in schema:
            kind = field.type.value_type if types.is_dictionary(field.type) else field.type
            if types.is_string_view(kind):
                kind = pa.string()
            if types.is_timestamp(kind) and kind.tz is not None:
                kind = pa.timestamp(kind.unit, 'UTC')
            if types.is_duration(kind) or types.is_binary(kind) or types.is_large_binary(kind) or \
                    types.is_fixed_size_binary(kind) or types.is_binary_view(kind):
                raise pa.ArrowNotImplementedError(str(kind))    # numbers without a unit; bytes that are no text
            fields.append(pa.field(field.name, kind))
        self._schema = pa.schema(fields)
        self._cast = any(a.type != b.type for a, b in zip(schema, self._schema))
        self._writer = csv.CSVWriter(pa.PythonFile(sink, mode='w'), self._schema)

    def write(self, batch):
        self._writer.write_batch(batch.cast(self._schema) if self._cast else batch)

    def close(self):
        self._writer.close()

    abandon = close


class _Parquet:
    """Compressed with Snappy, which every reader has."""

    def __init__(self, sink, schema):
        import pyarrow as pa
        from pyarrow import parquet
        self._table_of = lambda batches: pa.Table.from_batches(batches, schema)
        self._writer = parquet.ParquetWriter(pa.PythonFile(sink, mode='w'), schema, compression='snappy')
        self._batches, self._rows, self._bytes = [], 0, 0

    def write(self, batch):
        self._batches.append(batch)
        self._rows += batch.num_rows
        self._bytes += batch.nbytes
        if self._rows >= _GROUP_ROWS or self._bytes >= _GROUP_BYTES:
            self._flush()

    def _flush(self):
        if self._rows:
            self._writer.write_table(self._table_of(self._batches), row_group_size=self._rows)
        self._batches, self._rows, self._bytes = [], 0, 0

    def close(self):
        self._flush()
        self._writer.close()

    def abandon(self):
        self._writer.close()


class _Arrow:
    def __init__(self, sink, schema):
        import pyarrow as pa
        self._writer = pa.ipc.new_stream(pa.PythonFile(sink, mode='w'), schema)
        self.write, self.close = self._writer.write_batch, self._writer.close
        self.abandon = self._writer.close


_WRITERS = {'csv': _Csv, 'parquet': _Parquet, 'arrow': _Arrow}


# -- readers

def _reader(value):
    """The function that makes a Table of such a value, or None."""
    frames = sys.modules.get('pyspark.sql.dataframe')
    if frames and isinstance(value, frames.DataFrame):
        return _of_spark
    pandas = sys.modules.get('pandas')
    if pandas and isinstance(value, (pandas.DataFrame, pandas.Series)):
        return _of_pandas if isinstance(value, pandas.DataFrame) else _of_series
    if isinstance(value, type):
        return None
    if hasattr(value, '__arrow_c_stream__'):
        return _of_arrow
    pyarrow = sys.modules.get('pyarrow')
    if pyarrow and isinstance(value, pyarrow.RecordBatch):
        return lambda batch: _of_arrow(pyarrow.Table.from_batches([batch]))
    return None


def _of_arrow(value):
    """Of whatever gives an Arrow stream: tables and readers of pyarrow, and those of other libraries."""
    import pyarrow as pa
    reader = value if isinstance(value, pa.RecordBatchReader) else pa.RecordBatchReader.from_stream(value)
    return Table(reader.schema, (batch.slice(start, _BATCH_ROWS) for batch in reader
                                 for start in range(0, batch.num_rows, _BATCH_ROWS)))


def _of_series(series):
    return _of_pandas(series.to_frame('value' if series.name is None else series.name))


def _of_pandas(frame):
    """Levels of the index that have a name are columns, in front of the others; an index without a name is left out."""
    import pandas
    import pyarrow as pa
    columns = [(name, lambda part, level=level: part.index.get_level_values(level))
               for level, name in enumerate(frame.index.names) if name is not None]
    columns += [(name, lambda part, at=at: part.iloc[:, at]) for at, name in enumerate(frame.columns)]

    def array(name, values, kind=None):
        try:
            found = pa.Array.from_pandas(values, type=kind)
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as e:
            raise JobError(_MISFIT, f"column '{name}' is of type {values.dtype}, of which Arrow can make no column: {e}") from e
        if isinstance(found, pa.ChunkedArray):
            found = found.combine_chunks()
        if pa.types.is_dictionary(found.type):
            found = found.dictionary_decode()
        return found

    def kind_of(name, column):
        values = column(frame)
        known = values.dtype.kind != 'O' if hasattr(values.dtype, 'kind') else False
        return array(name, values[:0] if known and not isinstance(values.dtype, pandas.CategoricalDtype) else values).type

    schema = pa.schema([(str(name), kind_of(name, column)) for name, column in columns])

    def batches():
        for start in range(0, len(frame), _BATCH_ROWS):
            part = frame.iloc[start:start + _BATCH_ROWS]
            yield pa.RecordBatch.from_arrays([array(name, column(part), field.type)
                                              for (name, column), field in zip(columns, schema)], schema=schema)
    return Table(schema, batches())


def _of_spark(frame):
    """In the order of its partitions, some of them at a time: see _partitions()."""
    import pyarrow as pa
    from pyspark.errors import PySparkException
    from pyspark.sql.pandas.types import to_arrow_type
    large = frame.sparkSession.conf.get('spark.sql.execution.arrow.useLargeVarTypes', 'false') == 'true'
    fields = []
    for field in frame.schema.fields:
        try:
            kind = to_arrow_type(field.dataType, error_on_duplicated_field_names_in_struct=True, timezone='UTC',
                                 prefers_large_types=large)
        except (PySparkException, pa.ArrowException) as e:
            raise JobError(_MISFIT, f"column '{field.name}' is of type {field.dataType.simpleString()}, of which Arrow can "
                           'make no column: cast it to string, or leave it out') from e
        fields.append(pa.field(field.name, kind, field.nullable))
    schema = pa.schema(fields)
    return Table(schema, (pa.ipc.read_record_batch(pa.py_buffer(data), schema) for data in _partitions(frame)))


def _partitions(frame):
    """Yields the Arrow batches of a Spark DataFrame, as bytes.

    toLocalIterator() runs partition after partition, one job each, and collect() puts all of them into the driver's heap, which is
    shared by the jobs of the context. This runs some partitions at once: see _Windows.
    """
    from pyspark.serializers import NoOpSerializer
    from pyspark.util import _load_from_socket
    context = frame.sparkSession.sparkContext
    batches = frame._jdf.toArrowBatchRdd().toJavaRDD()
    windows = _Windows(batches.getNumPartitions(), context.defaultParallelism)
    for window in windows:
        with _load_from_socket(context._jvm.PythonRDD.runJob(context._jsc.sc(), batches, window), NoOpSerializer()) as stream:
            for data in stream:
                windows.bytes += len(data)
                yield data


class _Windows:
    """Iterates over lists of partitions that are collected together: as many as fit _WINDOW_BYTES, going by the largest ones so
    far, and few at any rate, since empty ones may come before large ones.

    bytes: of the partitions of the list that was yielded last; whoever reads them adds them up.
    """

    def __init__(self, count, parallelism):
        self._count, self._most = count, max(1, min(_WINDOW_ROUNDS * parallelism, _WINDOW_WIDTH))
        self.bytes = 0

    def __iter__(self):
        start, width, largest = 0, 1, _WINDOW_BYTES // _WINDOW_WIDTH
        while start < self._count:
            window = list(range(start, min(self._count, start + width)))
            self.bytes = 0
            yield window
            start += len(window)
            largest = max(largest, self.bytes // len(window))
            width = max(1, min(4 * width, _WINDOW_BYTES // largest, self._most))
