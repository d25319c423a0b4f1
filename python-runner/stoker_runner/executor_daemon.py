"""What spark.python.daemon.module names in Stoker's contexts: pyspark's own daemon, which leaves when it is not needed.

Spark keeps a daemon, which forks the Python workers, for each environment that tasks ask for, and never ends one. Here
each binary set has an environment of its own (rule A10), so daemons of old sets would pile up. This one ends

- when it has had no worker and no request for STOKER_DAEMON_IDLE seconds (Spark keeps an idle worker for 60 s). Spark
  starts another when it needs one: a request that meets a daemon on its way out is reset, and repeated by Spark;
- on a cluster, when its set is out of use (gateways.py tells how executors hear of it), with the workers it has left.

This file is copied under a name with its digest and runs alone: on executors there is nothing else of Stoker yet.
"""
import os
import select
import sys
import time
import types

import pyspark.daemon as daemon

IDLE_SECONDS = float(os.environ.get("STOKER_DAEMON_IDLE") or 5)
LOOK_SECONDS = 1.0
SET = os.environ.get("STOKER_BINARIES")
LISTS = ("stoker-retired-", ".txt")     # in the executor's working directory, written by gateways.py
END = "end"


class Watch:
    def __init__(self):
        self.idle_since = time.monotonic()
        self.look_at = 0.0
        self.read = set()               # lists that were acted upon

    def check(self, ready):
        """After each wait of the daemon. ready: what it has to do now, handed back."""
        now = time.monotonic()
        if now >= self.look_at:
            self.look_at = now + LOOK_SECONDS
            if self.set_retired():
                sys.exit(0)             # the daemon's `finally` ends its workers
        if ready or _has_children():
            self.idle_since = now
        elif now - self.idle_since >= IDLE_SECONDS:
            sys.exit(0)
        return ready

    def set_retired(self):
        """Reads lists that have come. True when this daemon's set is in one; removes the files that they name."""
        lists = {name for name in os.listdir(".") if name.startswith(LISTS[0]) and name.endswith(LISTS[1])}
        self.read &= lists
        for name in sorted(lists - self.read):
            lines = _lines(name)
            if END not in lines:        # still being copied
                continue
            self.read.add(name)
            for line in lines:
                if line.startswith("stoker-") and os.path.basename(line) == line and line != name:
                    _unlink(line)
            if SET and SET in lines:
                return True
        return False


def _has_children():
    try:
        os.waitpid(-1, os.WNOHANG)      # SIGCHLD is ignored: there are no zombies
        return True
    except ChildProcessError:
        return False


def _lines(name):
    try:
        with open(name) as f:
            return f.read().split("\n")
    except OSError:
        return []


def _unlink(name):
    try:
        os.unlink(name)
    except OSError:
        pass


class Poll:
    """select.poll() of pyspark.daemon, which wakes up at least every second."""

    def __init__(self):
        self._poll = select.poll()
        self.register, self.unregister = self._poll.register, self._poll.unregister

    def poll(self, timeout=None):
        timeout = 1000 if timeout is None else timeout
        return watch.check(self._poll.poll(min(timeout, 1000 * IDLE_SECONDS)))


def _select(readers, writers, errors, timeout=1):
    """select.select() of pyspark.daemon before Spark 4."""
    found = select.select(readers, writers, errors, min(timeout, IDLE_SECONDS))
    return (watch.check(found[0]), *found[1:])


watch = Watch()

if __name__ == "__main__":
    shim = types.ModuleType("select")   # stands for `select` in pyspark.daemon only
    vars(shim).update({key: value for key, value in vars(select).items() if not key.startswith("__")})
    shim.poll, shim.select = Poll, _select
    daemon.select = shim
    daemon.manager()
