"""A module that cannot be imported: what it imports is not there."""

import stoker_no_such_module


class Job:
    """Never made."""

    def validate(self, context, runtime, config):
        return stoker_no_such_module

    def run_job(self, context, runtime, data):
        return None
