"""SQL over rows that come with the job."""

from sparkjobserver.api import SparkJob, build_problems


class SQLAverage(SparkJob):
    """Averages salaries by age, in SQL.

    Context: SparkSession. Config: input.data, a list of rows [name, age, salary]. Result: rows [age, average], by age.
    """

    def validate(self, context, runtime, config):
        rows = config.get('input.data', None)
        if not rows:
            return build_problems(['config input.data not found'])
        wrong = [row for row in rows if not isinstance(row, list) or len(row) != 3]
        return build_problems([f'{row} is not a row [name, age, salary]' for row in wrong]) or rows

    def run_job(self, context, runtime, data):
        people = context.createDataFrame([(name, age, float(salary)) for name, age, salary in data],
                                         'name string, age int, salary double')
        return context.sql('SELECT age, avg(salary) FROM {people} GROUP BY age ORDER BY age', people=people).collect()
