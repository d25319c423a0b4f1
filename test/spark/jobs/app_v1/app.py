"""Version 1 of a module that both versions call the same."""

from pyspark.sql.functions import udf

V = 1


def version(_):
    """Returns the version of the module that the process at hand has imported."""
    return V


class Version:
    """In a SparkSession. No config. Result: {"driver": V, "rdd": [V on executors], "udf": [V in a SQL UDF]}."""

    def validate(self, context, runtime, config):
        return None

    def run_job(self, context, runtime, data):
        return {'driver': V,
                'rdd': context.sparkContext.parallelize(range(2), 2).map(version).distinct().collect(),
                'udf': [row[0] for row in context.range(2).select(udf(version, 'int')('id')).distinct().collect()]}
