#!/usr/bin/env python3
"""bench.py --stokerd build/stokerd: what a job costs that does nothing, beside the disk that it is recorded on.

Starts a server of its own with a fresh state directory on the disk under build/, measures, compares with the targets of
docs/design.md and stops it. Clients, server, workers and JVM share this machine's cores. The requests of one client are sent
from here over one raw socket, those of 64 by wrk.
"""

import argparse
import glob
import io
import os
import re
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import zipfile

JOB = """\
class NoOp:
    def validate(self, context, runtime, config):
        return None

    def run_job(self, context, runtime, data):
        return 1
"""

# wrk calls done() once, with times in microseconds.
LUA = """\
wrk.method = "%s"
wrk.body = "%s"
function done(summary, latency, requests)
    local e = summary.errors
    io.write(string.format("\\nsums %%d %%d %%d %%d %%d\\n", summary.requests, summary.duration, latency:percentile(50),
        latency:percentile(99), e.connect + e.read + e.write + e.status + e.timeout))
end
"""


def percentile(sorted_values, p):
    return sorted_values[min(len(sorted_values) - 1, int(len(sorted_values) * p / 100))]


class Times:
    """p50 and p99 in milliseconds, and how many a second."""

    def __init__(self, p50, p99, rate, count, errors=0):
        self.p50, self.p99, self.rate, self.count, self.errors = p50, p99, rate, count, errors

    @classmethod
    def of(cls, seconds):
        seconds = sorted(seconds)
        return cls(percentile(seconds, 50) * 1e3, percentile(seconds, 99) * 1e3, len(seconds) / sum(seconds), len(seconds))


def measure_disk(folder, count=400):
    """What one commit cannot be faster than: 4 KiB appended and on the disk."""
    path = os.path.join(folder, "fsync")
    seconds = []
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        for _ in range(count):
            start = time.perf_counter()
            os.write(fd, b"x" * 4096)
            os.fdatasync(fd)
            seconds.append(time.perf_counter() - start)
    finally:
        os.close(fd)
        os.unlink(path)
    return Times.of(seconds)


# ---- the server


class Server:
    def __init__(self, program, folder):
        self.state = os.path.join(folder, "state")
        self.log = open(os.path.join(folder, "log"), "w+")
        self.process = subprocess.Popen([program, "--state-dir", self.state, "--listen", "127.0.0.1:0"], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, stderr=self.log, text=True)
        line = self.process.stdout.readline()
        found = re.match(r"listening on http://([\d.]+):(\d+)", line)
        if not found:
            raise SystemExit(f"the server did not start:\n{line}{self.log_text()}")
        self.host, self.port = found[1], int(found[2])
        threading.Thread(target=self.process.stdout.read, daemon=True).start()

    def log_text(self):
        self.log.flush()
        with open(self.log.name) as f:
            return f.read()[-4000:]

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return None

    def processes(self):
        """{"stokerd": [pid], "python": [...], "jvm": [...]}: all that carry this state directory in their environment."""
        mark = f"STOKER_STATE_DIR={self.state}".encode()
        groups = {"stokerd": [self.process.pid], "python": [], "jvm": []}
        for path in glob.glob("/proc/[0-9]*"):
            try:
                with open(f"{path}/environ", "rb") as f:
                    if mark not in f.read().split(b"\0"):
                        continue
                with open(f"{path}/comm") as f:
                    groups["jvm" if f.read().strip() == "java" else "python"].append(int(path[6:]))
            except OSError:
                continue
        return groups


