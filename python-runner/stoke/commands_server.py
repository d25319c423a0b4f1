"""stoke upload, binaries, contexts, events, status, completion."""
import datetime
import os
import tempfile
import time

import click
from click.shell_completion import get_completion_class

from . import config as configs
from . import errors, packing, render
from .app import command, common, complete_binary, complete_context, complete_job, pass_app, quiet_option, reconnect_option
from .client import quoted
from .commands_jobs import follow_option, tail_option
from .errors import Wrong
from .follow import write_log
from .streams import Events, Log

KINDS = {".egg": "egg", ".zip": "zip", ".whl": "wheel", ".jar": "jar"}
BINARY_HEADER = ("BINARY", "VERSION", "TYPE", "SIZE", "UPLOADED", "DIGEST")
CONTEXT_HEADER = ("CONTEXT", "STATE", "STARTED", "JOBS AT ONCE", "SPARK APPLICATION", "SPARK UI")
LOOK_S = 0.2            # at a context that starts
UPLOAD_SILENCE_S = 600.0
EVENTS_BACK = datetime.timedelta(hours=1)


def add_to(group):
    for function in (upload, events, status, completion):
        command(group, function.__name__)(function)
    add_group(group, "binaries", binaries, "List, show and remove what was uploaded.",
              ("ls", list_binaries), ("show", show_binary), ("rm", remove_binary))
    add_group(group, "contexts", contexts, "List, create, show and end contexts.", ("ls", list_contexts),
              ("create", create_context), ("show", show_context), ("logs", context_logs), ("rm", remove_context))


def add_group(parent, name, function, text, *commands):
    """A group that lists when it is given no command."""
    group = parent.group(name, invoke_without_command=True, help=text)(common(pass_app(function)))
    for each, body in commands:
        command(group, each)(body)


# ---- binaries

@click.argument("name", shell_complete=complete_binary)
@click.argument("file", type=click.Path(exists=True, readable=True))
@click.option("--type", "kind", type=click.Choice(sorted(KINDS.values())), help="When the file's name does not tell.")
@quiet_option
def upload(app, name, file, kind):
    """Upload FILE (.egg, .zip, .whl, .jar) as the newest version of NAME.

    Of a folder, its Python modules and packages are packed into a zip.
    """
    with tempfile.TemporaryFile() as packed:
        if os.path.isdir(file):
            packing.pack(file, packed)
            stored = send(app, name, packed, "zip")
        else:
            kind = kind or KINDS.get(os.path.splitext(file)[1].lower())
            if not kind:
                raise Wrong("%s ends in none of %s: say what it is with --type" % (file, ", ".join(KINDS)))
            with open(file, "rb") as source:
                stored = send(app, name, source, kind)
    app.show(stored, lambda v: "%s version %d: %s, %s, sha256 %s" % (v["name"], v["version"], v["type"],
                                                                     render.size(v["bytes"]), v["digest"]))


class Watched:
    """A file that tells the terminal's bar how much of it was read."""

    def __init__(self, file, total, name, terminal):
        self._file, self._total, self._name, self._terminal = file, total, name, terminal
        self._done, self._shown = 0, 0.0

    def read(self, n=-1):
        data = self._file.read(n)
        self._done += len(data)
        if self._terminal.has_bar and (time.monotonic() - self._shown > 0.1 or self._done == self._total):
            self._shown = time.monotonic()
            self._terminal.bar(render.upload_bar(self._name, self._done, self._total))
        return data


def send(app, name, file, kind):
    """PUT of a file from its beginning, as it is read. The version that it became."""
    total = file.seek(0, os.SEEK_END)
    file.seek(0)
    try:
        return app.client.send("PUT", "/v1/binaries/" + quoted(name), {"type": kind},
                               Watched(file, total, name, app.terminal), total, UPLOAD_SILENCE_S)
    finally:
        app.terminal.bar(None)


@click.pass_context
def binaries(context, app):
    if context.invoked_subcommand is None:
        list_binaries(app)


def list_binaries(app):
    """The newest version of each."""
    show_versions(app, app.client.get("/v1/binaries")["binaries"])


@click.argument("name", shell_complete=complete_binary)
def show_binary(app, name):
    """All versions of one."""
    show_versions(app, app.client.get("/v1/binaries/" + quoted(name))["versions"])


def show_versions(app, versions):
    app.show_list(versions, BINARY_HEADER, lambda v: (v["name"], v["version"], v["type"], render.size(v["bytes"]),
                                                      render.short_time(v["uploaded_at"]), v["digest"][:12]))


@click.argument("name", shell_complete=complete_binary)
def remove_binary(app, name):
    """Remove all versions of one."""
    app.client.json("DELETE", "/v1/binaries/" + quoted(name))


# ---- contexts

@click.pass_context
def contexts(context, app):
    if context.invoked_subcommand is None:
        list_contexts(app)


def list_contexts(app):
    """Those that have not ended."""
    app.show_list(app.client.get("/v1/contexts")["contexts"], CONTEXT_HEADER, lambda c: (
        c["name"], c["state"], render.short_time(c["started_at"]), c["max_jobs"], c["application_id"] or "",
        c["ui_url"] or ""))


