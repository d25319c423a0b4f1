"""stoke run, stoke attach."""
import uuid

import click

from . import config as configs
from . import follow
from .app import command, complete_binary, complete_context, complete_live_job, quiet_option, reconnect_option
from .client import Cut, quoted
from .errors import Wrong

LOG_CHOICE = click.Choice(["all", "stdout", "stderr", "none"])

result_option = click.option("-o", "--output", metavar="FILE", type=click.Path(dir_okay=False, writable=True),
                             help="Put the result there; else it goes to standard output.")
stream_option = click.option("--log", "stream", type=LOG_CHOICE, default="all", show_default=True,
                             help="What of the job's output to show.")


def add_to(group):
    command(group, "run")(run)
    command(group, "attach")(attach)


@click.argument("app_name", metavar="APP", shell_complete=complete_binary)
@click.argument("class_path", metavar="CLASS")
@click.option("-C", "--context", shell_complete=complete_context, help="Where it runs; needless when only one is up.")
@click.option("--config", "config_file", metavar="FILE", help="The job's config, JSON or HOCON; - is standard input.")
@click.option("-c", "assignments", metavar="KEY=VALUE", multiple=True,
              help="Put into the config, over --config: -c input.path=/data -c 'days=[1, 2]'.")
@click.option("-t", "--tag", "tags", multiple=True, help="A text to find the job by: stoke ps --tag.")
@click.option("--priority", type=click.IntRange(-100, 100), help="Higher goes first; 0.")
@click.option("--timeout", "run_timeout", metavar="TIME", help="How long it may run: 30s, 5min.")
@click.option("--queue-timeout", metavar="TIME", help="How long it may wait.")
@click.option("--max-memory", metavar="SIZE", help="What its Python process may take: 512m, 2g.")
@click.option("--isolation", type=click.Choice(["shared", "process"]), help="process: a Python process of its own.")
@click.option("--idempotency-key", metavar="KEY", help="The same key with the same job is the same job, sent once or often.")
@click.option("-d", "--detach", is_flag=True, help="Print the job's id, and let it run.")
@stream_option
@result_option
@quiet_option
@reconnect_option
def run(app, app_name, class_path, context, config_file, assignments, idempotency_key, detach, stream, output, tags, **terms):
    """Run CLASS of the binary APP as a job, follow it to its end, print its result.

    The job's output goes to standard output and standard error as it comes, then its result, as JSON, to standard
    output; everything else goes to standard error. -q --log none leaves the result alone.

    Ctrl-C cancels the job and shows the receipt; a second one leaves it.
    """
    body = {"app": app_name, "class": class_path, "config": configs.read(config_file, assignments),
            "context": context or only_context(app), "tags": list(tags)}
    body.update((name, value) for name, value in terms.items() if value is not None)
    job = submit(app, body, idempotency_key)
    if detach:
        app.show(job, lambda job: job["id"])
        return 0
    if app.json:
        app.terminal.emit({"type": "submitted", "job": job})
    app.terminal.note("job %s in context %s" % (job["id"], job["context"]))
    return followed(app, job, True, stream, output)


@click.argument("job", shell_complete=complete_live_job)
@click.option("--tail", type=click.IntRange(min=0), metavar="N", help="Of what it has printed, the last N lines only.")
@stream_option
@result_option
@quiet_option
@reconnect_option
def attach(app, job, tail, stream, output):
    """Follow a job as 'stoke run' does. Ctrl-C leaves it."""
    return followed(app, app.client.get("/v1/jobs/" + quoted(job)), False, stream, output, tail)


def followed(app, job, cancels, stream, output, tail=None):
    ended = follow.Follower(app, job, cancels, None if stream == "none" else stream, tail).run()
    return follow.finish(app, ended, output)


def submit(app, body, key):
    """POST /v1/jobs. Sent again when the connection breaks: a key makes sure that it is one job."""
    headers = {"Idempotency-Key": key or "stoke-%s" % uuid.uuid4()}
    try:
        return app.client.json("POST", "/v1/jobs", None, body, headers)
    except Cut:
        return app.patience().ask(app.client.json, "POST", "/v1/jobs", None, body, headers)


def only_context(app):
    """The name of the one context that is up. Raises Wrong when there is none, or a choice."""
    names = sorted(c["name"] for c in app.client.get("/v1/contexts")["contexts"] if c["state"] != "STOPPING")
    if len(names) == 1:
        return names[0]
    if not names:
        raise Wrong("no context is up: make one (stoke contexts create NAME)")
    raise Wrong("name one of the contexts with --context: " + ", ".join(names))
