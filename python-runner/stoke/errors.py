"""What stoke ends with: the statuses that docs/stoke.md promises, and the errors that carry them."""
import json
import re

import click

JOB_FAILED = 1
USAGE = 2           # click's own
REFUSED = 3         # the server answered with an error
UNREACHABLE = 4     # no answer, or it broke off and did not come back
NOT_YET = 8         # what was asked for goes on
INTERRUPTED = 130   # by Ctrl-C, as shells have it
PIPE_CLOSED = 141   # nobody reads our output any more, as shells have it

BY_STATE = {"FINISHED": 0, "ERROR": JOB_FAILED, "INVALID": JOB_FAILED, "KILLED": 5, "TIMED_OUT": 6, "LOST": 7}


class Problem(click.ClickException):
    """One line for people, an object for programs, an exit status."""
    exit_code = JOB_FAILED
    code = "FAILED"

    def as_object(self):
        return {"code": self.code, "message": self.message}


class Wrong(Problem):
    """What was asked for cannot be meant so."""
    exit_code, code = USAGE, "USAGE"


class Unreachable(Problem):
    """what: happened; advice: on what to do, for who does not try again by himself."""
    exit_code, code = UNREACHABLE, "UNREACHABLE"

    def __init__(self, what, advice=""):
        super().__init__(what + advice)
        self.what = what


class NotYet(Problem):
    exit_code, code = NOT_YET, "NOT_YET"


class Ended(Problem):
    """A job has not ended as it must have for what was asked."""
    code = "ENDED"

    def __init__(self, message, state):
        super().__init__(message)
        self.exit_code = BY_STATE[state]


class Refused(Problem):
    """error: the server's error object, {code, message, ...}."""
    exit_code = REFUSED

    def __init__(self, status, error):
        super().__init__(clean(error["message"]))
        self.status, self.error, self.code = status, error, error["code"]

    def as_object(self):
        return self.error


def as_json(problem):
    """What --json has on standard error for a click.ClickException."""
    if isinstance(problem, Problem):
        error = problem.as_object()
    else:
        error = {"code": Wrong.code, "message": problem.format_message()}
    return json.dumps({"error": error})


# What steers a terminal, or changes the direction of what it shows; line end and tab are left.
CONTROL = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def clean(text):
    """Text of others, fit for a terminal."""
    return CONTROL.sub("?", text)


def escaped(text):
    """The same for JSON, which means what it meant: they stand in strings there, but for a carriage return between tokens."""
    return CONTROL.sub(lambda found: " " if found[0] == "\r" else "\\u%04x" % ord(found[0]), text)
