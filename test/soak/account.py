"""The account of a soak run, kept outside the server: what clients were told, what jobs did, what was killed, and
whether what the server says of its jobs in the end agrees with that.

Nothing here talks to a server: settle() judges what soak.py has gathered, so that tests can show that it sees faults.
"""
import collections
import dataclasses

FINAL = ("FINISHED", "ERROR", "INVALID", "KILLED", "TIMED_OUT", "LOST")
CONTEXT_GONE = ("CONTEXT_LOST", "CONTEXT_FAILED")
LATE_SECONDS = 0.02     # user code may be seen so long after the end that was recorded: times are cut to milliseconds


@dataclasses.dataclass
class Order:
    """What a client wanted, and what it knows of it."""
    token: str
    kind: str
    context: str
    natural: str                    # how the job ends when nobody disturbs it: FINISHED, INVALID or a code
    expected: object = None         # value of a result; None: nothing is known of it
    run_timeout: float = 0          # seconds
    queue_timeout: float = 0
    job: str = None                 # accepted, with this id
    refused: str = None             # answered with a definite no
    cut_off: bool = False           # a submit got no answer: it may have been accepted
    told: set = dataclasses.field(default_factory=set)      # final states that a client was told
    delete_sent: bool = False
    delete_said_killed: bool = False

    @property
    def unknown(self):
        return not self.job and not self.refused


@dataclasses.dataclass
class Deeds:
    """What one job did, by its own lines."""
    begins: list = dataclasses.field(default_factory=list)      # tokens
    ends: int = 0
    last: float = 0                 # time of the last sign of user code
    children: list = dataclasses.field(default_factory=list)    # (pid, start time)


@dataclasses.dataclass
class Chaos:
    """What was done to processes and contexts."""
    pids: set = dataclasses.field(default_factory=set)          # of workers that were killed
    hit: set = dataclasses.field(default_factory=set)           # ids of contexts whose zygote, keeper or JVM was killed
    workers_hit: set = dataclasses.field(default_factory=set)   # ids of contexts of which a worker was killed
    deleted: set = dataclasses.field(default_factory=set)       # ids of contexts that a client deleted
    sigterms: int = 0                                           # to the server


def read(path):
    """{job: Deeds} of an account file."""
    deeds = collections.defaultdict(Deeds)
    with open(path) as f:
        for line in f:
            what, job, token, at, _, *more = line.split()
            entry = deeds[job]
            entry.last = max(entry.last, float(at))
            if what == "begin":
                entry.begins.append(token)
            elif what == "end":
                entry.ends += 1
            elif what == "child":
                entry.children.append((int(more[0]), int(more[1])))
    return dict(deeds)


class Settlement:
    """counts: a Counter of the table's lines; faults: a list of (job or token, text)."""

    def __init__(self):
        self.counts, self.faults = collections.Counter(), []

    def fault(self, who, text, *args):
        self.faults.append((who, text % args if args else text))


def settle(orders, jobs, deeds, chaos):
    """orders: list of Order. jobs: {id: object of GET /v1/jobs/<id>, with "result" when it has finished and "started"
    and "ended" in seconds}. deeds: {id: Deeds}. Returns a Settlement."""
    s = Settlement()
    by_job = {}
    for order in orders:
        if order.job in by_job and by_job[order.job] is not order:
            s.fault(order.job, "two orders have this id: %s, %s", order.token, by_job[order.job].token)
        if order.job:
            by_job[order.job] = order
            s.counts["accepted"] += 1
            if order.job not in jobs:
                s.counts["unaccounted"] += 1
                s.fault(order.job, "was accepted, and the server does not know it (%s)", order.token)
        else:
            s.counts["refused" if order.refused else "unknown"] += 1
    for job, deed in deeds.items():
        if job not in jobs:
            s.counts["unaccounted"] += 1
            s.fault(job, "ran, and the server does not know it")
    for job, row in sorted(jobs.items()):
        order = by_job.get(job)
        if order is None:
            s.counts["unaccounted"] += 1
            s.fault(job, "no client has asked for it, or its order was refused: %s", row)
            continue
        judge(s, order, row, deeds.get(job, Deeds()), chaos)
    return s


def judge(s, order, row, deed, chaos):
    """One job that the server knows."""
    job, state = row["id"], row["state"]
    code = (row.get("error") or {}).get("code")
    if len(deed.begins) > 1:
        s.counts["run twice"] += 1
        s.fault(job, "began %d times (%s), attempt %s", len(deed.begins), order.kind, row["attempt"])
    if any(token != order.token for token in deed.begins):
        s.fault(job, "ran for %s, but is the job of %s", deed.begins, order.token)
    if state not in FINAL:
        s.counts["unaccounted"] += 1
        s.fault(job, "is still %s (%s, context %s)", state, order.kind, row["context_id"])
        return
    s.counts[state] += 1
    if code and state in ("ERROR", "LOST"):
        s.counts["%s %s" % (state, code)] += 1
    if order.told - {state}:
        s.fault(job, "is %s, but a client was told %s", state, order.told)
    if order.delete_said_killed and state != "KILLED":
        s.fault(job, "is %s, but its DELETE was answered KILLED", state)
    if row["attempt"] > 1:
        s.counts["taken by a second attempt"] += 1
    check = {"FINISHED": finished, "KILLED": killed, "TIMED_OUT": timed_out, "LOST": lost}.get(state, failed)
    check(s, order, row, deed, chaos, code)
    late = deed.last - row["ended"]
    if state in ("KILLED", "TIMED_OUT") and row["context_id"] not in chaos.hit and late > LATE_SECONDS:
        s.fault(job, "%s (%s): user code still ran %.3f s after its recorded end", state, order.kind, late)


