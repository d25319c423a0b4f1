"""stoke against real Spark: upload, run, logs, and the cancel of a long job."""
import json
import os
import re
import subprocess
import sys

import pytest
from server import JOBS, ROOT, Stoker, line_of, wait_until

PROGRAM = [sys.executable, os.path.join(ROOT, "python-runner", "stoke")]
JOB, WATCHED = "watched.Rounds", "watched/watched.py"


class Started(subprocess.Popen):
    """A stoke that goes on; its output lies in files, so that it never waits for us."""

    def __init__(self, args, folder, **kw):
        self._out, self._err = folder / "out", folder / "err"
        with open(self._out, "wb") as out, open(self._err, "wb") as err:
            super().__init__(args, stdout=out, stderr=err, **kw)

    @property
    def out(self):
        return self._out.read_text()

    @property
    def err(self):
        return self._err.read_text()


@pytest.fixture(scope="module")
def stoke(tmp_path_factory):
    """A function that runs stoke to its end: CompletedProcess. start=True: that starts it, Started."""
    with Stoker(tmp_path_factory.mktemp("stoke")) as stoker:
        def run(*args, start=False):
            kw = dict(env=dict(os.environ, STOKER_URL="http://" + stoker.address), text=True, stdin=subprocess.DEVNULL)
            if start:
                return Started([*PROGRAM, *args], tmp_path_factory.mktemp("started"), **kw)
            return subprocess.run([*PROGRAM, *args], capture_output=True, timeout=120, **kw)

        done = run("contexts", "create", "py")
        assert (done.returncode, done.stdout) == (0, "py RUNNING\n"), done
        done = run("upload", "watched", os.path.join(JOBS, "watched"))
        assert done.returncode == 0 and done.stdout.startswith("watched version 1: zip, "), done
        yield run


def test_run_and_logs(stoke):
    done = stoke("run", "watched", JOB, "-c", "rounds=2", "-c", "points=1000")
    *lines, result = done.stdout.splitlines()
    assert done.returncode == 0 and [line[:15] for line in lines] == ["round 1 of 2: p", "round 2 of 2: p"], done
    assert json.loads(result)["rounds"] == 2 and "that is as near as it gets\n" in done.stderr
    job = re.match(r"stoke: job (\S+) in context py\n", done.stderr)[1]
    done = stoke("logs", job)
    assert (done.returncode, done.stdout.splitlines(), done.stderr) == (0, lines, "that is as near as it gets\n")
    assert stoke("result", job).stdout == result + "\n"
    (shown,) = (json.loads(line) for line in stoke("ps", "--json").stdout.splitlines())
    assert (shown["id"], shown["state"]) == (job, "FINISHED")


def test_a_job_that_fails(stoke):
    done = stoke("run", "watched", JOB, "-c", "rounds=1", "-c", "points=0")
    line = line_of(WATCHED, "print('round")
    assert done.returncode == 1 and done.stdout == "" and "ZeroDivisionError" in done.stderr, done
    assert "\n  at watched.py:%d: print('round" % line in done.stderr


def test_a_long_job_is_cancelled(stoke):
    """The one who runs it sees its log while it runs, and its end; the one who cancels it sees the receipt."""
    with stoke("run", "watched", JOB, "-c", "rounds=100000", start=True) as running:
        wait_until(lambda: "\n" in running.out, "the first line")
        assert running.out.startswith("round 1 of 100000: pi is about 3."), running.out
        (job,) = (json.loads(line)["id"] for line in stoke("ps", "-a", "--json").stdout.splitlines())
        followed = stoke("logs", "-f", "--tail", "0", job, start=True)
        wait_until(lambda: "\n" in followed.out, "a line to its follower")
        assert followed.out.startswith("round ")
        done = stoke("cancel", job)
        assert done.returncode == 0 and done.stderr == "", done
        assert re.match(r"job %s: KILLED in \d+ ms, asked for by user while RUNNING, stopped by " % job, done.stdout), done
        assert re.search(r"^ +\d+ ms  spark confirmed \(", done.stdout, re.M)
        assert running.wait(60) == 5 and "job %s ended as KILLED" % job in running.err, running.err
        assert followed.wait(60) == 5
    assert stoke("logs", job).stdout == running.out
    wait_until(lambda: stoke("ps", "-a").stdout.count("\n") == 1, "no job that runs")
