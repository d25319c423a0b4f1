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
    keeper._sets, keeper._idle, keeper._removals, keeper.ended = Map(), [], [], []
    keeper._end_use = lambda binary_set, use: keeper.ended.append((binary_set, use))
    return keeper


def test_workers_of_a_set_share_a_use(keeper):
    assert [join(keeper._sets, "a", "w-1"), join(keeper._sets, "b", "w-2"), join(keeper._sets, "a", "w-3")] == [
        "w-1", "w-2", "w-1"]
    assert keeper._sets == {"a": "w-1 w-1 w-3", "b": "w-2 w-2"}


def test_a_use_ends_when_enough_others_are_idle_after_it(keeper):
    for n in range(sets.LINGER + 2):
        join(keeper._sets, "set%d" % n, "w-%d" % n)
    for n in range(sets.LINGER):
        keeper.leave("w-%d" % n, False)
    assert keeper.ended == []
    keeper.leave("w-%d" % sets.LINGER, False)
    assert keeper.ended == [("set0", "w-0")] and "set0" not in keeper._sets
    assert join(keeper._sets, "set0", "w-9") == "w-9"       # another use: what belonged to the first can go


def test_an_idle_use_that_gets_a_worker_goes_on(keeper):
    join(keeper._sets, "a", "w-1")
    keeper.leave("w-1", False)
    assert keeper._sets == {"a": "w-1 (idle)"}
    assert join(keeper._sets, "a", "w-2") == "w-1"
    for n in range(sets.LINGER + 1):
        join(keeper._sets, "other%d" % n, "x-%d" % n)
        keeper.leave("x-%d" % n, False)
    assert ("a", "w-1") not in keeper.ended
    keeper.leave("w-2", False)                              # now it is the youngest of the idle ones
    assert keeper._sets["a"] == "w-1 (idle)"


def test_a_use_that_something_needs_never_ends(keeper):
    for worker in ("w-1", "w-2"):
        join(keeper._sets, "a", worker)
    keeper.leave("w-1", True)
    keeper.leave("w-2", False)
    for n in range(sets.LINGER + 3):
        join(keeper._sets, "other%d" % n, "x-%d" % n)
        keeper.leave("x-%d" % n, False)
    assert keeper._sets["a"] == "w-1 (kept)"
    assert len(keeper.ended) == 3


def test_the_end_of_a_worker_that_is_bound_to_nothing(keeper):
    join(keeper._sets, "a", "w-1")
    keeper.leave("w-2", False)
    assert keeper._sets == {"a": "w-1 w-1"} and keeper.ended == []


def test_a_change_in_between_is_not_lost(keeper):
    """Another worker joins just when the keeper has looked."""
    join(keeper._sets, "a", "w-1")
    look = keeper._sets.get

    def get(key):
        value = look(key)
        keeper._sets.get = look
        join(keeper._sets, "a", "w-2")
        return value
    keeper._sets.get = get
    keeper.leave("w-1", False)
    assert keeper._sets == {"a": "w-1 w-2"}
