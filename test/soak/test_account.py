"""The account sees what it is there to see: each fault is made up here once, and so is each thing that is none."""
import pytest

from account import Chaos, Deeds, Order, excuse, read, settle, settle_contexts

JOB, CONTEXT = "job-1", "context-1"


def order(**kw):
    return Order(**dict(dict(token="t", kind="sleeps", context="c", natural="FINISHED", expected=None, job=JOB), **kw))


def row(state="FINISHED", code=None, **kw):
    found = {"id": JOB, "state": state, "context_id": CONTEXT, "attempt": 1, "has_receipt": True, "started": 100.0,
             "ended": 110.0, "process": {"pid": 7}, "error": {"code": code, "message": "why"} if code else None}
    if state == "FINISHED":
        found.update(result={"token": "t", "version": 0, "value": None}, version=0)
    return dict(found, **kw)


def once(ends=1, last=105.0):
    return Deeds(["t"], ends, last)


def faults(order=None, row=None, deed=None, chaos=None):
    jobs, deeds = {JOB: row} if row else {}, {JOB: deed} if deed else {}
    return [text for _, text in settle([order] if order else [], jobs, deeds, chaos or Chaos()).faults]


@pytest.mark.parametrize("args", [
    (order(), row(), once()),
    (order(expected=lambda value, version: value is None and version == 0), row(), once()),
    (order(natural="USER_EXCEPTION"), row("ERROR", "USER_EXCEPTION", error={"code": "USER_EXCEPTION", "message": "t"}),
     once(0)),
    (order(natural="INVALID"), row("INVALID", "VALIDATION_FAILED"), once(0)),
    (order(natural="SIGNALLED"), row("ERROR", "SIGNALLED"), once(0)),
    (order(delete_sent=True), row("KILLED", "KILLED"), once(0)),
    (order(delete_sent=True), row("KILLED", "KILLED"), None),
    (order(delete_sent=True), row(), once()),
    (order(run_timeout=10), row("TIMED_OUT", "RUN_TIMEOUT"), once(0)),
    (order(queue_timeout=1), row("TIMED_OUT", "QUEUE_TIMEOUT"), None),
    (order(), row("ERROR", "SIGNALLED"), once(0), Chaos(pids={7})),
    (order(), row("ERROR", "CONTEXT_LOST"), once(0), Chaos(hit={CONTEXT})),
    (order(), row("ERROR", "CONTEXT_LOST"), None, Chaos(deleted={CONTEXT})),
    (order(), row("ERROR", "CONTEXT_STOPPED"), None, Chaos(deleted={CONTEXT})),
    (order(), row("ERROR", "SERVER_STOPPED"), once(0), Chaos(sigterms=1)),
    (order(), row("ERROR", error={"code": "EXECUTOR_LOST", "raised_by": "run_job"}), once(0), Chaos(hit={CONTEXT})),
    (order(), row("LOST", "LOST"), once(0), Chaos(workers_hit={CONTEXT})),
    (order(natural=""), row(), once(), Chaos(hit={CONTEXT})),
    (order(job=None, refused="503"), None, None),
])
def test_what_is_in_order(args):
    assert faults(*args) == []


