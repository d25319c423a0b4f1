"""The jobs of the transcripts."""
import time


class Echo:
    def validate(self, context, runtime, config):
        return config["input"]["string"]

    def run_job(self, context, runtime, data):
        return data


class Sleep:
    """Sleeps until it is interrupted."""

    def validate(self, context, runtime, config):
        return None

    def run_job(self, context, runtime, data):
        time.sleep(3600)
