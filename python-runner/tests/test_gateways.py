"""What the keeper makes of a worker's end, without a JVM: a set whose Spark jobs may go on stays in use."""
import threading
from collections import defaultdict

import pytest

from stoker_runner import gateways, jvm
from stoker_runner.gateways import Calls, Cancelled, Gateways


class Map(dict):
    """A shared map."""

    def remove(self, key):
        return self.pop(key, None)

    def toString(self):
        return "{%s}" % ", ".join("%s=%s" % item for item in self.items())


class Objects:
    """Named objects that need these workers."""

    def __init__(self):
        self.needs = set()

    def needed(self):
        return self.needs


class Sets:
    """removals: what the next calls of remove_files() raise, None for nothing; then all files are gone."""

    def __init__(self):
        self.left, self.removals, self.gone = [], [], threading.Event()

    def leave(self, worker, kept):
        self.left.append((worker, kept))

    def next_removal(self):
        return 0 if self.removals else None

    def remove_files(self):
        error = self.removals.pop(0)
        if not self.removals:
            self.gone.set()
        if error:
            raise error


@pytest.fixture
def keeper(monkeypatch):
    keeper = Gateways.__new__(Gateways)
    keeper._jvm, keeper._servers, keeper._sets, keeper.objects = None, {}, Sets(), Objects()
    keeper._lock, keeper._sets_lock, keeper._remover = threading.Lock(), threading.Lock(), None
    keeper._leaving, keeper._left, keeper._kept = set(), {}, False
    keeper.maps = defaultdict(Map)
    keeper._news = keeper.maps[jvm.NEWS]
    monkeypatch.setattr(jvm, "shared_map", lambda _, key: keeper.maps[key])
    monkeypatch.setattr(gateways, "GONE_SECONDS", 0)
    return keeper


def broken(*_):
    raise OSError("the JVM does not answer")


def gives_up(tag, deadline, calls):
    calls.given_up = True
    return Cancelled()


@pytest.mark.parametrize("clear, kept", [(lambda *_: Cancelled(), False), (lambda *_: None, True), (gives_up, True),
                                         (broken, True)], ids=["cleared", "jobs left", "call left", "no answer"])
def test_a_set_is_in_use_while_something_of_a_dead_worker_may_run(keeper, clear, kept, capsys):
    keeper._clear = clear
    keeper.gone("w-1")
    assert keeper._sets.left == [("w-1", kept)]


def test_files_of_uses_that_have_ended_go_without_another_end(keeper):
    """Also when the JVM was busy once, or Spark jobs had to end first."""
    keeper._clear = lambda *_: Cancelled()
    keeper._sets.removals = [OSError("busy"), None, None]
    keeper.gone("w-1")
    assert keeper._sets.gone.wait(60)
    keeper._sets.gone.clear()
    with keeper._sets_lock:
        assert keeper._remover is None
    keeper._sets.removals = [None]
    keeper.gone("w-2")
    assert keeper._sets.gone.wait(60)


def test_a_worker_whose_end_is_told_twice_at_once_leaves_once(keeper):
    """A server that comes back tells again of workers that it does not know; what one has left in the session stays kept."""
    clearing, go = threading.Barrier(2), threading.Event()

    def clear(*_):
        clearing.wait(60)
        assert go.wait(60)
        return Cancelled()

    keeper._clear = clear
    keeper.maps[jvm.KEPT]["w-1"] = "w-1"
    keeper.maps[jvm.TEMP_DIRS]["w-1"] = "/a/folder/that/stays"
    first = threading.Thread(target=keeper.gone, args=("w-1",))
    first.start()
    clearing.wait(60)
    keeper._clear = lambda *_: Cancelled()
    keeper.gone("w-1")
    assert keeper._sets.left == []
    go.set()
    first.join(60)
    assert keeper._sets.left == [("w-1", True)] and keeper.keeps()
    keeper.gone("w-1")
    assert set(keeper._sets.left) == {("w-1", True)}


def test_a_worker_leaves_when_nothing_needs_it_any_more(keeper):
    keeper._clear = lambda *_: Cancelled()
    keeper.objects.needs = {"w-1", "w-2"}
    keeper.maps[jvm.BORROWED].update({"w-3": "w-1"})
    for worker in ("w-1", "w-2", "w-4"):
        keeper.gone(worker)
    assert keeper._sets.left == [("w-4", False)] and keeper.keeps()
    keeper.gone("w-2")
    assert not keeper.dropped()
    keeper.objects.needs = {"w-2"}
    keeper._news[jvm.DROPPED] = True
    assert keeper.dropped() and not keeper.dropped()
    keeper.tidy()
    assert keeper._sets.left == [("w-4", False)], "w-3 has read what w-1 has made"
    keeper.gone("w-3")
    assert keeper._sets.left[1:] == [("w-1", False), ("w-3", False)]
    keeper.objects.needs = set()
    keeper.tidy()
    assert keeper._sets.left[3:] == [("w-2", False)]
    assert not keeper._left and not keeper.keeps()


def test_a_worker_that_borrows_what_is_dropped_just_then_needs_it(keeper):
    keeper._clear = lambda *_: Cancelled()

    def dropped():
        keeper.maps[jvm.BORROWED]["w-2"] = "w-1"
        return set()

    keeper.objects.needed = dropped
    keeper.gone("w-1")
    assert keeper._sets.left == [] and keeper.keeps()


def test_a_jvm_that_does_not_answer_when_a_worker_leaves(keeper):
    """What was not done then is done when the next one leaves."""
    keeper._clear = lambda *_: Cancelled()
    keeper.objects.needed = broken
    with pytest.raises(OSError):
        keeper.gone("w-1")
    keeper.objects.needed = set
    keeper.gone("w-2")
    assert sorted(keeper._sets.left) == [("w-1", False), ("w-2", False)]


def test_a_call_that_no_interrupt_ends_is_given_up(monkeypatch):
    monkeypatch.setattr(gateways, "CALL_SECONDS", -1)
    calls = Calls(object())
    calls._executing = lambda: []
    assert calls.over() and not calls.given_up
    calls._executing = lambda: [threading.current_thread()]
    assert calls.over() and calls.given_up
    assert calls.over() and calls.given_up
