#!/usr/bin/env python3
"""big.py --stokerd build/stokerd [--gib 1]: what a long result and a long upload cost the server.

The memory is the peak of RssAnon over what it was before (with the tests' fake runner; no Spark takes part); the speed is that of one
client on the same machine. Target: under 64 MB each. The exit status is 1 when that is missed.
"""

import argparse
import concurrent.futures
import http.client
import os
import sys
import tempfile
import threading
import time
import zipfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "http"))

TARGET = 64_000_000
PIECE = 1 << 20


def anonymous(pid):
    """RssAnon of a process, in bytes."""
    with open("/proc/%d/status" % pid) as f:
        return next(int(line.split()[1]) << 10 for line in f if line.startswith("RssAnon"))


class Watch:
    """Samples RssAnon of a process every 5 ms: .peak and .before, bytes; .seconds."""

    def __init__(self, pid):
        self.pid, self.over = pid, threading.Event()

    def __enter__(self):
        self.before = self.peak = anonymous(self.pid)
        self.thread = threading.Thread(target=self.run)
        self.start = time.monotonic()
        self.thread.start()
        return self

    def run(self):
        while not self.over.wait(0.005):
            self.peak = max(self.peak, anonymous(self.pid))

    def __exit__(self, *_):
        self.seconds = time.monotonic() - self.start
        self.over.set()
        self.thread.join()


def read(port, path):
    """The length of a body, which is read and dropped."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    connection.request("GET", path)
    answer, size, room = connection.getresponse(), 0, bytearray(PIECE)
    assert answer.status == 200, answer.read()
    while n := answer.readinto(room):
        size += n
    assert size == int(answer.headers["Content-Length"])
    connection.close()
    return size


def upload(port, file):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    file.seek(0)
    connection.request("PUT", "/v1/binaries/big?type=zip", file, {"Content-Length": str(os.fstat(file.fileno()).st_size)})
    answer = connection.getresponse()
    assert answer.status == 201, answer.read()
    connection.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition(".")[0])
    parser.add_argument("--stokerd", required=True)
    parser.add_argument("--gib", type=float, default=1)
    options = parser.parse_args()
    os.environ["STOKERD"] = os.path.abspath(options.stokerd)
    import kit

    missed, size = False, int(options.gib * (1 << 30))

    def tell(title, size, watch):
        nonlocal missed
        rise = watch.peak - watch.before
        missed |= rise >= TARGET
        print("%-44s %7.1f MB  %6.2f s  RssAnon %5.1f MB, %5.1f MB more than before" % (
            title, size / 1e6, watch.seconds, watch.peak / 1e6, rise / 1e6), flush=True)

    with kit.scratch() as folder, tempfile.NamedTemporaryFile(dir=folder, suffix=".zip") as archive:
        daemon = kit.Daemon(folder, **{"max-result": "64GiB", "max-upload": "64GiB", "max-unpacked": "64GiB"})
        daemon.start()
        pid = daemon.process.pid
        try:
            app, context = daemon.upload(), daemon.create()
            with Watch(pid) as watch:
                job = daemon.start_job(context, app, {"do": "big_result", "bytes": size})
                ended = daemon.get("/v1/jobs/%s?wait=10min" % job, http_timeout=600)
                assert ended.json["state"] == "FINISHED", ended
            tell("a job with a result", size, watch)
            for title, path in (("the native API", "/v1/jobs/%s/result" % job), ("Spark Job Server's", "/jobs/" + job)):
                with Watch(pid) as watch:
                    got = read(daemon.port, path)
                tell("its result, " + title, got, watch)
            with Watch(pid) as watch, concurrent.futures.ThreadPoolExecutor(8) as pool:
                got = sum(pool.map(lambda _: read(daemon.port, "/v1/jobs/%s/result" % job), range(8)))
            tell("its result, 8 clients", got, watch)
            with zipfile.ZipFile(archive, "w") as z:
                z.writestr("app.py", "class Job: pass\n")
                with z.open("data.bin", "w", force_zip64=True) as entry:
                    for _ in range(size // PIECE):
                        entry.write(os.urandom(PIECE))
            archive.flush()
            with Watch(pid) as watch:
                upload(daemon.port, archive)
            tell("an upload", os.fstat(archive.fileno()).st_size, watch)
        finally:
            kit.finish(daemon)
    return missed


if __name__ == "__main__":
    sys.exit(main())
