"""kill -9 of the server at every step that anybody else can see: each write, sync, rename and message of a whole life.

One scenario (an upload, contexts, jobs of every fate, a cancel, deletes) is run again and again, and the server dies one step
later each time. What it had answered by then must be true after the next start, nothing may run twice, nothing is LOST,
and everything works. shim.c counts the steps. STOKER_SWEEP=1 takes every step; else one in STRIDE, all kinds of them.
"""

import concurrent.futures
import contextlib
import http.client
import json
import os

import kit
from kit import wait_for
from shim import Shim

STRIDE = 1 if os.environ.get("STOKER_SWEEP") else 7
GONE = (OSError, http.client.HTTPException, ValueError)  # what a client sees of a server that dies


class Life:
    """The scenario, and what its client was told."""

    def __init__(self, server, flags):
        self.server, self.flags = server, flags
        self.uploaded, self.created, self.deleting, self.deleted = set(), set(), set(), set()
        self.accepted, self.results, self.killed, self.killing = set(), {}, set(), set()

    def upload(self, name, text):
        reply = self.server.post(
            "/binaries/" + name, kit.make_zip({"app.py": text}), headers={"Content-Type": "application/zip"}
        )
        assert reply.status == 201, reply
        self.uploaded.add(name)

    def create(self, name, **settings):
        reply = self.server.post("/contexts/" + name, **settings)
        assert reply.status == 200, reply
        self.created.add(name)

    def delete(self, name):
        self.deleting.add(name)
        reply = self.server.delete("/contexts/" + name)
        assert reply.status == 200, reply
        self.deleted.add(name)

    def run(self, result, **fake):
        reply = self.server.run("c", "app", {"append": self.flags.path("account"), "result": result, **fake})
        assert reply.status == 200, reply
        if "jobId" in reply.json:
            self.accepted.add(reply.json["jobId"])
        self.results[reply.json["jobId"]] = reply.json.get("result")

    def start(self, result, **fake):
        job = self.server.start_job("c", "app", {"append": self.flags.path("account"), "result": result, **fake})
        self.accepted.add(job)
        return job

    def kill(self, job):
        self.killing.add(job)
        reply = self.server.delete("/jobs/" + job)
        assert reply.json == {"status": "KILLED"}, reply
        self.killed.add(job)

    def live(self):
        """All of it, one after the other but for what must wait; raises one of GONE when the server dies."""
        self.upload("app", "one = 1\n")
        self.create("c", **{"max-jobs-per-context": 2})
        self.run({"a": 1})
        long = self.start("long", wait=self.flags.path("go"))
        stuck = self.start("never", wait=self.flags.path("never"), touch=self.flags.path("stuck"))
        queued = self.start("queued")
        wait_for(lambda: os.path.exists(self.flags.path("stuck")) or not self.server.running, "start of a job")
        self.upload("app", "two = 2\n")
        self.kill(stuck)
        self.flags.up("go")
        for job in (long, queued):
            wait_for(lambda: self.server.job(job)["status"] != "RUNNING", "end of a job")
            self.results[job] = self.server.job(job)["result"]
        self.run("fails", do="exit")
        self.run("x" * 200)
        self.run(None, do="big_result", bytes=100000)
        self.create("d")
        self.delete("d")
        self.upload("b", "three = 3\n")
        self.uploaded.discard("b")
        assert self.server.delete("/binaries/b").status == 200

    def check(self):
        """After the next start: all that was told is true."""
        server = self.server
        listed = {name for name in server.get("/binaries").json}
        assert self.uploaded <= listed, (self.uploaded, listed)
        wait_for(
            lambda: not server.rows("SELECT 1 FROM jobs WHERE state < 4"),
            lambda: "the end of all jobs: %s" % server.rows("SELECT id, state FROM jobs"),
        )
        states = {i: kit.JOB_STATES[s] for i, s in server.rows("SELECT id, state FROM jobs")}
        assert self.accepted <= set(states)
        assert "LOST" not in states.values(), states
        for job, result in self.results.items():
            assert server.job(job)["result"] == result
        for name, size in server.rows("SELECT result_file, result_bytes FROM jobs WHERE result_file IS NOT NULL"):
            assert os.path.getsize(server.path("results", name)) == size == 100000
        for job, state in states.items():
            if job in self.killed:
                assert state == "KILLED"
            assert state in ("FINISHED", "KILLED") or "exit status 5" in json.dumps(server.job(job)), server.job(job)
        lines = self.flags.lines("account")
        assert len(set(lines)) == len(lines), "an attempt ran twice: %s" % lines
        ran = [line.split()[0] for line in lines]
        assert len(set(ran)) == len(ran), "a job ran twice: %s" % lines
        assert {j for j, s in states.items() if s == "FINISHED"} <= set(ran) <= set(states)
        for name in ("c", "d"):
            row = server.context_row(name)
            if name in self.deleted:
                assert row[1] == "STOPPED"
            elif name in self.deleting:
                wait_for(lambda: server.context_row(name)[1] in ("STOPPED", "RUNNING"), "context " + name)
            elif row:
                wait_for(lambda: server.context_row(name)[1] == "RUNNING", "context " + name)
            else:
                assert name not in self.created
        self.check_events(states)

    def check_events(self, states):
        """Every job has been submitted once and has ended once."""
        events = self.server.rows("SELECT job_id, kind, state FROM events WHERE job_id IS NOT NULL ORDER BY seq")
        for job in states:
            mine = [(kind, state) for i, kind, state in events if i == job]
            assert [kind for kind, _ in mine].count("job.submitted") == 1 and mine[0][0] == "job.submitted"
            assert len([s for _, s in mine if s >= 4]) == 1 and mine[-1][1] >= 4, mine

    def check_work(self):
        """It works as if nothing had been, and leaves nothing behind."""
        server = self.server
        if "app" not in server.get("/binaries").json:
            self.upload("app", "again = 1\n")
        if not server.context_row("c"):
            self.create("c")
        assert server.run("c", "app", {"result": "after"}).result == "after"
        wait_for(lambda: not os.listdir(server.path("spool")), lambda: os.listdir(server.path("spool")))
        wait_for(lambda: not os.listdir(server.path("tmp")), lambda: os.listdir(server.path("tmp")))
        live = {row[0] for row in server.rows("SELECT id FROM contexts WHERE state < 3")}
        wait_for(lambda: set(os.listdir(server.path("contexts"))) == live, "removal of folders")
        assert server.rows("PRAGMA integrity_check") == [("ok",)]
        assert server.stop() == 0
        assert server.pids() == []


