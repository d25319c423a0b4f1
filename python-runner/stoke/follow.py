"""A job followed to its end: its log as it comes, its progress, Ctrl-C, and then its result or error.

Three threads: one writes the log (so that whoever reads slowly slows nobody else), one looks at the job for the bar, and
the main thread waits for what they and Ctrl-C have to say.
"""
import base64
import codecs
import contextlib
import itertools
import json
import os
import queue
import signal
import stat
import threading

from rich.text import Text

from . import errors, render
from .client import Patience, quoted
from .errors import Refused, Unreachable
from .streams import Log

LOOK_S = 0.5            # the progress of a job is half a second old at most
WAIT = "30s"            # of a request that waits for the end
JSON = "application/json"
FINAL = frozenset(errors.BY_STATE)


class Left(errors.Problem):
    exit_code, code = errors.INTERRUPTED, "INTERRUPTED"


class Follower:
    """job: its object. cancels: whether the first Ctrl-C cancels it; the second one leaves (the first, when it does not).

    stream: of the log, None: no log. tail: of the log, as in Log.
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
            write_log(self._terminal, itertools.takewhile(lambda _: not self._over.is_set(), log.pieces()))
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


def write_log(terminal, pieces):
    """The pieces of a Log: as they are, or with --json as objects, whose texts are whole characters."""
    decoders = {stream: codecs.getincrementaldecoder("utf-8")("replace") for stream in ("stdout", "stderr")}
    for stream, data in pieces:
        if not terminal.as_json:
            terminal.write(stream, data)
        elif text := decoders[stream].decode(data):
            terminal.emit({"type": "log", "stream": stream, "text": text})
    for stream, decoder in decoders.items():
        if text := decoder.decode(b"", final=True):
            terminal.emit({"type": "log", "stream": stream, "text": text})


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
        if job["error"] and job["error"]["code"] != job["state"]:
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


def save_result(app, job, file=None):
    """The result of a job, byte for byte, to a file or standard output, whatever its size.

    With --json it is a line {"type": "result", ...}; to a file it goes as it is.
    """
    path = "/v1/jobs/%s/result" % quoted(job)
    if file:
        with replacing(file) as out:
            for _, piece in download(app, path):
                out.write(piece)
        app.terminal.note("the result is in " + file)
    elif app.json:
        pieces = list(download(app, path))
        app.terminal.emit(result_object(job, pieces[0][0] if pieces else JSON, b"".join(piece for _, piece in pieces)))
    else:
        print_result(app, path)


@contextlib.contextmanager
def replacing(path):
    """A file to write to, in the place of `path` when all is written; what is no file (a pipe, /dev/stdout) is written to."""
    if path.startswith("/dev/") or os.path.exists(path) and not os.path.isfile(path):
        with open(path, "wb") as file:
            yield file
        return
    path = os.path.realpath(path)       # a link stays
    part = "%s.%d.part" % (path, os.getpid())
    with open(part, "xb") as file:
        try:
            if os.path.exists(path):
                os.fchmod(file.fileno(), stat.S_IMODE(os.stat(path).st_mode))
            yield file
            file.close()        # a full disk may show only now
            os.replace(part, path)
        except BaseException:
            os.unlink(part)
            raise


def print_result(app, path):
    """Byte for byte; on a terminal JSON has escapes where it would steer it."""
    tty, last, decoder = app.terminal.is_tty("stdout"), b"\n", codecs.getincrementaldecoder("utf-8")("replace")
    for media, piece in download(app, path):
        if tty and not media.startswith((JSON, "text/")):
            app.terminal.note("the result is no text (%s): put it into a file with 'stoke result -o'" % media)
            return
        if tty and media.startswith(JSON):
            piece = errors.escaped(decoder.decode(piece)).encode()
        app.terminal.write("stdout", piece)
        last = piece if media.startswith(JSON) else b"\n"
    if not last.endswith(b"\n"):
        app.terminal.write("stdout", b"\n")


def result_object(job, media, data):
    """A line of --json: `result` when it is JSON, else `base64`."""
    if media.startswith(JSON):
        return {"type": "result", "job": job, "result": json.loads(data)}
    return {"type": "result", "job": job, "media_type": media, "base64": base64.b64encode(data).decode()}


def download(app, path):
    """Yields (media type, bytes) of a body; when it is cut, on from there."""
    patience, done = app.patience(), 0
    while True:
        try:
            headers = {"Range": "bytes=%d-" % done} if done else {}
            with app.client.open("GET", path, headers=headers) as answer:
                skip = done if answer.status == 200 else 0      # it began anew
                for piece in app.client.pieces(answer):
                    patience.heard()
                    fresh, skip = piece[skip:], max(skip - len(piece), 0)
                    done += len(fresh)
                    if fresh:
                        yield answer.headers.get_content_type(), fresh
            return
        except (Unreachable, Refused) as error:
            patience.lost(error)
