"""What a job gets as `runtime`."""
import json

from sparkjobserver.api import JobEnvironment

from . import loading


class Runtime(JobEnvironment):
    """A JobEnvironment that makes the ConfigTree of the context's settings when a job asks for it."""

    def __init__(self, job_id, named_objects, settings):
        self._settings = settings
        self._tree = None
        self.jobId, self.namedObjects = job_id, named_objects

    @property
    def named_objects(self):
        return self.namedObjects

    @property
    def contextConfig(self):
        if self._tree is None:
            self._tree = loading.config_tree(json.dumps(self._settings))
        return self._tree

    @contextConfig.setter
    def contextConfig(self, tree):
        self._tree = tree
