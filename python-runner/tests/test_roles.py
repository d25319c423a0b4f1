"""Parts of zygote, keeper and worker that need no Spark."""
import errno
import os
import queue
import signal
import socket
import threading
import time
import types

import pytest

from stoker_runner import connection, keeper, takeover, worker, zygote
from stoker_runner.gateways import Cancelled
from stoker_runner.interrupts import Interrupts
from stoker_runner.takeover import Takeover

KEY = ("job", 1)


class Link:
    def __init__(self):
        self.sent = []

    def send(self, message):
        self.sent.append(message)
        return True


# ---------------------------------------------------------------- takeover

@pytest.fixture
def closable():
    """A Takeover whose descriptors a test may close."""
    made = Takeover(0.01)
    yield made
    for fd in (made._timer, made.kicked):
        if os.path.exists("/proc/self/fd/%d" % fd):
            os.close(fd)


def test_a_kick_is_taken_back(closable):
    assert closable.intact() and closable.kick()
    closable.calm()
    closable.calm()
    assert closable.arm()
    closable.wait()


def test_a_closed_eventfd_ends_nothing(closable):
    os.close(closable.kicked)
    assert not closable.intact() and not closable.kick()
    closable.calm()
    assert closable.arm()


def test_nothing_is_written_to_what_has_the_eventfds_number_now(closable, tmp_path):
    with open(tmp_path / "file", "wb") as f:
        os.dup2(f.fileno(), closable.kicked)
    assert not closable.kick()
    assert (tmp_path / "file").read_bytes() == b""


def test_a_closed_timer_ends_nothing(closable, monkeypatch):
    monkeypatch.setattr(takeover, "BLIND_SECONDS", 0.001)
    os.close(closable._timer)
    assert not closable.intact() and not closable.arm() and closable.kick()
    closable.wait()


# ---------------------------------------------------------------- interrupts

@pytest.fixture
def interrupts():
    before = signal.getsignal(signal.SIGINT)
    made = Interrupts()
    made.install()
    yield made
    made.disarm()
    signal.signal(signal.SIGINT, before)


def run_a_little():
    for _ in range(1000):
        pass


def test_an_interrupt_raises_once_however_often_it_is_sent(interrupts):
    interrupts.arm(KEY)
    with pytest.raises(KeyboardInterrupt):
        interrupts.request(KEY)
        run_a_little()
    interrupts.request(KEY)
    run_a_little()
    interrupts.disarm()
    interrupts.arm(("job", 2))
    with pytest.raises(KeyboardInterrupt):
        interrupts.request(("job", 2))
        run_a_little()
    assert interrupts.raised == ("job", 2)


def test_an_interrupt_sent_again_while_it_is_raised_raises_nothing(interrupts):
    interrupts.arm(KEY)
    with pytest.raises(KeyboardInterrupt):
        interrupts.request(KEY)
        run_a_little()
    interrupts._requested = KEY     # as a request() does that has looked just before
    interrupts._fire()
    assert interrupts._requested is None


# ---------------------------------------------------------------- zygote

@pytest.fixture
def made_zygote(tmp_path):
    made = zygote.Zygote(str(tmp_path), "c")
    made.to_import = []     # not into this process
    made.link = Link()
    made.oom.close()
    yield made
    os.close(made.wake_read)
    os.close(made.wake_write)


def no_fork():
    raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")


def test_a_worker_that_cannot_be_forked_has_ended(made_zygote, monkeypatch):
    monkeypatch.setattr(os, "fork", no_fork)
    made_zygote.deliver({"type": "fork", "process": "w-1", "role": "worker", "gateway": {}})
    exited, = made_zygote.link.sent
    assert exited["type"] == "exited" and exited["process"] == "w-1" and exited["role"] == "worker"
    assert exited["pid"] is None and exited["status"] is None and exited["signal"] is None
    assert exited["reason"].startswith("fork failed: ")
    assert [e["process"] for e in made_zygote.hello()["exits"]] == ["w-1"] and made_zygote.hello()["children"] == []
    made_zygote.deliver({"type": "ack_exit", "process": "w-1"})
    assert not made_zygote.exits and made_zygote.ending is None


