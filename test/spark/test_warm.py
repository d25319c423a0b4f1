"""Contexts kept warm, on real Spark: a create has one at once, with its own name and settings."""
import time

from server import COUNTS, STRINGS, wait_until

STOKER = {"warm_contexts": 1}


def kept(stoker):
    """Ids of the nameless contexts that are up."""
    return [row[0] for row in stoker.rows("SELECT id FROM contexts WHERE name = '' AND state = 1")]


def test_a_create_has_a_warm_context_at_once(stoker):
    (warm,) = wait_until(lambda: kept(stoker), "a warm context")
    began = time.monotonic()
    reply = stoker.request("POST", "/contexts/c")
    print("create from a warm context: %.3f s" % (time.monotonic() - began))
    assert reply.status == 200, reply
    context = stoker.context("c")
    assert context["id"] == warm and context["name"] == "c"
    assert stoker.value("stoker_jobs.word_count.SessionCount", STRINGS, context="c") == COUNTS
    (other,) = wait_until(lambda: kept(stoker), "another warm context")
    assert other != warm
    stoker.delete_context("c")
