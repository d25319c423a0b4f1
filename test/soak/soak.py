#!/usr/bin/env python3
"""soak.py [--minutes N] [--seed S] [--keep]: a server on real Spark under everything at once.

Clients submit jobs that end well, fail, crash, run too long or ignore interrupts; they cancel, hang up and try again.
Meanwhile workers, keepers, zygotes, JVMs and the server are killed, the server is stopped, replaced and frozen,
contexts are deleted, and new versions of the jobs' code are uploaded. In the end every job must be accounted for
(account.py), all slots be free and nothing be left. The random choices follow from the seed; their moments do not.

Exit status 1 when something is wrong; what is needed to look at it is kept then, and its folder is printed: the state
directory, the server's log, the account, what was done (deeds.log) and the faults.
"""
import argparse
import collections
import datetime
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
import traceback
import urllib.parse

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "spark"))

import account as accounts  # noqa: E402
import figures  # noqa: E402
from kinds import KINDS, MEETS  # noqa: E402
from server import FACTORY, MEDIA, WAIT, Stoker, end, pack  # noqa: E402

CONTEXTS = ("soak-a", "soak-b")
SLOTS = 3               # of each context
CLIENTS = 6
MOST_OPEN = 5           # jobs of one client that it has not seen the end of
SETTLE = 180.0          # seconds for what was accepted to end when the storm is over
CONTEXT_STATES = ("CREATING", "RUNNING", "STOPPING", "STOPPED", "FAILED", "LOST")
DEFINITE = (404, 409, 503)      # a submit that was answered so has made no job

# One round of what is done to the server and to the processes; shuffled, then the next. What ends contexts is rare:
# they take seconds to start.
ENDS_CONTEXTS = ["stop server", "delete context", "delete context by force", "jvm", "keeper", "zygote",
                 "jvm and server"]
DECK = ENDS_CONTEXTS + (["worker"] * 6 + ["kill server"] * 5 + ["replace server"] * 2 + ["freeze server"] * 2 +
                        ["worker and server"] * 2)

# What may grow from before the first context to after the end of the last.
BOUNDS = {"memory": 32 * 1024, "descriptors": 8, "threads": 4}


class Away(Exception):
    """The server gave no answer."""


