"""The objects of the native API in words: durations, errors, receipts, events, the bar of a job."""
import datetime
import json
import sys
import time

from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from .errors import clean
from .terminal import state_text

RETRY = {"never": "the same again will fail again", "may-help": "the same again may succeed",
         "with-more-memory": "it may succeed with more memory"}
UNITS = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))
BAR_WIDTH = 30

_spinner = Spinner("line")


# ---- numbers

def parse_time(text):
    """Seconds since 1970 of a time of the API; None of None."""
    return text and datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def short_time(text):
    """2026-01-31T12:00:00.000Z as 2026-01-31 12:00:00."""
    return text[:19].replace("T", " ") if text else ""


def seconds(value):
    """12.3 s, 4 min 05 s, 2 h 03 min."""
    if value < 60:
        return "%.1f s" % value
    if value < 3600:
        return "%d min %02d s" % divmod(round(value), 60)
    return "%d h %02d min" % divmod(round(value / 60), 60)


def ran(job):
    """How long a job has run, or ran; empty when it never began."""
    start, end = parse_time(job["started_at"]), parse_time(job["ended_at"])
    return seconds(max((end or time.time()) - start, 0)) if start else ""


def size(n):
    """Bytes: 512 B, 1.5 MiB."""
    for unit, name in UNITS:
        if n >= unit:
            return "%.1f %s" % (n / unit, name)
    return "%d B" % n


# ---- progress

def counts_of(job, kind):
    """(done, total, active, failed) of a job's tasks or stages; None when the server does not tell."""
    found = (job.get("progress") or {}).get(kind) or {}
    counts = tuple(found.get(name) or 0 for name in ("done", "total", "active", "failed"))
    return counts if counts[1] else None


def progress_text(job):
    """12/40 tasks; empty when nothing is known. job: a job or an event of its progress."""
    counts = counts_of(job, "tasks")
    return "%d/%d tasks" % counts[:2] if counts else ""


def job_bar(job):
    """One line: the state, how far its tasks are, how long it has run."""
    line = Table.grid(padding=(0, 1))
    cells = [_spinner.render(time.monotonic()), state_text(job["state"])]
    counts, stages = counts_of(job, "tasks"), counts_of(job, "stages")
    if job["position"] is not None:
        cells.append(Text("%d before it" % job["position"]))
    elif counts:
        done, total, active, failed = counts
        cells += [meter(done, total), Text("%d/%d tasks" % (done, total))]
        cells += [Text("%d/%d stages" % stages[:2])] if stages and stages[1] > 1 else []
        cells += [Text("%d running" % active)] if active else []
        cells += [Text("%d failed" % failed, style="red")] if failed else []
    cells.append(Text(ran(job)))
    for _ in cells:
        line.add_column(no_wrap=True)
    line.add_row(*cells)
    return line


def meter(done, total):
    """How much of it is done, also without colours."""
    full, empty = "\u2501\u2500" if "utf" in (sys.stderr.encoding or "").lower() else "#-"
    n = BAR_WIDTH * min(done, total) // max(total, 1)
    return Text.assemble((full * n, "cyan"), (empty * (BAR_WIDTH - n), "dim"))


def upload_bar(name, done, total):
    line = Table.grid(padding=(0, 1))
    for _ in range(3):
        line.add_column(no_wrap=True)
    line.add_row(Text(name), meter(done, total),
                 Text("%s of %s" % (size(done), size(total))))
    return line


def context_bar(context):
    phases = context["phases"] or [{"phase": "", "ms": 0}]
    line = Table.grid(padding=(0, 1))
    line.add_row(_spinner.render(time.monotonic()), state_text(context["state"]), Text(phases[-1]["phase"]))
    return line


# ---- errors

