"""What real jobs print, read through the real server: from Python, C and children, one job's and never another's."""
import collections
import http.client
import os
import re

import pytest
from server import Background, wait_until

PRINTS, LEAVES = "stoker_jobs.printing.Prints", "stoker_jobs.printing.LeavesThread"
FLOODS, BIG = "stoker_jobs.printing.Floods", "stoker_jobs.printing.Big"
ON_EXECUTORS = "stoker_jobs.printing.OnExecutors"
WAYS = ["print", "write", "printf", "child", "python_child", "fork", "thread"]


pytestmark = pytest.mark.usefixtures("py")


@pytest.fixture(scope="module")
def one(stoker):
    """A context that runs one job at a time."""
    stoker.create_running("one", **{"max-jobs": 1})
    return "one"


def start(stoker, cls, context="py", **config):
    return stoker.submit(cls, config, context)


def logs(stoker, job, **query):
    return stoker.get("/v1/jobs/%s/logs" % job, **query)


def finished(stoker, job):
    """The text of its standard output, once it has ended."""
    text = logs(stoker, job, follow="true")
    shown = stoker.get("/v1/jobs/" + job)
    assert shown["state"] == "FINISHED", shown
    assert logs(stoker, job) == text
    return text


def process(stoker, job):
    return stoker.get("/v1/jobs/" + job)["process"]["pid"]


def test_every_way_to_print(stoker, files):
    """All of it is there while the job runs, in order."""
    job = start(stoker, PRINTS, ways=WAYS, text="it", go_on=files.path("go"))
    expected = "".join("it %s\n" % way for way in WAYS)
    errors = "it to stderr\nit logged\n"
    wait_until(lambda: logs(stoker, job, stream="stderr").endswith("logged\n"), "what it logs")
    assert logs(stoker, job) == expected
    follower = Background(logs, stoker, job, stream="all", follow="true")
    files.make("go")
    assert sorted(follower.value().splitlines()) == sorted(
        ["out| " + line for line in expected.splitlines()] + ["err| " + line for line in errors.splitlines()])
    assert finished(stoker, job) == expected
    assert logs(stoker, job, stream="stderr") == errors


def test_two_jobs_at_once_are_not_mixed(stoker, files):
    lines = int(os.environ.get("STOKER_LOG_LINES", "20000"))
    jobs = {name: start(stoker, FLOODS, name=name, lines=lines, here=files.path(name), there=files.path(other))
            for name, other in ("ab", "ba")}
    for name, job in jobs.items():
        seen = collections.defaultdict(list)
        for line in finished(stoker, job).splitlines():
            of, how, number = line.split(" ")
            assert of == name
            seen[how].append(int(number))
        assert sorted(seen) == ["c", "child", "python"]
        assert all(numbers == list(range(lines)) for numbers in seen.values())
    assert process(stoker, jobs["a"]) != process(stoker, jobs["b"])


def test_one_job_after_another_in_one_worker(stoker, one):
    """What the first has left in a buffer of C is the first one's."""
    jobs = [start(stoker, PRINTS, one, ways=ways, text=str(n))
            for n, ways in enumerate((["printf"], [], ["print"], ["printf", "child"], WAYS))]
    texts = [finished(stoker, job) for job in jobs]
    assert texts == ["0 printf\n", "", "2 print\n", "3 printf\n3 child\n", "".join("4 %s\n" % way for way in WAYS)]
    assert len({process(stoker, job) for job in jobs}) == 1


@pytest.mark.parametrize("kind", ["threading", "_thread"])
def test_a_thread_that_is_left_over_prints_into_no_other_job(stoker, one, files, kind):
    """Its worker takes no other job, so what comes after the job's end is nobody's."""
    job = start(stoker, LEAVES, one, kind=kind, go_on=files.path("go"), done=files.path("done"))
    assert finished(stoker, job) == "early\n"
    after = start(stoker, PRINTS, one, ways=["print"], text="next", go_on=files.path("end"))
    wait_until(lambda: logs(stoker, after), "the next job")
    files.make("go")
    files.make("end")
    assert finished(stoker, after) == "next print\n"
    assert logs(stoker, job) == "early\n"
    assert process(stoker, job) != process(stoker, after)


def test_executors_and_the_jvm_print_into_the_log_of_the_context(stoker):
    mark = "mark-%d" % os.getpid()
    job = start(stoker, ON_EXECUTORS, mark=mark)
    assert finished(stoker, job) == "driver\n"
    log = wait_until(lambda: (lambda text: text if mark + " executor" in text else "")(
        stoker.get("/v1/contexts/py/logs")), "what the executor printed")
    assert re.search("^%s jvm$" % mark, log, re.M)
    tail = stoker.get("/v1/contexts/py/logs", tail=5)
    assert len(tail.splitlines()) == 5 and log.endswith(tail[-20:])


def test_a_big_log_is_all_there_and_costs_the_server_no_memory(stoker):
    """STOKER_LOG_BYTES: how much the job prints; 200 MB here."""
    size = int(os.environ.get("STOKER_LOG_BYTES", "200000000")) // 64 * 64
    peak = Peak(stoker.process.pid)
    before = peak.look()
    job = start(stoker, BIG, bytes=size)
    got, lines = 0, 0
    connection = http.client.HTTPConnection(stoker.address, timeout=600)
    connection.request("GET", "/v1/jobs/%s/logs?follow=true" % job)
    reply = connection.getresponse()
    while True:
        piece = reply.read(1 << 20)
        if not piece:
            break
        got, lines = got + len(piece), lines + piece.count(b"\n")
        peak.look()
    connection.close()
    assert (got, lines) == (size, size // 64)
    assert logs(stoker, job, tail=1) == "%063d\n" % ((size // 64 - 1) % 16384)
    print("%d bytes: RssAnon of stokerd %d KiB before, %d KiB at most" % (size, before >> 10, peak.most >> 10))
    assert peak.most - before < 8 << 20


class Peak:
    """The most anonymous memory that a process was seen to have."""

    def __init__(self, pid):
        self.path, self.most = "/proc/%d/status" % pid, 0

    def look(self):
        with open(self.path) as f:
            now = int(re.search(r"RssAnon:\s+(\d+) kB", f.read())[1]) << 10
        self.most = max(self.most, now)
        return now
