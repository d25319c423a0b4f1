"""Retention: what is old or too much goes, what lives stays, and a disk under its reserve takes no new work."""

import json
import os
import signal
import statistics
import tempfile
import time
import uuid

import pytest

from kit import make_zip, unique, wait_for

LONG = 60.0
HOUR_US = 3600 * 10**6


def add_config(daemon, **config):
    with open(daemon.config_path, "a") as f:
        for key, value in config.items():
            f.write('%s = "%s";\n' % (key.replace("_", "-"), value))


def stored(daemon):
    return {row[0] for row in daemon.rows("SELECT id FROM jobs")}


def count(daemon):
    return daemon.rows("SELECT count(*) FROM jobs")[0][0]


def files(daemon, folder, of=""):
    return sorted(n for n in os.listdir(daemon.path(folder)) if of in n)


def big(daemon, context, app, n=300000):
    """The id of a job whose result is a file and that has written to its log."""
    job = daemon.start_job(context, app, {"do": "big_result", "bytes": n, "print": "a line"})
    daemon.wait_job(job, "FINISHED")
    return job


def now_us():
    return int(time.time() * 10**6)


def make_old(daemon, jobs, hours=2):
    """While no server runs: these jobs, and all that was recorded before now but other jobs, are hours old."""
    with daemon.db() as db:
        marks = ",".join("?" * len(jobs))
        db.execute(
            "UPDATE jobs SET submitted_us = submitted_us - ?, ended_us = ended_us - ? WHERE id IN (%s)" % marks,
            (hours * HOUR_US, hours * HOUR_US, *jobs),
        )
        db.execute("UPDATE events SET at_us = at_us - ? WHERE job_id IN (%s)" % marks, (hours * HOUR_US, *jobs))


def add_old_jobs(daemon, n, logs=False, at_us=None):
    """While no server runs: n ended jobs, two hours old, with configs and three events each. Their ids."""
    at_us = at_us or now_us() - 2 * HOUR_US
    ids = [str(uuid.uuid4()) for _ in range(n)]
    with daemon.db() as db:
        db.execute("BEGIN")
        first = db.execute("SELECT coalesce(max(seq), 0) + 1 FROM jobs").fetchone()[0]
        db.executemany(
            "INSERT INTO jobs (seq, id, context_name, app, class_path, binaries, state, attempt, submitted_us, started_us,"
            " ended_us, result_bytes, result) VALUES (?, ?, 'ctx', 'app', 'app.Job', '[]', 4, 1, ?, ?, ?, 4, '\"ok\"')",
            [(first + i, job, at_us + i, at_us + i, at_us + i) for i, job in enumerate(ids)],
        )
        db.executemany(
            "INSERT INTO job_configs (job, config) VALUES (?, ?)",
            [(first + i, json.dumps({"input": "text " * 20})) for i in range(n)],
        )
        db.executemany(
            "INSERT INTO events (at_us, kind, job_id, state) VALUES (?, 'job.moved', ?, ?)",
            [(at_us + i, job, state) for i, job in enumerate(ids) for state in (0, 1, 4)],
        )
        db.execute("COMMIT")
    if logs:
        for job in ids:
            for stream in ("stdout", "stderr"):
                with open(daemon.path("logs", "%s.1.%s" % (job, stream)), "w") as f:
                    f.write("a line\n")
    return ids


# ---- age


def test_old_jobs_go_with_all_that_belongs_to_them(daemon):
    server = daemon(keep_jobs="1h").start()
    app = server.upload()
    context = server.create()
    old, young = big(server, context, app), big(server, context, app)
    ((context_id,),) = server.rows("SELECT id FROM contexts")
    assert files(server, "results", old) and files(server, "logs", old)
    server.stop()
    assert files(server, "logs", "context." + context_id)
    with server.db() as db:
        db.execute("UPDATE contexts SET started_us = started_us - ?, ended_us = ended_us - ?", (2 * HOUR_US, 2 * HOUR_US))
        # events go from the oldest on, so those before the job's are made old as well
        db.execute("UPDATE events SET at_us = at_us - ? WHERE seq <= (SELECT max(seq) FROM events WHERE job_id = ?)",
                   (2 * HOUR_US, old))
    make_old(server, [old])
    server.start()
    wait_for(lambda: server.get("/jobs/" + old).status == 404, "the old job is gone", LONG)
    for folder in ("results", "logs"):
        wait_for(lambda: not files(server, folder, old), "its files are gone", LONG)  # noqa: B023
        assert files(server, folder, young)
    wait_for(lambda: not files(server, "logs", "context." + context_id), "the old context's log is gone", LONG)
    assert server.rows("SELECT count(*) FROM contexts") == [(0,)]
    assert server.rows("SELECT count(*) FROM events WHERE job_id = ?", old) == [(0,)]
    assert server.rows("SELECT count(*) FROM events WHERE job_id = ?", young) == [(2,)]
    assert len(server.job(young)["result"]) == 300000 - 2
    assert [j["jobId"] for j in server.get("/jobs").json] == [young]


