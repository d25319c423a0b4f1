"""A job whose binary brings its own `sparkjobserver`."""

from sparkjobserver import api


class Job(api.SparkJob):
    """In any context. Config: problem, a text, or none. Result: true when it runs with its own copy."""

    def validate(self, context, runtime, config):
        if 'problem' in config:
            return [api.ValidationProblem(config['problem'])]
        return None

    def run_job(self, context, runtime, data):
        return api.COPY