class Connection:
    """One keep-alive connection, with as little between the clock and the socket as there can be."""

    def __init__(self, server):
        self.host = f"{server.host}:{server.port}"
        self.socket = socket.create_connection((server.host, server.port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def request(self, method, path, body=b"", content_type="text/plain"):
        return self.exchange(self.text(method, path, body, content_type))

    def text(self, method, path, body=b"", content_type="text/plain"):
        return (f"{method} {path} HTTP/1.1\r\nHost: {self.host}\r\nContent-Type: {content_type}\r\n"
                f"Content-Length: {len(body)}\r\n\r\n").encode() + body

    def exchange(self, text):
        self.socket.sendall(text)
        got = self.socket.recv(65536)
        while b"\r\n\r\n" not in got:
            self.more(got)
            got += self.last
        head, _, body = got.partition(b"\r\n\r\n")
        length = int(re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)[1])
        while len(body) < length:
            self.more(body)
            body += self.last
        return int(head[9:12]), body

    def more(self, so_far):
        self.last = self.socket.recv(65536)
        if not self.last:
            raise SystemExit(f"the server closed the connection after {so_far[:200]!r}")


def must(answer, *statuses):
    if answer[0] not in statuses:
        raise SystemExit(f"unexpected answer {answer[0]}: {answer[1][:2000].decode(errors='replace')}")
    return answer[1]


# ---- what the processes spend


TICKS = os.sysconf("SC_CLK_TCK")


def read_usage(pids):
    """(CPU seconds, voluntary context switches, bytes written to the disk) of processes, all their threads together."""
    cpu = switches = written = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/stat") as f:
                fields = f.read().rpartition(")")[2].split()
            cpu += (int(fields[11]) + int(fields[12])) / TICKS
            with open(f"/proc/{pid}/io") as f:
                written += int(re.search(r"^write_bytes: (\d+)", f.read(), re.M)[1])
        except OSError:
            continue
        for path in glob.glob(f"/proc/{pid}/task/*/status"):
            try:
                with open(path) as f:
                    switches += int(re.search(r"^voluntary_ctxt_switches:\s*(\d+)", f.read(), re.M)[1])
            except OSError:
                continue
    return cpu, switches, written


class Spent:
    """with Spent(server) as spent: ...; then spent.lines(count) says what one of count things cost."""

    def __init__(self, server):
        self.server = server

    def __enter__(self):
        groups = self.server.processes()
        self.before = {name: read_usage(pids) for name, pids in groups.items()}
        self.children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return self

    def __exit__(self, *_):
        groups = self.server.processes()
        self.used = {name: tuple(b - a for a, b in zip(self.before[name], read_usage(pids))) for name, pids in groups.items()}

    def lines(self, count):
        for name, (cpu, switches, written) in self.used.items():
            yield f"{name:<9}{cpu / count * 1e6:>10.0f}{switches / count:>12.2f}{written / count:>14.0f}"


# ---- the measurements


def one_client(connection, path, count):
    text = connection.text("POST", path)
    seconds = []
    for _ in range(count):
        start = time.perf_counter()
        answer = connection.exchange(text)
        seconds.append(time.perf_counter() - start)
        if b'"result":1' not in must(answer, 200):
            raise SystemExit(f"a job failed: {answer[1][:2000].decode(errors='replace')}")
    return Times.of(seconds)


BARE = """\
from pyspark.sql import SparkSession
SparkSession.builder.master("local[2]").getOrCreate()
print("up", flush=True)
"""


def bare_start():
    """Seconds from starting a Python process to its SparkSession."""
    python = os.path.join("build", "venv", "bin", "python")
    start = time.perf_counter()
    process = subprocess.Popen([python, "-c", BARE], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    line = process.stdout.readline()
    seconds = time.perf_counter() - start
    process.wait()
    if line != b"up\n":
        raise SystemExit("a bare PySpark does not start")
    return seconds


def context_start(connection, name):
    """Seconds from POST to the answer that the context is up; it is ended then."""
    start = time.perf_counter()
    must(connection.request("POST", f"/contexts/{name}?spark.master=local%5B2%5D"), 200)
    seconds = time.perf_counter() - start
    must(connection.request("DELETE", f"/contexts/{name}"), 200)
    return seconds


def await_archive(server, seconds=900):
    """The server makes its class-data archive in the background after its first context: not beside what is measured."""
    deadline = time.monotonic() + seconds
    while not glob.glob(f"{server.state}/class-data/*.json") or glob.glob(f"{server.state}/class-data/*.tmp"):
        if time.monotonic() > deadline:
            raise SystemExit(f"no class-data archive:\n{server.log_text()}")
        time.sleep(0.2)


def compare_starts(server, count):
    """Times of a context's start with a class-data archive and of a bare PySpark's, by turns."""
    ours, bare = [], []
    for n in range(count + 1):
        a, b = context_start(Connection(server), f"start{n}"), bare_start()
        if n:   # the first of each reads files that the others find in memory
            ours.append(a)
            bare.append(b)
    return Times.of(ours), Times.of(bare)


def wrk(server, folder, method, path, seconds, clients=64):
    script = os.path.join(folder, "wrk.lua")
    with open(script, "w") as f:
        f.write(LUA % (method, ""))
    done = subprocess.run(["wrk", "-t", "2", "-c", str(clients), "-d", f"{seconds}s", "--timeout", "30s", "-s", script,
                           f"http://{server.host}:{server.port}{path}"], capture_output=True, text=True)
    found = re.search(r"^sums (\d+) (\d+) (\d+) (\d+) (\d+)$", done.stdout, re.M)
    if not found:
        raise SystemExit(f"wrk failed:\n{done.stdout}{done.stderr}")
    requests, duration, p50, p99, errors = map(int, found.groups())
    return Times(p50 / 1e3, p99 / 1e3, requests / duration * 1e6, requests, errors)


def resident_mib(pid):
    with open(f"/proc/{pid}/status") as f:
        return int(re.search(r"^VmRSS:\s*(\d+)", f.read(), re.M)[1]) / 1024


class Table:
    def __init__(self):
        self.rows = []
        self.missed = 0

    def times(self, what, times):
        note = f"  {times.errors} ERRORS" if times.errors else ""
        self.rows.append(f"{what:<34}{times.p50:>9.3f}{times.p99:>9.3f}{times.rate:>11.0f}{times.count:>9}{note}")

    def target(self, what, value, limit, unit, at_least=False):
        ok = value >= limit if at_least else value < limit
        self.missed += not ok
        return f"{what:<44}{value:>10.2f}{'>=' if at_least else '<':>4}{limit:>9.2f} {unit:<5} {'ok' if ok else 'MISSED'}"


def measure(options, folder):
    have_wrk = shutil.which("wrk")
    table, targets, costs = Table(), [], []

    disk = measure_disk(folder)
    server = Server(options.stokerd, folder)
    try:
        time.sleep(0.5)
        idle = resident_mib(server.process.pid)
        connection = Connection(server)
        print("creating a context ...", flush=True)
        start = time.perf_counter()
        must(connection.request("POST", "/contexts/bench?num-cpu-cores=2"), 200)
        create = time.perf_counter() - start
        print("waiting for the class-data archive ...", flush=True)
        await_archive(server)
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as z:
            z.writestr("noop.py", JOB)
        connection = Connection(server)
        must(connection.request("POST", "/binaries/noop", archive.getvalue(), "application/python-egg"), 200, 201)
        path = "/jobs?appName=noop&classPath=noop.NoOp&context=bench&sync=true"

        print("warming up ...", flush=True)
        one_client(connection, path, options.jobs // 10 + 1)

        print(f"one client, {options.jobs} jobs ...", flush=True)
        with Spent(server) as spent:
            one = one_client(connection, path, options.jobs)
        costs.append(("one client", list(spent.lines(one.count))))
        disk_after = measure_disk(folder)
        fsync_p50 = statistics.mean([disk.p50, disk_after.p50])
        table.times("fdatasync of 4 KiB, before", disk)
        table.times("fdatasync of 4 KiB, after", disk_after)
        table.times("no-op job, sync, 1 client", one)
        targets.append(table.target("no-op job, 1 client, p50 (2 fsync + 0.5 ms)", one.p50, 2 * fsync_p50 + 0.5, "ms"))
        targets.append(table.target("no-op job, 1 client, p99", one.p99, 5, "ms"))
        job = re.search(r'"jobId":"([0-9a-f-]+)"', connection.request("POST", path)[1].decode())[1]

        if have_wrk:
            print(f"64 clients, {options.seconds} s each of jobs, GET /jobs/<id>, GET /healthz ...", flush=True)
            wrk(server, folder, "POST", path, 2)
            with Spent(server) as spent:
                many = wrk(server, folder, "POST", path, options.seconds)
            costs.append(("64 clients", list(spent.lines(many.count))))
            get = wrk(server, folder, "GET", f"/jobs/{job}", options.seconds)
            health = wrk(server, folder, "GET", "/healthz", options.seconds)
            table.times("no-op job, sync, 64 clients", many)
            table.times("GET /jobs/<id>, 64 clients", get)
            table.times("GET /healthz, 64 clients", health)
            targets.append(table.target("no-op job, 64 clients", many.rate, 8000, "/s", at_least=True))
            targets.append(table.target("GET /jobs/<id>, 64 clients", get.rate, 40000, "/s", at_least=True))
            errors = many.errors + get.errors + health.errors
        else:
            print("wrk is not there: 64 clients are left out (apt-get install wrk)")
            errors = 0
        print(f"{options.starts} starts of a context and of a bare PySpark, by turns ...", flush=True)
        ours, bare = compare_starts(server, options.starts)
        table.times("context start, POST to answer", ours)
        table.times("bare PySpark start", bare)
        targets.append(table.target("context start over a bare start, p50", ours.p50 / bare.p50, 0.4, ""))
        targets.append(table.target("resident memory of stokerd, idle", idle, 24, "MiB"))
        busy = resident_mib(server.process.pid)

        connection = Connection(server)
        failed = must(connection.request("GET", "/jobs?status=error&limit=1"), 200)
        if failed != b"[]":
            errors += 1
            print(f"jobs failed, such as {failed[:1000].decode(errors='replace')}")
    finally:
        status = server.stop()

    print(f"\n{'':<34}{'p50 ms':>9}{'p99 ms':>9}{'per second':>11}{'count':>9}")
    print("\n".join(table.rows))
    print(f"\nfirst context, without a class-data archive, created in {create:.2f} s; stokerd's resident memory {idle:.1f} MiB idle, {busy:.1f} MiB after all")
    for title, lines in costs:
        print(f"\nper job, {title}\n{'':<9}{'CPU us':>10}{'waits':>12}{'disk bytes':>14}")
        print("\n".join(lines))
    commits = re.findall(r"\bcommits=(\d+) commands=(\d+)", server.log_text())
    if commits:
        print(f"\ncommits, all in all: {commits[-1][0]}, with {commits[-1][1]} commands in them")
    print("\ntargets\n" + "\n".join(targets))
    if status != 0:
        print(f"\nthe server ended with status {status}:\n{server.log_text()}")
    if errors:
        print(f"\n{errors} requests or jobs FAILED: the figures above are worth nothing")
    return 1 if errors or status != 0 else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stokerd", default="build/stokerd")
    parser.add_argument("--jobs", type=int, default=3000, help="jobs of the one client")
    parser.add_argument("--starts", type=int, default=5, help="starts of a context and of a bare PySpark")
    parser.add_argument("--seconds", type=int, default=10, help="of each run with 64 clients")
    options = parser.parse_args()
    options.stokerd = os.path.abspath(options.stokerd)

    os.makedirs("build", exist_ok=True)
    folder = tempfile.mkdtemp(prefix="bench-", dir=os.path.realpath("build"))
    try:
        return measure(options, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
