"""A job followed to its end: its log as it comes, its progress, Ctrl-C, and then its result or error.

Three threads: one writes the log (so that whoever reads slowly slows nobody else), one looks at the job for the bar, and the main
thread waits for what they and Ctrl-C have to say.
"""
import os
import queue
import signal
import threading

from rich.text import Text

from . import errors, render
from .client import Patience, quoted
from .errors import Refused, Unreachable
from .streams import Log

LOOK_S = 0.5            # the progress of a job is half a second old at most
WAIT = "30s"            # of a request that waits for the end
FINAL = frozenset(errors.BY_STATE)


class Left(errors.Problem):
    exit_code, code = errors.INTERRUPTED, "INTERRUPTED"


class Follower:
    """job: its object. cancels: whether the first Ctrl-C cancels it; the second one leaves (the first, when it does not).

    stream: of the log, or None for no log. result_file: where the result goes; None: to standard output.
    """

    def __init__(self, app, job, cancels, stream="all", tail=None):
        self._app, self._client, self._terminal = app, app.client, app.terminal
        self.job, self._cancels, self._stream, self._tail = job, cancels, stream, tail
        self._path = "/v1/jobs/" + quoted(job["id"])
        self._news = queue.SimpleQueue()    # its put() may be called in a signal handler
        self._interrupts, self._over = 0, threading.Event()

    def run(self):
        """Follows it. Its object when it has ended. Raises Left, Unreachable, Refused."""
        before = signal.signal(signal.SIGINT, self._on_interrupt)
        try:
            for target in (self._pump, self._look):
                threading.Thread(target=target, daemon=True).start()
            self._wait()
        finally:
            self._over.set()
            self._terminal.bar(None)
            signal.signal(signal.SIGINT, before)
        return self.job

    # -- the main thread

    def _wait(self):
        while True:
            what, value = self._news.get()
            if what == "failed":
                raise value
            if what == "ended":
                self.job = value
                return
            if what == "interrupt":
                self._interrupted(value)
            else:
                self.job = value
                self._show_progress()

    def _on_interrupt(self, *_):
        self._interrupts += 1
        if self._interrupts > 2:            # the main thread hangs, in a terminal that was stopped, say
            os._exit(errors.INTERRUPTED)
        self._news.put(("interrupt", self._interrupts))

    def _interrupted(self, count):
        if not self._cancels or count > 1:
            raise Left("left job %s, which goes on: 'stoke attach' follows it, 'stoke cancel' ends it" % self.job["id"])
        self._terminal.note("cancelling job %s; Ctrl-C once more leaves it" % self.job["id"], style="yellow")
        threading.Thread(target=self._cancel, daemon=True).start()

    def _show_progress(self):
        if self._app.json:
            self._terminal.emit({"type": "progress", "job": self.job["id"], "state": self.job["state"],
                                 "progress": self.job.get("progress")})
        else:
            self._terminal.bar(render.job_bar(self.job))

    # -- threads

    def _pump(self):
        """Writes the log; its end is the job's."""
        try:
            if self._stream:
                self._write_log()
            patience = self._app.patience()
            job = patience.ask(self._client.get, self._path)
            while job["state"] not in FINAL:
                job = patience.ask(self._client.get, self._path, wait=WAIT)
            self._news.put(("ended", job))
        except Exception as error:          # the main thread ends with it
            self._news.put(("failed", error))

    def _write_log(self):
        log = Log.of_job(self._client, self.job["id"], self._app.patience(), self._stream, follow=True, tail=self._tail)
        try:
            for stream, data in log.pieces():
                if self._over.is_set():
                    return
                write_log(self._terminal, stream, data)
        except Refused as error:
            if error.code != "LOG_REMOVED":
                raise
            self._terminal.note("its log is not kept any more")

    def _look(self):
        """Tells the main thread of the job as it is: for the bar, or when it has changed."""
        last, quiet = None, Patience(float("inf"), lambda text: None)    # the other thread says what there is to say
        while (self._terminal.has_bar or self._app.json) and not self._over.wait(LOOK_S if last else 0):
            try:
                job = quiet.ask(self._client.get, self._path)
            except Exception:
                return
            seen = (job["state"], job.get("progress"))
            if job["state"] not in FINAL and (seen != last or not self._app.json):
                self._news.put(("job", job))
            last = seen

    def _cancel(self):
        try:
            self._app.patience().ask(self._client.json, "DELETE", self._path, {"wait": "0"})
        except (Unreachable, Refused) as error:
            self._terminal.note("it could not be cancelled: " + error.message, style="red")


def write_log(terminal, stream, data):
    """A piece of a log: as it is, or with --json as an object."""
    if terminal.as_json:
        terminal.emit({"type": "log", "stream": stream, "text": data.decode(errors="replace")})
    else:
        terminal.write(stream, data)


def finish(app, job, result_file=None):
    """What is told of a job that has ended: its result, its error, its receipt. The exit status."""
    terminal = app.terminal
    if app.json:
        terminal.emit({"type": "ended", "job": job})
    if job["has_receipt"]:
        show_receipt(app, job)
    if job["state"] == "FINISHED":
        if job["result_bytes"]:
            save_result(app, job["id"], result_file)
        terminal.note("job %s FINISHED in %s" % (job["id"], render.ran(job)), style="green")
    elif not app.json:
        text = Text("stoke: job %s ended as " % job["id"]).append_text(render.state_text(job["state"]))
        if job["error"]:
            text.append(", ").append_text(render.failure(job["error"]))
            text.append("\n  more: stoke show %s" % job["id"], style="dim")
        terminal.say(text)
    return errors.BY_STATE[job["state"]]


def show_receipt(app, job):
    """On standard error, where a job was run; with --json a line like the others."""
    found = app.patience().ask(app.client.get, "/v1/jobs/%s/receipt" % quoted(job["id"]))
    if app.json:
        app.terminal.emit({"type": "receipt", "receipt": found})
    else:
        app.terminal.say(render.receipt(found))


def save_result(app, job, file=None, query=None):
    """The result of a job, byte for byte, to a file or standard output, whatever its size.

    With --json it is a line {"type": "result", "result": ...}; to a file it goes as it is.
    """
    path = "/v1/jobs/%s/result" % quoted(job)
    if app.json and not file:
        result = app.patience().ask(app.client.get, path, **(query or {}))
        app.terminal.emit({"type": "result", "job": job, "result": result})
        return
    if file:
        with open(file, "wb") as out:
            _download(app, path, query, out.write)
        app.terminal.note("the result is in " + file)
        return
    last = b""

    def write(data):
        nonlocal last
        last = data[-1:]
        app.terminal.write("stdout", data)

    _download(app, path, query, write)
    if last != b"\n" and not query:
        app.terminal.write("stdout", b"\n")


def _download(app, path, query, write):
    """A body, from where it was cut when it is."""
    patience, done = app.patience(), 0
    while True:
        try:
            headers = {"Range": "bytes=%d-" % done} if done else {}
            with app.client.open("GET", path, query, headers=headers) as answer:
                skip = done if done and answer.status == 200 else 0      # it began anew
                for piece in app.client.pieces(answer):
                    patience.heard()
                    fresh = piece[skip:]
                    skip -= min(skip, len(piece))
                    if fresh:
                        write(fresh)
                        done += len(fresh)
            return
        except (Unreachable, Refused) as error:
            patience.lost(error)
