"""The command line, what stops a start, and how the server ends."""

import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from kit import FAKE, STOKERD, TOP, link, wait_for


def run(*args, env=None, cwd=None):
    """(status, stdout, stderr) of stokerd when it ends by itself."""
    done = subprocess.run(
        [STOKERD, *args], env={**os.environ, **(env or {})}, cwd=cwd, capture_output=True, text=True, timeout=20
    )
    return done.returncode, done.stdout, done.stderr


def fails(daemon, *args):
    """The one line with which it does not start."""
    status, out, err = run("--config", daemon.config_path, *args, env=daemon.env)
    assert (status, out) == (1, ""), (status, out, err)
    assert err.startswith("stokerd: ") and err.count("\n") == 1 and err.endswith("\n"), err
    return err


# ---- options


def test_help_names_every_option():
    status, out, err = run("--help")
    assert (status, err) == (0, "")
    for option in ("--config", "--listen", "--state-dir", "--print-config", "--check-config", "--version", "--help"):
        assert option in out


def test_version():
    status, out, err = run("--version")
    assert (status, err) == (0, "") and re.fullmatch(r"stokerd \d+\.\d+\.\d+\n", out)


@pytest.mark.parametrize("args", [["--nonsense"], ["word"], ["--config"], ["--listen", "1", "extra"]])
def test_unknown_options_are_refused(args):
    status, out, err = run(*args)
    assert (status, out) == (2, "") and "usage: stokerd" in err


def test_printed_config_is_a_config(tmp_path):
    """--print-config gives a file that --config takes and prints again unchanged, with every key there is."""
    status, out, _ = run(
        "--print-config", "--state-dir", str(tmp_path / "s"), "--listen", "127.0.0.1:0", "--listen", "[::1]:8091"
    )
    assert status == 0 and not (tmp_path / "s").exists()
    path = tmp_path / "printed.conf"
    path.write_text(out)
    assert run("--config", str(path), "--check-config")[0] == 0
    assert run("--config", str(path), "--print-config") == (0, out, "")
    with open(os.path.join(TOP, "conf", "stoker.conf")) as f:
        shipped = set(re.findall(r"^([a-z-]+) =", f.read(), re.M))
    assert set(re.findall(r"^([a-z-]+) =", out, re.M)) == shipped
    assert 'listen = [ "127.0.0.1:0", "[::1]:8091" ];' in out


def test_shipped_config_holds_the_defaults():
    """conf/stoker.conf changes nothing."""
    env = {"STATE_DIRECTORY": "/nowhere/state"}
    assert run("--config", os.path.join(TOP, "conf", "stoker.conf"), "--print-config", env=env) == run(
        "--print-config", env=env
    )


@pytest.mark.parametrize(
    "text, line, word",
    [
        ("no-such-key = 1;\n", 1, "no-such-key"),
        ('listen = [ "127.0.0.1:0" ];\n\nmax_jobs = 3;\n', 3, "did you mean 'max-jobs'"),
        ("max-jobs = 0;\n", 1, "max-jobs"),
        ("# comment\nmax-jobs = \"many\";\n", 2, "max-jobs"),
        ('max-upload = "5 parsecs";\n', 1, "max-upload"),
        ("max-upload = 5000000000;\n", 1, "5000000000"),
        ('cancel-grace = "1s"\nstop-grace = ;\n', 2, "syntax error"),
        ('log-level = "loud";\n', 1, "log-level"),
        ('spark-conf = [ "master=local" ];\n', 1, "spark-conf"),
        ('@include "/etc/passwd"\n', 1, "@include"),
        ('listen = [ "127.0.0.1" ];\n', 1, "listen"),
    ],
)
@pytest.mark.parametrize("mode", ["--check-config", "--print-config", None])
def test_bad_config_names_file_and_line(tmp_path, text, line, word, mode):
    path = tmp_path / "bad.conf"
    path.write_text(text)
    status, out, err = run("--config", str(path), *([mode] if mode else ["--state-dir", str(tmp_path / "state")]))
    assert (status, out) == (1, "") and err.count("\n") == 1
    assert err.startswith("stokerd: %s:%d: " % (path, line)) and word in err
    assert not (tmp_path / "state").exists()


def test_missing_config_file():
    status, out, err = run("--config", "/nowhere/stoker.conf")
    assert (status, out) == (1, "") and "/nowhere/stoker.conf" in err and err.count("\n") == 1


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "192.0.2.1:8090"])
def test_address_that_is_not_loopback_is_refused(listen):
    status, out, err = run("--check-config", "--listen", listen)
    assert (status, out) == (1, "") and "loopback" in err and "insecure" in err


# ---- what stops a start


