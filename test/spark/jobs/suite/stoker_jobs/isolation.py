"""Jobs that show whether they share their process with others, and how much memory they may use."""

import json
import os
import sys

from stoker_jobs.process import Job, append, wait_for

runs = 0


class Spoils(Job):
    """Changes what a process has: a variable of this module, environment, sys.path, working directory, a function.

    Result: {"pid", "seen": what it finds}. Config: keep, true to leave the function alone."""

    def run_job(self, context, runtime, data):
        global runs
        seen = [runs, os.environ.get('SPOILT'), '/spoilt' in sys.path, os.getcwd(), hasattr(sys, 'spoilt')]
        runs += 1
        os.environ['SPOILT'] = '1'
        sys.path.append('/spoilt')
        sys.spoilt = True
        os.chdir('/')
        if 'keep' not in data:
            json.loads = None
        return {'pid': os.getpid(), 'seen': seen}


class Takes(Job):
    """Takes memory and holds it. Config: mib; how, one of "python", "child", "swallow"."""

    def run_job(self, context, runtime, data):
        return getattr(self, data['how'])(data['mib'])

    def python(self, mib):
        return len(bytearray(mib << 20))

    def child(self, mib):
        import subprocess
        code = 'import time; kept = b"x" * (%d << 20); time.sleep(1000)' % mib
        children = [subprocess.Popen([sys.executable, '-c', code]) for _ in range(2)]
        return [each.wait() for each in children]

    def swallow(self, mib):
        import resource
        resource.setrlimit(resource.RLIMIT_DATA, (-1, -1))
        kept = []
        while True:
            try:
                kept.append(b'x' * (1 << 20))
            except MemoryError:
                pass


class HoldsPid(Job):
    """Writes its process id into the file `on`, then waits for the file `go`. Result: its process id."""

    def run_job(self, context, runtime, data):
        append(data['on'] + '.new', str(os.getpid()))
        os.rename(data['on'] + '.new', data['on'])
        wait_for(data['go'])
        return os.getpid()


class Dies(Job):
    """Ends its process. Config: how: exit, segfault, kill, rmtree (of its working directory, and goes on)."""

    def run_job(self, context, runtime, data):
        import ctypes
        import shutil
        {'exit': lambda: os._exit(3), 'segfault': lambda: ctypes.string_at(0),
         'kill': lambda: os.kill(os.getpid(), 9), 'rmtree': lambda: shutil.rmtree(os.getcwd())}[data['how']]()
        return 'survived'
