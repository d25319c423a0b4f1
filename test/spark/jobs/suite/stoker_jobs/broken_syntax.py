"""A module that Python cannot read: line 4 is wrong on purpose."""

class Job:
    def validate(self, context, runtime, config:
        return None
