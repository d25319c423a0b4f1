"""stoke, the command line: every command, what it prints, the status that it ends with. Jobs that are followed: test_stoke_run.py."""

import http.server
import json
import os
import re
import subprocess
import threading

import pytest

import kit
from kit import make_zip, unique, wait_for
from stoking import HANG, PROGRAM, Tty, environment, stoke

COMMANDS = ["attach", "binaries", "cancel", "completion", "contexts", "events", "logs", "ps", "receipt", "result", "run", "show",
            "status", "upload"]


def submit(server, context, app, *args):
    """The id of a job that was left to itself."""
    done = stoke(server, "run", "-d", "-C", context, app, "app.Job", *args)
    assert done.status == 0 and done.err == "", done
    return done.out.strip()


def refused(done, status, *says):
    """It has ended with that status and one line that says what."""
    assert done.status == status and done.out == "", done
    assert done.err.startswith("stoke: ") and done.err.count("\n") == 1, done
    for text in says:
        assert text in done.err, done


# ---- the command itself


def test_help_names_every_command(server):
    done = stoke(server, "--help")
    assert done.status == 0 and re.findall(r"^  (\w+) {2,}\S", done.out, re.M) == COMMANDS


def test_its_version_is_the_servers(server):
    done = stoke(server, "--version")
    assert done.out == "stoke, version %s\n" % server.get("/v1/server").json["version"]


@pytest.mark.parametrize("args", [["nonsense"], ["ps", "--nonsense"], ["run", "a"], ["show"], ["ps", "-n", "x"], ["logs", "a", "-x"]])
def test_a_wrong_command_line(server, args):
    done = stoke(server, *args)
    assert (done.status, done.out) == (2, "") and "Usage: stoke" in done.err
    done = stoke(server, "--json", *args)
    assert (done.status, done.out) == (2, "") and json.loads(done.err)["error"]["code"] == "USAGE"


def test_the_server_is_down(server):
    gone = "http://127.0.0.1:1"
    for args in (["ps"], ["run", "a", "b"], ["logs", "-f", "x"], ["events", "-f"], ["events"], ["--json", "status"]):
        done = stoke(server, *args, "--server", gone)
        assert (done.status, done.out) == (4, "") and done.err.count("\n") == 1, done
        assert gone in done.err and "--server" in done.err and "STOKER_URL" in done.err
    assert json.loads(stoke(server, "ps", "--json", env={"STOKER_URL": gone}).err)["error"]["code"] == "UNREACHABLE"


@pytest.mark.parametrize("url", ["127.0.0.1:8090", "ftp://x", "http://", "http://x:y"])
def test_an_address_that_is_none(server, url):
    refused(stoke(server, "ps", "--server", url), 2, url)


def test_something_else_answers(server):
    class Other(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(404)

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Other) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        try:
            refused(stoke(server, "ps", "--server", "http://127.0.0.1:%d" % other.server_port), 1, "404", "right address")
        finally:
            other.shutdown()


def test_the_option_comes_before_the_environment(server):
    url = "http://127.0.0.1:%d/" % server.port
    for args in (["status", "--server", url], ["--server", url, "status"]):
        assert stoke(server, *args, env={"STOKER_URL": "http://127.0.0.1:1"}).status == 0


def test_who_reads_no_further(server, context, app):
    """A pipe that is closed ends it quietly."""
    job = submit(server, context, app, "-c", "fake.do=flood", "-c", "fake.bytes=8000000")
    server.wait_job(job, "FINISHED")
    command = "%s logs %s | head -n 1; echo ${PIPESTATUS[0]}" % (" ".join(PROGRAM), job)
    done = subprocess.run(["bash", "-c", command], env=environment(server), capture_output=True, text=True, timeout=60)
    assert done.stdout == "%016d%s\n141\n" % (0, "." * 47) and done.stderr == ""


