"""The fake keeper. Its "JVM" is a fork that sleeps, in its group. spark.fake.keeper asks for:

fail            says `failed` and exits; spark.fake.error: further fields of the error, as JSON text
exit            exits with 7 while Spark starts
hang            never gets further than `launching jvm`
late            takes half a second to start
slow_cancel     confirms a cancel after half a second
meets_jobs      says that a cancel has met an active Spark job
ignore_sigterm  does not end when asked to
no_admit        makes no gateways
out_of_memory   says at SIGUSR1 that the heap of its JVM is used up, and exits
silent          does not answer when it is asked for named objects, or to drop one
broken          answers that it cannot
cuts            cuts its connection instead of an answer
keeps           says that something needs the binaries of workers that have ended, until it has dropped its last object
twice           answers each twice, after an answer to a request that nobody has made
old             does not know the message `look`
no_answer       answers no `look`

Each `look` is a line of the file "looks" in the context's directory; what it answers stands in "progress" there, as JSON text: the
list of attempts, or the fields of the whole message.

spark.fake.objects are the named objects of its "JVM", a JSON array, or an object with a field `times`: so many like it. It says two in
a frame.
spark.fake.class_data is what `started` says of a missing class-data archive, as JSON text.
"""

import json
import os
import signal
import sys
import time

from . import link, spec as specs


class Keeper:
    def __init__(self, state_dir, context, process, spec):
        self.context, self.process, self.spec = context, process, spec
        self.folder = os.path.join(state_dir, "contexts", context)
        self.wish = specs.wish(spec, "keeper")
        self.link = link.Link(state_dir, self)
        self.state, self.started, self.workers, self.later = "starting", None, [], []
        self.start_at = time.monotonic() + (0.5 if self.wish == "late" else 0)
        self.objects = json.loads(specs.wish(spec, "objects") or "[]")
        if isinstance(self.objects, dict):
            self.objects = [dict(self.objects, name="object-%03d" % n) for n in range(self.objects["times"])]
        self.stopped = False
        self.spent = False
        signal.signal(signal.SIGTERM, self.on_sigterm)
        if self.wish == "out_of_memory":
            signal.signal(signal.SIGUSR1, self.on_sigusr1)

    def on_sigterm(self, *_):
        self.stopped = self.wish != "ignore_sigterm"

    def on_sigusr1(self, *_):
        self.spent = True

    def run(self):
        while not self.stopped:
            if self.spent and self.started:
                error = {"code": "DRIVER_OUT_OF_MEMORY", "message": "no heap", "retry": "with-more-memory"}
                self.link.send({"type": "ended", "error": error})
                return 1
            self.link.poll(0.02)
            if self.state == "starting" and self.link.welcome and time.monotonic() >= self.start_at:
                self.start()
            while self.later and time.monotonic() > self.later[0][0]:
                self.link.send(self.later.pop(0)[1])
        return 0

    def start(self):
        self.link.send({"type": "phase", "phase": "launching jvm"})
        if self.wish == "hang":
            self.state = "hanging"
        elif self.wish == "exit":
            print("fake keeper: exits with 7 as it was asked to", file=sys.stderr, flush=True)
            os._exit(7)
        elif self.wish == "fail":
            self.link.send(
                {
                    "type": "failed",
                    "error": {
                        "code": "CONTEXT_FAILED",
                        "message": "fake: Spark was asked to fail",
                        "class": "java.lang.FakeException",
                        "traceback": "Traceback: fake",
                        "retry": "never",
                        "log_tail": "last words of the fake JVM\n",
                        **specs.lengthen(json.loads(specs.wish(self.spec, "error") or "{}")),
                    },
                }
            )
            self.link.poll(0.1)
            os._exit(1)
        else:
            self.started = {
                "application_id": "fake-%d" % os.getpid(),
                "ui_url": "http://127.0.0.1:4040",
                "jvm_pid": jvm(),
                "spark_version": "4.99.0",
                "python_version": "3.99.0",
                "master": "local[2]",
            }
            if specs.wish(self.spec, "class_data"):
                self.started["class_data"] = json.loads(specs.wish(self.spec, "class_data"))
            self.state = "running"
            self.link.send(dict(self.started, type="started"))
            if self.wish == "keeps":
                self.link.send({"type": "keeps", "any": True})

    def hello(self):
        return {
            "role": "keeper",
            "context": self.context,
            "process": self.process,
            "workers": self.workers,
            "state": "running" if self.started else "starting",
            "keeps": self.wish == "keeps" and bool(self.objects),
            **({} if self.wish == "old" else {"looks": True}),
            **({"started": self.started} if self.started else {}),
        }

    def welcomed(self):
        pass

    def lost(self):
        pass

    def refused(self, reason):
        os._exit(0)

    def deliver(self, message):
        getattr(self, "on_" + message["type"])(message)

    def on_admit(self, message):
        if self.wish == "no_admit":
            return
        self.workers.append(message["worker"])
        self.link.send({"type": "admitted", "worker": message["worker"], "port": 1, "secret": "fake"})

    def on_gone(self, message):
        if message["worker"] in self.workers:
            self.workers.remove(message["worker"])

    def on_cancel(self, message):
        answer = {
            "type": "cancelled",
            "worker": message["worker"],
            "job": message["job"],
            "attempt": message["attempt"],
            "final": message.get("final", False),
            "jobs": int(self.wish == "meets_jobs"),
            "tasks": 0,
            "streams": 0,
            "rounds": 1,
            "elapsed_ms": 1,
        }
        self.later.append((time.monotonic() + (0.5 if self.wish == "slow_cancel" else 0), answer))

    def on_objects(self, message):
        answers = [
            {"type": "objects", "request": message["request"], "objects": self.objects[n : n + 2], "more": n + 2 < len(self.objects)}
            for n in range(0, len(self.objects) or 1, 2)
        ]
        self.answer(message, "objects", answers)

    def on_drop(self, message):
        dropped = None
        if self.wish != "silent":
            dropped = next((o for o in self.objects if o["name"] == message["name"]), None)
            self.objects = [o for o in self.objects if o is not dropped]
        if self.wish == "keeps" and not self.objects:
            self.link.send({"type": "keeps", "any": False})
        self.answer(message, "dropped", [{"type": "dropped", "request": message["request"], "object": dropped}])

    def answer(self, message, kind, answers):
        if self.wish == "broken":
            answers = [{"type": kind, "request": message["request"], "error": "the fake JVM does not feel well"}]
        elif self.wish == "twice":
            answers = [dict(answers[0], request="nobody's"), *answers, *answers]
        elif self.wish == "cuts":
            os.kill(os.getpid(), signal.SIGUSR1)
        elif self.wish == "silent":
            print("fake keeper: is asked for %s" % kind, flush=True)
        if self.wish not in ("silent", "cuts"):
            for each in answers:
                self.link.send(each)

    def on_look(self, message):
        with open(os.path.join(self.folder, "looks"), "a") as f:
            f.write(json.dumps(message["attempts"]) + "\n")
        if self.wish == "no_answer":
            return
        try:
            with open(os.path.join(self.folder, "progress")) as f:
                told = json.load(f)
        except FileNotFoundError:
            told = []
        self.link.send({"type": "progress", **(told if isinstance(told, dict) else {"attempts": told})})

    def on_stop(self, message):
        self.stopped = True


def jvm():
    pid = os.fork()
    if pid == 0:
        os.closerange(3, 4096)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            signal.pause()
    return pid


def main(state_dir, context, process, spec):
    return Keeper(state_dir, context, process, spec).run()
