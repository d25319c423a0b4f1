"""Threads that a job starts with _thread: counted from their start to their end."""

import _thread
import threading

import pytest

from stoker_runner.restore import BareThreads


@pytest.fixture
def bare():
    before = _thread.start_new_thread
    yield BareThreads()
    _thread.start_new_thread = _thread.start_new = before


def test_a_thread_is_left_until_it_ends(bare):
    go_on, got = threading.Event(), []

    def wait(*args, **kwargs):
        go_on.wait()
        got.append((args, kwargs))

    assert bare.left() == []
    _thread.start_new_thread(wait, (1,), {'two': 2})
    assert bare.left() == ['one of _thread']
    go_on.set()
    assert bare.left() == []
    assert got == [((1,), {'two': 2})]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_one_that_fails_or_cannot_start_is_not_left(bare):
    _thread.start_new_thread(divmod, (1, 0))
    for wrong in ((None, ()), (print, [])):
        with pytest.raises(TypeError):
            _thread.start_new_thread(*wrong)
    assert bare.left() == []


def test_threads_of_threading_are_not_counted(bare):
    go_on = threading.Event()
    thread = threading.Thread(target=go_on.wait)
    thread.start()
    assert bare.left() == []
    go_on.set()
    thread.join()