@pytest.mark.parametrize("args, text", [
    ((order(), None, once()), "does not know it"),
    ((order(), None, None), "does not know it"),
    ((None, row(), once()), "no client has asked for it"),
    ((order(job=None, refused="404"), row(), once()), "no client has asked for it"),
    ((order(), row(), Deeds(["t", "t"], 2, 105.0)), "began 2 times"),
    ((order(), row("ERROR", "SIGNALLED"), Deeds(["t", "t"], 0, 105.0), Chaos(pids={7})), "began 2 times"),
    ((order(), row(), Deeds(["other"], 1, 105.0)), "is the job of t"),
    ((order(), row("RUNNING"), once()), "is still RUNNING"),
    ((order(), row(), once(0)), "1 begins and 0 ends"),
    ((order(), row(), None), "0 begins and 0 ends"),
    ((order(natural="USER_EXCEPTION"), row(), once()), "should end with USER_EXCEPTION"),
    ((order(natural="USER_EXCEPTION"), row(), once(), Chaos(hit={CONTEXT})), "should end with USER_EXCEPTION"),
    ((order(natural=""), row(), once()), "should end with nothing of its own"),
    ((order(), row(result={"token": "other"}), once()), "result of another"),
    ((order(expected=1), row(result={"token": "t", "version": 0, "value": 2}), once()), "wrong result"),
    ((order(), row(version=3), once()), "ran version 0 of its binary, not 3"),
    ((order(told={"KILLED"}), row(), once()), "a client was told"),
    ((order(delete_said_killed=True, delete_sent=True), row(), once()), "DELETE was answered KILLED"),
    ((order(), row("KILLED", "KILLED"), once(0)), "nobody asked for it"),
    ((order(delete_sent=True), row("KILLED", "KILLED", has_receipt=False), once(0)), "without a receipt"),
    ((order(delete_sent=True), row("KILLED", "KILLED"), once(0, last=110.5)), "still ran 0.500 s after"),
    ((order(), row("TIMED_OUT", "RUN_TIMEOUT"), once(0)), "without a limit"),
    ((order(run_timeout=11), row("TIMED_OUT", "RUN_TIMEOUT"), once(0)), "after 10.000 s of 11.000"),
    ((order(), row("TIMED_OUT", "QUEUE_TIMEOUT"), None), "without a limit"),
    ((order(queue_timeout=1), row("TIMED_OUT", "QUEUE_TIMEOUT"), once(0)), "but it ran"),
    ((order(), row("TIMED_OUT", "KILLED"), None), "with the code KILLED"),
    ((order(), row("ERROR", "SIGNALLED"), once(0)), "without a cause"),
    ((order(), row("ERROR", "CONTEXT_LOST"), once(0), Chaos(pids={7}, workers_hit={CONTEXT})), "without a cause"),
    ((order(), row("ERROR", "CONTEXT_STOPPED"), once(0)), "without a cause"),
    ((order(), row("ERROR", "SERVER_STOPPED"), once(0)), "without a cause"),
    ((order(), row("ERROR", "USER_EXCEPTION"), once(0)), "without a cause"),
    ((order(natural="USER_EXCEPTION"), row("ERROR", "USER_EXCEPTION"), once(0)), "wrong error"),
    ((order(natural="INVALID"), row("INVALID", "VALIDATION_FAILED"), None), "0 begins"),
    ((order(), row("LOST", "LOST"), once(0)), "none of its processes was killed"),
    ((order(), row("LOST"), once(0), Chaos(hit={CONTEXT})), "without a cause"),
])
def test_what_is_a_fault(args, text):
    found = faults(*args)
    assert any(text in each for each in found), found


def test_two_orders_with_one_id():
    settled = settle([order(), order(token="u")], {JOB: row()}, {JOB: once()}, Chaos())
    assert any("two orders have this id" in text for _, text in settled.faults)


def test_counts():
    orders = [order(), order(token="u", job="job-2"), order(token="v", job=None, refused="503"),
              order(token="w", job=None)]
    jobs = {JOB: row(), "job-2": row("ERROR", "SIGNALLED", id="job-2")}
    counts = settle(orders, jobs, {JOB: once(), "job-2": Deeds(["u"], 0, 1.0)}, Chaos(pids={7})).counts
    assert (counts["accepted"], counts["refused"], counts["unknown"]) == (2, 1, 1)
    assert (counts["FINISHED"], counts["ERROR"], counts["ERROR SIGNALLED"]) == (1, 1, 1)
    assert (counts["run twice"], counts["unaccounted"]) == (0, 0)


@pytest.mark.parametrize("state, error, chaos, faulty", [
    ("STOPPED", None, Chaos(), False), ("RUNNING", None, Chaos(), False), ("LOST", "why", Chaos(hit={"c"}), False),
    ("LOST", "why", Chaos(workers_hit={"c"}), True), ("FAILED", "why", Chaos(), True),
    ("LOST", None, Chaos(hit={"c"}), True),
])
def test_contexts(state, error, chaos, faulty):
    settled = settle([], {}, {}, Chaos())
    settle_contexts(settled, [("c", "name", state, error)], chaos)
    assert bool(settled.faults) == faulty


def test_workers_that_were_killed_before_they_were_attached():
    chaos = Chaos(workers_hit={"a", "b"})
    end = "workers of the context end before they are attached"
    excuse([("a", "name", "FAILED", end), ("b", "name", "FAILED", "why"), ("c", "name", "FAILED", end)], chaos)
    assert chaos.hit == {"a"}


def test_account_file(tmp_path):
    path = tmp_path / "account"
    path.write_text("begin j t 1.5 10\nbeat j t 2.5 11\nchild j t 2.0 10 99 12345\nend j t 2.25 10\nbegin k u 3.0 10\n")
    deeds = read(path)
    assert deeds["j"] == Deeds(["t"], 1, 2.5, [(99, 12345)])
    assert deeds["k"] == Deeds(["u"], 0, 3.0, [])
