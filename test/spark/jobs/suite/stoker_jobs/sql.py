"""SQL jobs. Config: input.data, rows [name, age, salary], unless said otherwise."""

from pyspark.sql import HiveContext, SparkSession, SQLContext

from sparkjobserver.api import SparkJob, build_problems

COLUMNS = ['name', 'age', 'salary']
RANKS = 'SELECT name, age, row_number() OVER (PARTITION BY age ORDER BY name) FROM {} ORDER BY age, name'


def checked(context, kind, config):
    """Returns the rows of a config, or the problems of context and config."""
    if type(context) is not kind:
        return build_problems([f'Expected a {kind.__name__}'])
    return config.get('input.data', None) or build_problems(['config input.data not found'])


class Average(SparkJob):
    """In a SQLContext: rows [age, average salary]."""

    def validate(self, context, runtime, config):
        return checked(context, SQLContext, config)

    def run_job(self, context, runtime, data):
        context.createDataFrame(data, COLUMNS).registerTempTable('average_people')
        return context.sql('SELECT age, avg(salary) FROM average_people GROUP BY age ORDER BY age').collect()


class MakeTable(SparkJob):
    """In a SQLContext or SparkSession: leaves a temporary view for UseTable. Result: "done"."""

    def validate(self, context, runtime, config):
        return config.get('input.data', None) or build_problems(['config input.data not found'])

    def run_job(self, context, runtime, data):
        context.createDataFrame(data, COLUMNS).createOrReplaceTempView('people_table')
        return 'done'


class UseTable(SparkJob):
    """In a SQLContext or SparkSession, no config: the averages of the view that MakeTable has left."""

    def validate(self, context, runtime, config):
        if 'people_table' not in [row.tableName for row in context.sql('SHOW TABLES').collect()]:
            return build_problems(["expect 'people_table' table to have been created by earlier job"])
        return None

    def run_job(self, context, runtime, data):
        return context.sql('SELECT age, avg(salary) FROM people_table GROUP BY age ORDER BY age').collect()


class ReadFile(SparkJob):
    """In a SparkSession. Config: path of a CSV file of names and numbers. Result: the sum of the numbers."""

    def validate(self, context, runtime, config):
        return config.get_string('path')

    def run_job(self, context, runtime, path):
        return context.read.csv(path, schema='name string, number int').groupBy().sum('number').collect()[0][0]


class HiveWindow(SparkJob):
    """In a HiveContext: rows [name, age, rank by name within the age]."""

    def validate(self, context, runtime, config):
        return checked(context, HiveContext, config)

    def run_job(self, context, runtime, data):
        context.createDataFrame(data, COLUMNS).registerTempTable('window_people')
        return context.sql(RANKS.format('window_people')).collect()


class SessionWindow(SparkJob):
    """In a SparkSession: the same rows."""

    def validate(self, context, runtime, config):
        return checked(context, SparkSession, config)

    def run_job(self, context, runtime, data):
        context.createDataFrame(data, COLUMNS).createOrReplaceTempView('session_people')
        return context.sql(RANKS.format('session_people')).collect()


class HiveTable(SparkJob):
    """In a SparkSession, no config: needs Hive for its table. Result: null."""

    def validate(self, context, runtime, config):
        return None

    def run_job(self, context, runtime, data):
        context.sql('CREATE TABLE IF NOT EXISTS stoker_hive_table (x INT) USING hive')
        context.sql('DROP TABLE stoker_hive_table')