def failure(error, whole=False):
    """An error object as a Text: its message, the user's line, what lies behind it, whether to try again.

    whole: with the traceback and the last lines of the log.
    """
    text = Text()
    text.append("%s: " % error["code"], style="bold red")
    text.append(clean(error["message"]).rstrip())
    if error.get("class"):
        text.append(" (%s)" % clean(error["class"]))
    for problem in error.get("problems") or []:
        text.append("\n  - " + clean(problem))
    if error.get("file") and error.get("line"):
        text.append("\n  at %s:%d" % (clean(error["file"]), error["line"]), style="bold")
        text.append(": %s" % clean(error["source"]).strip() if error.get("source") else "")
    if error.get("cause") and clean(error["cause"]) not in text.plain:
        text.append("\n  cause: " + _indented(error["cause"] if whole else error["cause"].partition("\n")[0]))
    for name in ("traceback", "stderr_tail", "log_tail") if whole else ():
        if error.get(name):
            text.append("\n  %s:\n    %s" % (name, _indented(error[name])))
    text.append("\n  retry %s: %s" % (error["retry"], RETRY.get(error["retry"], "")) if error.get("retry") else "")
    return text


def _indented(text):
    return clean(text).rstrip().replace("\n", "\n    ")


def context_failure(context):
    """Why a context is not up."""
    text = Text("stoke: context %s is " % context["name"]).append_text(state_text(context["state"]))
    if context["error"]:
        text.append(", ").append_text(failure(context["error"], whole=True))
    return text


# ---- one thing, field by field

def fields(found):
    """An object as a Text, a field a line; what is not known is left out."""
    text, width = Text(), max(map(len, found))
    for name, value in found.items():
        if value in (None, [], {}):
            continue
        text.append("\n" if text else "").append(name.ljust(width + 2), style="bold")
        text.append_text(_value(name, value))
    return text


def _value(name, value):
    if name == "error":
        return failure(value, whole=True)
    if isinstance(value, (dict, list)):
        return Text(clean(json.dumps(value, ensure_ascii=False)))
    return state_text(clean(str(value)))


def server(found):
    """GET /v1/server in a few lines."""
    jobs, slots, contexts, disk = (found[name] for name in ("jobs", "slots", "contexts", "disk"))
    up = ["%d %s" % (contexts[state], state) for state in ("RUNNING", "CREATING", "STOPPING") if contexts[state]]
    return fields({"server": "%s, version %s, up %s" % (found["state"], found["version"], seconds(found["uptime_ms"] / 1000)),
                   "contexts": ", ".join(up) or "none", "slots": "%d of %d busy" % (slots["busy"], slots["total"]),
                   "jobs": ", ".join("%d %s" % (n, state) for state, n in jobs.items() if n) or "none",
                   "disk": size(max(disk["free_bytes"], 0)) + " free" + (", LOW: new work is refused" if disk["low"] else "")})


# ---- receipts

def receipt(found):
    """A receipt (docs/cancel.md) as a Text, a step a line."""
    text = Text("job %s: " % found.get("job", ""))
    if found.get("outcome"):
        text.append_text(state_text(found["outcome"]))
        text.append(" in %d ms, " % found["elapsed_ms"] if found.get("elapsed_ms") is not None else ", ")
    else:
        text.append("not stopped yet, ")
    text.append("asked for by %s while %s" % (found["reason"], found.get("state")))
    if found.get("stopped_by"):
        text.append(", stopped by %s" % found["stopped_by"])
    for step in found.get("steps") or []:
        more = ", ".join("%s %s" % (name, value) for name, value in step.items()
                         if name not in ("ms", "step") and value is not None)
        text.append("\n  %6d ms  %s%s" % (step["ms"], step["step"], " (%s)" % more if more else ""))
    return text


# ---- events

def event(found):
    """An event as a Text of one line."""
    text = Text("%s  %-15s " % (short_time(found.get("time")).ljust(19), found["type"]))
    if found["type"] == "gap":
        text.append("events %d to %d are not there (%s)" % (found["after"] + 1, found["next"] - 1, found["reason"]))
    elif found["type"].startswith("binary."):
        text.append(clean("%s version %s" % (found["name"], found["version"])))
    else:
        text.append(clean(" ".join(filter(None, (found.get("job"), found.get("context"))))) + "  ")
        text.append_text(state_text(found["state"]) if "state" in found else Text(progress_text(found)))
        if found.get("error"):
            text.append(clean("  %s: %s" % (found["error"]["code"], found["error"]["message"])).partition("\n")[0])
    return text