def test_results_in_all_forms_go_with_their_jobs(daemon):
    server = daemon(keep_jobs="2s").start()
    app, context = server.upload(), server.create()
    server.run(context, app)
    wait_for(lambda: not stored(server), "the first pass, which looks for what nobody knows, is over", LONG)
    forms = ("json", "csv", "parquet", "arrows")
    jobs = [server.start_job(context, app, {"do": "big_result", "bytes": 100000, "ending": form}) for form in forms]
    for job, form in zip(jobs, forms):
        wait_for(lambda: os.path.exists(server.path("results", job + ".1." + form)), "a file of " + form)  # noqa: B023
    wait_for(lambda: not stored(server), "all are gone", LONG)
    wait_for(lambda: not files(server, "results"), lambda: str(files(server, "results")), LONG)


def test_a_job_goes_by_its_end_and_not_while_it_runs(daemon, flags):
    """It is as old as can be when it ends; its caller gets the result all the same."""
    server = daemon(keep_jobs="2s").start()
    app = server.upload()
    context = server.create()
    reply = server.background(
        "POST", "/jobs?sync=true&timeout=60&appName=%s&classPath=app.Job&context=%s" % (app, context),
        {"fake": {"touch": flags.path("runs"), "wait": flags.path("go"), "result": "late"}},
    )
    flags.wait("runs")
    ((running,),) = server.rows("SELECT id FROM jobs")
    quick = server.run(context, app).json["jobId"]
    wait_for(lambda: stored(server) == {running}, "the ended job is gone, the other is not", LONG)
    assert server.get("/jobs/" + quick).status == 404
    assert server.job(running)["status"] == "RUNNING"
    # several passes later, which is told by another job that came and went
    after = server.run(context, app).json["jobId"]
    wait_for(lambda: after not in stored(server), "the next one is gone too", LONG)
    assert stored(server) == {running}
    flags.up("go")
    assert reply().json["result"] == "late"
    wait_for(lambda: not stored(server), "the long one goes after its time", LONG)
    assert server.rows("SELECT count(*) FROM events")[0][0] >= 1  # the newest one keeps the place in the stream


# ---- counts and sizes


def test_the_newest_jobs_stay(daemon, flags):
    server = daemon(keep_jobs="0s", max_stored_jobs=3, keep_binaries="10s").start()
    app = server.upload()
    context = server.create()
    running = server.start_job(context, app, {"touch": flags.path("runs"), "wait": flags.path("go")})
    flags.wait("runs")
    jobs = [server.run(context, app).json["jobId"] for _ in range(10)]
    wait_for(lambda: stored(server) == {running, *jobs[-3:]}, lambda: "the newest three: %s" % stored(server), LONG)
    ((oldest_us,),) = server.rows("SELECT submitted_us FROM jobs WHERE id = ?", jobs[-3])
    wait_for(
        lambda: server.rows("SELECT count(*) FROM events WHERE at_us < ?", oldest_us) == [(0,)], "their events", LONG
    )
    assert server.rows("SELECT count(*) FROM events WHERE job_id = ?", jobs[-3]) == [(2,)]
    assert server.job(running)["status"] == "RUNNING"
    flags.up("go")


