"""The command `stoke`: its group, and how it ends."""
import os
import sys

import click
from rich.text import Text

from . import __version__, commands_jobs, commands_run, commands_server, errors
from .app import App, common

HELP = """Runs jobs on a Stoker server, and looks after them.

\b
    stoke contexts create demo
    stoke upload wordcount jobs.whl
    stoke run wordcount jobs.WordCount -c input.strings='["a", "b"]'

\b
Exit status: 0 it is done, or the job FINISHED; 1 the job ended as ERROR or INVALID;
2 the command line is wrong; 3 the server refused; 4 the server does not answer;
5 the job was KILLED, 6 TIMED_OUT, 7 LOST; 8 it goes on; 130 left with Ctrl-C.
"""


class Closed(Exception):
    """Nobody reads our output any more."""


class Root(click.Group):
    def invoke(self, context):
        try:
            return super().invoke(context)
        except BrokenPipeError as error:    # click would make it status 1, which is a job's
            raise Closed from error


@click.group(cls=Root, help=HELP, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="stoke")
@common
def stoke():
    pass


for module in (commands_run, commands_jobs, commands_server):
    module.add_to(stoke)


def main(args=None):
    """The exit status. What goes wrong is said on standard error."""
    app = App()
    try:
        status = stoke.main(args, prog_name="stoke", standalone_mode=False, obj=app)
        sys.stdout.flush()
        return status or 0
    except click.ClickException as problem:
        last_words(app, problem)
        return problem.exit_code
    except (click.Abort, KeyboardInterrupt):
        return errors.INTERRUPTED
    except (Closed, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())      # what is buffered goes nowhere
        return errors.PIPE_CLOSED
    except OSError as error:
        click.echo("stoke: %s" % (" ".join(filter(None, (error.filename, error.strerror))) or error), err=True)
        return errors.JOB_FAILED


def last_words(app, problem):
    """On standard error: one line, or with --json one object; of a wrong command line its usage, too."""
    if app.json:
        click.echo(errors.as_json(problem), err=True)
    elif isinstance(problem, click.UsageError) and not isinstance(problem, errors.Problem):
        problem.show()
    else:
        app.terminal.say(Text("stoke: " + problem.format_message()))    # behind a log that has not ended its line
