"""What the keeper makes of a worker's end, without a JVM: a set whose Spark jobs may go on stays in use."""
import threading

import pytest

from stoker_runner import gateways, jvm
from stoker_runner.gateways import Calls, Cancelled, Gateways


class Nothing(dict):
    """A shared map without anything in it."""

    def remove(self, key):
        return None


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
    keeper._jvm, keeper._servers, keeper._sets = None, {}, Sets()
    keeper._lock, keeper._sets_lock, keeper._remover = threading.Lock(), threading.Lock(), None
    monkeypatch.setattr(jvm, "shared_map", lambda *_: Nothing())
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
    assert keeper._sets.gone.wait(30)
    keeper._sets.gone.clear()
    with keeper._sets_lock:
        assert keeper._remover is None
    keeper._sets.removals = [None]
    keeper.gone("w-2")
    assert keeper._sets.gone.wait(30)


def test_a_call_that_no_interrupt_ends_is_given_up(monkeypatch):
    monkeypatch.setattr(gateways, "CALL_SECONDS", -1)
    calls = Calls(object())
    calls._executing = lambda: []
    assert calls.over() and not calls.given_up
    calls._executing = lambda: [threading.current_thread()]
    assert calls.over() and calls.given_up
    assert calls.over() and calls.given_up