def test_the_oldest_results_go_when_they_are_too_much(daemon):
    """The records of their jobs stay, and say so. Without waiting for the minute of the next pass."""
    server = daemon(max_stored_results="1MiB").start()
    app = server.upload()
    context = server.create()
    jobs = [big(server, context, app) for _ in range(3)]
    server.wait_log("listening|started")
    wait_for(lambda: len(files(server, "results")) == 3, "three fit")
    # whichever comes first, the first pass or that of the sixth result
    jobs += [big(server, context, app) for _ in range(3)]
    wait_for(lambda: len(files(server, "results")) <= 3, lambda: str(files(server, "results")), 2 * LONG)
    assert [bool(files(server, "results", job)) for job in jobs] == [False] * 3 + [True] * 3
    for job in jobs[:3]:
        assert server.job(job)["status"] == "FINISHED" and "result" not in server.job(job)
        assert server.job(job)["resultRemoved"] is True
    for job in jobs[3:]:
        assert len(server.job(job)["result"]) == 300000 - 2
        assert "resultRemoved" not in server.job(job)
    more = [big(server, context, app) for _ in range(3)]
    wait_for(lambda: len(files(server, "results")) <= 3, lambda: str(files(server, "results")), LONG)
    assert [bool(files(server, "results", job)) for job in more] == [True] * 3


def test_the_oldest_logs_go_when_they_are_too_much(daemon, flags):
    """But not that of a job that runs, nor its earlier ones' records."""
    server = daemon(max_stored_logs="1MiB").start()
    app = server.upload()
    context = server.create()
    text = "x" * 300000
    running = server.start_job(
        context, app, {"print": text * 2, "touch": flags.path("runs"), "wait": flags.path("go")}
    )
    flags.wait("runs")
    jobs = [server.run(context, app, {"print": text}).json["jobId"] for _ in range(5)]
    assert len(files(server, "logs", ".1.stderr")) == 5
    wait_for(lambda: len(files(server, "logs", ".1.stderr")) <= 1, lambda: str(files(server, "logs")), 2 * LONG)
    assert files(server, "logs", jobs[-1])
    assert not files(server, "logs", jobs[0])
    assert all(server.job(job)["result"] == "ok" for job in jobs)
    flags.up("go")
    server.wait_job(running, "FINISHED")
    (name,) = files(server, "logs", running + ".1.stderr")
    assert os.path.getsize(server.path("logs", name)) >= 600000


# ---- binaries


def test_replaced_versions_go_unless_a_stored_job_ran_with_them(daemon):
    server = daemon(keep_binaries="1s", max_stored_jobs=1).start()
    context = server.create()
    app = unique("app")

    def upload(text):
        server.upload(app, make_zip({"app.py": "x = %r\n" % text}))
        return server.rows("SELECT digest FROM binary_versions ORDER BY version DESC LIMIT 1")[0][0]

    used = upload("used")
    job = server.run(context, app).json["jobId"]
    unused, newest = upload("unused"), upload("newest")
    alone = server.upload(data=make_zip({"app.py": "alone = 1\n"}))
    wait_for(lambda: not files(server, "blobs", unused), "the unused version is gone", LONG)
    assert not files(server, "unpacked", unused)
    assert files(server, "blobs", used) and files(server, "unpacked", used) and files(server, "blobs", newest)
    assert stored(server) == {job}
    assert server.run(context, app).status == 200  # now the newest version is the only job's
    wait_for(lambda: not files(server, "blobs", used), "with its job the old version is gone", LONG)
    assert files(server, "blobs", newest)
    assert set(server.get("/binaries").json) == {app, alone}
    assert server.run(context, alone).result == "ok"


def test_binaries_that_a_context_has_run_stay_while_it_keeps_something(daemon):
    """A named object may call their code, whatever became of its job's record, over a restart of the server too."""
    server = daemon(keep_binaries="1s", max_stored_jobs=1).start()
    context = server.create(wish={"keeper": "keeps", "objects": '[{"name": "it", "kind": "rdd"}]'})
    app, last = server.upload("app", make_zip({"app.py": "V = 1"})), None
    digest = server.rows("SELECT digest FROM binary_versions ORDER BY version DESC LIMIT 1")[0][0]

    def passes(n):
        """Waits for passes of the retention, each of which removes a job."""
        nonlocal last
        for _ in range(n):
            before, last = last, server.run(context, app).json["jobId"]
            wait_for(lambda: before is None or server.get("/jobs/" + before).status == 404, "a pass", LONG)

    passes(1)
    server.upload("app", make_zip({"app.py": "V = 2"}))
    replaced = time.time()
    passes(1)
    wait_for(lambda: time.time() > replaced + 2, "the old version is due")
    passes(3)
    server.restart()
    passes(3)
    assert files(server, "blobs", digest)
    assert server.delete("/v1/contexts/%s/objects/it" % context).status == 200
    wait_for(lambda: not files(server, "blobs", digest), "nothing needs it any more", LONG)


