#!/usr/bin/env python3
"""listing.py --stokerd build/stokerd: what a page of the list of jobs takes among a million of them.

Fills the database of a server (with the tests' fake runner; no Spark takes part), starts it and asks for pages of 100 over one
connection: first pages, deep ones, and every page of a walk. Target: 50 ms at the 95th percentile.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
import urllib.parse

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "http"))

TARGET_MS = 50
STEP_US = 250_000  # between two submits
START_US = 1_700_000_000_000_000

# What decides about a job is its number i times a large prime: the same in each run, with no pattern that an index could like.
# 20 contexts, of which the first has half of all; 50 apps, 30 users, tags of which some are rare. 93 % have finished; the newest 500
# have not ended. Contexts "left" and "right" with the apps "l" and "r" are frequent each and never together the other way round.
FILL = """
WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < :jobs),
r(i, h) AS (SELECT i, (i * 2654435761) %% 4294967296 FROM n)
INSERT INTO jobs (seq, id, context_id, context_name, app, class_path, binary_set, binaries, state, attempt, submitted_us, started_us,
                  ended_us, worker_process, worker_pid, worker_start, worker_boot, result_bytes, error, result, tags, user)
SELECT i, printf('%%08x-0000-7000-8000-%%012x', h, i), '01900000-0000-7000-8000-000000000001',
    CASE WHEN i %% 10 = 1 THEN 'left' WHEN i %% 10 = 2 THEN 'right' WHEN h %% 2 THEN 'context-0' ELSE 'context-' || (h / 7 %% 20) END,
    CASE WHEN i %% 10 = 1 THEN 'l' WHEN i %% 10 = 2 THEN 'r' ELSE 'app-' || (h / 13 %% 50) END,
    'app.Job', hex(zeroblob(32)),
    '[{"name":"app","version":1,"digest":"' || hex(zeroblob(32)) || '","type":"egg"}]',
    CASE WHEN i > :jobs - 500 THEN i %% 2 WHEN h / 17 %% 100 < 93 THEN 4 ELSE 5 + h / 19 %% 5 END, 1,
    :start + i * :step, :start + i * :step + 1000, CASE WHEN i <= :jobs - 500 THEN :start + i * :step + 200000 END,
    'w-3fa9c1d2', 4711, 123456, '44444444-4444-4444-8444-444444444444', 1,
    CASE WHEN h / 17 %% 100 >= 93 THEN json_object('code', 'USER_EXCEPTION', 'message', 'boom', 'traceback', hex(zeroblob(600))) END,
    '1',
    CASE WHEN i %% 5 = 0 THEN '["nightly"' || CASE WHEN i %% 50000 = 0 THEN ',"release"' ELSE '' END || ']' END,
    CASE WHEN h %% 3 THEN 'user-' || (h / 23 %% 30) END
FROM r
"""
TAGS = """
INSERT INTO job_tags SELECT each.value, state, submitted_us, seq, context_name, app, user FROM jobs, json_each(jobs.tags) AS each
WHERE state >= 4 AND tags IS NOT NULL
"""


def at(share, jobs):
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime((START_US + share * jobs * STEP_US) / 1e6))


def questions(jobs):
    """(title, query)"""
    middle = {"since": at(0.4, jobs), "until": at(0.6, jobs)}
    return [
        ("all", {}),
        ("state=FINISHED", {"state": "FINISHED"}),
        ("state=LOST", {"state": "LOST"}),
        ("state=QUEUED,STARTING", {"state": "QUEUED,STARTING"}),
        ("the frequent context", {"context": "context-0"}),
        ("a context", {"context": "context-7"}),
        ("a context that is not there", {"context": "nobody"}),
        ("an app", {"app": "app-3"}),
        ("a user", {"user": "user-5"}),
        ("a frequent tag", {"tag": "nightly"}),
        ("a rare tag", {"tag": "release"}),
        ("a time", middle),
        ("context, state=KILLED", {"context": "context-7", "state": "KILLED"}),
        ("context, app", {"context": "context-0", "app": "app-3"}),
        ("context, app, user", {"context": "context-0", "app": "app-3", "user": "user-5"}),
        ("context, app, user, tag, state", {"context": "context-0", "app": "app-3", "user": "user-5", "tag": "nightly",
                                            "state": "ERROR"}),
        ("app, user, time", {"app": "app-3", "user": "user-5", **middle}),
        ("two tags", [("tag", "nightly"), ("tag", "release")]),
        ("frequent each, never together", {"context": "left", "app": "r"}),
    ]


def fill(daemon, jobs):
    daemon.start()
    daemon.stop()
    with daemon.db() as db:
        db.executescript("PRAGMA synchronous = OFF; PRAGMA cache_size = -400000;")
        db.execute("BEGIN")
        db.execute(FILL.replace("%%", "%"), {"jobs": jobs, "start": START_US, "step": STEP_US})
        db.execute(TAGS)
        db.execute("COMMIT")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


class Asker:
    def __init__(self, daemon):
        import http.client

        self.connection = http.client.HTTPConnection("127.0.0.1", daemon.port)

    def page(self, query, cursor=None):
        """(milliseconds, the page)"""
        pairs = list(query.items() if isinstance(query, dict) else query) + [("limit", "100")]
        if cursor:
            pairs.append(("cursor", cursor))
        start = time.perf_counter()
        self.connection.request("GET", "/v1/jobs?" + urllib.parse.urlencode(pairs))
        reply = self.connection.getresponse()
        body = reply.read()
        took = (time.perf_counter() - start) * 1e3
        if reply.status != 200:
            raise SystemExit("%d: %s" % (reply.status, body[:400].decode()))
        return took, json.loads(body)


def measure(asker, query, pages):
    """Times of pages, one after the other as the cursor leads, from the start again when there are no more; jobs seen in the first walk."""
    for _ in range(3):
        asker.page(query)
    times, cursor = [], None
    found = short = 0
    for _ in range(pages):
        took, page = asker.page(query, cursor)
        times.append(took)
        found += len(page["jobs"])
        cursor = page["next"]
        short += bool(cursor and len(page["jobs"]) < 100)
    return sorted(times), found / pages, short


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stokerd", default="build/stokerd")
    parser.add_argument("--jobs", type=int, default=1_000_000)
    parser.add_argument("--pages", type=int, default=100, help="of each question")
    options = parser.parse_args()
    os.environ["STOKERD"] = os.path.abspath(options.stokerd)
    import kit

    os.makedirs("build", exist_ok=True)
    folder = tempfile.mkdtemp(prefix="listing-", dir=os.path.realpath("build"))
    missed = 0
    try:
        daemon = kit.Daemon(folder, **{"keep-jobs": "0s", "max-stored-jobs": 0, "log-level": "info"})
        start = time.monotonic()
        fill(daemon, options.jobs)
        print("%d jobs in %.0f MB, written in %.0f s" % (options.jobs, os.path.getsize(daemon.db_path) / 1e6, time.monotonic() - start))
        daemon.start()
        # What has not ended belongs to contexts that are not there, and is settled at the start.
        asker = Asker(daemon)
        print("%-36s%10s%10s%10s%10s%8s" % ("", "p50 ms", "p95 ms", "max ms", "jobs/page", "short"))
        for title, query in questions(options.jobs):
            times, found, short = measure(asker, query, options.pages)
            p95 = times[int(len(times) * 0.95)]
            missed += p95 >= TARGET_MS
            print("%-36s%10.2f%10.2f%10.2f%10.1f%8d%s" % (title, times[len(times) // 2], p95, times[-1], found, short,
                                                      "" if p95 < TARGET_MS else "   MISSED"))
        daemon.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
