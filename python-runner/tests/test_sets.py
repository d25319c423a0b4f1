"""Uses of binary sets: who takes part in one, and when it ends. The JVM's map is a dict here; Spark is not needed."""
import pytest

from stoker_runner import sets
from stoker_runner.sets import Sets, join


class Map(dict):
    """What is called of java.util.concurrent.ConcurrentHashMap."""

    def putIfAbsent(self, key, value):
        return None if self.setdefault(key, value) == value else self[key]

    def replace(self, key, old, new):
        if self.get(key) != old:
            return False
        self[key] = new
        return True

    def remove(self, key, old):
        if self.get(key) != old:
            return False
        del self[key]
        return True

    def keySet(self):
        return self.keys()


@pytest.fixture
def keeper():
    """A Sets without a JVM; what it ends is in `ended`."""
    keeper = Sets.__new__(Sets)
    keeper._sets, keeper._places, keeper._places_return = Map(), Map(), True
    keeper._idle, keeper._removals, keeper.ended = [], [], []
    keeper._end_use = lambda binary_set, use: keeper.ended.append((binary_set, use, dict(keeper._places)))
    keeper.join = lambda binary_set, worker: join(keeper._sets, keeper._places, binary_set, worker)
    return keeper


def test_workers_of_a_set_share_a_use(keeper):
    assert [keeper.join("a", "w-1"), keeper.join("b", "w-2"), keeper.join("a", "w-3")] == [
        "w-1.0", "w-2.1", "w-1.0"]
    assert keeper._sets == {"a": "w-1.0 w-1 w-3", "b": "w-2.1 w-2"}
    assert keeper._places == {"0": "w-1", "1": "w-2"}


def test_a_use_ends_when_enough_others_are_idle_after_it(keeper):
    for n in range(sets.LINGER + 2):
        keeper.join("set%d" % n, "w-%d" % n)
    for n in range(sets.LINGER):
        keeper.leave("w-%d" % n, False)
    assert keeper.ended == []
    keeper.leave("w-%d" % sets.LINGER, False)
    (*ended, places), = keeper.ended
    assert ended == ["set0", "w-0.0"] and "set0" not in keeper._sets
    assert places["0"] == "w-0", "the place was free before the use had ended"
    assert keeper.join("set0", "w-9") == "w-9.0"     # another use: what belonged to the first can go
    assert keeper.join("other", "w-8") == "w-8.%d" % (sets.LINGER + 2)


def test_an_idle_use_that_gets_a_worker_goes_on(keeper):
    keeper.join("a", "w-1")
    keeper.leave("w-1", False)
    assert keeper._sets == {"a": "w-1.0 (idle)"}
    assert keeper.join("a", "w-2") == "w-1.0"
    for n in range(sets.LINGER + 1):
        keeper.join("other%d" % n, "x-%d" % n)
        keeper.leave("x-%d" % n, False)
    assert "a" not in [binary_set for binary_set, *_ in keeper.ended]
    keeper.leave("w-2", False)                              # now it is the youngest of the idle ones
    assert keeper._sets["a"] == "w-1.0 (idle)"


def test_a_use_that_something_needs_never_ends(keeper):
    for worker in ("w-1", "w-2"):
        keeper.join("a", worker)
    keeper.leave("w-1", True)
    keeper.leave("w-2", False)
    for n in range(sets.LINGER + 3):
        keeper.join("other%d" % n, "x-%d" % n)
        keeper.leave("x-%d" % n, False)
    assert keeper._sets["a"] == "w-1.0 (kept)"
    assert len(keeper.ended) == 3


def test_the_end_of_a_worker_that_is_bound_to_nothing(keeper):
    keeper.join("a", "w-1")
    keeper.leave("w-2", False)
    assert keeper._sets == {"a": "w-1.0 w-1"} and keeper.ended == []


def test_a_change_in_between_is_not_lost(keeper):
    """Another worker joins just when the keeper has looked."""
    keeper.join("a", "w-1")
    look = keeper._sets.get

    def get(key):
        value = look(key)
        keeper._sets.get = look
        keeper.join("a", "w-2")
        return value
    keeper._sets.get = get
    keeper.leave("w-1", False)
    assert keeper._sets == {"a": "w-1.0 w-2"}


def test_of_two_that_begin_a_use_at_once_one_keeps_its_place(keeper):
    put = keeper._sets.putIfAbsent

    def put_second(key, value):
        keeper._sets.putIfAbsent = put
        assert keeper.join("a", "w-2") == "w-2.1"
        return put(key, value)
    keeper._sets.putIfAbsent = put_second
    assert keeper.join("a", "w-1") == "w-2.1"
    assert keeper._places == {"1": "w-2"}


def test_the_place_of_a_worker_that_died_before_its_use_began(keeper):
    keeper.join("a", "w-1")
    keeper._places.putIfAbsent("1", "w-2")
    keeper.leave("w-2", False)
    assert keeper._places == {"0": "w-1"}


def test_places_are_not_given_again_where_nobody_would_notice(keeper):
    """With a daemon module of the user's own."""
    keeper._places_return = False
    for n in range(sets.LINGER + 3):
        assert keeper.join("set%d" % n, "w-%d" % n) == "w-%d.%d" % (n, n)
        keeper.leave("w-%d" % n, False)
    assert len(keeper.ended) == 3
