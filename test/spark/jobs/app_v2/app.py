"""Version 2 of a module that both versions call the same."""

from pyspark.sql.functions import pandas_udf, udf

V = 2


def version(_):
    """Returns the version of the module that the process at hand has imported."""
    return V


def versions(column):
    """The same for each value of a pandas Series."""
    return column * 0 + V


class Version:
    """In a SparkSession. Config: go, a file to wait for before it begins (none unless given).

    Result: {"driver": V, "rdd": [V on executors], "udf": [V in a SQL UDF], "pandas": [V in a pandas UDF]}."""

    def validate(self, context, runtime, config):
        return config.get('go', None)

    def run_job(self, context, runtime, data):
        if data:
            wait(data)
        rows = context.range(0, 2, 1, 2).select(udf(version, 'int')('id').alias('udf'),
                                                pandas_udf(versions, 'long')('id').alias('pandas')).distinct().collect()
        return {'driver': V,
                'rdd': context.sparkContext.parallelize(range(2), 2).map(version).distinct().collect(),
                'udf': [row.udf for row in rows],
                'pandas': [row.pandas for row in rows]}


def wait(path):
    """Makes the file `path`.on, then waits for the file `path`."""
    import os
    import time
    open(path + '.on', 'w').close()
    while not os.path.exists(path):
        time.sleep(0.02)