def test_completion_in_bash(server, context, app):
    """What the script offers behind a command line, in a real bash: commands, options, names on the server."""
    def offered(*words):
        script = stoke(server, "completion", "bash")
        assert script.status == 0
        line = "stoke() { %s \"$@\"; }; export -f stoke\n%s\nCOMP_WORDS=(%s); COMP_CWORD=%d; _stoke_completion stoke\n" % (
            " ".join(PROGRAM), script.out.replace("env COMP_WORDS", "COMP_WORDS"), " ".join(map(repr, words)), len(words) - 1)
        done = subprocess.run(["bash", "-c", line + 'printf "%s\\n" "${COMPREPLY[@]}"'], env=environment(server),
                              capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 and done.stderr == "", done
        return done.stdout.split()

    job = submit(server, context, app)
    assert offered("stoke", "can") == ["cancel"]
    assert offered("stoke", "contexts", "cr") == ["create"]
    assert "--detach" in offered("stoke", "run", "--d")
    assert offered("stoke", "run", "--context", context[:6]) == [context]
    assert offered("stoke", "run", app[:8]) == [app]
    assert offered("stoke", "show", job[:-1]) == [job]
    assert offered("stoke", "--server", "http://127.0.0.1:1", "show", job[:-1]) == []


@pytest.mark.parametrize("shell, word", [("bash", "complete -o"), ("zsh", "#compdef stoke"), ("fish", "complete --no-files")])
def test_completion_scripts(server, shell, word):
    done = stoke(server, "completion", shell)
    assert done.status == 0 and word in done.out and "_STOKE_COMPLETE" in done.out


# ---- binaries


@pytest.mark.parametrize("ending, kind", [(".egg", "egg"), (".zip", "zip"), (".whl", "wheel"), (".WHL", "wheel"), (".jar", "jar")])
def test_upload(server, tmp_path, ending, kind):
    file, name = tmp_path / ("jobs" + ending), unique("bin/ä")
    file.write_bytes(make_zip())
    done = stoke(server, "upload", name, str(file))
    assert done.status == 0 and done.err == "", done
    (version,) = server.get("/v1/binaries/" + kit.urllib.parse.quote(name, safe="")).json["versions"]
    assert version["type"] == kind and version["bytes"] == len(make_zip())
    assert done.out == "%s version %d: %s, %d B, sha256 %s\n" % (name, version["version"], kind, version["bytes"], version["digest"])
    (listed,) = [b for b in stoke(server, "binaries", "--json").objects if b["name"] == name]
    assert listed == version
    assert stoke(server, "binaries", "show", name, "--json").objects == [version]
    assert name in stoke(server, "binaries", "ls").out and version["digest"][:12] in stoke(server, "binaries").out
    assert stoke(server, "binaries", "rm", name).status == 0
    refused(stoke(server, "binaries", "show", name), 3, name, "not found")


def test_upload_of_a_folder(server, tmp_path):
    """Its modules and packages, with all that is in these, and nothing else."""
    for path in ("one.py", "pack/__init__.py", "pack/deep/data.txt", "pack/__pycache__/x.pyc", "other/notes.txt", "README"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(path)
    done = stoke(server, "upload", "--json", unique("app"), str(tmp_path))
    (version,) = done.objects
    assert version["type"] == "zip"
    (blob,) = [os.path.join(root, name) for root, _, names in os.walk(server.state) for name in names if version["digest"] in name
               and os.path.getsize(os.path.join(root, name)) == version["bytes"]]
    with kit.zipfile.ZipFile(blob) as archive:
        assert {n: archive.read(n).decode() for n in archive.namelist()} == {
            n: n for n in ("one.py", "pack/__init__.py", "pack/deep/data.txt")}
    refused(stoke(server, "upload", "x", str(tmp_path / "other")), 2, "no Python module")


def test_uploads_that_are_refused(server, tmp_path):
    text = tmp_path / "file.txt"
    text.write_text("no archive")
    refused(stoke(server, "upload", "x", str(text)), 2, "--type")
    refused(stoke(server, "upload", "x", str(text), "--type", "zip"), 3, "format")
    assert stoke(server, "upload", "x", str(tmp_path / "none.zip")).status == 2
    with open(tmp_path / "big.zip", "wb") as big:
        big.truncate(64 << 20)      # over max-upload; the server does not read it all
    refused(stoke(server, "upload", "x", str(tmp_path / "big.zip")), 3, "67108864", "limit")


@pytest.mark.parametrize("encoding, full", [("utf-8", "\u2501"), ("ascii", "#")])
def test_an_upload_has_a_bar(server, tmp_path, encoding, full):
    file = tmp_path / "a.zip"
    file.write_bytes(make_zip({"app.py": "x" * 100000}))
    with Tty(server, "upload", unique("app"), str(file), env={"PYTHONIOENCODING": encoding}) as tty:
        done = tty.wait()
    assert done.status == 0 and full * 30 + " 97.8 KiB of 97.8 KiB" in re.sub("\x1b\\[[0-9;]*m", "", tty.raw), tty.raw
    assert len([line for line in tty.screen if line]) == 1, tty.screen


# ---- contexts


def test_contexts(server):
    name = unique("ctx")
    done = stoke(server, "contexts", "create", name, "-o", "max-jobs-per-context=3", "-o", "spark.fake.x=1")
    assert (done.status, done.out, done.err) == (0, name + " RUNNING\n", "")
    (found,) = [c for c in stoke(server, "contexts", "--json").objects if c["name"] == name]
    assert (found["state"], found["max_jobs"]) == ("RUNNING", 3)
    assert name in stoke(server, "contexts").out and name in stoke(server, "contexts", "ls").out
    assert stoke(server, "contexts", "show", name, "--json").objects == [server.get("/v1/contexts/" + name).json]
    assert "max_jobs        3\n" in stoke(server, "contexts", "show", name).out
    assert stoke(server, "contexts", "logs", name).out == server.get("/v1/contexts/%s/logs" % name).text
    refused(stoke(server, "contexts", "create", name), 3, name)
    done = stoke(server, "contexts", "rm", name)
    assert (done.status, done.out) == (0, name + " STOPPED\n")
    assert stoke(server, "contexts", "show", name, "--json").objects[0]["state"] == "STOPPED"


def test_a_context_that_does_not_start(server):
    name = unique("ctx")
    done = stoke(server, "contexts", "create", name, "-o", "spark.fake.keeper=fail")
    assert done.status == 1 and done.out == "" and done.err.startswith("stoke: context %s is FAILED, " % name), done
    assert "Spark was asked to fail" in done.err and "last words of the fake JVM" in done.err
    assert "Spark was asked to fail" in stoke(server, "contexts", "show", name).out


def test_a_context_that_is_not_waited_for(server):
    name = unique("ctx")
    done = stoke(server, "contexts", "create", "-d", name)
    assert (done.status, done.out) == (0, name + " CREATING\n")
    wait_for(lambda: server.get("/v1/contexts/" + name).json["state"] == "RUNNING", "context")
    assert stoke(server, "contexts", "rm", "--force", name).status == 0


def test_settings_that_are_none(server):
    refused(stoke(server, "contexts", "create", "x", "-o", "y"), 2, "KEY=VALUE", "'y'")


# ---- jobs


def test_ps(server, context, app):
    tag = unique("tag")
    jobs = [submit(server, context, app, "-t", tag, *args) for args in ([], ["-c", "fake.do=error"], ["-t", "two"], HANG)]
    for job in jobs[:3]:
        server.wait_job(job)

    def ids(*args):
        return [job["id"] for job in stoke(server, "ps", "--json", "-t", tag, *args).objects]

    assert ids() == jobs[::-1] and ids("-n", "2") == jobs[:1:-1] and ids("-n", "0") == jobs[::-1]
    assert ids("--state", "error") == [jobs[1]] and ids("-s", "error", "-s", "FINISHED") == jobs[2::-1]
    assert ids("-a") == [jobs[3]] and ids("-t", "two") == [jobs[2]]
    assert ids("--app", app, "-C", context) == jobs[::-1] and ids("--app", "none") == [] and ids("-C", "none") == []
    assert ids("--user", "nobody") == [] and ids("--since", "2100-01-01T00:00:00Z") == []
    assert ids("--until", "2100-01-01T00:00:00Z") == jobs[::-1]
    header, *rows = stoke(server, "ps", "-t", tag).out.splitlines()
    assert header.split() == ["JOB", "STATE", "SUBMITTED", "RAN", "PROGRESS", "CONTEXT", "APP", "CLASS", "TAGS"]
    assert [row.split()[:2] for row in rows[1:]] == [[jobs[2], "FINISHED"], [jobs[1], "ERROR"], [jobs[0], "FINISHED"]]
    assert rows[0].startswith(jobs[3]) and re.search(r"%s +%s +app.Job +%s$" % (context, app, tag), rows[0])
    refused(stoke(server, "ps", "-s", "nonsense"), 3, "QUEUED", "NONSENSE")
    stoke(server, "cancel", jobs[3])


def test_show_has_the_whole_error(server, context, app):
    job = submit(server, context, app, "-c", "fake.do=error", "-c", 'fake.error={"traceback": {"of": "x", "times": 20000}}')
    server.wait_job(job)
    assert stoke(server, "show", job, "--json").objects[0]["error"]["traceback"] == "begin %s end" % ("x" * 20000)
    out = stoke(server, "show", job).out
    assert re.search(r"^state +ERROR$", out, re.M) and "USER_EXCEPTION: Deliberate failure" in out
    assert "at job.py:3: raise ValueError('Deliberate failure')" in out and "x" * 20000 in out
    refused(stoke(server, "show", "nope"), 3, "job nope not found")


def test_logs(server, context, app):
    job = submit(server, context, app, "-c", "fake.print_hex=61620a6300ff0a64", "-c", "fake.do=flood", "-c", "fake.bytes=640")
    server.wait_job(job)
    lines = b"".join(b"%016d%s\n" % (n, b"." * 47) for n in range(10))
    done = stoke(server, "logs", job, binary=True)
    assert (done.status, done.out, done.err) == (0, lines, b"ab\nc\0\xff\nd")
    for args in (["--stream", "stderr"], ["--stream", "stderr", "-f"]):
        done = stoke(server, "logs", job, *args, binary=True)
        assert (done.status, done.out, done.err) == (0, b"", b"ab\nc\0\xff\nd")
    assert stoke(server, "logs", job, "--stream", "stdout", binary=True).out == lines
    assert stoke(server, "logs", job, "--tail", "2", binary=True).out == lines[-128:]
    assert stoke(server, "logs", job, "--tail", "0", "-f", binary=True).out == b""
    found = stoke(server, "logs", job, "--json", "--tail", "1").objects
    assert found == [{"type": "log", "stream": "stdout", "text": lines[-64:].decode()},
                     {"type": "log", "stream": "stderr", "text": "d"}]
    refused(stoke(server, "logs", "nope"), 3, "job nope not found")


def test_cancel_prints_the_receipt(server, context, app):
    job = submit(server, context, app, *HANG)
    server.wait_running(job)
    done = stoke(server, "cancel", job)
    assert done.status == 0 and done.err == "", done
    assert re.match("job %s: KILLED in \\d+ ms, asked for by user while RUNNING, stopped by kill\n +0 ms  requested\n" % job, done.out)
    receipt = server.get("/v1/jobs/%s/receipt" % job).json
    assert len(done.out.splitlines()) == 1 + len(receipt["steps"])
    assert stoke(server, "receipt", job).out == done.out and stoke(server, "receipt", "--json", job).objects == [receipt]
    done = stoke(server, "cancel", "--json", job)
    assert done.status == 0 and done.objects == [receipt] and "had ended before: KILLED" in json.loads(done.err)["note"]


def test_cancel_of_what_had_ended(server, context, app):
    job = submit(server, context, app)
    server.wait_job(job, "FINISHED")
    done = stoke(server, "cancel", job)
    assert (done.status, done.out) == (0, "") and "had ended before: FINISHED" in done.err
    refused(stoke(server, "receipt", job), 3, "nobody has asked")
    refused(stoke(server, "cancel", "nope"), 3, "job nope not found")


def test_cancel_that_goes_on(server, context, app):
    job = submit(server, context, app, *HANG)
    server.wait_running(job)
    done = stoke(server, "cancel", "--wait", "0", job)
    assert done.status == 8 and done.err.startswith("stoke: job %s is being cancelled" % job), done
    assert "stoke receipt " + job in done.err
    assert server.wait_job(job)["status"] == "KILLED"


# ---- events, the server


def test_events_that_have_been(server, context, app):
    job = submit(server, context, app)
    server.wait_job(job, "FINISHED")
    done = stoke(server, "events", "--job", job, "--json")
    assert done.status == 0 and [(e["type"], e["job"]) for e in done.objects] == [("job.submitted", job), ("job.ended", job)]
    since = str(done.objects[0]["id"])
    assert stoke(server, "events", "--job", job, "--type", "job.ended", "--json").objects == done.objects[1:]
    assert stoke(server, "events", "--since", since, "--type", "job", "-C", context, "--json").objects[0] == done.objects[1]
    assert done.objects[0] in stoke(server, "events", "--json").objects
    assert stoke(server, "events", "--job", job, "--type", "context").out == ""
    assert re.search("^20[-0-9]+ [0-9:]+  job.ended +%s %s  FINISHED$" % (job, context), stoke(server, "events", "--job", job).out, re.M)
    refused(stoke(server, "events", "--job", "nope"), 3, "job nope not found")
    refused(stoke(server, "events", "-f", "--type", "nope"), 3, "'type'")


def test_status(server):
    done = stoke(server, "status")
    assert done.status == 0 and re.match(r"server +RUNNING, version [0-9.]+, up \d", done.out), done
    assert [line.split()[0] for line in done.out.splitlines()] == ["server", "contexts", "slots", "jobs", "disk"]
    assert stoke(server, "status", "--json").objects[0]["version"] == server.get("/v1/server").json["version"]


def test_colour_is_for_terminals(server, context):
    with Tty(server, "contexts") as tty:
        assert tty.wait().status == 0
        assert "\x1b[36mRUNNING" in tty.raw
    with Tty(server, "contexts", env={"NO_COLOR": "1"}) as tty:
        assert tty.wait().status == 0
        assert "\x1b[3" not in tty.raw and "RUNNING" in tty.raw
    assert "\x1b" not in stoke(server, "contexts").out


# ---- installed


def test_the_launcher_of_the_environment():
    """`make venv` has made it."""
    venv = os.path.dirname(os.path.dirname(os.path.abspath(kit.sys.executable)))
    done = subprocess.run([os.path.join(venv, "bin", "stoke"), "--version"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout.startswith("stoke, version "), done


def test_the_installed_launcher(server, tmp_path):
    """bin/stoke of `make install`, with the environment beside it as the README makes it; without one it says what is missing."""
    env = {k: v for k, v in environment(server).items() if not k.startswith(("MAKE", "MFLAGS")) and k != "PYTHONPATH"}
    prefix = str(tmp_path / "usr")
    subprocess.run(["make", "-s", "-o", "all", "install", "PREFIX=" + prefix], cwd=kit.TOP, env=env, check=True, timeout=120,
                   stdout=subprocess.DEVNULL)
    program = os.path.join(prefix, "bin", "stoke")
    bare = tmp_path / "bare"
    subprocess.run([kit.sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True, timeout=60)
    done = subprocess.run([program, "status"], env={**env, "PATH": "%s/bin:%s" % (bare, env["PATH"])}, capture_output=True, text=True)
    assert done.returncode == 1 and "click is not installed" in done.stderr and "requirements-stoke.txt" in done.stderr, done
    os.symlink(kit.sys.prefix, os.path.join(prefix, "lib", "stoker", "venv"))
    done = subprocess.run([program, "status"], env=env, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.startswith("server"), done
