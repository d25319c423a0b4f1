"""stoke run, attach, logs -f, events -f, result: jobs followed to their end, over restarts of the server. Terminals: test_stoke_tty.py."""

import json
import re
import subprocess

import pytest

import kit
from kit import unique, wait_for
from stoking import HANG, NOTE, PROGRAM, Process, dictated, environment, stoke


@pytest.fixture
def script(flags):
    return kit.Dictation(flags)


def restart(server):
    """It dies, and comes back at the same address."""
    server.kill()
    server.start("--listen", "127.0.0.1:%d" % server.port)


def run(server, context, app, *args, **kw):
    return stoke(server, "run", "-C", context, app, "app.Job", *args, **kw)


def result_of(done):
    """What it was given, of a job with "do": "echo"."""
    assert done.status == 0, done
    return json.loads(done.out)


# ---- what is sent


def test_the_config(server, context, app, tmp_path):
    """From a file, JSON or HOCON, from standard input, and by -c, which goes over it."""
    def config(*args, input=None):
        done = run(server, context, app, "-q", *args, "-c", "fake.do=echo", input=input)
        found = json.loads(result_of(done)["config"])
        del found["fake"]
        return found

    as_json, hocon = tmp_path / "a.json", tmp_path / "a.conf"
    as_json.write_text('{"a": {"b": [1, "two"]}, "c": null}')
    hocon.write_text('a { b = [1, two] } # a comment\nc = null, d = "10 s"')
    assert config() == {}
    assert config("--config", str(as_json)) == {"a": {"b": [1, "two"]}, "c": None}
    assert config("--config", str(hocon)) == {"a": {"b": [1, "two"]}, "c": None, "d": "10 s"}
    assert config("--config", "-", input='{"x": 1.5}') == {"x": 1.5}
    assert config("-c", "x=1", "-c", "y.z=[true]", "-c", "y.text=a=b", "-c", "t=007", "-c", "n=NaN") == {
        "x": 1, "y": {"z": [True], "text": "a=b"}, "t": "007", "n": "NaN"}
    assert config("--config", str(as_json), "-c", "a.b=2", "-c", "a.d=x") == {"a": {"b": 2, "d": "x"}, "c": None}


@pytest.mark.parametrize("text, args, says", [
    ("[1]", [], "must hold an object"),
    ("a {", [], "neither JSON (Expecting value: line 1 column 1 (char 0)) nor HOCON (line:1, col:4)"),
    ("a = 10 s", [], "the value of a is taken for a time"),
    ("{}", ["-c", "a"], "KEY=VALUE"),
    ("{}", ["-c", "a..b=1"], "KEY=VALUE"),
    ('{"a": 1}', ["-c", "a.b=1"], "'a' has a value already"),
])
def test_a_config_that_is_none(server, context, app, text, args, says):
    done = run(server, context, app, "--config", "-", *args, input=text)
    assert (done.status, done.out) == (2, "") and says in done.err and done.err.count("\n") == 1, done


def test_a_config_file_that_is_none(server, context, app, tmp_path):
    (tmp_path / "bad.json").write_text("{")
    for name, says in (("bad.json", "is no JSON: "), ("none.json", "cannot be read: No such file")):
        done = run(server, context, app, "--config", str(tmp_path / name))
        assert (done.status, done.out) == (2, "") and name in done.err and says in done.err, done


def test_a_config_from_standard_input_that_is_no_text(server, context, app, tmp_path):
    (tmp_path / "latin").write_bytes(b'{"a": "\xe4"}')
    for stdin in ("<" + str(tmp_path / "latin"), "<&-"):
        done = subprocess.run(["sh", "-c", '"$@" ' + stdin, "sh", *PROGRAM, "run", "-C", context, app, "app.Job", "--config", "-"],
                              env=environment(server), capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout) == (2, "") and done.stderr.count("\n") == 1, done
        assert done.stderr.startswith("stoke: standard input cannot be read: "), done