# ---- crashes


def test_killed_in_the_middle(daemon):
    """What a kill leaves half done is done by the next start: no row, no file is left."""
    server = daemon(keep_jobs="1h").start()
    app = server.upload()
    context = server.create()
    young = big(server, context, app)
    server.stop()
    add_old_jobs(server, 4000, at_us=now_us() - 3 * HOUR_US)
    add_old_jobs(server, 300, logs=True, at_us=now_us() - 2 * HOUR_US)
    with server.db() as db:  # they came before the young one
        db.execute("UPDATE jobs SET seq = 1000000 WHERE id = ?", (young,))
    server.start()
    wait_for(lambda: count(server) < 4301, "some are gone", LONG)
    server.kill()
    assert len(stored(server)) > 1, "killed too late"
    # a crash between the commit and the unlinks: rows gone, files not
    with server.db() as db:
        db.execute("DELETE FROM job_configs WHERE job IN (SELECT seq FROM jobs WHERE id <> ? ORDER BY seq DESC LIMIT 50)", (young,))
        db.execute("DELETE FROM jobs WHERE seq IN (SELECT seq FROM jobs WHERE id <> ? ORDER BY seq DESC LIMIT 50)", (young,))
    for name in ("results/%s.1.json", "logs/w-0123abcd.stderr%.0s", "logs/context.%s.log"):
        with open(server.path(name % uuid.uuid4()), "w") as f:
            f.write("{}")
    server.start()
    wait_for(lambda: count(server) == 1, lambda: "%d jobs are left" % count(server), 2 * LONG)
    wait_for(
        lambda: len(files(server, "logs", ".1.std")) == 2 and len(files(server, "results")) == 1,
        lambda: "files are left: %s" % files(server, "logs")[:5],
        LONG,
    )
    wait_for(lambda: not files(server, "logs", "w-0123abcd"), "the log of a dead worker is gone", LONG)
    assert len(server.job(young)["result"]) == 300000 - 2


def test_folders_of_contexts_that_nobody_knows(daemon):
    """Old ones are leftovers. A young one may be that of a create whose context is about to be known."""
    server = daemon(keep_jobs="2s").start()

    def folder(hours):
        path = server.path("contexts", str(uuid.uuid4()))
        os.mkdir(path)
        with open(os.path.join(path, "spec.json"), "w") as f:
            f.write("{}")
        os.utime(path, (time.time() - hours * 3600,) * 2)
        return path

    young = folder(0)
    for _ in range(2):  # what the first pass has begun with is done when the second has ended
        old = folder(2)
        wait_for(lambda: not os.path.exists(old), "removal of an old folder", LONG)  # noqa: B023
    assert os.listdir(young) == ["spec.json"]
    server.create("c")
    server.restart()
    assert os.listdir(server.path("contexts")) == [server.context_row("c")[0]]  # no create is on its way at a start


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR2])
def test_stopped_in_the_middle(daemon, signum):
    """The server waits for the step that is on its way, not for all of them."""
    server = daemon(keep_jobs="1h").start()
    server.stop()
    add_old_jobs(server, 20000)
    server.start()
    wait_for(lambda: count(server) < 20000, "some are gone", LONG)
    assert server.stop(signum) == 0
    assert stored(server), "stopped too late"


# ---- the disk


def refused(reply):
    assert reply.status == 507, reply
    assert reply.json["status"] == "ERROR"
    for text in ("free", "1024.0 TiB", "disk-reserve"):
        assert text in reply.json["result"], reply
    return True


