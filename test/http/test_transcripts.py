"""Plays the processes of python-runner/tests/transcripts/ against the real server, and checks each frame it sends.

The README there has the format. The zygote of the context is a puppet (fake/stoker_runner/zygote.py) and the other
processes are sleeping children of the test, since the server wants pids that exist.
"""

import json
import os
import re
import subprocess
import time

import pytest

from kit import TOP, link, make_zip, wait_for

FOLDER = os.path.join(TOP, "python-runner", "tests", "transcripts")


def transcript(name):
    with open(os.path.join(FOLDER, name)) as f:
        return [json.loads(line) for line in f]


class Stage:
    """One play: the server, the variables bound so far, and a connection for each process."""

    def __init__(self, server):
        self.server, self.bound, self.socks, self.buffers, self.stand_ins = server, {}, {}, {}, {}
        self.replies = []

    # -- variables

    def fill(self, value):
        """The value with its variables replaced."""
        if isinstance(value, dict):
            return {k: self.fill(v) for k, v in value.items()}
        if isinstance(value, list):
            return [self.fill(v) for v in value]
        if isinstance(value, str):
            return re.sub(r"\$(\w+)", lambda m: self.bound[m.group(1)], value)
        return value

    def match(self, wanted, got, where):
        """Compares, binding variables that are seen for the first time."""
        if wanted == "*":
            return
        if isinstance(wanted, str) and re.fullmatch(r"\$\w+", wanted):
            assert isinstance(got, str) and self.bound.setdefault(wanted[1:], got) == got, (
                where,
                wanted,
                got,
                self.bound,
            )
        elif isinstance(wanted, dict):
            assert isinstance(got, dict) and sorted(wanted) == sorted(got), (where, wanted, got)
            for key in wanted:
                self.match(wanted[key], got[key], where + "." + key)
        elif isinstance(wanted, list):
            assert isinstance(got, list) and len(wanted) == len(got), (where, wanted, got)
            for i, (a, b) in enumerate(zip(wanted, got)):
                self.match(a, b, "%s[%d]" % (where, i))
        else:
            assert (type(wanted), wanted) == (type(got), got), (where, wanted, got)

    # -- processes

    def pid(self, process):
        """Of the puppet, or of a child that sleeps in the place of the process."""
        if process == "z":
            return self.puppet
        if process not in self.stand_ins:
            self.stand_ins[process] = subprocess.Popen(["sleep", "600"])
        return self.stand_ins[process].pid

    def complete(self, msg):
        """What only the play knows: pids, times. The rest of a "*" is 0."""
        msg = dict(msg)
        if "process" in msg and "pid" in msg:
            known = self.known.get(msg["process"])
            if not known:
                pid = self.pid(msg["process"])
                known = self.known[msg["process"]] = {
                    "pid": pid,
                    "start_time": link.start_time(pid),
                    "boot_id": link.boot_id(),
                }
            msg.update({k: v for k, v in known.items() if k in msg})
        if "jvm_pid" in msg:
            msg["jvm_pid"] = self.pid("jvm")
        for key in ("started", "ended", "at"):
            if msg.get(key) == "*":
                msg[key] = time.time()
        return msg

    known = None

    # -- frames

    def send(self, role, msg):
        if msg["type"] == "hello":
            if role in self.socks:
                self.socks[role].close()
            self.socks[role], self.buffers[role] = link.dial(self.server.state), bytearray()
            self.socks[role].settimeout(10)
        self.socks[role].sendall(link.encode(self.complete(self.fill(msg))))

    def receive(self, role):
        buffer = self.buffers[role]
        while len(buffer) < 4 or len(buffer) < 4 + int.from_bytes(buffer[:4], "big"):
            try:
                data = self.socks[role].recv(65536)
            except TimeoutError:
                raise AssertionError("the server sends nothing more to the " + role) from None
            assert data, "the server has closed the connection of the " + role
            buffer += data
        size = 4 + int.from_bytes(buffer[:4], "big")
        frame, buffer[:] = bytes(buffer[:size]), buffer[size:]
        return link.decode(bytearray(frame))[0]

    def silent(self, role):
        """Asserts that nothing is left to read from the server."""
        self.socks[role].settimeout(0.2)
        try:
            data = bytes(self.buffers[role]) or self.socks[role].recv(65536)
        except TimeoutError:
            return
        finally:
            self.socks[role].settimeout(10)
        assert data == b"", (role, data)

    # -- events

    def on_create(self, line):
        self.bound["name"] = "transcript"
        self.creating = self.server.background(
            "POST", "/contexts/transcript?spark.fake.zygote=puppet&max-jobs-per-context=1"
        )
        context = wait_for(lambda: self.server.context_row("transcript"), "context")[0]
        path = self.server.path("contexts", context, "puppet")
        wait_for(lambda: os.path.exists(path), "puppet")
        with open(path) as f:
            self.puppet = int(f.read())
        self.bound.update(context=context, token=link.read_token(self.server.state))
        self.bound.setdefault("secret", "a-secret-of-the-keeper")

    def on_submit(self, line):
        reply = self.server.post(
            "/jobs",
            line["config"],
            appName="transcript",
            classPath=line["class"],
            context="transcript",
            **line.get("terms", {}),
        )
        assert reply.status == 202, reply
        self.job = reply.json["jobId"]

    def on_cancel(self, line):
        self.replies.append(self.server.background("DELETE", "/jobs/" + self.job))

    def on_list_objects(self, line):
        self.replies.append(self.server.background("GET", "/v1/contexts/transcript/objects"))

    def on_drop_object(self, line):
        self.replies.append(self.server.background("DELETE", "/v1/contexts/transcript/objects/" + line["name"]))

    def on_stop(self, line):
        self.deleting = self.server.background("DELETE", "/contexts/transcript")

    def on_server_dies(self, line):
        self.server.kill()

    def on_server_comes_back(self, line):
        self.server.start()

    def on_lost(self, line):
        pass

    def on_spooled(self, line):
        path = self.fill(line["file"])
        link.write_spool(self.server.state, os.path.basename(path), self.complete(self.fill(line["body"])))

    def on_unspooled(self, line):
        path = self.server.path(self.fill(line["file"]))
        wait_for(lambda: not os.path.exists(path), "removal of " + path)

    def on_gone(self, line):
        process = self.fill(line["process"])
        if process == "z":
            self.socks["zygote"].close()
            os.kill(self.puppet, 9)
        else:
            self.end(process)
            if process == "k":
                self.end("jvm")

    def on_progress(self, line):
        def shown():
            found = self.server.get("/v1/jobs/" + self.job).json["progress"]
            return found and found["tasks"] == line["tasks"]

        wait_for(shown, "progress", 5)

    def on_ended(self, line):
        wait_for(
            lambda: self.server.job_row(self.job)[0] == line["state"],
            lambda: "%s, not %s" % (line, self.server.job_row(self.job)),
            5,
        )
        error = self.server.job_row(self.job)[3]
        if "result" in line:
            assert self.server.job(self.job)["result"] == line["result"]
        if "code" in line:
            assert error["code"] == line["code"]

    # -- the play

    def play(self, lines):
        for number, line in enumerate(lines):
            if "event" in line:
                getattr(self, "on_" + line["event"].replace(" ", "_"))(line)
            elif line["to"] == "server":
                self.send(line["from"], line["msg"])
            else:
                self.match(line["msg"], self.receive(line["to"]), "line %d" % (number + 1))

    def end(self, process):
        child = self.stand_ins.pop(process, None)
        if child:
            child.kill()
            child.wait()

    def close(self):
        for process in list(self.stand_ins):
            self.end(process)
        if getattr(self, "puppet", 0) in self.server.pids():
            os.kill(self.puppet, 9)
        for sock in self.socks.values():
            sock.close()


