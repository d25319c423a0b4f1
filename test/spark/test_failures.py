"""The corpus of failures (jobs/failing/corpus.py) on real Spark: each ends with the code, the retry verdict and the
line that it names."""
import importlib.util
import inspect
import os

import pytest

from harness import FakeContext, make_binary

CORPUS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "jobs", "failing", "corpus.py")
MARK = "  # here"


def load():
    spec = importlib.util.spec_from_file_location("corpus", CORPUS)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.CASES


CASES = load()


def place(case):
    """(line, source) of the marked line, or two None."""
    lines, first = inspect.getsourcelines(case.at)
    found = [(first + number, line.split(MARK)[0].strip()) for number, line in enumerate(lines) if MARK in line]
    return found[0] if found else (None, None)


@pytest.fixture(scope="module")
def failing(server):
    """A context in which little is enough to go wrong."""
    context = FakeContext(server, spark_conf={
        "spark.driver.maxResultSize": "1m", "spark.task.maxFailures": "1",
        "spark.hadoop.ipc.client.connect.max.retries": "0", "spark.hadoop.ipc.client.connect.retry.interval": "1"})
    try:
        context.start()
        yield context
    finally:
        status = context.end()
    assert status == 0, context.log()


@pytest.fixture(scope="module")
def run(server, failing):
    """A function that runs a case: its `done`. One worker serves them all, but for those that spoil it."""
    with open(CORPUS) as f:
        binary = make_binary(server.state, "failing", {"corpus.py": f.read()})
    workers = []

    def run(name, cls="corpus.Fail"):
        if not workers:
            workers.append(failing.worker())
        done = workers[0].run(cls=cls, binaries=[binary], binary_set="failing", config='{"case": "%s"}' % name)
        if done.get("retire") or "python" in name:
            workers.pop()
        return done
    return run


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.cluster])
def test_a_failure_is_told(run, name):
    done = run(name)
    assert done["outcome"] == "error", done
    assert_told(done["error"], CASES[name])


def assert_told(error, case):
    line, source = place(case)
    assert (error["code"], error["retry"], error["exit_code"]) == (case.code, case.retry, case.exit_code), error
    assert (error["file"], error["line"]) == ("corpus.py" if line else None, line), error
    assert (error["source"] or "").split(MARK)[0] == (source or ""), error
    assert error["message"] and len(error["message"]) < 8192


def test_a_failure_in_validate_has_its_own_code_too(run):
    error = run("unknown_table", "corpus.FailInValidate")["error"]
    assert (error["code"], error["raised_by"], error["exit_code"]) == ("INPUT_MISSING", "validate", 3)
    error = run("a_plain_error", "corpus.FailInValidate")["error"]
    assert (error["code"], error["raised_by"], error["exit_code"]) == ("VALIDATE_EXCEPTION", "validate", 3)


def test_a_heap_that_is_used_up_is_told(own_context, server):
    """A local task finds out, and Spark ends the JVM. What the job hears of it first depends; its code does not."""
    context = own_context(spark_conf={"spark.driver.memory": "512m", "spark.ui.enabled": "false"})
    context.start()
    worker = context.worker()
    job = worker.start("context.range(1).selectExpr('length(repeat(string(id), 1000000000))').collect()")
    ended = context.wait("k", "ended")["error"]
    assert (ended["code"], ended["retry"]) == ("DRIVER_OUT_OF_MEMORY", "with-more-memory"), ended
    assert "spark.driver.memory" in ended["message"] and ended["log_tail"]
    assert context.zygote.wait(20) == 1
    told = [done["error"] for done in worker.seen("done", job=job.id)]
    assert [error["code"] for error in told] in ([], ["DRIVER_OUT_OF_MEMORY"]), told


@pytest.mark.parametrize("status, code", [(52, "DRIVER_OUT_OF_MEMORY"), (3, "CONTEXT_LOST")])
def test_a_job_under_which_the_jvm_ends_says_nothing_of_its_own(own_context, server, status, code):
    """The keeper knows why it has ended: its word is the job's."""
    context = own_context()
    context.start()
    worker = context.worker()
    job = worker.start("context._jvm.java.lang.Runtime.getRuntime().halt(args)", status)
    assert context.wait("k", "ended")["error"]["code"] == code
    assert context.zygote.wait(20) == 1
    assert not worker.seen("done", job=job.id)
