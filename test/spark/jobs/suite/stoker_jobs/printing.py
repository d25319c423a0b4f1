"""Jobs that print, in every way there is."""

import ctypes
import logging
import os
import subprocess
import sys
import threading

import _thread
from stoker_jobs.process import Job, wait_for

libc = ctypes.CDLL(None)


def by_print(text):
    print(text)


def by_write(text):
    os.write(1, text.encode() + b'\n')


def by_printf(text):
    libc.printf(b'%s\n', text.encode())


def by_child(text):
    subprocess.run(['sh', '-c', 'echo "$0"', text], check=True)


def by_python_child(text):
    subprocess.run([sys.executable, '-c', 'import sys; print(sys.argv[1])', text], check=True)


def by_fork(text):
    pid = os.fork()
    if pid == 0:
        os.write(1, text.encode() + b'\n')
        os._exit(0)
    os.waitpid(pid, 0)


def by_thread(text):
    thread = threading.Thread(target=print, args=(text,))
    thread.start()
    thread.join()


class Prints(Job):
    """Config: ways, of those above without "by_"; text; go_on, a file to wait for before the end. Result: the pid."""

    def run_job(self, context, runtime, data):
        for way in data['ways']:
            globals()['by_' + way]('%s %s' % (data['text'], way))
        print('%s to stderr' % data['text'], file=sys.stderr)
        logging.getLogger('app').warning('%s logged', data['text'])
        if 'go_on' in data:
            wait_for(data['go_on'])
        return os.getpid()


class LeavesThread(Job):
    """Prints "early"; a thread of it prints "late" when the file go_on is there. Config: kind, threading or _thread."""

    def run_job(self, context, runtime, data):
        print('early', flush=True)

        def later():
            wait_for(data['go_on'])
            print('late', flush=True)
            open(data['done'], 'w').close()

        if data['kind'] == 'threading':
            threading.Thread(target=later, daemon=True).start()
        else:
            _thread.start_new_thread(later, ())
        return os.getpid()


class Floods(Job):
    """Config: name, lines: so many from Python, from C and from a child at once, each "<name> <how> <number>"; here and there,
    files: it makes the first and waits for the other."""

    def run_job(self, context, runtime, data):
        name, lines = data['name'], data['lines']
        open(data['here'], 'w').close()
        wait_for(data['there'])
        script = 'n=0; while [ $n -lt %d ]; do echo "$0 child $n"; n=$((n+1)); done' % lines
        child = subprocess.Popen(['sh', '-c', script, name])
        c = threading.Thread(target=self.c, args=(name.encode(), lines))
        c.start()
        for n in range(lines):
            print(name, 'python', n)
        c.join()
        assert child.wait() == 0

    def c(self, name, lines):
        for n in range(lines):
            libc.printf(b'%s c %d\n', name, n)


class OnExecutors(Job):
    """Prints "driver" in the worker and "executor" in a task, and "jvm" in the JVM."""

    def run_job(self, context, runtime, data):
        print('driver')
        context.sparkContext.parallelize([data['mark'] + ' executor'], 1).foreach(print)
        context.sparkContext._jvm.java.lang.System.out.println(data['mark'] + ' jvm')


class Big(Job):
    """Config: bytes: so many, in lines of 64."""

    def run_job(self, context, runtime, data):
        block = b''.join(b'%063d\n' % n for n in range(16384))
        for at in range(0, data['bytes'], len(block)):
            os.write(1, block[: data['bytes'] - at])