@pytest.fixture
def stage(daemon):
    server = daemon(stop_grace="1500ms").start()
    with open(os.path.join(FOLDER, "transcript.py")) as f:
        server.upload("transcript", make_zip({"transcript.py": f.read()}), media="application/zip")
    stage = Stage(server)
    stage.known = {}
    yield stage
    stage.close()
    if server.running:
        server.stop()
    assert "not stopped in time" not in server.log(), "the server has not seen that all have ended"


def split_context():
    """context.jsonl up to where its worker dials, and from its stop on."""
    lines = transcript("context.jsonl")
    worker = next(i for i, line in enumerate(lines) if line.get("from") == "worker")
    return lines[:worker], lines[worker:]


def test_context(stage):
    """A context comes up, gets its spare worker and ends, in exactly these frames."""
    before, after = split_context()
    stage.play(before)
    assert stage.creating().status == 200
    stage.play(after)
    assert stage.deleting().status == 200
    assert stage.server.context_row("transcript")[1] == "STOPPED"
    listed, dropped, nothing = (reply() for reply in stage.replies)
    assert [each["name"] for each in listed.json["objects"]] == ["people", "rates"]
    assert (dropped.status, dropped.json) == (200, listed.json["objects"][0])
    assert nothing.status == 404


WORKERS = sorted(n for n in os.listdir(FOLDER) if n.startswith("worker-") and n.endswith(".jsonl"))


@pytest.mark.parametrize("name", WORKERS)
def test_worker(stage, name):
    """The server's half of a worker's conversation, and nothing beyond it."""
    before, _ = split_context()
    stage.play(before)
    assert stage.creating().status == 200
    stage.play(transcript(name))
    if name not in ("worker-refused.jsonl", "worker-retire.jsonl", "worker-isolated.jsonl", "worker-memory.jsonl"):
        stage.silent("worker")
    for reply in stage.replies:
        assert reply().status in (200, 404)


def test_transcripts_are_what_the_readme_says():
    """Every line has one of the two forms, and every type and direction stands in PROTOCOL.md."""
    with open(os.path.join(TOP, "python-runner", "PROTOCOL.md")) as f:
        protocol = f.read()
    assert len(WORKERS) >= 4
    for name in [*WORKERS, "context.jsonl"]:
        for line in transcript(name):
            if "event" in line:
                assert hasattr(Stage, "on_" + line["event"].replace(" ", "_"))
                continue
            assert sorted(line) == ["from", "msg", "to"]
            assert "server" in (line["from"], line["to"]) and {line["from"], line["to"]} <= {
                "server",
                "zygote",
                "keeper",
                "worker",
            }
            assert "`%s`" % line["msg"]["type"] in protocol
