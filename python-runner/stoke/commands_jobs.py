"""stoke ps, show, logs, cancel, receipt, result."""
import time

import click

from . import errors, render
from .app import command, complete_binary, complete_context, job_argument, quiet_option, reconnect_option
from .client import quoted
from .errors import Ended, NotYet
from .follow import FINAL, save_result, write_log
from .streams import Log

PAGE_MAX = 1000
CANCEL_WAIT_S = 30.0
WAIT_MAX_S = 30.0       # of one request
HEADER = ("JOB", "STATE", "SUBMITTED", "RAN", "PROGRESS", "CONTEXT", "APP", "CLASS", "TAGS")

tail_option = click.option("--tail", type=click.IntRange(min=0), metavar="N", help="The last N lines, and what follows.")
follow_option = click.option("-f", "--follow", is_flag=True, help="Go on with what is printed, to the end.")


def add_to(group):
    for function in (ps, show, logs, cancel, receipt, result):
        command(group, function.__name__)(function)


def job_path(job, more=""):
    return "/v1/jobs/%s%s" % (quoted(job), more)


@click.option("-s", "--state", "states", multiple=True, metavar="STATE", help="In this state: running, error, ...")
@click.option("-a", "--active", is_flag=True, help="Those that have not ended.")
@click.option("-C", "--context", shell_complete=complete_context, help="Of this context.")
@click.option("--app", "app_name", shell_complete=complete_binary, help="Of this binary.")
@click.option("--user", help="Of this user.")
@click.option("-t", "--tag", "tags", multiple=True, help="With this tag; several times: with all of them.")
@click.option("--since", metavar="TIME", help="Submitted at or after: 2026-01-31T12:00:00Z.")
@click.option("--until", metavar="TIME", help="Submitted before.")
@click.option("-n", "--limit", type=click.IntRange(min=0), default=20, show_default=True, help="At most; 0: all.")
def ps(app, states, active, app_name, tags, limit, **filters):
    """List jobs, newest first."""
    states = [state.upper() for state in states] + (["QUEUED", "STARTING", "RUNNING", "CANCELLING"] if active else [])
    filters.update(state=",".join(states) or None, app=app_name, tag=list(tags) or None)
    app.show_list(jobs(app.client, limit, filters), HEADER, lambda job: (
        job["id"], job["state"], render.short_time(job["submitted_at"])[5:], render.ran(job), render.progress_text(job),
        job["context"] or "", job["app"] or "", job["class"] or "", " ".join(job["tags"])))


def jobs(client, limit, filters):
    """Yields the jobs that fit, page by page; limit 0: all."""
    cursor, left = None, limit or float("inf")
    while left:
        page = client.json("GET", "/v1/jobs", dict(filters, cursor=cursor, limit=min(left, PAGE_MAX)))
        yield from page["jobs"]
        left -= len(page["jobs"])
        cursor = page["next"]
        if cursor is None:
            return


@job_argument
def show(app, job):
    """Show one job, with its whole error."""
    found = app.client.get(job_path(job))
    if found["error"] and found["error"].get("full"):
        found["error"] = app.client.get(job_path(job, "/error"))
    app.show(found, render.fields)


@job_argument
@follow_option
@tail_option
@click.option("--stream", type=click.Choice(["all", "stdout", "stderr"]), default="all", show_default=True, help="Which one.")
@quiet_option
@reconnect_option
def logs(app, job, follow, tail, stream):
    """Show what a job has printed: its standard output on ours, its standard error on ours.

    With -f the exit status is that of the job.
    """
    log = Log.of_job(app.client, job, app.patience(known=False), stream, follow=follow, tail=tail)
    write_log(app.terminal, log.pieces())
    return errors.BY_STATE[app.patience().ask(app.client.get, job_path(job), wait="1min")["state"]] if follow else 0


@job_argument
@click.option("--wait", "seconds", type=click.FloatRange(min=0), metavar="SECONDS", default=CANCEL_WAIT_S, show_default=True,
              help="How long to wait for its end.")
def cancel(app, job, seconds):
    """Cancel a job, wait until it has stopped, and print the receipt."""
    before = app.client.get(job_path(job))["state"]
    end = time.monotonic() + seconds

    def left():
        return {"wait": "%dms" % (1000 * max(min(end - time.monotonic(), WAIT_MAX_S), 0))}

    found = app.client.json("DELETE", job_path(job), left())
    while found["state"] not in FINAL and time.monotonic() < end:
        found = app.client.json("GET", job_path(job), left())
    if before in FINAL:
        app.terminal.note("job %s had ended before: %s" % (job, before))
    if found["has_receipt"]:
        show_receipt(app, job)
    elif app.json:
        app.terminal.emit(found)
    if found["state"] not in FINAL:
        raise NotYet("job %s is being cancelled, which goes on: 'stoke receipt %s' tells how far it is" % (job, job))


@job_argument
def receipt(app, job):
    """Show how the end of a job was brought about: what was asked, what stopped it, the proof."""
    show_receipt(app, job)


def show_receipt(app, job):
    app.show(app.client.get(job_path(job, "/receipt")), render.receipt)


@job_argument
@click.option("-o", "--output", metavar="FILE", type=click.Path(dir_okay=False, writable=True), help="Put it there.")
@reconnect_option
@quiet_option
def result(app, job, output):
    """Print the result of a job, byte for byte."""
    found = app.client.get(job_path(job))
    if found["state"] not in FINAL:
        raise NotYet("job %s is %s, it has no result yet: 'stoke attach %s' waits for it" % (job, found["state"], job))
    if found["state"] != "FINISHED":
        raise Ended("job %s ended as %s: 'stoke show %s' tells why" % (job, found["state"], job), found["state"])
    save_result(app, job, output)