def lead_a_life(folder, kill_at, steps=None):
    """One life with the server killed at that step, and the next start's account. False: there was no such step."""
    server, flags = kit.Daemon(folder), kit.Flags(folder)
    shim = Shim(server)
    shim.kill_at(kill_at)
    life = Life(server, flags)
    died = True
    try:
        try:
            if shim.start():
                life.live()
                died = False
        except GONE + (AssertionError,):
            with contextlib.suppress(AssertionError):
                server.wait(5)
            if server.running:
                raise
        if kill_at and not died:  # it took fewer steps this time: it dies now, when all is done
            died = True
            server.kill()
        if died:
            assert server.status == -9, server.log()[-4000:]
            shim.kill_at(0)
            assert shim.start()
            flags.up("go")
            flags.up("never")
        life.check()
        life.check_work()
        if steps is not None:
            steps.extend(shim.steps())
    except BaseException as e:
        last = "\n".join(" ".join(s) for s in shim.steps())
        raise AssertionError("%s\n%s\nkilled at step %d: %r" % (last, server.log()[-6000:], kill_at, e)) from e
    finally:
        kit.finish(server)
    return died


def in_a_folder(kill_at, steps=None):
    with kit.scratch() as folder:
        return lead_a_life(folder, kill_at, steps)


def test_killed_at_every_step():
    """The first life is whole and shows how many steps there are."""
    steps = []
    assert in_a_folder(0, steps) is False
    assert len(steps) > 100 and {s[1] for s in steps} >= {"write", "sync", "rename", "unlink", "mkdir"}
    points = range(1, len(steps) + 1, STRIDE)
    with concurrent.futures.ThreadPoolExecutor(3) as pool:  # they wait more than they work
        died = list(pool.map(in_a_folder, points))
    assert sum(died) > len(points) * 3 // 4, "hardly any life was cut short"
    print("%d of %d steps" % (len(points), len(steps)))


def test_killed_at_every_step_of_a_start():
    """What one crash left (jobs that run, wait, have ended unseen, are being cancelled; contexts that start and stop) goes
    through start after start that dies one step later each time. The last one has everything."""
    with kit.scratch() as folder:
        server, flags = kit.Daemon(folder), kit.Flags(folder)
        shim = Shim(server)
        try:
            recover_again_and_again(server, shim, flags)
        finally:
            kit.finish(server)


def recover_again_and_again(server, shim, flags):
    assert shim.start()
    app = server.upload("app")
    server.create("c", wish={"keeper": "slow_cancel"}, **{"max-jobs-per-context": 3})
    server.create("going", wish={"keeper": "ignore_sigterm"})

    def start(name, context="c", **fake):
        job = server.start_job(context, app, {"append": flags.path("account"), "touch": flags.path(name), **fake})
        if "wait" in fake:
            flags.wait(name)
        return job

    running = start("running", wait=flags.path("go"), result="running")
    unseen = start("unseen", wait=flags.path("away"), result="unseen")
    stuck = start("stuck", wait="/nowhere", do="hang")
    queued = start("queued", result="queued")
    clients = [
        server.background("DELETE", "/contexts/going"),
        server.background("POST", "/contexts/coming?spark.fake.keeper=late"),
        server.background("DELETE", "/jobs/" + stuck),
    ]
    wait_for(lambda: server.pid("coming", "z"), "zygote")
    wait_for(lambda: server.job_row(stuck)[0] == "CANCELLING", "cancel")
    wait_for(lambda: server.context_row("going")[1] == "STOPPING", "stop")
    server.kill()
    flags.up("away")
    wait_for(lambda: os.path.exists(server.path("spool", unseen + ".1")), "spool file")
    for client in clients:
        with contextlib.suppress(*GONE):
            client()
    for step in range(1, 70, 1 if os.environ.get("STOKER_SWEEP") else 4):
        shim.kill_at(step)
        if shim.start():
            with contextlib.suppress(*GONE):
                while True:  # each answer is a step
                    server.get("/jobs")
            assert server.wait() == -9
    shim.kill_at(0)
    assert shim.start()
    flags.up("go")
    for job, result in ((running, "running"), (unseen, "unseen"), (queued, "queued")):
        assert server.wait_job(job, "FINISHED")["result"] == result
    server.wait_job(stuck, "KILLED")
    # each once; the attempt of the one that waited may have been denied by its worker
    assert sorted(line.split()[0] for line in flags.lines("account")) == sorted((running, unseen, stuck, queued))
    wait_for(lambda: server.context_row("going")[1] == "STOPPED", "end of a context")
    wait_for(lambda: server.context_row("coming")[1] == "RUNNING", "start of a context")
    assert server.run("coming", app).status == 200
    assert server.run("c", app).status == 200
    wait_for(lambda: not os.listdir(server.path("spool")), lambda: os.listdir(server.path("spool")))
    assert server.rows("PRAGMA integrity_check") == [("ok",)]
    assert server.stop() == 0
    assert server.pids() == []
