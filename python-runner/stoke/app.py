"""What all commands share: the server, --json, completion of names, and how a command is declared."""
import functools
import os

import click

from .client import Client, Patience
from .terminal import Terminal

DEFAULT_URL = "http://127.0.0.1:8090"
RECONNECT_S = 600.0     # jobs outlive their server for ten minutes
COMPLETE_S = 2.0


class App:
    """One call of stoke."""

    def __init__(self):
        self.url, self.json, self.quiet, self.reconnect_s = None, False, False, RECONNECT_S

    @functools.cached_property
    def client(self):
        return Client(self.url or os.environ.get("STOKER_URL") or DEFAULT_URL)

    @functools.cached_property
    def terminal(self):
        return Terminal(self.json, self.quiet)

    def patience(self, known=True):
        """For a server that is away while something is followed; as in Patience."""
        return Patience(self.reconnect_s, self.terminal.note, known)

    def show(self, thing, text):
        """The object with --json, else text(thing) for people."""
        if self.json:
            self.terminal.emit(thing)
        else:
            self.terminal.print(text(thing))

    def show_list(self, things, header, row):
        """An object a line with --json, else a table; row(thing): its cells."""
        if not self.json:
            self.terminal.table(header, [row(thing) for thing in things])
            return
        for thing in things:
            self.terminal.emit(thing)


pass_app = click.make_pass_decorator(App)


def _set(name):
    def callback(context, parameter, value):
        if value:
            setattr(context.find_object(App), name, value)
    return callback


def common(function):
    """The options that may stand before and behind the name of every command."""
    for option in (
        click.option("--json", is_flag=True, expose_value=False, callback=_set("json"),
                     help="Print JSON, one object a line; errors too."),
        click.option("--server", metavar="URL", expose_value=False, callback=_set("url"),
                     help="The server; else $STOKER_URL, else %s." % DEFAULT_URL),
    ):
        function = option(function)
    return function


def command(group, *names, **settings):
    """A command of `group` that is handed the App."""
    def declare(function):
        return group.command(*names, **settings)(common(pass_app(function)))
    return declare


quiet_option = click.option("-q", "--quiet", is_flag=True, expose_value=False, callback=_set("quiet"),
                            help="No notes and no bar on standard error.")
reconnect_option = click.option("--reconnect", "seconds", metavar="SECONDS", type=click.FloatRange(min=0),
                                expose_value=False, callback=lambda c, p, v: v is None or
                                setattr(c.find_object(App), "reconnect_s", v),
                                help="How long to try again when the server goes away; %g." % RECONNECT_S)


# ---- completion: what the server has, quickly or not at all

def completes(path, list_name, field):
    """A function for shell_complete: the values of `field` in the list that GET path answers with."""
    def complete(context, parameter, incomplete):
        app = context.find_object(App)
        try:
            found = app.client.json("GET", path, timeout=COMPLETE_S)[list_name]
        except click.ClickException:
            return []
        return [thing[field] for thing in found if (thing[field] or "").startswith(incomplete)]
    return complete


complete_job = completes("/v1/jobs", "jobs", "id")
complete_live_job = completes("/v1/jobs?state=QUEUED,STARTING,RUNNING,CANCELLING", "jobs", "id")
complete_context = completes("/v1/contexts", "contexts", "name")
complete_binary = completes("/v1/binaries", "binaries", "name")

job_argument = click.argument("job", shell_complete=complete_job)