def test_the_terms(server, context, app):
    done = run(server, context, app, "-d", "--json", "-t", "k=v", "--tag", "two", "--priority", "-5", "--timeout", "1h",
               "--queue-timeout", "2min", "--max-memory", "1g", "--isolation", "process")
    (job,) = done.objects
    assert (job["tags"], job["priority"], job["max_memory"], job["isolation"]) == (["k=v", "two"], -5, 1 << 30, "process")
    assert (job["run_clock"]["limit_ms"], job["queue_clock"]["limit_ms"]) == (3600000, 120000)
    done = run(server, context, app, "--timeout", "soon")
    assert (done.status, done.out) == (3, "") and "run_timeout" in done.err and "soon" in done.err


def test_a_key_makes_it_one_job(server, context, app):
    key = ("--idempotency-key", unique("key"))
    first, again = (run(server, context, app, "-d", *key) for _ in range(2))
    assert first.status == 0 and first.out == again.out
    other = run(server, context, app, "-d", *key, "-t", "other")
    assert other.status == 3 and "Idempotency-Key" in other.err


def test_the_context_that_is_up(daemon, flags):
    """Needs no name when it is the only one."""
    server = daemon().start()
    server.upload("app")
    done = stoke(server, "run", "app", "app.Job")
    assert done.status == 2 and "no context is up: make one (stoke contexts create NAME)" in done.err
    server.create("one")
    done = stoke(server, "run", "app", "app.Job")
    assert done.status == 0 and NOTE.match(done.err)[2] == "one"
    server.create("two")
    done = stoke(server, "run", "app", "app.Job")
    assert done.status == 2 and "one, two" in done.err


# ---- how it ends


def test_output_and_result(server, context, app, script):
    """Each stream of the job on its own, the result behind it, the rest on standard error."""
    script.out("one\ntwo")
    script.err("oh\n")
    script.end()
    done = run(server, context, app, *dictated(script))
    job = NOTE.match(done.err)[1]
    assert done.status == 0 and done.out == 'one\ntwo"as it was told"\n', done
    assert re.fullmatch(r"%soh\nstoke: job %s FINISHED in \d+\.\d s\n" % (NOTE.pattern, job), done.err), done


def test_only_the_result(server, context, app, script):
    script.out("one\n")
    script.end()
    done = run(server, context, app, *dictated(script), "-q", "--log", "none")
    assert (done.status, done.out, done.err) == (0, '"as it was told"\n', "")
    done = run(server, context, app, *dictated(script), "-q", "--log", "stdout")
    assert (done.status, done.out, done.err) == (0, 'one\n"as it was told"\n', "")


@pytest.mark.parametrize("args, status, says", [
    (["-c", "fake.do=error"], 1, "ended as ERROR, USER_EXCEPTION: Deliberate failure (ValueError)\n"
                                 "  at job.py:3: raise ValueError('Deliberate failure')\n"
                                 "  retry never: the same again will fail again\n"),
    (["-c", "fake.do=invalid"], 1, "ended as INVALID, VALIDATION_FAILED: validate() found 2 problems\n"
                                   "  - no input.string\n  - bad weather\n"),
    (["-c", "fake.do=exit"], 1, "ended as ERROR, EXITED: the job ended its own process with exit status 5\n"
                                "  retry may-help: the same again may succeed\n"),
    ([*HANG, "--timeout", "200ms"], 6, "ended as TIMED_OUT, RUN_TIMEOUT: the job ran longer than its run-timeout of 200 ms\n"),
    (["-c", 'fake.error={"message": "a\\u001b[31mb"}', "-c", "fake.do=error"], 1, "USER_EXCEPTION: a?[31mb (ValueError)"),
])
def test_the_status_tells_the_end(server, context, app, args, status, says):
    done = run(server, context, app, *args)
    job = NOTE.match(done.err)[1]
    assert (done.status, done.out) == (status, "") and says in done.err, done
    done = stoke(server, "attach", job)
    assert (done.status, done.out) == (status, "") and says in done.err, done
    assert stoke(server, "logs", "-f", job).status == status and stoke(server, "logs", job).status == 0
    done = stoke(server, "result", job)
    assert (done.status, done.out) == (status, "") and "stoke show " + job in done.err


