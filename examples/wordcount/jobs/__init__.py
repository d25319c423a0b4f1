"""The word count: the first job to try."""

from operator import add

from sparkjobserver.api import SparkJob, build_problems


class WordCount(SparkJob):
    """Counts how often each string of `input.strings` occurs.

    Context: SparkSession. Config: input.strings, a list of strings. Result: {string: count}, the most frequent first.
    """

    def validate(self, context, runtime, config):
        strings = config.get('input.strings', None)
        if strings is None:
            return build_problems(['config input.strings not found'])
        if not isinstance(strings, list) or not all(isinstance(string, str) for string in strings):
            return build_problems(['config input.strings is not a list of strings'])
        return strings

    def run_job(self, context, runtime, data):
        pairs = context.sparkContext.parallelize(data).map(lambda string: (string, 1))
        counts = pairs.reduceByKey(add).collect()
        return dict(sorted(counts, key=lambda pair: (-pair[1], pair[0])))