class Soak:
    def __init__(self, folder, minutes, seed):
        self.folder, self.minutes, self.seed = folder, minutes, seed
        self.account = os.path.join(folder, "account")
        open(self.account, "w").close()
        self.log_lock = threading.Lock()
        self.log = open(os.path.join(folder, "deeds.log"), "w", buffering=1)
        self.lock = threading.Lock()        # guards the next three
        self.orders, self.chaos, self.versions = [], accounts.Chaos(), {}
        self.over = threading.Event()       # no more storm
        self.deletes = []                   # threads that delete a context
        self.faults = []
        self.deeds = collections.Counter()
        self.peak = collections.Counter()
        self.began = time.monotonic()
        self.stoker = Stoker(folder, stop_grace="5s", cancel_grace="500ms", max_jobs=SLOTS, log_level="debug")
        self.stoker.listen = "127.0.0.1:%d" % free_port()

    def say(self, text, *args):
        line = "%7.2f  %s" % (time.monotonic() - self.began, text % args if args else text)
        with self.log_lock:
            self.log.write(line + "\n")

    def fault(self, who, text):
        self.say("FAULT %s: %s", who, text)
        self.faults.append((who, text))

    def random(self, actor):
        return random.Random("%s/%s" % (self.seed, actor))

    # ---- requests

    def ask(self, method, path, body=None, headers=(), **query):
        """A Reply; raises Away when there was none."""
        try:
            return self.stoker.request(method, path, body, headers, **query)
        except Exception as e:      # http.client and json each have errors of their own for half an answer
            raise Away("%s: %s" % (type(e).__name__, e)) from None

    def ask_until(self, method, path, body=None, headers=(), **query):
        """A Reply, however often it takes."""
        deadline = time.monotonic() + WAIT
        while True:
            try:
                reply = self.ask(method, path, body, headers, **query)
                if reply.status != 503:     # "the server is stopping"
                    return reply
                problem = Away(str(reply))
            except Away as e:
                problem = e
            if time.monotonic() > deadline:
                raise problem
            time.sleep(0.1)

    def post_path(self, order, kind, sync):
        query = {"appName": "soak", "classPath": "soak_jobs." + kind.cls, "context": order.context}
        query.update(order.query)
        if sync:
            query.update(sync="true", timeout=60)
        return "/jobs?" + urllib.parse.urlencode(query)

    def submit(self, order, sync):
        """One request. True when it was answered for good."""
        try:
            reply = self.ask("POST", self.post_path(order, order.kind_of, sync), order.body,
                             {"Idempotency-Key": order.token})
        except Away as e:
            self.say("submit %s: %s", order.token, e)
            self.deeds["submits cut off"] += 1
            order.cut_off = True
            return False
        return self.submitted(order, reply)

    def submitted(self, order, reply):
        body = reply.body if isinstance(reply.body, dict) else {}
        job = body.get("jobId")
        if job:
            if order.job and order.job != job:
                self.fault(order.token, "one key, two jobs: %s and %s" % (order.job, job))
            if order.refused:
                self.fault(order.token, "was refused (%s), and is job %s" % (order.refused, job))
            order.job = job
            if reply.status == 200 and "result" in body:
                order.told.add(body.get("status", "FINISHED"))
                if order.told & {"ERROR"}:      # the dialect says ERROR for TIMED_OUT and LOST too
                    order.told.discard("ERROR")
            elif body.get("status") == "VALIDATION FAILED":
                order.told.add("INVALID")
            self.say("submit %s: %d job %s %s", order.token, reply.status, job, body.get("status", ""))
            return True
        self.say("submit %s: %d %.200s", order.token, reply.status, reply.body)
        if reply.status == 503 and (order.job or order.cut_off):
            return order.job is not None    # a server that stops says so whatever became of the first try
        if reply.status in DEFINITE:
            if "Idempotency-Key" in str(reply.body):
                self.fault(order.token, "its key is said to belong to another: %s" % reply.body)
            if order.job:
                self.fault(order.token, "is job %s, and was refused: %s" % (order.job, reply))
            order.refused = "%d %.100s" % (reply.status, body.get("result", reply.body))
            return True
        if reply.status != 500 or "timed out" not in str(body.get("result")):
            self.fault(order.token, "unexpected answer to a submit: %s" % (reply,))
        order.cut_off = True
        return False

    def hang_up(self, order, sync, rng):
        """Sends a submit and does not wait for the answer."""
        self.deeds["clients that hung up"] += 1
        order.cut_off = True
        text = "POST %s HTTP/1.1\r\nHost: %s\r\nIdempotency-Key: %s\r\nContent-Length: %d\r\n\r\n%s" % (
            self.post_path(order, order.kind_of, sync), self.stoker.address, order.token, len(order.body), order.body)
        host, _, port = self.stoker.address.partition(":")
        try:
            with socket.create_connection((host, int(port)), timeout=WAIT) as connection:
                connection.sendall(text.encode()[:rng.choice((len(text), len(text), rng.randrange(len(text))))])
                time.sleep(rng.choice((0, 0, 0.01, 0.3)))
        except OSError:
            pass

    # ---- clients

    def order(self, rng, client, number):
        kind = rng.choices(KINDS, [k.weight for k in KINDS])[0]
        order = accounts.Order("%s-%d" % (client, number), kind.name, rng.choice(CONTEXTS), kind.natural)
        config, order.expected = kind.make(rng)
        order.query = {}
        if kind.endless:
            order.run_timeout = rng.choice((0.3, 0.7, 1.5, 3))
        elif rng.random() < 0.1:
            order.run_timeout = rng.choice((0.2, 60))
        if order.run_timeout:
            order.query["run-timeout"] = "%dms" % (1000 * order.run_timeout)
        if rng.random() < 0.15:
            order.queue_timeout = rng.choice((0.05, 0.5, 60))
            order.query["queue-timeout"] = "%dms" % (1000 * order.queue_timeout)
        if rng.random() < 0.2:
            order.query["priority"] = rng.randrange(-100, 101)
        if rng.random() < 0.1:
            order.query["isolation"] = "process"
        order.kind_of = kind
        order.body = json.dumps(dict(config, account=self.account, token=order.token))
        with self.lock:
            self.orders.append(order)
        return order

    def client(self, name):
        rng, number, open_orders = self.random(name), 0, []
        while not self.over.is_set():
            order = self.order(rng, name, number)
            number += 1
            sync, mode = rng.random() < 0.25, rng.random()
            again, cancel, pause = rng.random(), rng.random(), rng.random()
            self.say("order %s: %s in %s %s sync=%s", order.token, order.kind, order.context, order.query, sync)
            if mode < 0.08:
                self.hang_up(order, sync, rng)
            else:
                while not self.submit(order, sync) and again < 0.7 and not self.over.is_set():
                    time.sleep(0.05)
                if order.job and again > 0.95:
                    self.submit(order, False)       # the same key once more: the same job
            if order.job:
                open_orders.append(order)
            if open_orders and cancel < 0.25:
                self.cancel(rng.choice(open_orders), rng)
            self.over.wait(0.3 * pause * pause)
            self.look(open_orders)
            while len(open_orders) >= MOST_OPEN and not self.over.is_set():
                if rng.random() < 0.02:
                    self.cancel(rng.choice(open_orders), rng)
                self.over.wait(0.1)
                self.look(open_orders)

    def look(self, open_orders):
        """Forgets what has ended."""
        for order in list(open_orders):
            try:
                reply = self.ask("GET", "/v1/jobs/" + order.job)
            except Away:
                return
            if reply.status == 503:     # the server is stopping
                return
            if reply.status != 200:
                self.fault(order.job, "was accepted, and GET says %s" % (reply,))
                open_orders.remove(order)
            elif reply.body["state"] in accounts.FINAL:
                order.told.add(reply.body["state"])
                open_orders.remove(order)

    def cancel(self, order, rng):
        self.deeds["cancels"] += 1
        order.delete_sent = True
        self.say("cancel %s", order.job)
        for _ in range(20):
            try:
                reply = self.ask("DELETE", "/jobs/" + order.job)
            except Away:
                if rng.random() < 0.5:
                    return
                time.sleep(0.1)
                continue
            self.say("cancel %s: %d %.200s", order.job, reply.status, reply.body)
            if (reply.status, reply.body) == (200, {"status": "KILLED"}):
                order.delete_said_killed = True
            elif reply.status not in (200, 202, 404, 503):
                self.fault(order.job, "unexpected answer to a cancel: %s" % (reply,))
            return

    # ---- those who keep contexts and code there

    def create(self, name):
        path = "/contexts/%s?%s" % (name, urllib.parse.urlencode({"context-factory": FACTORY % "Session"}))
        reply = self.ask("POST", path)
        self.say("create %s: %d %.300s", name, reply.status, reply.body)
        return reply

    def creator(self, name, once=False):
        """Makes the context anew whenever it has ended, until `over`, or `once`; then until one runs of which nothing was
        killed: the server may learn of that in a moment."""
        deadline = None
        while True:
            last = once or self.over.is_set()
            try:
                reply = self.ask("GET", "/contexts/" + name)
                state = reply.body["state"] if reply.status == 200 else None
                if state == "RUNNING" and last and reply.body["id"] not in self.chaos.hit:
                    return
                if state not in ("RUNNING", "STARTED", "STOPPING"):
                    self.create(name)
            except Away:
                pass
            if last:
                deadline = deadline or time.monotonic() + SETTLE
                if time.monotonic() > deadline:
                    self.fault(name, "the context does not come up")
                    return
            self.over.wait(0.3) or time.sleep(0.3)

    def upload(self, number):
        """A new version of the jobs' code."""
        source = os.path.join(self.folder, "jobs-%d" % number)
        shutil.copytree(os.path.join(HERE, "jobs"), source)
        with open(os.path.join(source, "soak_jobs", "version.py"), "w") as f:
            f.write("VERSION = %d\n" % number)
        path = os.path.join(self.folder, "soak-%d%s" % (number, (".egg", ".whl", ".zip")[number % 3]))
        pack(source, path)
        shutil.rmtree(source)
        with open(path, "rb") as f:
            data = f.read()
        os.unlink(path)
        self.versions[hashlib.sha256(data).hexdigest()] = number
        reply = self.ask_until("POST", "/binaries/soak", data, {"Content-Type": MEDIA[os.path.splitext(path)[1]]})
        self.say("upload %d: %d", number, reply.status)
        if reply.status != 201:
            self.fault("upload", "version %d: %s" % (number, reply))

    def uploader(self):
        rng, number = self.random("uploader"), 1
        while not self.over.wait(rng.uniform(5, 15)):
            try:
                self.upload(number)
                self.deeds["uploads"] += 1
            except Away:
                if not self.over.is_set():
                    raise
            number += 1

    # ---- the storm

    def rows(self, sql, *values):
        database = sqlite3.connect("file:%s?mode=ro" % self.stoker.path("stoker.db"), uri=True, timeout=10)
        try:
            return database.execute(sql, values).fetchall()
        finally:
            database.close()

    def kill_one(self, role, rng):
        """kill -9 of a process of that role, if there is one."""
        found = self.rows("SELECT context_id, process, pid, start_time FROM processes WHERE role = ?"
                          " ORDER BY context_id, process", role)
        while found:
            context, process, pid, start = found.pop(rng.randrange(len(found)))
            try:
                fd = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            try:
                if figures.start_time(pid) != start:
                    continue
                if role == "worker":
                    self.chaos.pids.add(pid)
                    self.chaos.workers_hit.add(context)
                else:
                    self.chaos.hit.add(context)
                self.say("kill -9 of %s %s, pid %d, context %s", role, process, pid, context)
                signal.pidfd_send_signal(fd, signal.SIGKILL)
                return True
            except ProcessLookupError:
                continue
            finally:
                os.close(fd)
        self.say("there is no %s to kill", role)
        return False

    def delete_context(self, name, force):
        """In a thread, so that the server may die in the middle."""
        def note():
            reply = self.ask("GET", "/contexts/" + name)
            if reply.status == 200:
                self.chaos.deleted.add(reply.body["id"])
        try:
            note()
            reply = self.ask("DELETE", "/contexts/" + name, **({"force": "true"} if force else {}))
            self.say("delete %s: %d %.200s", name, reply.status, reply.body)
            note()
        except Away as e:
            self.say("delete %s: %s", name, e)

    def restart(self, rng):
        if rng.random() < 0.3:
            time.sleep(rng.uniform(0, 1.5))
        began = time.monotonic()
        self.stoker.start()
        self.say("server started, pid %d, in %.2f s", self.stoker.process.pid, time.monotonic() - began)

    def strike(self, what, rng):
        """Does one thing."""
        self.say("-- %s", what)
        if what in ("worker", "keeper", "zygote", "jvm"):
            if not self.kill_one(what, rng):
                return False
        elif what in ("kill server", "worker and server", "jvm and server"):
            if what != "kill server":
                self.kill_one(what.split()[0], rng)
                time.sleep(rng.choice((0, 0.01, 0.1)))
            self.stoker.kill()
            if what != "kill server" and rng.random() < 0.5:
                self.kill_one("worker", rng)
            self.restart(rng)
        elif what == "replace server":
            status = self.stoker.end(signal.SIGUSR2)
            if status != 0:
                self.fault("server", "ended with %s by SIGUSR2" % status)
            self.restart(rng)
        elif what == "stop server":
            self.chaos.sigterms += 1
            self.stoker.stop()
            left = self.stoker.processes()
            if left:
                self.fault("server", "left processes after SIGTERM: %s" % left)
            self.restart(rng)
        elif what == "freeze server":
            self.stoker.process.send_signal(signal.SIGSTOP)
            time.sleep(1)
            self.stoker.process.send_signal(signal.SIGCONT)
        else:
            name = rng.choice(CONTEXTS)
            self.deletes.append(threading.Thread(target=self.delete_context, args=(name, "force" in what), daemon=True))
            self.deletes[-1].start()
        self.deeds[what] += 1
        return True

    def all_run(self):
        live = self.rows("SELECT count(*) FROM contexts WHERE state = 1")
        return live[0][0] == len(CONTEXTS)

    def check_alive(self):
        status = self.stoker.process.poll()
        if status is not None:
            self.fault("server", "it ended by itself, with %s:\n%s" % (status, self.stoker.log()))
            self.stoker.end(0)
            self.stoker.start()
        now = figures.of(self.stoker.process.pid)
        for name, value in now.items():
            self.peak[name] = max(self.peak[name], value)

    def storm(self):
        rng, deck = self.random("storm"), []
        end_at = time.monotonic() + 60 * self.minutes
        while time.monotonic() < end_at:
            if not set(deck) - set(ENDS_CONTEXTS):
                more = list(DECK)
                rng.shuffle(more)
                deck += more
            time.sleep(rng.uniform(0.3, 5))
            self.check_alive()
            what = deck.pop()
            # On a slow machine contexts would else hardly ever run: what ends them waits, mostly, until all do.
            early = what in ENDS_CONTEXTS and rng.random() < 0.8 and not self.all_run()
            if early or not self.strike(what, rng):
                deck.insert(0, what)

    # ---- before and after

    def idle(self):
        """Waits until nothing runs. Whether it came to that."""
        deadline = time.monotonic() + SETTLE
        while time.monotonic() < deadline:
            if self.ask_until("GET", "/jobs", status="running", limit=10).body == []:
                return True
            time.sleep(0.2)
        return False

    def snapshot(self):
        """What server and contexts take now, once the numbers stand still for a second."""
        last = None
        for _ in range(30):
            now = dict(figures.of(self.stoker.process.pid), processes=len(self.stoker.processes()))
            if last and all(now[key] == last[key] for key in ("descriptors", "threads", "processes")):
                break
            last = now
            time.sleep(1)
        return now

    def settle_unknown(self):
        """Asks again for what was cut off: by its key it is the same job, or one that is made now, or none."""
        for order in [order for order in self.orders if order.unknown]:
            for _ in range(50):
                if self.submit(order, False):
                    break
                time.sleep(0.2)
            else:
                self.fault(order.token, "no definite answer to its submit")

    def slots(self, when):
        """{context: how many jobs were there at the same time}, of SLOTS each."""
        found = {}
        for name in CONTEXTS:
            place = os.path.join(self.folder, "meet-%s-%s" % (when, name))
            os.mkdir(place)
            orders = []
            for number in range(SLOTS):
                order = accounts.Order("slot-%s-%s-%d" % (when, name, number), "meets", name, "FINISHED", SLOTS)
                order.query, order.kind_of = {}, MEETS
                order.body = json.dumps({"account": self.account, "token": order.token, "place": place, "n": SLOTS})
                self.orders.append(order)
                self.submit(order, False)
                orders.append(order)
            deadline = time.monotonic() + WAIT
            while time.monotonic() < deadline and len(os.listdir(place)) < SLOTS:
                time.sleep(0.05)
            found[name] = len(os.listdir(place))
            if found[name] < SLOTS:
                self.fault(name, "%d of %d slots are free: %s" % (found[name], SLOTS, self.ask(
                    "GET", "/v1/contexts/" + name)))
                for number in range(SLOTS):     # let those go that are there
                    open(os.path.join(place, "fault-%d" % number), "w").close()
        self.idle()
        return found

    def jobs(self):
        """{id: what the server says of it}."""
        found = {}
        for listed in self.ask_until("GET", "/jobs", limit=10000000).body:
            job = listed["jobId"]
            row = self.ask_until("GET", "/v1/jobs/" + job).body
            row["started"], row["ended"] = seconds(row["started_at"]), seconds(row["ended_at"])
            if row["state"] == "FINISHED":
                row["result"] = self.ask_until("GET", "/jobs/" + job).body.get("result")
                row["version"] = self.versions.get(row["binaries"][0]["digest"])
            found[job] = row
        return found

    def receipts(self, jobs):
        """The times that cancels took, in seconds."""
        times = []
        for job, row in jobs.items():
            if row["state"] in ("KILLED", "TIMED_OUT") and row["has_receipt"] and row["attempt"]:
                reply = self.ask_until("GET", "/v1/jobs/%s/receipt" % job)
                times.append(reply.body.get("elapsed_ms", 0) / 1000)
        return times

    def left_behind(self, deeds):
        for job, deed in deeds.items():
            for pid, start in deed.children:
                if figures.start_time(pid) == start:
                    self.fault(job, "its child %d is alive after its end" % pid)

    def end_contexts(self):
        for name in CONTEXTS:
            self.chaos.deleted.add(self.stoker.context(name)["id"])
            try:
                self.stoker.delete_context(name)
            except AssertionError as e:
                self.fault(name, "DELETE: %s" % e)
        for folder in ("contexts", "spool", "tmp"):
            left = os.listdir(self.stoker.path(folder))
            if left:
                self.fault("server", "left in %s: %s" % (folder, left))

    def end_server(self):
        try:
            self.stoker.stop()
        except AssertionError as e:
            self.fault("server", str(e))
        database = sqlite3.connect(self.stoker.path("stoker.db"))
        check = database.execute("PRAGMA integrity_check").fetchall()
        database.close()
        if check != [("ok",)]:
            self.fault("server", "the database is damaged: %s" % check)
        with open(self.stoker.log_path, errors="replace") as f:
            for line in f:
                if any(word in line for word in ("Assertion", "Sanitizer", "two jobs in one worker")):
                    self.fault("server", "it says: " + line.strip())

    def in_threads(self):
        """Clients, creators, uploader. Returns them started; what one raises is a fault."""
        def guarded(function, *args):
            try:
                function(*args)
            except Exception:
                self.fault("driver", traceback.format_exc())
        actors = [(self.client, "client-%d" % i) for i in range(CLIENTS)] + [(self.creator, n) for n in CONTEXTS]
        threads = [threading.Thread(target=guarded, args=actor, daemon=True) for actor in actors + [(self.uploader,)]]
        for thread in threads:
            thread.start()
        return threads

    def run(self):
        """The whole of it. Returns the lines of the table, a list of (what, figures)."""
        with self.stoker:
            table = self.phases()
            self.end_server()
        return table

    def all_created(self):
        creators = [threading.Thread(target=self.creator, args=(name, True)) for name in CONTEXTS]
        for creator in creators:
            creator.start()
        for creator in creators:
            creator.join()

    def phases(self):
        self.upload(0)
        bare = self.snapshot()
        self.all_created()
        self.slots("before")
        self.orders.clear()             # the account begins here
        warm_up = {row["jobId"] for row in self.ask_until("GET", "/jobs", limit=1000).body}
        at_start = self.snapshot()

        threads = self.in_threads()
        self.storm()
        self.over.set()
        for thread in threads + self.deletes:
            thread.join(SETTLE + 4 * WAIT)
            if thread.is_alive():
                self.fault("driver", "a thread does not end")
        self.check_alive()
        self.all_created()
        self.settle_unknown()
        if not self.idle():
            self.fault("server", "jobs do not end")
        slots = self.slots("after")
        at_end = self.snapshot()
        jobs = {job: row for job, row in self.jobs().items() if job not in warm_up}
        deeds = {job: deed for job, deed in accounts.read(self.account).items() if job not in warm_up}
        self.left_behind(deeds)
        times = self.receipts(jobs)
        self.end_contexts()
        bare_end = self.snapshot()

        contexts = [(i, name, CONTEXT_STATES[state], error)
                    for i, name, state, error in self.rows("SELECT id, name, state, error FROM contexts")]
        accounts.excuse(contexts, self.chaos)
        settlement = accounts.settle(self.orders, jobs, deeds, self.chaos)
        accounts.settle_contexts(settlement, contexts, self.chaos)
        for job, text in settlement.faults:
            self.fault(job, text)
        for name, most in BOUNDS.items():
            if bare_end[name] > bare[name] + most:
                self.fault("server", "%s grew from %d to %d without contexts" % (name, bare[name], bare_end[name]))
        if bare_end["processes"]:
            self.fault("server", "%d processes are left" % bare_end["processes"])
        return self.table(settlement.counts, slots, times, (bare, at_start, at_end, bare_end))

    def table(self, counts, slots, times, snapshots):
        rows = [("orders", len(self.orders)), ("accepted", counts["accepted"]), ("refused", counts["refused"])]
        rows += [(name.lower() if name in accounts.FINAL else name, counts[name])
                 for name in ("FINISHED", "KILLED", "TIMED_OUT", "TIMED_OUT in the queue", "INVALID", "ERROR")]
        rows += sorted(("  " + name, n) for name, n in counts.items() if name.startswith("ERROR "))
        rows += [("lost", counts["LOST"]), ("lost with cause", counts["LOST with cause"])]
        rows += [(name, counts[name]) for name in ("taken by a second attempt", "run twice", "unaccounted")]
        rows += [("slots free", ", ".join("%s %d of %d" % (n, k, SLOTS) for n, k in slots.items()))]
        if times:
            rows += [("seconds from a cancel to its end",
                      "median %.2f, most %.2f, of %d" % (statistics.median(times), max(times), len(times)))]
        rows += sorted((name, n) for name, n in counts.items() if name.startswith("contexts "))
        rows += [("done to it", ", ".join("%s %d" % pair for pair in sorted(self.deeds.items())))]
        for name, unit in (("memory", " KiB"), ("descriptors", ""), ("threads", ""), ("processes", "")):
            values = [s[name] for s in snapshots]
            rows.append(("%s%s" % (name, unit), "start %d, with contexts %d, end %d, without contexts %d%s" % (
                *values, "; most %d" % self.peak[name] if self.peak[name] else "")))
        return rows