def test_a_job_that_is_killed(server, context, app):
    with Process(server, "run", "-C", context, app, "app.Job", *HANG) as process:
        process.wait_err(" in context ")
        job = NOTE.match(process.err)[1]
        server.wait_running(job)
        assert stoke(server, "cancel", job).status == 0
        done = process.wait()
    assert done.status == 5 and re.search("job %s: KILLED in .*\n +0 ms  requested\n" % job, done.err)
    assert "stoke: job %s ended as KILLED\n" % job in done.err


@pytest.mark.own_server
def test_a_job_that_is_lost(server):
    job = server.start_job(server.create("c"), server.upload("app"))
    server.wait_job(job)
    server.stop()
    with server.db() as db:
        db.execute("UPDATE jobs SET state = ?, result = NULL WHERE id = ?", (kit.JOB_STATES.index("LOST"), job))
    server.start()
    assert stoke(server, "attach", job).status == 7 and stoke(server, "logs", "-f", job).status == 7


def test_json_lines(server, context, app, script):
    script.out("one\nrest")
    script.err("oh\n")
    script.end()
    done = run(server, context, app, "--json", *dictated(script))
    lines = [line for line in done.objects if line["type"] != "progress"]
    job = lines[0]["job"]["id"]
    assert done.status == 0 and lines[0]["type"] == "submitted"
    logs = [(line["stream"], line["text"]) for line in lines[1:-2]]
    assert sorted(logs) == [("stderr", "oh\n"), ("stdout", "one\n"), ("stdout", "rest")]
    assert lines[-2]["type"] == "ended" and lines[-2]["job"]["state"] == "FINISHED"
    assert lines[-1] == {"type": "result", "job": job, "result": "as it was told"}
    lines = run(server, context, app, "--json", *HANG, "--timeout", "200ms")
    assert lines.status == 6 and [line["type"] for line in lines.objects if line["type"] != "progress"] == [
        "submitted", "ended", "receipt"]
    assert run(server, context, app, "--json", "-d").objects[0]["state"] in ("STARTING", "RUNNING", "FINISHED")


def test_detach_and_attach(server, context, app, script):
    done = run(server, context, app, "-d", *dictated(script))
    job = done.out.strip()
    assert done.status == 0 and re.fullmatch("[-0-9a-f]{36}", job) and done.err == ""
    done = stoke(server, "result", job)
    assert done.status == 8 and "stoke attach " + job in done.err
    script.out("1\n2\n3\n")
    wait_for(lambda: server.get("/v1/jobs/%s/logs" % job).text == "1\n2\n3\n", "log")
    with Process(server, "attach", "--tail", "2", job) as process:
        process.wait_out("2\n3\n")
        script.out("4\n")
        script.end()
        done = process.wait()
    assert (done.status, done.out) == (0, '2\n3\n4\n"as it was told"\n')


# ---- results


def test_results(server, context, app, tmp_path):
    job = server.start_job(context, app, {"result": {"a": [1, None]}})
    server.wait_job(job, "FINISHED")
    assert stoke(server, "result", job).out == '{"a": [1, null]}\n'
    assert stoke(server, "result", "--json", job).objects == [{"type": "result", "job": job, "result": {"a": [1, None]}}]
    file = tmp_path / "result"
    done = stoke(server, "result", "-o", str(file), job)
    assert done.status == 0 and done.out == "" and file.read_text() == '{"a": [1, null]}'
    done = stoke(server, "result", "-o", str(tmp_path / "none" / "x"), job)
    assert done.status == 1 and done.err.startswith("stoke: ") and done.err.count("\n") == 1, done


def test_a_long_result(server, context, app, tmp_path):
    file = tmp_path / "result"
    done = run(server, context, app, "-q", "-c", "fake.do=big_result", "-c", "fake.bytes=3000000", "-o", str(file))
    assert (done.status, done.out, done.err) == (0, "", "") and file.read_text() == '"%s"' % ("x" * 2999998)


# ---- the server goes away and comes back


