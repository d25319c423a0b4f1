"""A job to watch: it tells how far it is, for as long as one likes."""

import sys
from operator import add
from random import Random

from sparkjobserver.api import SparkJob


def inside(task):
    """Throws points at the unit square; returns how many fall inside the circle. Runs on executors."""
    seed, points = task
    random = Random(seed).random
    return sum(random() ** 2 + random() ** 2 < 1 for _ in range(points))


class Rounds(SparkJob):
    """Estimates pi in rounds. Config: rounds; tasks of a round, 8; points of a task, 300000. Result: {"pi": ..., "rounds": ...}."""

    def validate(self, context, runtime, config):
        return config

    def run_job(self, context, runtime, data):
        rounds, tasks, points = data.get_int('rounds'), data.get_int('tasks', 8), data.get_int('points', 300000)
        hits = 0
        for done in range(1, rounds + 1):
            seeds = [(done * tasks + n, points) for n in range(tasks)]
            hits += context.sparkContext.parallelize(seeds, tasks).map(inside).reduce(add)
            print('round %d of %d: pi is about %.5f' % (done, rounds, 4 * hits / (done * tasks * points)))
        print('that is as near as it gets', file=sys.stderr)
        return {'pi': 4 * hits / (rounds * tasks * points), 'rounds': rounds}
