"""What fake jobs do, by the object "fake" in their config, in this order:

spark       true: says that it has called Spark
append      a file: adds the line "<job> <attempt>"; the proof of what ran how often
touch       a file: makes it
print       text for standard error
print_hex   bytes for it
wait        a file: waits until it is there
sleep       seconds
do          one of the functions below, by name
result      the result; "ok" when there is none
retire      text: the worker takes no more jobs after this one

The first attempt of a job with "deny": true is passed over, as if its `run` had been lost.
"""

import inspect
import json
import os
import signal
import struct
import sys
import time

from . import link, spec as specs


def wishes(run):
    return json.loads(run["config"]).get("fake", {})


def denies(run):
    return wishes(run).get("deny", False) and run["attempt"] == 1


def say_spark(worker, run):
    if wishes(run).get("spark"):
        worker.link.send({"type": "spark", "job": run["job"], "attempt": run["attempt"]})


def start(worker, run):
    """A generator: yields while the job waits, returns fields of `done`."""
    wish = wishes(run)
    say_spark(worker, run)
    if "append" in wish:
        fd = os.open(wish["append"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(fd, ("%s %d\n" % (run["job"], run["attempt"])).encode())
        os.close(fd)
    if "touch" in wish:
        open(wish["touch"], "w").close()
    if "print" in wish:
        print(wish["print"], file=sys.stderr, flush=True)
    if "print_hex" in wish:
        os.write(2, bytes.fromhex(wish["print_hex"]))
    while "wait" in wish and not os.path.exists(wish["wait"]):
        yield
    end = time.monotonic() + wish.get("sleep", 0)
    while time.monotonic() < end:
        yield
    fields = DO[wish.get("do", "return")](worker, run, wish)
    if inspect.isgenerator(fields):
        fields = yield from fields
    if "retire" in wish:
        fields["retire"] = wish["retire"]
    return fields


def finished(value):
    return {"result": json.dumps(value)}


def do_return(worker, run, wish):
    return finished(wish.get("result", "ok"))


def do_echo(worker, run, wish):
    """The result is the `run` message itself."""
    return finished(run)


def do_raw(worker, run, wish):
    """The fields of `done` are those in "done", as they are."""
    return dict(wish["done"])


def do_big_result(worker, run, wish):
    """
    A result in a file: "bytes" bytes of JSON, or what "content" says, with "ending". "claim": how long it is said to be. "stop_at":
    so many bytes are written, then it waits for the file "until".
    """
    name = "%s.%d.%s" % (run["job"], run["attempt"], wish.get("ending", "json"))
    size, stop_at = wish.get("bytes"), wish.get("stop_at", 0)
    text = wish["content"] if "content" in wish else None
    with open(os.path.join(worker.state_dir, "results", name), "w") as f:
        if stop_at:
            f.write('"' + "x" * (stop_at - 1))
            f.flush()
            while not os.path.exists(wish["until"]):
                yield
        if text is None:
            text = '"' + "x" * (size - 2) + '"' if size <= 1 << 20 else None
        if text is not None:
            f.write(text[stop_at:])
        else:  # not as one text
            f.write('"')
            for start in range(1, size - 1, 1 << 20):
                f.write("x" * min(1 << 20, size - 1 - start))
            f.write('"')
        f.flush()
        os.fsync(f.fileno())
        written = f.tell()
    return {"result_file": name, "result_bytes": wish.get("claim", written)}


def do_dictated_file(worker, run, wish):
    """The result is said to be in the file of 5 bytes that the file "name" names."""
    while not os.path.exists(wish["name"]):
        yield
    with open(wish["name"]) as f:
        return {"result_file": f.read(), "result_bytes": 5}


def do_dictate(worker, run, wish):
    """Prints what the lines of the file "script" say, as they come: [descriptor, text], until it says null."""
    with open(wish["script"]) as script:
        while True:
            line = script.readline()
            if not line.endswith("\n"):
                script.seek(script.tell() - len(line))
                yield
            elif line == "null\n":
                return finished("as it was told")
            else:
                fd, text = json.loads(line)
                os.write(fd, text.encode())


def do_flood(worker, run, wish):
    """Prints "bytes" bytes to standard output, in lines of 64 that begin with their number."""
    for start in range(0, wish["bytes"] // 64, 16384):
        numbers = range(start, min(start + 16384, wish["bytes"] // 64))
        os.write(1, b"".join(b"%016d%s\n" % (n, b"." * 47) for n in numbers))
        yield
    return finished("flooded")


def do_print_late_and_die(worker, run, wish):
    """It ends as a worker does that has lost the server, then prints on, and dies before the server has heard of the end."""
    worker.link.send = lambda message: False
    key = run["job"], run["attempt"]
    worker.key, worker.job = key, None
    worker.done(dict(finished("done"), outcome="finished"))
    os.write(1, b"too late\n")
    os._exit(0)


def do_error(worker, run, wish):
    return {
        "outcome": "error",
        "error": {
            "code": "USER_EXCEPTION",
            "message": "Deliberate failure",
            "class": "ValueError",
            "exit_code": 4,
            "retry": "never",
            "traceback": 'Traceback (most recent call last):\n  File "job.py", line 3, in run_job\n'
            "ValueError: Deliberate failure\n",
            "file": "job.py",
            "line": 3,
            "source": "raise ValueError('Deliberate failure')",
            **specs.lengthen(wish.get("error", {})),
        },
    }


def do_nul_error(worker, run, wish):
    return {
        "outcome": "error",
        "error": {"code": "USER_EXCEPTION", "message": "before\0after", "class": "E", "retry": "never"},
    }


def do_invalid(worker, run, wish):
    return {
        "outcome": "invalid",
        "error": {
            "code": "VALIDATION_FAILED",
            "message": "validate() found 2 problems",
            "exit_code": 1,
            "retry": "never",
            "problems": ["no input.string", "bad weather"],
            **specs.lengthen(wish.get("error", {})),
        },
    }


def do_exit(worker, run, wish):
    os._exit(wish.get("status", 5))


def do_signal(worker, run, wish):
    """What the zygote shall say of it: "exited", fields of that message."""
    if "exited" in wish:
        with open("exited.%s" % worker.process, "w") as f:
            json.dump(wish["exited"], f)
    os.kill(os.getpid(), wish.get("signal", signal.SIGKILL))


def do_segfault(worker, run, wish):
    import ctypes
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.string_at(0)


def do_hang(worker, run, wish):
    """Ignores every interrupt."""
    while True:
        try:
            yield
        except KeyboardInterrupt:
            pass


def do_stubborn(worker, run, wish):
    """Ignores every interrupt, and returns when the file "until" is there."""
    while not os.path.exists(wish["until"]):
        try:
            yield
        except KeyboardInterrupt:
            pass
    return finished("in spite of all")


def do_finish_when_interrupted(worker, run, wish):
    """Its end crosses the interrupt: it returns a result all the same."""
    while True:
        try:
            yield
        except KeyboardInterrupt:
            return finished("made it")


def break_link(worker, data):
    """Sends bytes that break the protocol; waits until the server has closed the connection and taken the next."""
    worker.link.send_bytes(data)
    while worker.link.welcome:
        yield
    while not worker.link.welcome:
        yield


def do_torn_frame(worker, run, wish):
    """Half of a `done`, then the connection ends."""
    worker.link.send_bytes(link.encode({"type": "done", "job": run["job"], "attempt": run["attempt"]})[:20])
    worker.link.drop()
    while not worker.link.welcome:
        yield
    return finished("after a torn frame")


def do_bytes(worker, run, wish):
    """Sends the bytes in "hex", which must make the server close the connection."""
    yield from break_link(worker, bytes.fromhex(wish["hex"]))
    return finished("after bytes")


def do_garbage(worker, run, wish):
    """A frame that is no JSON."""
    yield from break_link(worker, struct.pack(">I", 7) + b"garbage")
    return finished("after garbage")


def do_oversize_frame(worker, run, wish):
    yield from break_link(worker, struct.pack(">I", (1 << 20) + 1))
    return finished("after an oversize frame")


def do_unknown_type(worker, run, wish):
    yield from break_link(worker, link.encode({"type": "nonsense"}))
    return finished("after an unknown type")


def do_done_twice(worker, run, wish):
    body = {
        "type": "done",
        "job": run["job"],
        "attempt": run["attempt"],
        "outcome": "finished",
        "result": '"first"',
        "started": time.time(),
        "ended": time.time(),
    }
    worker.link.send(body)
    return finished("second")


def do_wrong_job(worker, run, wish):
    """Claims the ends of a job that does not exist and of other attempts of its own before it tells the truth."""
    for job, attempt in (
        ("00000000-0000-4000-8000-000000000000", 1),
        (run["job"], run["attempt"] + 1),
        (run["job"], 0),
    ):
        worker.link.send({"type": "done", "job": job, "attempt": attempt, "outcome": "finished", "result": '"a lie"'})
    worker.link.send({"type": "done"})
    worker.link.send({"type": "done", "job": 7, "attempt": "x", "outcome": []})
    yield
    return finished("the truth")


DO = {name[3:]: function for name, function in list(globals().items()) if name.startswith("do_")}
