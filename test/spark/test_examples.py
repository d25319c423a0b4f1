"""Each example's README, line by line as a reader would do it, against a server of the test's own."""
import json
import os
import re
import subprocess

import pytest
from server import ROOT, Stoker


@pytest.fixture(scope="module")
def stoker(tmp_path_factory):
    """With the context that all READMEs use; that of the word count makes it."""
    with Stoker(tmp_path_factory.mktemp("examples")) as stoker:
        assert set(run_readme(stoker, "wordcount")) == {"pack", "upload", "context", "job"}
        yield stoker


def blocks(name):
    """The indented blocks of an example's README."""
    with open(os.path.join(ROOT, "examples", name, "README.md")) as f:
        parts = re.split(r"((?:^ {4}.*\n|^\n(?= {4}))+)", f.read(), flags=re.MULTILINE)
    return [re.sub(r"^ {4}", "", block, flags=re.MULTILINE).strip() for block in parts[1::2]]


def commands(block):
    """The commands of a block, continued lines joined."""
    return re.sub(r"\\\n\s*", "", block).strip().splitlines()


def shell(stoker, command, **values):
    """Runs a command of a README, with this server's address and its folder in place of build/. Its output."""
    command = command.replace("localhost:8090", stoker.address).replace("build/", stoker.folder + "/")
    for key, value in values.items():
        command = command.replace("<%s>" % key, value)
    done = subprocess.run(["bash", "-c", command.replace("curl ", "curl -sS ")], cwd=ROOT, capture_output=True,
                          text=True, timeout=120)
    assert done.returncode == 0 and not done.stderr, done
    return done.stdout


def kind(command):
    """What a command of a README does."""
    for name, mark in (("pack", "pack.py"), ("upload", "/binaries/"), ("context", "/contexts/"), ("job", "/jobs?")):
        if mark in command:
            return name
    raise AssertionError("an unknown command: " + command)


def run_readme(stoker, name):
    """Runs the blocks that begin the README of an example: {kind of command: what it printed}."""
    printed = {}
    for block in blocks(name):
        lines = [line for line in commands(block) if line.startswith(("python3 ", "curl "))]
        for line in lines:
            if "<jobId>" in line or "sync=true" not in line and kind(line) == "job":
                break
            printed[kind(line)] = shell(stoker, line)
    return printed


def promised(name):
    """The result that a README shows."""
    shown = [block for block in blocks(name) if block.startswith('{"jobId"')]
    assert len(shown) == 1
    return json.loads(shown[0])["result"]


def test_word_count(stoker):
    printed = run_readme(stoker, "wordcount")
    assert json.loads(printed["upload"]) == {"status": "SUCCESS"}
    assert json.loads(printed["context"]) == {"status": "ERROR", "result": "context py exists"}  # since the fixture
    assert json.loads(printed["job"])["result"] == promised("wordcount") == {"a": 2, "b": 1}


def test_averages(stoker):
    printed = run_readme(stoker, "sql_average")
    assert json.loads(printed["upload"]) == {"status": "SUCCESS"}
    assert json.loads(printed["job"])["result"] == promised("sql_average") == [[20, 1250.0], [21, 1500.0]]


def test_pi(stoker):
    result = json.loads(run_readme(stoker, "pi")["job"])["result"]
    assert result["points"] == 10_000_000 and 3.14 < result["pi"] < 3.143


def test_cancel_of_pi(stoker):
    run_readme(stoker, "pi")
    start, look, cancel = commands(blocks("pi")[-1])
    job = json.loads(shell(stoker, start))["jobId"]
    assert json.loads(shell(stoker, look, jobId=job))["status"] == "RUNNING"
    assert json.loads(shell(stoker, cancel, jobId=job)) == {"status": "KILLED"}
    assert json.loads(shell(stoker, look, jobId=job))["status"] == "KILLED"


def test_examples_refuse_what_they_cannot_do(stoker):
    for name, app in (("jobs.WordCount", "wordcount"), ("averages.SQLAverage", "averages")):
        reply = stoker.run(name, app=app)
        assert (reply.status, reply.body["status"]) == (400, "VALIDATION FAILED")
        assert "not found" in reply.body["result"]["message"]


def test_every_example_is_tested():
    folder = os.path.join(ROOT, "examples")
    assert {name for name in os.listdir(folder) if os.path.isdir(os.path.join(folder, name))} - {"__pycache__"} == {
        "pi", "sql_average", "wordcount"}
