"""SIGINT in a worker: it means something only while the user code of the named attempt runs (rule A1).

The handler that pyspark installs cancels the Spark jobs of the whole context and is replaced by the one here. The I/O
thread names the attempt and signals; Python runs the handler in the main thread, between two steps of whatever runs
there, hence the care about where a KeyboardInterrupt may rise.
"""
import contextlib
import signal
import threading


class Interrupts:
    def __init__(self):
        self._current = None        # (job, attempt) whose user code runs now in the main thread
        self._requested = None      # (job, attempt) that is to be interrupted; one request raises once
        self._shields = 0
        self._deferred = False
        self.raised = None          # the last (job, attempt) a KeyboardInterrupt was raised in
        self._main = threading.main_thread().ident

    def install(self):
        signal.signal(signal.SIGINT, self._on_signal)

    def request(self, key):
        """Interrupts that attempt if it runs, or as soon as it starts; but only once in its life. Any thread."""
        if key == self.raised:
            return
        self._requested = key
        signal.pthread_kill(self._main, signal.SIGINT)

    def arm(self, key):
        """User code of `key` starts. Raises KeyboardInterrupt when it was asked for already. Main thread."""
        self._current = key
        if self._requested is not None:
            self._fire()

    def disarm(self):
        """User code has ended: from here on nothing is raised. Main thread."""
        self._current = None
        self._deferred = False
        self._requested = None

    def _on_signal(self, signum, frame):
        self._fire()

    def _fire(self):
        if self._current is None or self._requested != self._current:
            return
        if self._requested == self.raised:      # asked for again while it was just being raised
            self._requested = None
            return
        if self._shields:
            self._deferred = True
            return
        self._requested, self.raised = None, self._current
        raise KeyboardInterrupt

    @contextlib.contextmanager
    def shield(self):
        """Puts an interrupt off while state that must stay whole is changed. For the main thread; a no-op in others."""
        if threading.get_ident() != self._main:
            yield
            return
        self._shields += 1
        try:
            yield
        finally:
            self._shields -= 1
            if not self._shields and self._deferred:
                self._deferred = False
                self._fire()
