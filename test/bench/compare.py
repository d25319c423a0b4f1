#!/usr/bin/env python3
"""compare.py --stokerd build/stokerd: the same work through Stoker and in the ways it replaces, as ratios from one run.

Beside Stoker: a bare warm PySpark shell, a fresh Python process attached to a running JVM for each job (as Spark Job Server has
it), spark-submit for each job. All take turns, so that what else the machine does hits all of them. Pairs of each round are
compared; the median of their ratios counts.
"""
import argparse
import io
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile

from bench import Connection, Server, must

HERE = os.path.dirname(os.path.abspath(__file__))
JOBS = """\
class NoOp:
    def validate(self, context, runtime, config):
        return None

    def run_job(self, context, runtime, data):
        return 1


class Count(NoOp):
    def run_job(self, context, runtime, data):
        return context.range(1000).count()
"""


class Shell:
    def __init__(self, python):
        self.process = subprocess.Popen([python, os.path.join(HERE, "peers", "shell.py")], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.port, self.secret = self.process.stdout.readline().split()

    def count(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def stop(self):
        self.process.stdin.close()
        self.process.wait(60)


def timed(command, env=None):
    start = time.perf_counter()
    done = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{command} failed:\n{done.stdout[-2000:]}")
    return time.perf_counter() - start


def median_ms(seconds):
    return statistics.median(seconds) * 1e3


def ratio(ours, theirs):
    """Median of the pairs' ratios."""
    return statistics.median(a / b for a, b in zip(ours, theirs))


class Stoker:
    def __init__(self, stokerd, folder):
        self.server = Server(stokerd, folder)
        self.connection = Connection(self.server)
        must(self.connection.request("POST", "/contexts/bench?spark.master=local[2]&spark.ui.enabled=false"), 200)
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as z:
            z.writestr("jobs.py", JOBS)
        self.connection, self.used = Connection(self.server), time.monotonic()
        must(self.connection.request("POST", "/binaries/jobs", archive.getvalue(), "application/python-egg"), 201)

    def run(self, name):
        if time.monotonic() - self.used > 2:    # the server closes connections that are idle for longer
            self.connection = Connection(self.server)
        text = self.connection.text("POST", f"/jobs?appName=jobs&classPath=jobs.{name}&context=bench&sync=true&timeout=60")
        start = time.perf_counter()
        answer = self.connection.exchange(text)
        seconds = time.perf_counter() - start
        self.used = time.monotonic()
        must(answer, 200)
        if b'"result"' not in answer[1] or b"ERROR" in answer[1]:
            raise SystemExit(f"a job failed: {answer[1][:2000].decode(errors='replace')}")
        return seconds


def measure(options, folder):
    python = options.python
    print("starting a server with a context, and a bare shell ...", flush=True)
    stoker = Stoker(options.stokerd, folder)
    shell = Shell(python)
    attached = [python, os.path.join(HERE, "peers", "attached.py")]
    env = dict(os.environ, PYSPARK_GATEWAY_PORT=shell.port, PYSPARK_GATEWAY_SECRET=shell.secret)
    submit = [os.path.join(os.path.dirname(python), "spark-submit"), "--master", "local[2]", "--conf", "spark.ui.enabled=false",
              os.path.join(HERE, "peers", "submitted.py")]
    try:
        print("warming up ...", flush=True)
        for _ in range(options.rounds):
            stoker.run("Count"), stoker.run("NoOp"), shell.count()
        print(f"{options.rounds} rounds beside the shell ...", flush=True)
        count, bare, noop = [], [], []
        for _ in range(options.rounds):
            count.append(stoker.run("Count"))
            bare.append(shell.count())
            noop.append(stoker.run("NoOp"))
        print(f"{options.processes} rounds beside a process for each job ...", flush=True)
        few_noop, few_count, process_noop, process_count = [], [], [], []
        for _ in range(options.processes):
            few_noop.append(stoker.run("NoOp"))
            process_noop.append(timed(attached + ["noop"], env))
            few_count.append(stoker.run("Count"))
            process_count.append(timed(attached + ["count"], env))
        print(f"{options.submits} rounds beside spark-submit ...", flush=True)
        one_count, submits = [], []
        for _ in range(options.submits):
            one_count.append(stoker.run("Count"))
            submits.append(timed(submit))
    finally:
        shell.stop()
        stoker.server.stop()

    added = statistics.median(a - b for a, b in zip(count, bare)) * 1e3
    print(f"\n{'':<58}{'Stoker':>9}{'other':>10}  (ms, medians)  ratio")
    for what, ours, theirs in (
            ("range(1000).count() : the same in a bare warm shell", count, bare),
            ("range(1000).count() : a process attached for each job", few_count, process_count),
            ("range(1000).count() : spark-submit for each job", one_count, submits),
            ("no-op job : a process attached for each job", few_noop, process_noop)):
        print(f"{what:<58}{median_ms(ours):>9.2f}{median_ms(theirs):>10.2f}{'':<17}{ratio(ours, theirs):>7.4f}")
    print(f"\nno-op job: {median_ms(noop):.2f} ms")
    print(f"added to a Spark call over the same in a bare warm shell: {added:.2f} ms (target < 1 ms: {'ok' if added < 1 else 'MISSED'})")
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stokerd", default="build/stokerd")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--processes", type=int, default=10)
    parser.add_argument("--submits", type=int, default=3)
    options = parser.parse_args()
    options.stokerd = os.path.abspath(options.stokerd)
    folder = tempfile.mkdtemp(prefix="compare-", dir=os.path.realpath("build"))
    try:
        return measure(options, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