def test_a_disk_under_its_reserve_takes_no_new_work_and_goes_on(daemon, flags):
    server = daemon().start()
    app, other = server.upload(), server.upload()
    context, second = server.create(**{"max-jobs-per-context": 1}), server.create()
    wait = {"wait": flags.path("go"), "touch": flags.path("runs")}
    running = server.start_job(context, app, {**wait, "do": "big_result", "bytes": 100000})
    queued = server.start_job(context, app, {"result": "after"})
    doomed = server.start_job(second, app, {"wait": flags.path("never")})
    flags.wait("runs")
    server.wait_running(doomed)
    once = {"headers": {"Idempotency-Key": "once"}}
    path = "/jobs?appName=%s&classPath=app.Job&context=%s" % (app, second)
    first = server.post(path, "", **once).json["jobId"]
    server.wait_job(first, "FINISHED")
    assert server.stop(signal.SIGUSR2) == 0
    add_config(server, disk_reserve="1024TiB")
    server.start()

    assert refused(server.submit(context, app))
    assert refused(server.submit(context, app, sync="true"))
    assert refused(server.post("/binaries/" + unique(), make_zip(), headers={"Content-Type": "application/python-egg"}))
    assert refused(server.post("/contexts/" + unique()))
    assert server.rows("SELECT count(*) FROM jobs") == [(4,)]
    assert os.listdir(server.path("tmp")) == []

    assert server.post(path, "", **once).json["jobId"] == first  # a retry is no new work
    assert server.get("/jobs").status == 200 and server.get("/contexts").status == 200
    assert server.delete("/jobs/" + doomed).status == 200
    assert server.wait_job(doomed)["status"] == "KILLED"
    flags.up("go")
    assert len(server.wait_job(running, "FINISHED")["result"]) == 100000 - 2
    assert server.wait_job(queued, "FINISHED")["result"] == "after"
    assert server.delete("/binaries/" + other).status == 200
    assert server.delete("/contexts/" + second).status == 200
    assert server.log().count("under its reserve") == 1


def test_the_reserve_begins_and_ends(daemon):
    """On a real file system that fills and empties: /dev/shm. Each is logged once."""
    margin = 128 << 20
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="stoker-http-") as folder:
        stat = os.statvfs(folder)
        free = stat.f_bavail * stat.f_frsize
        server = daemon(state_dir=os.path.join(folder, "state"), disk_reserve="%dB" % max(free - margin, 0))
        server.state = os.path.join(folder, "state")
        server.start()
        app = server.upload()
        context = server.create()
        assert server.run(context, app).result == "ok"
        with open(os.path.join(folder, "filler"), "wb") as f:
            os.posix_fallocate(f.fileno(), 0, 2 * margin)
        server.wait_log("the disk is under its reserve")
        for reply in (
            server.submit(context, app),
            server.post("/contexts/" + unique()),
            server.post("/binaries/x", make_zip(), headers={"Content-Type": "application/python-egg"}),
        ):
            assert reply.status == 507 and "disk-reserve" in reply.json["result"], reply
        os.unlink(f.name)
        server.wait_log("the disk has its reserve again")
        assert server.run(context, app).result == "ok"
        server.upload()
        server.create()
        assert server.log().count("the disk is under its reserve") == 1
        assert server.log().count("the disk has its reserve again") == 1
        assert server.stop() == 0


# ---- many


def latencies(server, context, app, going_on):
    found = []
    while going_on() or not found:
        start = time.monotonic()
        assert server.run(context, app).result == "ok"
        found.append((time.monotonic() - start) * 1000)
    return sorted(found)


def test_many_old_jobs_delay_nobody(daemon):
    """STOKER_OLD_JOBS: how many."""
    old = int(os.environ.get("STOKER_OLD_JOBS", 20000))
    server = daemon(keep_jobs="1h", log_level="info").start()
    server.stop()
    add_old_jobs(server, old)
    server.start()
    app = server.upload()
    context = server.create()
    server.run(context, app)
    start = time.monotonic()
    clearing = latencies(server, context, app, lambda: server.rows("SELECT EXISTS (SELECT 1 FROM jobs WHERE submitted_us < ?)",
                                                                  now_us() - HOUR_US) == [(1,)])
    took = time.monotonic() - start
    server.wait_log("removed.*jobs=%d" % old, 2 * LONG)
    rest = iter(range(len(clearing)))
    alone = latencies(server, context, app, lambda: next(rest, None) is not None)
    print(
        "\n%d jobs cleared in %.1f s beside %d jobs; ms a job while clearing: p50 %.1f p99 %.1f max %.1f;"
        " alone: p50 %.1f p99 %.1f max %.1f"
        % (
            old, took, len(clearing), statistics.median(clearing), clearing[len(clearing) * 99 // 100], clearing[-1],
            statistics.median(alone), alone[len(alone) * 99 // 100], alone[-1],
        )
    )
    assert len(clearing) > 50
    assert statistics.median(clearing) < 1000 and clearing[-1] < 20000