def finished(s, order, row, deed, chaos, code):
    result = row.get("result") or {}
    if (len(deed.begins), deed.ends) != (1, 1):
        s.fault(row["id"], "FINISHED with %d begins and %d ends (%s)", len(deed.begins), deed.ends, order.kind)
    if order.natural == "" and cause_of_spark(row, chaos):
        s.counts["FINISHED in spite of Spark's end"] += 1       # its own thread met it, and run_job returned
    elif order.natural != "FINISHED":
        s.fault(row["id"], "FINISHED, but %s should end with %s", order.kind, order.natural or "nothing of its own")
    if result.get("token") != order.token:
        s.fault(row["id"], "has the result of another: %.200s", result)
    value = result.get("value")
    if callable(order.expected):
        right = order.expected(value, result.get("version"))
    else:
        right = order.expected is None or value == order.expected
    if not right:
        s.fault(row["id"], "wrong result of %s: %.200s", order.kind, result)
    if row.get("version") is not None and result.get("version") != row["version"]:
        s.fault(row["id"], "ran version %s of its binary, not %s", result.get("version"), row["version"])


def killed(s, order, row, deed, chaos, code):
    gone = code in ("CONTEXT_STOPPED", "SERVER_STOPPED") + CONTEXT_GONE
    if not order.delete_sent and not (gone and cause_of_context(row, chaos, code)):
        s.fault(row["id"], "KILLED (%s), but nobody asked for it (%s)", code, order.kind)
    receipt(s, row)


def timed_out(s, order, row, deed, chaos, code):
    if code == "QUEUE_TIMEOUT":
        s.counts["TIMED_OUT in the queue"] += 1
        if not order.queue_timeout:
            s.fault(row["id"], "QUEUE_TIMEOUT without a limit")
        if deed.begins and row["attempt"] < 2:
            s.fault(row["id"], "QUEUE_TIMEOUT, but it ran")
    elif code == "RUN_TIMEOUT":
        if not order.run_timeout:
            s.fault(row["id"], "RUN_TIMEOUT without a limit")
        elif row.get("started") and row["ended"] - row["started"] < order.run_timeout - LATE_SECONDS:
            s.fault(row["id"], "RUN_TIMEOUT after %.3f s of %.3f", row["ended"] - row["started"], order.run_timeout)
    else:
        s.fault(row["id"], "TIMED_OUT with the code %s", code)
    receipt(s, row)


def receipt(s, row):
    if not row["has_receipt"]:
        s.fault(row["id"], "%s without a receipt", row["state"])


def lost(s, order, row, deed, chaos, code):
    message = (row.get("error") or {}).get("message")
    if row["context_id"] not in chaos.hit | chaos.workers_hit:
        s.fault(row["id"], "LOST, but none of its processes was killed: %s", message)
    elif not message:
        s.fault(row["id"], "LOST without a cause")
    else:
        s.counts["LOST with cause"] += 1


def failed(s, order, row, deed, chaos, code):
    """ERROR and INVALID."""
    if row["state"] == "INVALID" or code == order.natural:
        if order.natural not in (code, row["state"]):
            s.fault(row["id"], "%s %s, but %s should end with %s", row["state"], code, order.kind, order.natural)
        elif len(deed.begins) != 1 or deed.ends:
            s.fault(row["id"], "%s with %d begins and %d ends (%s)", code, len(deed.begins), deed.ends, order.kind)
        elif code == "USER_EXCEPTION" and row["error"].get("message") != order.token:
            if not cause_of_spark(row, chaos):
                s.fault(row["id"], "wrong error of %s: %s", order.kind, row["error"].get("message"))
        return
    pid = (row.get("process") or {}).get("pid")
    if code in ("SIGNALLED", "EXITED") and (pid in chaos.pids or row["context_id"] in chaos.hit):
        return
    if cause_of_context(row, chaos, code):
        return
    if row["error"].get("raised_by") and cause_of_spark(row, chaos):
        s.counts["ERROR of Spark that was ended under it"] += 1
        return
    s.fault(row["id"], "ERROR %s without a cause (%s, context %s): %.400s", code, order.kind, row["context_id"],
            (row.get("error") or {}).get("message"))


def cause_of_context(row, chaos, code):
    """Whether something was done to the job's context, or to the server, that ends jobs with this code."""
    if code in CONTEXT_GONE:    # by what the server saw, or by what the job met in Spark before the server knew why
        return cause_of_spark(row, chaos)
    if code == "CONTEXT_STOPPED":
        return row["context_id"] in chaos.deleted
    return code == "SERVER_STOPPED" and chaos.sigterms > 0


def cause_of_spark(row, chaos):
    """Whether Spark may have been ended under the job before the server knew that its context ends."""
    return row["context_id"] in chaos.hit | chaos.deleted or chaos.sigterms > 0


def excuse(contexts, chaos):
    """A context whose workers were killed before they were attached, one after the other, gives up: no fault."""
    for context, _, state, error in contexts:
        if state in ("FAILED", "LOST") and context in chaos.workers_hit and "before they are attached" in (error or ""):
            chaos.hit.add(context)


def settle_contexts(s, contexts, chaos):
    """contexts: list of (id, name, state, error). LOST and FAILED have a cause that is not stokerd's death."""
    for context, name, state, error in contexts:
        s.counts["contexts " + state] += 1
        if state in ("FAILED", "LOST") and context not in chaos.hit:
            s.fault(context, "context %s is %s, but only the server was ended: %.400s", name, state, error)
        elif state in ("FAILED", "LOST") and not error:
            s.fault(context, "context %s is %s without a cause", name, state)
