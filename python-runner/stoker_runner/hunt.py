"""Finds what a process of the context has started and what escaped its process group.

What a worker has started stays below it in the tree of processes, for every worker is a subreaper: an orphan becomes the
worker's child, and the zygote's when the worker has ended. So the zygote's children, but for those it forked itself, are
left-overs of dead workers. The keeper is none (the JVM's daemons may leave orphans too), hence its mark.

Two marks name the owner of a descendant, should it have left the tree all the same:
- a process that was exec'ed carries STOKER_CONTEXT and STOKER_PROCESS in the environment it got (proc(5): environ);
- a pure fork has its parent's block there, which says nothing of the parent, but it has inherited a mapping whose name
  does (proc(5): maps). An exec drops the mapping, a daemonizing fork cannot.
The context is part of both: process names like `k` are unique in one context only.
"""
import os
import time

from . import proc

KILL_SECONDS = 5.0      # what SIGKILL has not ended by then sits in the kernel (a dead NFS mount)


class Hunter:
    def __init__(self, context):
        self.context = context

    def mark(self, process):
        """Marks this process for life: its forks are found by it."""
        fd = os.memfd_create(self._name(process), os.MFD_CLOEXEC)
        try:
            os.ftruncate(fd, 1)
            proc.map_for_life(fd)
        finally:
            os.close(fd)

    def _name(self, process):
        return "stoker:%s:%s" % (self.context, process)

    def find(self, process, root, spare):
        """Live pids that belong to `process`, without those in `spare` (a set of pids). root: its pid.

        Those in the tree; when there are none, the marked ones, which costs much more to find out.
        """
        entries = [entry for entry in proc.processes() if entry.pid not in spare]
        return self._in_tree(process, root, entries) or [e.pid for e in entries if self.owns(process, e.pid)]

    @staticmethod
    def _in_tree(process, root, entries):
        children = {}
        for entry in entries:
            children.setdefault(entry.ppid, []).append(entry.pid)
        found, todo = [], list(children.get(root, ()))
        if root != os.getpid():
            todo += [pid for pid in children.get(os.getpid(), ()) if pid != root and
                     proc.environ(pid).get(b"STOKER_PROCESS") in (None, process.encode())]
        while todo:
            pid = todo.pop()
            found.append(pid)
            todo += children.get(pid, ())
        return found

    def owns(self, process, pid):
        env = proc.environ(pid)
        if env.get(b"STOKER_CONTEXT") != self.context.encode():
            return False
        owner = env.get(b"STOKER_PROCESS")
        return owner == process.encode() or (owner is None and proc.maps_name(pid, self._name(process)))

    def await_end(self, pgid, spare):
        """Waits, KILL_SECONDS at the most, until what was killed has ended and not only begun to.

        A process that is on its way out has given up its memory, and with it both marks, but still has its group, or has
        been handed to the zygote. To be called there. spare: as for find().
        """
        end = time.monotonic() + KILL_SECONDS
        zygote = os.getpid()
        while time.monotonic() < end:
            if not any(p.pgid == pgid or p.ppid == zygote and not proc.environ(p.pid)
                       for p in proc.processes() if p.pid not in spare):
                return
            time.sleep(0.001)

    def kill(self, process, root, spare):
        """SIGKILL until nothing of `process` is alive; a list of what could not be killed in KILL_SECONDS. As find()."""
        end = time.monotonic() + KILL_SECONDS
        while True:
            found = self.find(process, root, spare)
            if not found or time.monotonic() > end:
                return found
            for pid in found:
                proc.kill(pid)
            time.sleep(0.001)