def seconds(text):
    """An ISO time as seconds since 1970; None for None."""
    return text and datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def free_port():
    """A port that nobody gets by asking for any: the server keeps it over its restarts."""
    while True:
        port = random.SystemRandom().randrange(10000, 30000)
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


def soak(minutes, seed, keep=False, out=sys.stdout):
    """Runs and reports. The number of faults."""
    folder = tempfile.mkdtemp(prefix="stoker-soak-")
    print("soak: %g minutes, seed %s, in %s" % (minutes, seed, folder), file=out, flush=True)
    run, table = Soak(folder, minutes, seed), []
    try:
        table = run.run()
    except BaseException:
        run.fault("driver", traceback.format_exc())
        if not isinstance(sys.exc_info()[1], Exception):
            raise
    finally:
        for process in run.stoker.processes():
            end(process.pid)
    width = max([len(name) for name, _ in table] or [0])
    for name, value in table:
        print("%-*s  %s" % (width, name, value), file=out)
    for who, text in run.faults:
        print("FAULT %s: %s" % (who, text), file=out)
    with open(os.path.join(folder, "faults"), "w") as f:
        f.writelines("%s: %s\n" % pair for pair in run.faults)
    if run.faults:
        print("%d faults. Kept: %s (state/, stokerd.log, account, deeds.log). Again: make soak MINUTES=%g SEED=%s"
              % (len(run.faults), folder, minutes, seed), file=out)
    elif keep:
        print("kept: %s" % folder, file=out)
    else:
        shutil.rmtree(folder, ignore_errors=True)
    print("soak: %s" % ("failed" if run.faults else "ok"), file=out, flush=True)
    return len(run.faults)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--seed", default=str(random.SystemRandom().randrange(1 << 30)))
    parser.add_argument("--keep", action="store_true", help="keep the folder when all is well, too")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))      # so that nothing is left running
    sys.exit(1 if soak(given.minutes, given.seed, given.keep) else 0)


if __name__ == "__main__":
    main()
