"""The fake worker. spark.fake.worker asks for:

fail_attach         says `failed` and exits
exit_before_ready   exits with 9 instead of `ready`
slow_attach         is ready after half a second

What a job does stands in jobs.py. Jobs are generators that yield while they wait, so one thread does all.
"""

import os
import sys
import time

from . import jobs, link, spec as specs


class Worker:
    def __init__(self, state_dir, context, process, spec):
        self.state_dir, self.context, self.process, self.spec = state_dir, context, process, spec
        self.wish = specs.wish(spec, "worker")
        self.link = link.Link(state_dir, self)
        self.state, self.set, self.retiring = "attaching", None, False
        self.attempts, self.results = {}, {}  # (job, attempt) -> run, body of `done`
        self.job = self.key = None  # the generator that runs, and its attempt
        self.started = 0.0
        self.owed, self.unsent = [], []  # interrupts to answer after the job; answers that found nobody
        self.ready_at = time.monotonic() + (0.5 if self.wish == "slow_attach" else 0)
        self.open_logs()

    def run(self):
        while True:
            self.link.poll(0.01 if self.job or self.state == "attaching" else 5.0)
            if self.state == "attaching" and self.link.welcome and time.monotonic() >= self.ready_at:
                self.attach()
            if self.job:
                self.advance()
            if self.retiring and not self.attempts and not self.results:
                return 0

    def attach(self):
        if self.wish == "exit_before_ready":
            os._exit(9)
        if self.wish == "fail_attach":
            self.link.send(
                {
                    "type": "failed",
                    "error": {"code": "CONTEXT_FAILED", "message": "fake: cannot attach", "retry": "never"},
                }
            )
            os._exit(1)
        self.state = "ready"
        self.link.send({"type": "ready", "attach_ms": 1})

    # -- the link

    def hello(self):
        return {
            "role": "worker",
            "context": self.context,
            "process": self.process,
            "state": self.state,
            "set": self.set,
            "attempts": [{"job": j, "attempt": a} for j, a in self.attempts],
            "results": [{"job": j, "attempt": a} for j, a in self.results],
        }

    def welcomed(self):
        for body in self.results.values():
            self.link.send(body)
        for run in self.attempts.values():
            jobs.say_spark(self, run)
        while self.unsent:
            self.link.send(self.unsent.pop(0))

    def lost(self):
        for (job, attempt), body in self.results.items():
            link.write_spool(self.state_dir, "%s.%d" % (job, attempt), body)

    def refused(self, reason):
        os._exit(0)

    def deliver(self, message):
        getattr(self, "on_" + message["type"])(message)

    # -- messages

    def on_run(self, message):
        key = message["job"], message["attempt"]
        if key in self.attempts or key in self.results:
            return
        if jobs.denies(message):
            return  # as if the frame had never come
        self.set = self.set or message["set"]
        self.attempts[key] = message
        self.key, self.started = key, time.time()
        self.job = jobs.start(self, message)

    def on_ack(self, message):
        if self.results.pop((message["job"], message["attempt"]), None):
            link.forget_spool(self.state_dir, "%s.%d" % (message["job"], message["attempt"]))

    def on_interrupt(self, message):
        key = message["job"], message["attempt"]
        if key == self.key:
            self.owed.append(key)
            self.advance(KeyboardInterrupt())
        else:
            self.answer(key, False)

    def on_retire(self, message):
        self.retiring = True

    def answer(self, key, current):
        message = {"type": "interrupted", "job": key[0], "attempt": key[1], "current": current}
        if not self.link.send(message):
            self.unsent.append(message)

    # -- jobs

    def advance(self, interrupt=None):
        try:
            if interrupt:
                self.job.throw(interrupt)
            else:
                next(self.job)
        except StopIteration as end:
            self.done(dict(end.value or {}, outcome=(end.value or {}).get("outcome", "finished")))
        except KeyboardInterrupt:
            self.done(
                {"outcome": "interrupted", "error": {"code": "KILLED", "message": "interrupted", "retry": "never"}}
            )

    def done(self, body):
        (job, attempt), self.key, self.job = self.key, None, None
        del self.attempts[job, attempt]
        body = {
            "type": "done",
            "job": job,
            "attempt": attempt,
            "started": self.started,
            "ended": time.time(),
            "stdout_bytes": os.fstat(1).st_size,
            "stderr_bytes": os.fstat(2).st_size,
            **body,
        }
        self.retiring = self.retiring or "retire" in body
        self.rename_logs(job, attempt)
        self.results[job, attempt] = body
        if not self.link.send(body):
            link.write_spool(self.state_dir, "%s.%d" % (job, attempt), body)
        for key in self.owed:
            self.answer(key, True)
        self.owed = []

    # -- logs

    def log_path(self, name, stream):
        return os.path.join(self.state_dir, "logs", "%s.%s" % (name, stream))

    def open_logs(self):
        for fd, stream in ((1, "stdout"), (2, "stderr")):
            log = os.open(self.log_path(self.process, stream), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(log, fd)
            os.close(log)

    def rename_logs(self, job, attempt):
        if not any(os.fstat(fd).st_size for fd in (1, 2)):
            return
        for stream in ("stdout", "stderr"):
            os.rename(self.log_path(self.process, stream), self.log_path("%s.%d" % (job, attempt), stream))
        self.open_logs()


def main(state_dir, context, process, spec):
    sys.stdin.close()
    return Worker(state_dir, context, process, spec).run()