def test_a_keeper_that_cannot_be_forked_ends_the_context(made_zygote, monkeypatch):
    monkeypatch.setattr(os, "fork", no_fork)
    made_zygote.deliver({"type": "fork", "process": "k", "role": "keeper"})
    assert [m["process"] for m in made_zygote.link.sent] == ["k"] and not made_zygote.finished()
    made_zygote.deliver({"type": "ack_exit", "process": "k"})
    assert made_zygote.finished()


def test_an_exit_between_hello_and_welcome_is_told(made_zygote):
    """The server has heard of the first in `hello`; nobody has told it of the second."""
    first, second = ({"process": name, "role": "worker", "pid": 1} for name in ("w-1", "w-2"))
    made_zygote.exits["w-1"] = first
    made_zygote.hello()
    made_zygote.link.send = lambda message: False
    os.mkdir(os.path.join(made_zygote.state_dir, "spool"))
    made_zygote.report_exit(second)
    made_zygote.link = Link()
    made_zygote.welcomed()
    assert made_zygote.link.sent == [dict(second, type="exited")]


def test_a_kill_by_the_kernel_is_seen_at_once(made_zygote):
    """poll() tells of it by POLLPRI, here for a byte out of band."""
    made_zygote.link = types.SimpleNamespace(fileno=lambda: -1, timeout=lambda: None, step=lambda ready: None)
    looked = []
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as sender:
        receiver, _ = server.accept()
        with receiver:
            made_zygote.oom = types.SimpleNamespace(fd=receiver.fileno(), look=lambda: looked.append(True))
            os.write(made_zygote.wake_write, b"\0")
            made_zygote.wait()
            assert looked == []
            sender.send(b"!", socket.MSG_OOB)
            made_zygote.wait()
            assert looked == [True]


# ---------------------------------------------------------------- worker

@pytest.fixture
def made_worker():
    """A worker's messages without its rest."""
    made = worker.Worker.__new__(worker.Worker)
    made.context, made.process, made.bound, made.state = "c", "w-1", None, "ready"
    made._lock, made._attempts, made._results, made._retiring = threading.Lock(), {}, {}, None
    made.inbox, made._unsent, made.link = queue.SimpleQueue(), [], Link()
    return made


def test_a_retiring_worker_says_so_and_takes_no_run(made_worker):
    run = {"type": "run", "job": KEY[0], "attempt": KEY[1]}
    assert made_worker.hello()["state"] == "ready"
    made_worker._retiring = "why"
    with pytest.raises(connection.BadFrame):
        made_worker.deliver(run)
    hello = made_worker.hello()
    assert hello["state"] == "retiring" and hello["attempts"] == [] and made_worker.inbox.empty()
    made_worker.welcomed()
    assert made_worker.link.sent == []
    made_worker._attempts[KEY] = run
    made_worker.deliver(run)            # known: nothing new


# ---------------------------------------------------------------- keeper

class Flaky:
    """Gateways that fail so many times."""

    def __init__(self, failures):
        self.left = failures

    def answer(self, *args):
        self.left -= 1
        if self.left >= 0:
            raise RuntimeError("the JVM does not like it")
        return {"port": 1, "secret": "s"}

    admit = answer

    def cancel(self, job, attempt, worker):
        self.answer()
        self.worker, found = worker, Cancelled()
        found.jobs = 2
        return found


@pytest.fixture
def made_keeper(monkeypatch, tmp_path):
    monkeypatch.setattr(keeper, "ADMIT_RETRY_SECONDS", 0.001)
    monkeypatch.setattr(keeper, "CANCEL_RETRY_SECONDS", 0.001)
    made = keeper.Keeper.__new__(keeper.Keeper)
    made.folder, made.state, made.error, made.stopping, made.reported = str(tmp_path), "running", None, False, False
    made._failing, made.wake, made.told, made.link = threading.Lock(), threading.Event(), threading.Event(), Link()
    made.serving, made.served = 0, threading.Condition()
    return made


