"""Word counts, one for each kind of context. Config: input.strings. Result: {string: count}."""

from pyspark import SparkContext
from pyspark.sql import HiveContext, SparkSession, SQLContext

from sparkjobserver.api import SparkJob, build_problems


class Count(SparkJob):
    """What they have in common. kind: the class of the context. spark_context: finds its SparkContext."""

    kind = None

    def validate(self, context, runtime, config):
        if type(context) is not self.kind:
            return build_problems([f'expected a {self.kind.__name__} but got a {type(context).__name__}'])
        if 'input.strings' not in config:
            return build_problems(['config input.strings not found'])
        return config.get('input.strings')

    def run_job(self, context, runtime, data):
        return dict(self.spark_context(context).parallelize(data).countByValue())


class ContextCount(Count):
    """In a SparkContext."""
    kind = SparkContext

    def spark_context(self, context):
        return context


class SessionCount(Count):
    """In a SparkSession."""
    kind = SparkSession

    def spark_context(self, context):
        return context.sparkContext


class SQLCount(Count):
    """In a SQLContext, by the name that old jobs use."""
    kind = SQLContext

    def spark_context(self, context):
        return context._sc


class HiveCount(SQLCount):
    """In a HiveContext."""
    kind = HiveContext


class DuckCount:
    """A SparkSession job that derives from nothing."""

    def validate(self, context, runtime, config):
        return config.get_list('input.strings')

    def run_job(self, context, runtime, data):
        return context.sparkContext.parallelize(data).countByValue()
