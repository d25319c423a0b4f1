"""Whose files things in the JVM need (rules A9, A10): the directory with broadcasts of the worker that made them, and the
binary set that it was bound to.

What is made of a named object needs what that needs: its plan holds the other's functions. So each worker counts as
borrowed whatever the named objects that it has read need, and all that it names or leaves in the session needs that too.
"""
import re
import threading

from . import jvm


def text(workers):
    return " ".join(sorted(workers))


def parse(listed):
    """The workers in a text of text(), or in what Java prints of a map from workers to such texts."""
    return set(re.findall(r"[^\s{}=,]+", listed or ""))


class Needs:
    """A worker's side. Any thread."""

    def __init__(self, shared, process):
        """shared: the JVM."""
        self._kept_map, self._borrowed_map = jvm.shared_map(shared, jvm.KEPT), jvm.shared_map(shared, jvm.BORROWED)
        self._process, self._lock = process, threading.Lock()
        self._borrowed, self._kept = set(), set()

    def of_new(self):
        """Whose files it needs what this worker makes now."""
        with self._lock:
            return self._borrowed | {self._process}

    def borrow(self, workers):
        """This worker has read something that needs these. True when that was not known: what was read may be dropped by
        now, and its files with it."""
        with self._lock:
            new = workers - self._borrowed - {self._process}
            if new:
                self._borrowed_map.put(self._process, text(self._borrowed | new))
                self._borrowed |= new
            return bool(new)

    def keep(self):
        """What the job puts into the session now is there as long as the context."""
        with self._lock:
            needed = self._borrowed | {self._process}
            if not needed <= self._kept:
                self._kept_map.put(self._process, text(needed))
                self._kept = needed