def test_an_admit_is_tried_again(made_keeper):
    made_keeper.gateways = Flaky(3)
    made_keeper.serve(made_keeper.admit, {"worker": "w-1"})
    assert made_keeper.link.sent == [{"type": "admitted", "worker": "w-1", "port": 1, "secret": "s"}]


def test_an_admit_that_never_succeeds_ends_the_context(made_keeper):
    made_keeper.gateways = Flaky(4)
    made_keeper.serve(made_keeper.admit, {"worker": "w-1"})
    ended, = made_keeper.link.sent
    assert ended["type"] == "ended" and ended["error"]["code"] == "CONTEXT_LOST"
    assert "does not like it" in ended["error"]["traceback"]
    assert made_keeper.reported and made_keeper.state == "ended"


class Kernel:
    def __init__(self, kills):
        self.kills = kills

    def take(self):
        return self.kills > 0


@pytest.mark.parametrize("status, said, kills, code", [
    (52, "", 0, "DRIVER_OUT_OF_MEMORY"),
    (3, "Terminating due to java.lang.OutOfMemoryError: Java heap space", 0, "DRIVER_OUT_OF_MEMORY"),
    (-signal.SIGABRT, "Aborting due to java.lang.OutOfMemoryError: Java heap space", 0, "DRIVER_OUT_OF_MEMORY"),
    (-signal.SIGKILL, "", 1, "DRIVER_OUT_OF_MEMORY"),
    (-signal.SIGKILL, "java.lang.OutOfMemoryError: Java heap space", 0, "CONTEXT_LOST"),
    (-signal.SIGABRT, "java.lang.OutOfMemoryError: Java heap space", 1, "CONTEXT_LOST"),
    (3, "", 1, "CONTEXT_LOST"),
    (1, "Terminating due to java.lang.OutOfMemoryError: Java heap space", 1, "CONTEXT_LOST"),
])
def test_a_jvm_that_ends_without_memory_says_so(made_keeper, tmp_path, status, said, kills, code):
    (tmp_path / "context.log").write_text(said + "\n")
    made_keeper.archive, made_keeper.oom = None, Kernel(kills)
    made_keeper.jvm_ended(status)
    ended, = made_keeper.link.sent
    assert (ended["type"], ended["error"]["code"]) == ("ended", code)
    assert ended["error"]["retry"] == ("with-more-memory" if code == "DRIVER_OUT_OF_MEMORY" else "may-help")


def test_a_cancel_is_tried_until_it_is_confirmed(made_keeper):
    made_keeper.gateways = Flaky(20)
    made_keeper.serve(made_keeper.cancel, {"worker": "w-1", "job": KEY[0], "attempt": KEY[1]})
    cancelled, = made_keeper.link.sent
    assert cancelled.pop("elapsed_ms") > 0
    assert cancelled == {"type": "cancelled", "job": KEY[0], "attempt": KEY[1], "final": False, "jobs": 2, "tasks": 0,
                         "streams": 0, "rounds": 0, "worker": "w-1"}
    assert made_keeper.gateways.worker is None


def test_a_final_cancel_looks_at_the_worker_too(made_keeper):
    made_keeper.gateways = Flaky(0)
    made_keeper.serve(made_keeper.cancel, {"worker": "w-1", "job": KEY[0], "attempt": KEY[1], "final": True})
    cancelled, = made_keeper.link.sent
    assert cancelled["final"] is True and made_keeper.gateways.worker == "w-1"


def test_a_cancel_ends_with_its_keeper(made_keeper):
    made_keeper.gateways = Flaky(10**9)
    thread = threading.Thread(target=made_keeper.serve, daemon=True,
                              args=(made_keeper.cancel, {"worker": "w-1", "job": KEY[0], "attempt": KEY[1]}))
    thread.start()
    time.sleep(0.02)
    assert thread.is_alive()
    made_keeper.stopping = True
    thread.join(5)
    assert not thread.is_alive() and made_keeper.link.sent == []
