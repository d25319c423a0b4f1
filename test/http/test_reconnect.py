"""Connections that break while the server lives: a process dials again, and nothing is lost or doubled."""

import os
import random
import signal
import threading

import pytest

from kit import link, wait_for


pytestmark = pytest.mark.own_server


def cut(server, process):
    """Breaks the connection of a process (fake/stoker_runner/link.py), which dials again."""
    os.kill(server.pid("c", process), signal.SIGUSR1)


@pytest.mark.parametrize("process", ["z", "k", "worker"])
def test_connection_that_breaks_during_a_job(server, app, flags, process):
    """Zygote, keeper or worker: the job goes on and ends once; the context works on."""
    server.create("c", **{"max-jobs-per-context": 1})
    job = server.start_job(
        "c", app, {"append": flags.path("log"), "touch": flags.path("on"), "wait": flags.path("go"), "result": 1}
    )
    flags.wait("on")
    worker = server.job_row(job)[2]
    for _ in range(3):
        cut(server, worker if process == "worker" else process)
    queued = server.start_job("c", app, {"append": flags.path("log")})
    flags.up("go")
    assert server.wait_job(job, "FINISHED")["result"] == 1
    server.wait_job(queued, "FINISHED")
    assert flags.lines("log") == [job + " 1", queued + " 1"]
    assert server.run("c", app, {"do": "exit"}).json["status"] == "ERROR"  # the zygote still tells how workers end
    assert server.run("c", app).status == 200  # and still forks, for a keeper that admits
    assert server.delete("/contexts/c").status == 200


@pytest.mark.parametrize("process", ["z", "k", "worker"])
def test_connection_that_breaks_during_a_cancel(server, app, flags, process):
    """The ladder goes on over the new connection, up to the kill."""
    server.create("c", wish={"keeper": "slow_cancel"})
    job = server.start_job("c", app, {"touch": flags.path("on"), "do": "hang"})
    flags.wait("on")
    worker = server.job_row(job)[2]
    killed = server.background("DELETE", "/jobs/" + job)
    wait_for(lambda: server.job_row(job)[0] == "CANCELLING", "cancel")
    cut(server, worker if process == "worker" else process)
    assert killed().json["status"] == "KILLED"  # or on its way there, on a machine with much to do
    server.wait_job(job, "KILLED")
    assert server.run("c", app).status == 200


@pytest.mark.parametrize("process", ["z", "k"])
def test_connection_that_breaks_during_a_start(server, app, process):
    """A create whose zygote or keeper loses its connection in the middle comes up all the same."""
    creating = server.background("POST", "/contexts/c?spark.fake.keeper=late")
    wait_for(lambda: server.context_row("c") and server.pid("c", "k"), "keeper")
    cut(server, process)
    assert creating().status == 200
    assert server.run("c", app).status == 200


def test_strangers_are_refused(server):
    """A process without the token, of an unknown context, or in a place that is taken gets `refused`."""
    server.create("c")
    context, pid = server.context_row("c")[0], os.getpid()
    good = link.hello_head(server.state, pid)
    for fields in (
        {"token": "0" * 64, "role": "worker", "context": context, "process": "w-00000000"},
        {"token": "", "role": "keeper", "context": context, "process": "k"},
        {"token": 7, "role": "zygote", "context": context},
        {"role": "worker", "context": context, "process": "w-00000000"},
        {"role": "worker", "context": context},
        {"role": "worker", "context": "nowhere", "process": "w-00000000"},
        {"role": "worker"},
        {"role": 7, "context": context},
        {"role": "keeper", "context": context, "process": "k"},
        {"role": "zygote", "context": context, "process": "z"},
        {"role": "spy", "context": context, "process": "s"},
        {"protocol": 0, "role": "zygote", "context": context},
    ):
        with link.dial(server.state) as sock:
            sock.settimeout(10)
            sock.sendall(link.encode({**good, **fields}))
            data = b""
            while True:
                more = sock.recv(4096)
                if not more:
                    break
                data += more
        (message,) = link.decode(bytearray(data))
        assert message["type"] == "refused" and isinstance(message["reason"], str), (fields, message)
    assert server.run("c", server.upload()).status == 200


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"\0\0\0\5hello",
        b"GET / HTTP/1.1\r\n\r\n",
        link.encode({"type": "done"}),
        link.encode({"type": "hello"}),
    ],
    ids=["nothing", "byte", "no-json", "http", "done", "bare-hello"],
)
def test_dials_that_say_no_hello(server, data):
    """Whatever comes instead of hello: the server closes or waits, and serves the others."""
    server.create("c")
    with link.dial(server.state) as sock:
        sock.sendall(data)
        assert server.run("c", server.upload()).status == 200
    assert server.running


def test_dials_that_say_nothing_are_dropped(server):
    """Nobody holds a descriptor of the server for ever; a process that was welcomed stays, however silent it is."""
    server.create("c")
    before = server.log()
    socks = [link.dial(server.state) for _ in range(3)]
    socks[1].sendall(b"\0\0\0\20")  # the beginning of a frame
    for sock in socks:
        sock.settimeout(60)
        assert sock.recv(1) == b""
        sock.close()
    assert server.log()[len(before):].count("no hello in time") == 3
    assert server.log()[len(before):].count("connection dropped") == 3
    assert server.run("c", server.upload()).status == 200


def test_many_dials_at_once(server, app):
    """Five hundred connections that say nothing do not keep a process out."""
    server.create("c")
    socks = [link.dial(server.state) for _ in range(500)]
    cut(server, "k")
    assert server.run("c", app).status == 200
    for sock in socks:
        sock.close()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_crashes_at_random_moments(server, app, flags, seed):
    """Clients submit while the server is killed at random: what was accepted ends, nothing runs twice."""
    rng = random.Random(seed)
    server.create("c", **{"max-jobs-per-context": 3})
    accepted, done = [], threading.Event()

    def client():
        while not done.is_set():
            try:
                reply = server.submit("c", app, {"append": flags.path("log"), "sleep": 0.01})
                if reply.status == 202:
                    accepted.append(reply.json["jobId"])
            except (OSError, ValueError):
                pass

    threads = [threading.Thread(target=client, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(4):
        enough = len(accepted) + 3
        wait_for(lambda: len(accepted) >= enough, "accepted jobs", 60)
        done.wait(rng.uniform(0.02, 0.3))
        server.restart()
    done.set()
    for thread in threads:
        thread.join(20)
    assert len(accepted) > 10
    wait_for(lambda: not server.rows("SELECT 1 FROM jobs WHERE state < 4"), "the end of all jobs")
    rows = dict(server.rows("SELECT id, state FROM jobs"))
    assert set(accepted) <= set(rows)
    assert set(rows.values()) == {4}  # FINISHED, known to a client or not
    assert sorted(line.split()[0] for line in flags.lines("log")) == sorted(rows)
