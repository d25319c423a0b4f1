"""Jobs whose results are tables: DataFrames of Spark and pandas, tables of Arrow, of all types and of any length."""
import datetime
import decimal
import os

from sparkjobserver.api import SparkJob

D = decimal.Decimal
AT = datetime.datetime(2020, 7, 1, 12, 30, 0, 250000)
FLAT = ('id long, small byte, x double, s string, yes boolean, d decimal(20,4), day date, at timestamp, local timestamp_ntz')
ROWS = [(1, 1, 0.5, 'plain', True, D('1.5000'), AT.date(), AT.replace(tzinfo=datetime.timezone.utc), AT),
        (2, None, None, None, None, None, None, None, None),
        (3, -128, float('nan'), 'a "b",\nc', False, D('-1234567890123456.7891'), datetime.date(1, 1, 1),
         datetime.datetime(1969, 12, 31, 23, 59, 59, 999999, datetime.timezone.utc), AT),
        (4, 127, 1e300, '', True, D('0.0000'), AT.date(), AT.replace(tzinfo=datetime.timezone.utc), AT)]
NESTED = 'id long, list array<string>, struct struct<a: int, b: array<date>>, map map<string, decimal(10,2)>, bin binary'
NESTED_ROWS = [(1, ['x', None], (1, [AT.date()]), {'k': D('1.25'), 'n': None}, b'\x00\xff'), (2, None, None, None, None),
               (3, [], (None, []), {}, b'')]


class Job(SparkJob):
    def validate(self, context, runtime, config):
        return config


class Flat(Job):
    """All flat types; over several partitions, in order."""

    def run_job(self, context, runtime, data):
        return context.createDataFrame(ROWS, FLAT).repartition(3).orderBy('id')


class Nested(Job):
    def run_job(self, context, runtime, data):
        return context.createDataFrame(NESTED_ROWS, NESTED)


class Pandas(Job):
    def run_job(self, context, runtime, data):
        return context.createDataFrame(ROWS, FLAT).orderBy('id').toPandas()


class Arrow(Job):
    def run_job(self, context, runtime, data):
        return context.createDataFrame(NESTED_ROWS, NESTED).toArrow()


class Odd(Job):
    """A column of the type `type`."""

    def run_job(self, context, runtime, data):
        return context.sql('SELECT 1 AS id, %s AS `odd one`' % data['value'])


class Empty(Job):
    result_format = 'parquet'

    def run_job(self, context, runtime, data):
        return context.createDataFrame([], FLAT)


class Chosen(Job):
    """Says at run time what the result is to be."""

    def run_job(self, context, runtime, data):
        self.result_format = data.get('form', None)
        return context.range(3)


class Number(Job):
    result_format = 'csv'

    def run_job(self, context, runtime, data):
        return 7


class Misspelt(Job):
    result_format = 'cvs'

    def run_job(self, context, runtime, data):
        raise AssertionError('never run')


class Fails(Job):
    """Fails in its last partition, when others are written already."""

    def run_job(self, context, runtime, data):
        from pyspark.sql.functions import expr
        return context.range(0, 100000, 1, 8).select(
            'id', expr("IF(id = 99999, raise_error('deliberate'), CAST(id AS string))").alias('s'))


class Long(Job):
    """`rows` rows of 108 bytes in `partitions` partitions. Its process says how much memory it had at most, in a file."""

    def run_job(self, context, runtime, data):
        from pyspark.sql.functions import expr
        with open('/proc/self/clear_refs', 'w') as f:
            f.write('5')        # VmHWM begins anew
        with open(data['pid'], 'w') as f:
            f.write('%d %d' % (os.getpid(), rss()))
        return context.range(0, int(data['rows']), 1, int(data['partitions'])).select(
            'id', expr("repeat(substr(sha2(CAST(id AS string), 256), 1, 50), 2)").alias('text'))


def rss():
    with open('/proc/self/status') as f:
        return next(int(line.split()[1]) << 10 for line in f if line.startswith('VmRSS'))
