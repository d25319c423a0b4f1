"""max_memory and what ends by signals mean, without Spark: the zygote's part with real processes, faked counters."""
import json
import os
import signal
import subprocess
import sys
import types

import pytest

from stoker_runner import limits, oom, patches, proc, zygote
from stoker_runner.hunt import Hunter
from stoker_runner.limits import MemoryWatch

MIB = 1 << 20
HOLD = "kept = b'x' * (%d << 20); print(flush=True); import time; time.sleep(1000)"


@pytest.fixture
def watch():
    made = MemoryWatch(Hunter("context"))
    yield made
    for fd in limits._pipe:
        os.close(fd)


@pytest.fixture
def holder():
    """A function that starts a process which holds so many MiB, as a Child of a zygote."""
    made = []

    def start(mib):
        process = subprocess.Popen([sys.executable, "-c", HOLD % mib], stdout=subprocess.PIPE)
        made.append(process)
        process.stdout.readline()
        return types.SimpleNamespace(process="w-1", pid=process.pid)
    yield start
    for process in made:
        process.kill()
        process.wait()
        process.stdout.close()


def tell(*messages):
    for message in messages:
        os.write(limits._pipe[1], json.dumps(message).encode() + b"\n")


def begin(limit, resident=0, share=0):
    return {"process": "w-1", "limit": limit, "resident": resident, "share": share}


END = {"process": "w-1", "limit": None}


def test_nothing_is_looked_at_while_no_job_has_a_limit(watch):
    assert watch.timeout() is None and list(watch.look({})) == []


def test_a_job_over_its_limit_is_found_and_stopped(watch, holder):
    child = holder(32)
    tell(begin(24 * MIB))
    watch.read()
    found = list(watch.look({"w-1": child}))
    assert [each for each, _ in found] == [child] and "max-memory = 24 MiB" in found[0][1]
    assert proc.stat(child.pid).state == "T"


@pytest.mark.parametrize("messages", [[begin(64 * MIB)], [begin(8 * MIB, 32 * MIB, 32 * MIB)], [begin(MIB), END]],
                         ids=["under", "beyond", "ended"])
def test_others_run_on(watch, holder, messages):
    child = holder(32)
    tell(*messages)
    watch.read()
    assert list(watch.look({"w-1": child})) == []
    assert proc.stat(child.pid).state != "T"


def test_a_job_that_has_just_ended_is_not_killed(watch, holder):
    """The zygote stops the worker before it looks whether the job is still there; then it goes on."""
    child = holder(32)
    tell(begin(8 * MIB))
    watch.read()
    tell(END)
    job = watch._jobs["w-1"]
    assert watch._holds(child, job) is False
    assert proc.stat(child.pid).state != "T"


def test_what_jobs_write_into_the_pipe_ends_nothing(watch):
    os.write(limits._pipe[1], b"nonsense\n[1]\n{}\n" + json.dumps(begin(5)).encode()[:10])
    watch.read()
    os.write(limits._pipe[1], json.dumps(begin(5)).encode()[10:] + b"\n")
    assert watch.forget("w-1") == 5 and watch.forget("w-1") is None


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """memory.events of a control group, and the clock: kills(n), passes(seconds), oom (OomKills)."""
    path, clock = tmp_path / "memory.events", [100.0]

    def kills(n):
        path.write_text("low 0\nhigh 7\nmax 8\noom %d\noom_kill %d\noom_group_kill 0\n" % (n + 1, n))

    def passes(seconds):
        clock[0] += seconds
    kills(3)
    monkeypatch.setattr(oom, "time", types.SimpleNamespace(monotonic=lambda: clock[0]))
    made = types.SimpleNamespace(kills=kills, passes=passes, oom=oom.OomKills(str(path)), path=path)
    yield made
    made.oom.close()


@pytest.fixture
def explain(kernel):
    """A function: (signal, limit of the job, why we killed it) -> (code, reason, retry)."""
    def call(signum, limit=None, killed=None):
        made = zygote.Zygote.__new__(zygote.Zygote)
        made.oom = kernel.oom
        made.memory = types.SimpleNamespace(forget=lambda process: limit)
        child = types.SimpleNamespace(process="w-1", reason=killed, code=None)
        retry = made.explain(child, signum)
        return child.code, child.reason or "", retry
    return call


def test_a_kill_that_the_kernel_counts_as_its_own(explain, kernel):
    kernel.kills(4)
    code, reason, retry = explain(signal.SIGKILL)
    assert (code, retry) == ("OUT_OF_MEMORY", "with-more-memory") and "most likely" in reason
    assert explain(signal.SIGKILL)[0] is None, "it has ended one process and not two"
    kernel.kills(6)
    kernel.oom.look()
    kernel.passes(5)
    assert [explain(signal.SIGKILL)[0] for _ in range(3)] == ["OUT_OF_MEMORY", "OUT_OF_MEMORY", None]


def test_an_old_kill_of_another_process_is_not_blamed(explain, kernel):
    kernel.kills(4)
    kernel.oom.look()       # poll() has told of it
    kernel.passes(60)
    code, reason, retry = explain(signal.SIGKILL)
    assert (code, retry) == (None, "with-more-memory") and "may be the kernel's out-of-memory killer" in reason


def test_a_kill_that_nobody_admits(explain, kernel):
    before = len(os.listdir("/proc/self/fd"))
    for change in (lambda: None, lambda: kernel.path.write_text("nothing that tells\n")):
        change()
        code, reason, retry = explain(signal.SIGKILL)
        assert (code, retry) == (None, "with-more-memory") and "may be the kernel's out-of-memory killer" in reason
    assert kernel.oom.fd == -1 and len(os.listdir("/proc/self/fd")) == before - 1, "nothing is polled that says no more"


def test_a_kill_that_the_server_wanted(explain, kernel):
    kernel.kills(4)
    assert explain(signal.SIGKILL, killed="wanted") == (None, "wanted", None)


def test_other_ends(explain):
    assert explain(None) == (None, "", None)
    assert explain(signal.SIGSEGV) == (None, "", None)
    assert explain(signal.SIGTERM, limit=MIB) == (None, "", None)
    code, reason, retry = explain(signal.SIGSEGV, limit=64 * MIB)
    assert code is None and "max-memory = 64 MiB" in reason and retry == "with-more-memory"


def test_the_count_of_this_process_s_own_group():
    """Where the machine has one (cgroups v2); else nobody counts, which is no error."""
    own = oom.OomKills()
    assert own.take() is False
    assert (own.fd >= 0) == (oom._own_path() is not None)
    own.close()


# ---------------------------------------------------------------- patches

@pytest.mark.parametrize("use_tags", [True, False])
def test_replaced_names_are_found_with_and_without_the_tags_of_dicts(use_tags, monkeypatch):
    watched = patches.Patches()
    watched._use_tags = use_tags and watched._use_tags
    watched.note()
    watched.watch(patches.NAMES)
    assert watched.found() is None
    json.new_name = lambda: None
    assert watched.found() is None, "a name that is added harms nobody"
    del json.new_name
    monkeypatch.setattr(json, "dumps", print)
    assert watched.found() == "its job replaced json.dumps"
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "json", sys)
    assert watched.found() == "its job replaced module json"


def test_this_interpreter_has_tags():
    assert patches._tags_work() is (sys.version_info < (3, 14))


def test_an_exception_that_cannot_be_printed_refuses_nothing():
    class Mute(RuntimeError):
        def __str__(self):
            raise ValueError
    assert limits.refused([Mute("can't start new thread, I think")]) is None
