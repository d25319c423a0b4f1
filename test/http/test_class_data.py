"""When the server starts the maker of class-data archives, and when it ends it. What it makes: test/spark/test_class_data.py."""

import json
import os
import signal
import subprocess

import pytest

from kit import STOKERD, WAIT, wait_for

KEYS = ["%032x" % n for n in range(40)]


def missing(key, wish="make"):
    """The wish of a context whose keeper misses an archive."""
    return {"class_data": json.dumps({"key": key, "settings": {"key": key, "wish": wish}})}


def runs(server, folder="class-data"):
    """The keys that were tried, in order."""
    return [line.split()[0] for line in lines(server, folder)]


def lines(server, folder="class-data"):
    path = server.path(folder, "runs")
    if not os.path.exists(path):
        return []
    with open(path) as f:
        return f.read().splitlines()


def test_made_once(daemon):
    server = daemon().start()
    server.create(wish=missing(KEYS[0]))
    server.wait_log("archive made key=" + KEYS[0])
    for _ in range(3):
        server.create(wish=missing(KEYS[0]))
    server.create(wish=missing(KEYS[1]))
    server.wait_log("archive made key=" + KEYS[1])
    assert runs(server) == KEYS[:2]
    server.stop()
    server.start()
    server.create(wish=missing(KEYS[0]))  # it is there: somebody else has made it since the keeper looked
    server.create(wish=missing(KEYS[2]))
    server.wait_log("archive made key=" + KEYS[2])
    assert runs(server) == KEYS[:3]


@pytest.mark.parametrize("wish, how, why", [("fail", "status 1", "fake: no archive today"), ("crash", "signal 11", "")])
def test_a_failure_is_logged_with_its_cause_and_not_tried_again(daemon, wish, how, why):
    server = daemon().start()
    server.create(wish=missing(KEYS[0], wish))
    server.wait_log('no archive could be made.*key=%s ended="%s" why="?%s"? ' % (KEYS[0], how, why))
    server.create(wish=missing(KEYS[0], wish))
    server.create(wish=missing(KEYS[1]))
    server.wait_log("archive made key=" + KEYS[1])
    assert runs(server) == KEYS[:2]
    server.stop()
    server.start()  # another life, another try
    server.create(wish=missing(KEYS[0]))
    server.wait_log("archive made key=" + KEYS[0])
    assert runs(server) == [KEYS[0], KEYS[1], KEYS[0]]


def test_one_at_a_time(daemon):
    server = daemon().start()
    server.create(wish=missing(KEYS[0], "hang"))
    wait_for(lambda: runs(server) == KEYS[:1], "the first maker")
    server.create(wish=missing(KEYS[1]))
    server.create(wish=missing(KEYS[0]))
    assert runs(server) == KEYS[:1]
    os.kill(int(lines(server)[0].split()[1]), signal.SIGTERM)
    server.wait_log("archive made key=" + KEYS[1])
    assert runs(server) == KEYS[:2]


@pytest.mark.parametrize("wish", ["hang", "deaf"])
def test_it_ends_with_the_server_and_is_begun_again_by_the_next(daemon, wish):
    server = daemon().start()
    server.create(wish=missing(KEYS[0], wish))
    wait_for(lambda: os.path.exists(server.path("class-data", "sleeps")), "the maker at work")
    assert server.stop() == 0
    assert server.pids() == []
    assert "no archive could be made" not in server.log()
    server.start()
    server.create(wish=missing(KEYS[0]))
    server.wait_log("archive made key=" + KEYS[0])
    assert runs(server) == [KEYS[0]] * 2


def test_a_context_that_is_adopted_asks_again(daemon):
    server = daemon().start()
    server.create(wish=missing(KEYS[0], "fail"))
    server.wait_log("no archive could be made")
    server.restart()
    wait_for(lambda: runs(server) == [KEYS[0]] * 2, "a second try")


def test_a_limit_on_keys(daemon):
    server = daemon(max_contexts=40).start()
    for n in range(18):
        server.create(wish=missing(KEYS[n]))
        if n < 16:
            server.wait_log("archive made key=" + KEYS[n])
    assert runs(server) == KEYS[:16]


@pytest.mark.parametrize("wish", [
    {"key": "../../outside", "settings": {"key": "x", "wish": "make"}},
    {"key": KEYS[0][:-1] + "X", "settings": {"key": "x", "wish": "make"}},
    {"key": KEYS[0], "settings": "text"},
    {"key": 7},
    "text",
])
def test_nonsense_is_ignored(daemon, wish):
    server = daemon().start()
    server.create(wish={"class_data": json.dumps(wish)})
    server.create(wish=missing(KEYS[1]))
    server.wait_log("archive made key=" + KEYS[1])
    assert len(runs(server)) == 1


def test_off(daemon):
    server = daemon(class_data_archive=False).start()
    server.create(wish=missing(KEYS[0]))
    assert server.run(server.create(), server.upload()).status == 200
    assert not os.path.exists(server.path("class-data")) and "class-data" not in server.log()


def test_a_folder_of_its_own(daemon, tmp_path):
    server = daemon(class_data_dir=str(tmp_path / "elsewhere")).start()
    server.create(wish=missing(KEYS[0]))
    server.wait_log("archive made key=" + KEYS[0])
    assert (tmp_path / "elsewhere" / (KEYS[0] + ".json")).exists()
    assert not os.path.exists(server.path("class-data"))


def test_a_folder_that_cannot_be(daemon, tmp_path):
    (tmp_path / "file").touch()
    for folder, why in ((tmp_path / "no" / "where", "No such file or directory"), (tmp_path / "file", "is no folder")):
        server = daemon(class_data_dir=str(folder))
        done = subprocess.run([STOKERD, "--config", server.config_path], capture_output=True, text=True, timeout=WAIT)
        assert done.returncode == 1 and why in done.stderr and str(folder) in done.stderr