def test_port_taken(daemon):
    """One clear line with the address; no listening line, and no process."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = "127.0.0.1:%d" % taken.getsockname()[1]
        one = daemon()
        status, out, err = run("--config", one.config_path, "--listen", address, env=one.env)
    assert (status, out) == (1, "")
    assert "listen on %s: the address is already in use" % address in err.splitlines()[-1]


def test_state_directory_in_use(daemon):
    """A second server of one state directory is refused with the pid of the first, which goes on."""
    one = daemon().start()
    assert "is in use by another server (pid %d)" % one.process.pid in fails(one)
    assert one.get("/healthz").status == 200


def test_state_directory_that_cannot_be_made(daemon, tmp_path):
    (tmp_path / "file").write_text("")
    assert str(tmp_path / "file") in fails(daemon(), "--state-dir", str(tmp_path / "file" / "below"))
    assert str(tmp_path / "file") in fails(daemon(), "--state-dir", str(tmp_path / "file"))


def test_no_python(daemon):
    assert fails(daemon(python="/nowhere/python")).startswith("stokerd: no Python: '/nowhere/python'")


def test_python_that_does_not_work(daemon):
    assert "stoker_runner.check' failed" in fails(daemon(python="/bin/false"))


@pytest.mark.parametrize("package", ["pyspark", "pyhocon"])
def test_package_missing(daemon, package):
    """The interpreter has no pyspark: its name, the interpreter and what to do."""
    line = fails(daemon(env={"FAKE_MISSING": package}))
    assert line.startswith("stokerd: no %s: " % package) and sys.executable in line and "make venv" in line


def test_no_java(daemon):
    """Neither JAVA_HOME nor a java in PATH."""
    one = daemon(java_home="", env={"PATH": "/nowhere", "JAVA_HOME": ""})
    assert fails(one).startswith("stokerd: no Java: java is not in PATH")


@pytest.mark.parametrize("where", ["configured", "environment"])
def test_java_home_without_java(daemon, where):
    one = daemon(java_home="/nowhere/jdk" if where == "configured" else "", env={"JAVA_HOME": "/nowhere/jdk"})
    assert "/nowhere/jdk/bin/java" in fails(one)


def test_no_runner(daemon, tmp_path):
    assert "runner" in fails(daemon(runner_dir=str(tmp_path / "nowhere")))
    (tmp_path / "empty").mkdir()
    assert "holds no folder stoker_runner" in fails(daemon(runner_dir=str(tmp_path / "empty")))


def test_damaged_database(daemon):
    """A database that is none stops the start with its name, and is left alone."""
    one = daemon().start()
    assert one.stop() == 0
    path = one.db_path
    with open(path, "wb") as f:
        f.write(b"this is not a database " * 500)
    status, out, err = run("--config", one.config_path, env=one.env)
    assert (status, out) == (1, "") and os.path.basename(path) in err.splitlines()[-1]
    with open(path, "rb") as f:
        assert f.read(4) == b"this"


def test_database_of_a_newer_version(daemon):
    one = daemon().start()
    assert one.stop() == 0
    with one.db() as db:
        db.execute("PRAGMA user_version = 9999")
    status, out, err = run("--config", one.config_path, env=one.env)
    assert (status, out) == (1, "") and "9999" in err and "newer" in err
    with one.db() as db:
        db.execute("PRAGMA user_version = 1")


# ---- a start


def test_listening_line(daemon):
    """One line on stdout, with the port that port 0 has become; requests are taken at once."""
    one = daemon().start()
    assert one.port > 0 and one.get("/healthz").json == {"status": "SUCCESS"}
    assert one.stop() == 0
    with open(one.log_path) as f:
        assert "listening on" not in f.read()


def test_two_addresses(daemon):
    """A line for each; both answer."""
    one = daemon(listen=["127.0.0.1:0", "127.0.0.2:0"]).start()
    second = one.process.stdout.readline().decode()
    port = int(re.fullmatch(r"listening on http://127\.0\.0\.2:(\d+)\n", second).group(1))
    assert one.get("/healthz").status == 200
    with socket.create_connection(("127.0.0.2", port)) as sock:
        sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 200 OK")


def test_state_directory_is_private(daemon):
    """0700, with the token at 0600; the same token after a restart."""
    one = daemon(long_path=True).start()
    assert os.stat(one.state).st_mode & 0o777 == 0o700
    assert os.stat(one.path("token")).st_mode & 0o777 == 0o600
    token = link.read_token(one.state)
    one.stop()
    assert link.read_token(one.start().state) == token and len(token) >= 32


def test_state_directory_by_a_relative_path(daemon, tmp_path):
    """It is taken from the folder in which the server is started."""
    one = daemon(state_dir="relative/state")
    one.state = os.path.join(one.folder, "relative", "state")
    one.start()
    one.create("c")
    assert one.run("c", one.upload()).status == 200


def test_long_state_directory(daemon):
    """A path that is longer than a socket address changes nothing."""
    one = daemon(long_path=True).start()
    assert len(one.state) > 108
    one.create("c")
    assert one.run("c", one.upload()).status == 200


def test_children_inherit_no_descriptor(daemon):
    """A context holds no socket, lock or database of the server: everything it has open is its own."""
    one = daemon().start()
    sock = one.connect()
    sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n")
    sock.recv(1000)
    one.create("c")
    for pid in one.pids():
        for fd in os.listdir("/proc/%d/fd" % pid):
            target = os.readlink("/proc/%d/fd/%s" % (pid, fd))
            assert "lock" not in target and ".db" not in target and "stoker.sqlite" not in target, target
    sock.close()


# ---- an end


def test_sigterm_with_nothing_to_do(daemon):
    one = daemon().start()
    start = time.monotonic()
    assert one.stop() == 0
    assert time.monotonic() - start < 3


def test_sigint_is_the_same(daemon):
    assert daemon().start().stop(signal.SIGINT) == 0


def test_sigterm_leaves_nothing(daemon, flags):
    """With contexts, running jobs and open connections: status 0, within the grace, no process."""
    one = daemon().start()
    app = one.upload()
    for name in ("a", "b"):
        one.create(name)
        one.start_job(name, app, {"touch": flags.path(name), "wait": "/nowhere"})
        flags.wait(name)
    idle = [one.connect() for _ in range(5)]
    start = time.monotonic()
    assert one.stop() == 0
    assert time.monotonic() - start < 5
    assert one.pids() == []
    for sock in idle:
        sock.close()


def test_sigterm_while_a_context_is_created(daemon):
    """Its client is told, and nothing of it is left."""
    one = daemon().start()
    reply = one.background("POST", "/contexts/c?spark.fake.keeper=hang")
    wait_for(lambda: one.pid("c", "k"), "keeper")
    assert one.stop() == 0
    assert one.pids() == []
    answer = reply()
    assert answer.status >= 400 and answer.json["status"] != "SUCCESS"


def test_sigterm_tells_sync_clients(daemon, flags):
    """The client of a running job gets the error of its job."""
    one = daemon().start()
    app = one.upload()
    one.create("c")
    reply = one.background(
        "POST",
        "/jobs?appName=%s&classPath=a.B&context=c&sync=true&timeout=60" % app,
        {"fake": {"touch": flags.path("on"), "wait": "/nowhere"}},
    )
    flags.wait("on")
    assert one.stop() == 0
    assert reply().json["status"] == "ERROR" and "stopped" in reply().json["result"]["message"]


def test_sigterm_does_not_wait_for_clients_of_queued_jobs(daemon, flags):
    """A sync client whose job stays in the queue is answered; the end does not take as long as its timeout."""
    one = daemon().start()
    app = one.upload()
    one.create("c", **{"max-jobs-per-context": 1})
    one.start_job("c", app, {"touch": flags.path("on"), "wait": "/nowhere"})
    flags.wait("on")
    reply = one.background("POST", "/jobs?appName=%s&classPath=a.B&context=c&sync=true&timeout=60" % app)
    queued = wait_for(lambda: one.rows("SELECT id FROM jobs WHERE state = 0"), "queued job")[0][0]
    start = time.monotonic()
    assert one.stop() == 0
    assert time.monotonic() - start < 8
    assert one.job_row(queued)[0] == "QUEUED"
    answer = reply()
    assert answer.status >= 400 and answer.json["jobId"] == queued


def test_context_that_does_not_end_is_killed(daemon):
    """Zygote and keeper ignore every request to end: SIGTERM ends the server with 0 and them too."""
    one = daemon(stop_grace="500ms").start()
    one.create("c", wish={"zygote": "ignore_stop", "keeper": "ignore_sigterm"})
    assert one.stop() == 0
    assert one.pids() == []


def test_second_sigterm_is_quicker(daemon):
    """A long grace is cut short by a second SIGTERM."""
    one = daemon(stop_grace="60s").start()
    one.create("c", wish={"keeper": "ignore_sigterm"})
    one.send_signal(signal.SIGTERM)
    wait_for(lambda: one.context_row("c")[1] == "STOPPING", "stop")
    time.sleep(0.3)
    assert one.running
    assert one.stop() == 0
    assert one.pids() == []


def test_new_requests_are_refused_while_it_stops(daemon):
    """Contexts and jobs get a 503 (or no connection), never a hang."""
    one = daemon().start()
    app = one.upload()
    one.create("c", wish={"keeper": "ignore_sigterm"})
    one.send_signal(signal.SIGTERM)
    wait_for(lambda: one.context_row("c")[1] == "STOPPING", "stop")
    for request in (lambda: one.post("/contexts/d"), lambda: one.submit("c", app)):
        try:
            assert request().status in (503, 409)
        except OSError:
            pass
    assert one.wait() == 0


def test_sighup_changes_nothing(daemon):
    one = daemon().start()
    one.send_signal(signal.SIGHUP)
    one.wait_log("SIGHUP")
    assert one.get("/healthz").status == 200


def test_fake_runner_is_the_one_in_use(daemon):
    """What all tests of this folder stand on: the versions that the fake check claims."""
    one = daemon().start()
    assert "pyspark 4.99.0" in one.log() and os.path.isdir(os.path.join(FAKE, "stoker_runner"))