@click.argument("name")
@click.option("-o", "--option", "options", metavar="KEY=VALUE", multiple=True,
              help="A setting: -o num-cpu-cores=2 -o spark.executor.memory=1g.")
@click.option("-d", "--detach", is_flag=True, help="Do not wait until it is up.")
@quiet_option
def create_context(app, name, options, detach):
    """Create a context, and wait until it is up."""
    body = {"name": name, "settings": configs.settings(options)}
    found = app.client.json("POST", "/v1/contexts", None, body)
    try:
        while found["state"] == "CREATING" and not detach:
            app.terminal.bar(render.context_bar(found))
            time.sleep(LOOK_S)
            found = app.patience().ask(app.client.get, "/v1/contexts/" + quoted(name))
    finally:
        app.terminal.bar(None)
    if found["state"] in ("CREATING", "RUNNING") or app.json:
        app.show(found, lambda c: "%s %s" % (c["name"], c["state"]))
        return 0 if found["state"] in ("CREATING", "RUNNING") else errors.JOB_FAILED
    app.terminal.say(render.context_failure(found))
    return errors.JOB_FAILED


@click.argument("name", shell_complete=complete_context)
def show_context(app, name):
    """One context, with its whole error."""
    found = app.client.get("/v1/contexts/" + quoted(name))
    if found["error"] and found["error"].get("full"):
        found["error"] = app.client.get("/v1/contexts/%s/error" % quoted(name))
    app.show(found, render.fields)


@click.argument("name", shell_complete=complete_context)
@follow_option
@tail_option
@quiet_option
@reconnect_option
def context_logs(app, name, follow, tail):
    """Its own log, that of its JVM included."""
    write_log(app.terminal, Log.of_context(app.client, name, app.patience(known=False), follow=follow, tail=tail).pieces())


@click.argument("name", shell_complete=complete_context)
@click.option("--force", is_flag=True, help="By SIGKILL at once.")
@quiet_option
def remove_context(app, name, force):
    """End a context and its jobs."""
    found = app.client.json("DELETE", "/v1/contexts/" + quoted(name), {"force": "true" if force else None})
    app.show(found, lambda c: "%s %s" % (c["name"], c["state"]))
    return 0 if found["ended_at"] else errors.NOT_YET


# ---- the server

@click.option("-f", "--follow", is_flag=True, help="Go on with what happens.")
@click.option("--job", "jobs", multiple=True, shell_complete=complete_job, help="Of this job.")
@click.option("-C", "--context", "contexts", multiple=True, shell_complete=complete_context, help="Of this context and its jobs.")
@click.option("--type", "types", multiple=True, metavar="TYPE", help="job, context, binary, job.ended, ...")
@click.option("--since", metavar="WHEN", help="A time (2026-01-31T12:00:00Z), or the number of an event.")
@quiet_option
@reconnect_option
def events(app, follow, jobs, contexts, types, since):
    """Show what has happened to jobs, contexts and binaries: in the last hour, or to --job since it was submitted.

    With -f: from now on, or from --since on.
    """
    filters = {"job": jobs, "context": contexts, "type": types}
    live = Events(app.client, app.patience(known=False), since, **filters)
    for event in live.follow() if follow else past(app, since, filters):
        if event:
            app.show(event, render.event)


def past(app, since, filters):
    """Yields the events up to the newest one that there is now.

    They are filtered here: a stream that is filtered by the server is silent when it has come to the newest one.
    """
    now = Events(app.client, app.patience(known=False))
    next(now.follow())
    if since is None and filters["job"]:
        since = min(app.client.get("/v1/jobs/" + quoted(job))["submitted_at"] for job in filters["job"])
    elif since is None:
        since = (datetime.datetime.now(datetime.timezone.utc) - EVENTS_BACK).strftime("%Y-%m-%dT%H:%M:%SZ")
    found = Events(app.client, app.patience(), since)
    for event in found.follow():
        if event and "id" in event and (event["type"] == "gap" or fits(event, filters)):
            yield event
        if found.at >= now.at:
            return


def fits(event, filters):
    """As the server has it: one of each kind of filter must fit."""
    return ((not filters["job"] or event.get("job") in filters["job"])
            and (not filters["context"] or event.get("context") in filters["context"])
            and (not filters["type"] or {event["type"], event["type"].partition(".")[0]} & set(filters["type"])))


def status(app):
    """Show how the server stands."""
    app.show(app.client.get("/v1/server"), render.server)


@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context, app, shell):
    """Print what makes a shell complete stoke's commands and the names on the server.

    \b
    bash, in ~/.bashrc:                   eval "$(stoke completion bash)"
    zsh, in ~/.zshrc:                     eval "$(stoke completion zsh)"
    fish, in ~/.config/fish/config.fish:  stoke completion fish | source
    """
    root = context.find_root().command
    click.echo(get_completion_class(shell)(root, {}, "stoke", "_STOKE_COMPLETE").source())
