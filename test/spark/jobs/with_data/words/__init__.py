"""A package that opens a file of its own by path."""

import os

PATH = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'words.txt')


def word(number):
    """Returns a line of the file that lies beside this module."""
    with open(PATH) as file:
        return file.read().split()[number]


class Words:
    """In a SparkSession. No config. Result: the file's words, [on the driver, on executors]."""

    def validate(self, context, runtime, config):
        return None

    def run_job(self, context, runtime, data):
        return [[word(0), word(1)], context.sparkContext.parallelize([0, 1], 2).map(word).collect()]
