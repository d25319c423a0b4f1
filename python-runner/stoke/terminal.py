"""Where stoke's output goes: results and tables to standard output, notes and the bar to standard error, a job's to its own.

A bar is one line at the bottom that is taken away before anything else is written and put back behind it, when the cursor
stands at the beginning of a line. Any thread may write.
"""
import json
import os
import sys
import threading

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .errors import clean

ERASE = "\r\x1b[2K"
STATE_STYLES = {"FINISHED": "green", "RUNNING": "cyan", "STARTING": "cyan", "CREATING": "cyan", "QUEUED": "yellow",
                "CANCELLING": "yellow", "STOPPING": "yellow", "ERROR": "red", "INVALID": "red", "FAILED": "red",
                "TIMED_OUT": "red", "LOST": "red", "KILLED": "magenta"}
WIDTH = 100000  # of tables, and of what programs read: nothing is cut, no line break is ours


class Terminal:
    """as_json: everything on standard output is one JSON object a line. quiet: no notes, no bar."""

    def __init__(self, as_json=False, quiet=False):
        self.as_json, self.quiet = as_json, quiet
        self._lock = threading.RLock()
        self._out, self._err = _console(sys.stdout, WIDTH), _console(sys.stderr, None if sys.stderr.isatty() else WIDTH)
        self._tty = {"stdout": self._out.is_terminal, "stderr": self._err.is_terminal}
        self._bar, self._shown = None, False    # the Text of the bar; whether it stands there
        self._broken_line = False               # the cursor stands behind text that has not ended its line

    def is_tty(self, stream):
        return self._tty[stream]

    @property
    def has_bar(self):
        """Whether a bar can be shown at all."""
        return self._tty["stderr"] and not self._err.is_dumb_terminal and not self.quiet and not self.as_json

    # -- standard output

    def emit(self, thing):
        """A line of JSON."""
        self.write("stdout", json.dumps(thing).encode() + b"\n")

    def write(self, stream, data):
        """Bytes as they are: of a log, a result."""
        with self._lock:
            self._hide()
            file = getattr(sys, stream).buffer
            file.write(data)
            file.flush()
            if self._tty[stream]:
                self._broken_line = not data.endswith(b"\n") if data else self._broken_line
            self._show()

    def print(self, thing=""):
        """Text, a table: for people."""
        with self._lock:
            with self._out.capture() as text:
                self._out.print(thing, soft_wrap=not isinstance(thing, Table))
            self._hide()
            sys.stdout.write("".join(line.rstrip() + "\n" for line in text.get().splitlines()))
            sys.stdout.flush()
            self._show()

    def table(self, header, rows):
        """rows: lists of texts, as long as the header. A cell that is a state has its colour."""
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
        for name in header:
            table.add_column(name, no_wrap=True)
        for row in rows:
            table.add_row(*[state_text(clean(str(cell)).replace("\n", " ")) for cell in row])
        self.print(table)

    # -- standard error

    def note(self, text, style=None):
        """A line about what goes on; not when it shall be quiet."""
        if self.as_json:
            self.say(Text(json.dumps({"note": text})))
        elif not self.quiet:
            self.say(Text("stoke: " + clean(text), style=style or ""))

    def say(self, text):
        """Text for people on standard error, on a line of its own."""
        with self._lock:
            self._hide()
            if self._broken_line:
                sys.stderr.write("\n")
                self._broken_line = False
            self._err.print(text, soft_wrap=True)
            self._show()

    def bar(self, renderable):
        """What the bar shows from now on; None: it goes away."""
        with self._lock:
            self._hide()
            self._bar = renderable
            self._show()

    # -- below

    def _hide(self):
        if self._shown:
            sys.stderr.write(ERASE)
            sys.stderr.flush()
            self._shown = False

    def _show(self):
        if self._bar is None or self._broken_line or not self.has_bar:
            return
        with self._err.capture() as text:
            self._err.print(self._bar, no_wrap=True, overflow="crop", crop=True)
        sys.stderr.write(text.get().partition("\n")[0])
        sys.stderr.flush()
        self._shown = True


def _console(file, width):
    return Console(file=file, highlight=False, markup=False, emoji=False, force_terminal=file.isatty(), width=width,
                   legacy_windows=False, no_color="NO_COLOR" in os.environ or None)


def state_text(name):
    """A state in its colour; other text as it is."""
    return Text(name, style=STATE_STYLES.get(name, ""))
