"""A job that keeps Spark busy for as long as one likes, to watch and to cancel."""

from operator import add
from random import Random

from sparkjobserver.api import SparkJob, build_problems

POINTS_PER_TASK = 1_000_000


def inside(task):
    """Throws POINTS_PER_TASK points at the unit square; returns how many fall inside the circle. Runs on executors."""
    random = Random(task).random
    return sum(random() ** 2 + random() ** 2 < 1 for _ in range(POINTS_PER_TASK))


class Pi(SparkJob):
    """Estimates pi by throwing points at a square.

    Context: SparkSession. Config: tasks, an int (10 unless given); each is a fraction of a second's work of one core.
    Result: {"pi": the estimate, "points": how many points it comes from}.
    """

    def validate(self, context, runtime, config):
        tasks = config.get_int('tasks', 10)
        return tasks if tasks > 0 else build_problems([f'tasks is {tasks}: it must be 1 or more'])

    def run_job(self, context, runtime, data):
        points = data * POINTS_PER_TASK
        return {'pi': 4 * context.sparkContext.parallelize(range(data), data).map(inside).reduce(add) / points,
                'points': points}
