"""The pair of log files of a worker: who gets it, and when."""
import os
import threading

from stoker_runner import logs


def test_a_pair_is_at_its_place_for_whoever_gives_it(tmp_path, monkeypatch):
    """The thread that watches a job gives up on it just when the main thread ends it."""
    pair = logs.LogPair(str(tmp_path), "w-1")
    for name in logs.NAMES:
        (tmp_path / "logs" / ("w-1." + name)).write_text(name)
    rename, found = os.rename, []

    def give():
        pair.give("a", 1)
        found.append(sorted(os.listdir(tmp_path / "logs")))

    other = threading.Thread(target=give)

    def rename_late(*paths):
        if not other.ident:
            other.start()
            other.join(0.2)
        rename(*paths)

    monkeypatch.setattr(os, "rename", rename_late)
    give()
    other.join(60)
    assert found == [["a.1.stderr", "a.1.stdout"]] * 2