@pytest.mark.own_server
def test_a_run_outlives_its_server(server, script):
    """No line is lost, none comes twice, whatever was half sent when it died."""
    context, app = server.create("c"), server.upload("app")
    with Process(server, "run", "-C", context, app, "app.Job", *dictated(script)) as process:
        script.out("first\nhalf a ")
        script.err("err 1\n")
        process.wait_out("first\n")
        process.wait_err("err 1\n")
        restart(server)
        script.out("line\n" + "x" * 5000)
        process.wait_out("half a line\n" + "x" * 4096)
        restart(server)
        script.err("err 2\n")
        script.out("x\nlast\n")
        script.end()
        done = process.wait()
    assert done.status == 0 and done.out == 'first\nhalf a line\n%s\nlast\n"as it was told"\n' % ("x" * 5001), done
    notes = [line for line in done.err.splitlines() if "trying again" in line]
    assert len(notes) >= 2 and all("127.0.0.1:%d" % server.port in note for note in notes), done.err
    assert [line for line in done.err.splitlines() if line.startswith("err")] == ["err 1", "err 2"]


@pytest.mark.own_server
@pytest.mark.parametrize("stream", ["stdout", "all"])
def test_logs_outlive_their_server(server, script, stream):
    job = server.start_job(server.create("c"), server.upload("app"), {"do": "dictate", "script": script.path})
    with Process(server, "logs", "-f", "--stream", stream, job) as process:
        for i in range(3):
            script.out("before %d\n" % i)
            process.wait_out("before %d\n" % i)
            restart(server)
            script.out("after %d\n" % i)
        script.end()
        done = process.wait()
    assert done.status == 0 and done.out == "".join("before %d\nafter %d\n" % (i, i) for i in range(3))


@pytest.mark.own_server
def test_events_outlive_their_server(server, flags):
    """Each event once, in order; -f has no end of its own."""
    context, app = server.create("c"), server.upload("app")
    with Process(server, "events", "-f", "--json", "--type", "job.submitted", "--type", "job.ended", "--since", "0") as process:
        for i in range(3):
            job = server.start_job(context, app)
            server.wait_job(job, "FINISHED")
            process.wait_out(job)
            restart(server)
        last = server.start_job(context, app)
        wait_for(lambda: process.out.count(last) == 2, lambda: process.out[-300:])
        process.interrupt()
        done = process.wait()
    assert done.status == 130
    ids = [event["id"] for event in done.objects]
    assert ids == sorted(set(ids)) and [e["type"] for e in done.objects] == ["job.submitted", "job.ended"] * 4


@pytest.mark.own_server
def test_a_server_that_stays_away(server):
    context, app = server.create("c"), server.upload("app")
    job = server.start_job(context, app, {"print": "here\n", "do": "hang"})
    for command in (["attach", job], ["logs", "-f", job], ["events", "-f", "--since", "0", "--job", job]):
        with Process(server, *command, "--reconnect", "0.3") as process:
            wait_for(lambda: "here\n" in process.err or "job.submitted" in process.out, lambda: process.err)
            server.kill()
            done = process.wait()
        assert done.status == 4 and "no server answers at http://127.0.0.1:%d" % server.port in done.err, done
        server.start("--listen", "127.0.0.1:%d" % server.port)


def test_more_followers_than_there_may_be(daemon, flags):
    """Who finds no room waits for it."""
    server = daemon(max_streams=1).start()
    context, app = server.create("c"), server.upload("app")
    scripts = [kit.Dictation(flags) for _ in range(2)]
    args = ["run", "-C", context, app, "app.Job"]
    with Process(server, *args, *dictated(scripts[0])) as first, Process(server, *args, *dictated(scripts[1])) as second:
        for script in scripts:
            script.out("here\n")
        wait_for(lambda: any("trying again" in p.err for p in (first, second)), "one that is refused")
        for script in scripts:
            script.end()
        for process in (first, second):
            done = process.wait()
            assert (done.status, done.out) == (0, 'here\n"as it was told"\n'), done


def test_a_log_that_is_not_kept(daemon, flags):
    server = daemon(max_stored_logs="1KiB").start()
    context, app = server.create("c"), server.upload("app")
    job = server.start_job(context, app, {"do": "flood", "bytes": 8192})
    server.wait_job(job, "FINISHED")
    wait_for(lambda: server.get("/v1/jobs/%s/logs" % job).status == 410, "removal of the log")
    done = stoke(server, "attach", job)
    assert (done.status, done.out) == (0, '"flooded"\n') and "its log is not kept any more" in done.err
    assert stoke(server, "logs", job).status == 3
