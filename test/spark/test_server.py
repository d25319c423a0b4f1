"""Contexts, binaries, jobs and bad input on real Spark, through the real server.

One server and one session context, `py`, serve most tests; at most one other context is alive beside it. Expected
results of the word counts and SQL jobs are those of Spark Job Server's own examples.
"""
import json
import os
import sys
from urllib.parse import quote

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path += [os.path.join(HERE, "..", "http"), os.path.join(HERE, "..", "hocon")]
import corpus  # noqa: E402
from receiver import receiver  # noqa: E402
from server import COUNTS, STRINGS, WAIT, Background, end, line_of, process, wait_until

PEOPLE = {"input": {"data": [["bob", 20, 1200], ["jon", 21, 1400], ["mary", 20, 1300], ["sue", 21, 1600]]}}
AVERAGES = [[20, 1250.0], [21, 1500.0]]
RANKS = [["bob", 20, 1], ["mary", 20, 2], ["jon", 21, 1], ["sue", 21, 2]]
MAX_LOG = 256 << 10
STOKER = {"max_log": "%dKiB" % (MAX_LOG // 1024), "webhook_allow": ["loopback"]}

pytestmark = pytest.mark.usefixtures("nothing_runs_on")


def problem(*texts):
    """The message of a job whose validate() has found problems."""
    return ("Python job failed with error code 1 and standard err [Validation problems in job, exiting\n%s]"
            % "\n".join(texts))


def failed(code, text):
    """The message of a job that has failed otherwise."""
    return "Python job failed with error code %d and standard err [%s]" % (code, text)


# ---------------------------------------------------------------- contexts

def test_a_context_is_shown(stoker, py):
    assert set(py) == {"id", "name", "startTime", "endTime", "state", "applicationId"}
    assert (py["name"], py["state"], py["endTime"]) == ("py", "RUNNING", "Empty")
    assert py["applicationId"].startswith("local-")
    assert "py" in stoker.get("/contexts")
    again = stoker.create("py")
    assert (again.status, again.body) == (400, {"status": "ERROR", "result": "context py exists"})


@pytest.mark.parametrize("settings, cause", [
    ({"spark.master": "nonsense["}, "Master must either be yarn or start with spark, k8s, or local"),
    ({"spark.master": "local[4", "spark.ui.enabled": "true"}, "Could not parse Master URL: 'local[4'"),
    ({"launcher.spark.driver.memory": "99999999999999g"}, "Invalid maximum heap size: -Xmx99999999999999g"),
], ids=["no-master", "odd-master", "memory"])
def test_a_context_that_cannot_start_says_why_and_leaves_nothing(stoker, py, settings, cause):
    reply = stoker.create("bad", **settings)
    assert (reply.status, reply.body["status"]) == (500, "CONTEXT INIT ERROR"), reply
    assert set(reply.body["result"]) == {"message", "errorClass", "stack"}
    assert cause in reply.body["result"]["message"] + reply.body["result"]["stack"]
    context = stoker.context("bad")
    assert context["state"] == "ERROR" and context["endTime"] != "Empty"
    assert stoker.left_of(context["id"]) == []
    assert stoker.get("/contexts") == ["py"]
    assert stoker.post_job("stoker_jobs.process.Nothing", context="bad").status == 404


def test_an_unknown_factory(stoker):
    reply = stoker.create("bad", **{"context-factory": "no.such.Factory"})
    assert (reply.status, reply.body["status"]) == (500, "CONTEXT INIT ERROR")
    assert reply.body["result"]["message"] == "no.such.Factory"
    assert reply.body["result"]["errorClass"] == "java.lang.ClassNotFoundException"


# ---------------------------------------------------------------- jobs of the session context

def test_word_counts(stoker, py):
    assert stoker.value("stoker_jobs.word_count.SessionCount", STRINGS) == COUNTS
    assert stoker.value("stoker_jobs.word_count.DuckCount", {"input": {"strings": ["a", "b", "a"]}}) == COUNTS


def test_ends_are_told(stoker, py, files):
    """A result, an exception and a cancelled Spark job, each to a webhook of its own and by a callback."""
    with receiver() as hooks:
        body = {"app": "jobs", "context": "py", "class": "stoker_jobs.word_count.SessionCount",
                "config": {"input": {"strings": ["a", "a", "b"]}},
                "webhook": {"url": hooks.url("/counted"), "secret": "s"}}
        counted = stoker.request("POST", "/v1/jobs", json.dumps(body)).body["id"]
        post, = hooks.wait(1, "/counted")
        assert post.signed_with("s") and post.job == counted
        assert post.json["job"] == stoker.get("/v1/jobs/" + counted) and post.json["job"]["state"] == "FINISHED"

        def called(class_path, config, path):
            reply = stoker.post_job(class_path, config, callbackUrl=hooks.url(path))
            assert reply.status == 202, reply
            return reply.body["jobId"]

        job = called("stoker_jobs.word_count.SessionCount", STRINGS, "/called")
        assert hooks.wait(1, "/called")[0].json == {"jobId": job, "result": COUNTS}
        job = called("stoker_jobs.failing.RunRaises", "", "/failed")
        assert hooks.wait(1, "/failed")[0].json == {"jobId": job, "status": "ERROR", "result": stoker.job(job)["result"]}
        job = called("stoker_jobs.stuck.Stuck", {"how": "sleep", "beat": files.path("beat")}, "/killed")
        wait_until(lambda: os.path.exists(files.path("beat")), "the job's start")
        assert stoker.delete(job).status == 200
        assert hooks.wait(1, "/killed")[0].json == {"jobId": job, "status": "KILLED", "result": stoker.job(job)["result"]}


def test_what_validate_refuses(stoker, py):
    reply = stoker.run("stoker_jobs.word_count.SessionCount")
    assert (reply.status, reply.body["status"]) == (400, "VALIDATION FAILED")
    assert reply.body["result"]["message"] == problem("config input.strings not found")
    reply = stoker.run("stoker_jobs.word_count.ContextCount", STRINGS)
    assert reply.body["result"]["message"] == problem("expected a SparkContext but got a SparkSession")
    ended = stoker.ended(stoker.submit("stoker_jobs.failing.Problems"))
    assert ended["status"] == "ERROR"
    assert ended["result"]["message"] == problem("first problem", "second problem")


def test_session_window(stoker, py):
    assert stoker.value("stoker_jobs.sql.SessionWindow", PEOPLE) == RANKS


def test_hive_needs_a_context_with_hive(stoker, py):
    message = stoker.failure("stoker_jobs.sql.HiveTable")["message"]
    assert "[NOT_SUPPORTED_COMMAND_WITHOUT_HIVE_SUPPORT] CREATE Hive TABLE (AS SELECT) is not supported" in message


def test_a_job_and_its_objects(stoker, py):
    reply = stoker.post_job("stoker_jobs.word_count.SessionCount", STRINGS)
    started, job = reply.body, reply.body["jobId"]
    assert reply.status == 202 and started == {
        "jobId": job, "startTime": started["startTime"], "classPath": "stoker_jobs.word_count.SessionCount",
        "context": "py", "contextId": py["id"], "duration": "Job not done yet", "status": "STARTED"}
    assert stoker.result(job) == COUNTS
    ended = stoker.job(job)
    assert ended == dict(started, status="FINISHED", duration=ended["duration"], result=COUNTS)
    assert ended["duration"].endswith(" secs")
    listed = stoker.get("/jobs", limit=1)
    assert listed == [{key: value for key, value in ended.items() if key != "result"}]
    assert stoker.get("/jobs/%s/config" % job) == {"input": {"strings": ["a", "a", "b"]}}


CONFIG = """
# a comment
mem = 512m, timeout = 10 s
n = 5, f = 1.5, t = true, z = null
text = a b c
deep { er { list = [1, two, { three = 3 }] } }
deep.er.more : ${n}
"a.b" = 1
"""


def test_a_config_is_a_config_tree(stoker, py):
    assert stoker.value("stoker_jobs.config.Describes", CONFIG) == {"ConfigTree": {
        "mem": ["str", "512m"], "timeout": ["str", "10 s"], "n": ["int", 5], "f": ["float", 1.5], "t": ["bool", True],
        "z": ["NoneType", None], "text": ["str", "a b c"], '"a.b"': ["int", 1],
        "deep": {"ConfigTree": {"er": {"ConfigTree": {
            "list": ["list", [["int", 1], ["str", "two"], {"ConfigTree": {"three": ["int", 3]}}]],
            "more": ["int", 5]}}}}}}


def described(value):
    """What stoker_jobs.config.Describes says of the config that is this JSON value."""
    if isinstance(value, dict):
        quoted = set("$}[]:=+#`^?!@*&.")
        return {"ConfigTree": {key if quoted.isdisjoint(key) else '"%s"' % key: described(each)
                               for key, each in value.items()}}
    return [type(value).__name__, [described(each) for each in value] if isinstance(value, list) else value]


def test_configs_of_the_corpus_reach_jobs(stoker, py):
    """Each text of test/hocon: a job sees what Typesafe Config reads, types included, and mistakes are refused."""
    blocks = corpus.read()[1]
    assert len(blocks) >= 650
    for block in blocks:
        # not by appName: then dependent-jar-uris in a config would name binaries
        reply = stoker.request("POST", "/jobs", block.text, cp="jobs", mainClass="stoker_jobs.config.Describes",
                               context="py", sync="true", timeout=30)
        if block.value is None:
            assert reply.status == 400, block
            assert reply.body["result"].startswith("Cannot parse config: %s: " % block.expected.split()[1]), block
        else:
            assert reply.status == 200, (block, reply.body)
            assert json.dumps(reply.body["result"], sort_keys=True) == json.dumps(described(block.value), sort_keys=True)


def test_what_a_config_tree_answers(stoker, py):
    config = 'a = 1, b.c = x, "d.e" = quoted, l = [1], t = yes, f = 2.5'
    assert stoker.value("stoker_jobs.config.Asks", config) == {
        "get_int": 1, "get_string": "1", "path": "x", "get_config": True, "quoted": "quoted", "get_list": [1],
        "get_bool": True, "get_float": 2.5, "default": 7, "in": [True, False],
        "absent": "ConfigMissingException: No configuration setting found for key not"}


def test_what_a_job_knows_of_itself(stoker, py):
    reply = stoker.run("stoker_jobs.process.Echo", "x = 1")
    echo = reply.body["result"]
    assert (echo["config"], echo["job"]) == ({"x": 1}, reply.body["jobId"])
    assert echo["context"]["context-factory"] == "spark.jobserver.python.PythonSessionContextFactory"
    assert (echo["context"]["context"]["name"], echo["context"]["is-adhoc"]) == ("py", "false")


def test_what_a_job_prints_is_kept_under_its_name(stoker, py):
    job = stoker.submit("stoker_jobs.process.Prints", "lines = 3")
    assert stoker.result(job) is None
    for stream, word in (("stdout", "out"), ("stderr", "err")):
        with open(stoker.path("logs", "%s.1.%s" % (job, stream))) as f:
            assert f.read() == "".join("%s %d\n" % (word, n) for n in range(3)) + "child %s\n" % word


def test_a_large_result(stoker, py):
    config = {"rows": 5000, "size": 1000}
    job = stoker.submit("stoker_jobs.process.Big", config)
    assert stoker.result(job) == ["x" * 1000] * 5000
    assert os.path.getsize(stoker.path("results", job + ".1.json")) > 5_000_000
    assert stoker.value("stoker_jobs.process.Big", config) == ["x" * 1000] * 5000


def test_more_jobs_than_slots(stoker, py, files):
    """Twelve jobs in eight slots: four wait, and every result is right."""
    go = files.path("go")
    jobs = {stoker.submit("stoker_jobs.process.Counts", {"on": files.path("on%d" % n), "go": go, "n": n}): n
            for n in range(100, 112)}
    wait_until(lambda: sum(files.exists("on%d" % n) for n in jobs.values()) == 8, "eight jobs at once")
    assert stoker.queued() == {job for job, n in jobs.items() if n >= 108}
    files.make("go")
    assert {job: stoker.result(job) for job in jobs} == {job: n * (n - 1) // 2 for job, n in jobs.items()}


# ---------------------------------------------------------------- binaries

def versions(version):
    """What app.Version answers in a version."""
    return {"driver": version, "rdd": [version], "udf": [version], "pandas": [version]}


def test_two_versions_of_a_module_by_turns(stoker, py):
    """On the driver, in an RDD's function, in a SQL UDF and in a pandas UDF, twenty times."""
    stoker.upload_jobs("app1", "app_v1", "zip")
    stoker.upload_jobs("app2", "app_v2", "zip")
    seen = [stoker.value("app.Version", app="app%d" % (1 + n % 2)) for n in range(20)]
    assert seen == [versions(1), versions(2)] * 10


def test_a_running_job_keeps_its_version(stoker, py, files):
    stoker.upload_jobs("again", "app_v1", "zip")
    old = stoker.submit("app.Version", {"go": files.path("go")}, app="again")
    files.wait("go.on")
    stoker.upload_jobs("again", "app_v2", "zip")
    assert stoker.value("app.Version", app="again") == versions(2)
    files.make("go")
    assert stoker.result(old) == versions(1)
    assert stoker.value("app.Version", app="again") == versions(2)


@pytest.mark.parametrize("form, kind", [("egg", "Egg"), ("wheel", "Wheel"), ("zip", "Zip")])
def test_each_form_of_binary_reaches_driver_and_executors(stoker, py, form, kind):
    stoker.upload_jobs("form-" + form, "with_data", form)
    shown = stoker.get("/binaries/form-" + form)
    assert (shown["app-name"], shown["binary-type"]) == ("form-" + form, kind)
    assert stoker.value("words.Words", app="form-" + form) == [["apple", "pear"], ["apple", "pear"]]


def test_a_binary_with_a_job_api_of_its_own(stoker, py):
    stoker.upload_jobs("bundled", "bundled")
    assert stoker.value("bundled.Job", app="bundled") is True
    reply = stoker.run("bundled.Job", "problem = no", app="bundled")
    assert (reply.status, reply.body["result"]["message"]) == (400, problem("no"))


# ---------------------------------------------------------------- jobs that fail

def own_line(file, text, function):
    """How a traceback names a line of the suite."""
    return 'File "stoker_jobs/%s", line %d, in %s\n' % (file, line_of("suite/stoker_jobs/" + file, text), function)


def test_no_such_class(stoker, py, good_after):
    error = stoker.failure("stoker_jobs.failing.RunRaise")
    assert error["errorClass"] == "CLASS_NOT_FOUND"
    assert "module 'stoker_jobs.failing' has no class 'RunRaise'; found: RunRaises, " in error["message"]
    error = stoker.failure("nowhere.Job")
    assert error["message"] == failed(1, "there is no module 'nowhere' in the job's binaries; found: stoker_jobs")
    reply = stoker.run("nowhere.Job", app="nothing")
    assert (reply.status, reply.body) == (404, {"status": "ERROR", "result": "appName nothing not found"})
    reply = stoker.run("nowhere.Job", context="nothing")
    assert (reply.status, reply.body) == (404, {"status": "ERROR", "result": "context nothing not found"})


def test_not_a_job(stoker, py, good_after):
    error = stoker.failure("stoker_jobs.failing.NoRunJob")
    assert error["message"] == failed(1, "'stoker_jobs.failing.NoRunJob' is not a job: it has no method run_job")
    assert error["errorClass"] == "NOT_A_JOB"
    error = stoker.failure("stoker_jobs.failing.signal")
    assert error["message"] == failed(1, "'stoker_jobs.failing.signal' is not a class but module signal")
    error = stoker.failure("stoker_jobs.failing.NeedsArguments")
    assert "'stoker_jobs.failing.NeedsArguments' cannot be made without arguments" in error["message"]


def test_a_module_that_cannot_be_imported(stoker, py, good_after):
    error = stoker.failure("stoker_jobs.broken_import.Job")
    assert error["errorClass"] == "ModuleNotFoundError"
    assert "No module named 'stoker_no_such_module'" in error["message"]
    assert own_line("broken_import.py", "import stoker_no_such_module", "<module>") in error["stack"]
    error = stoker.failure("stoker_jobs.broken_syntax.Job")
    assert error["errorClass"] == "SyntaxError"
    line = line_of("suite/stoker_jobs/broken_syntax.py", "def validate")
    assert '  File "stoker_jobs/broken_syntax.py", line %d\n' % line in error["stack"]
    assert "SyntaxError: '(' was never closed" in error["stack"]


def test_exceptions_in_validate_and_run_job(stoker, py, good_after):
    assert stoker.failure("stoker_jobs.failing.RunRaises") == {
        "message": failed(4, "Error while calling 'run_job': ValueError('Deliberate failure')"),
        "errorClass": "ValueError",
        "stack": "Traceback (most recent call last):\n  %s    raise ValueError('Deliberate failure')\n"
                 "ValueError: Deliberate failure" % own_line("failing.py", "raise ValueError", "run_job")}
    error = stoker.failure("stoker_jobs.failing.ValidateRaises")
    assert error["message"] == failed(3, "Error while calling 'validate': ValueError('Deliberate failure')")
    ended = stoker.ended(stoker.submit("stoker_jobs.failing.RaisesLater"))
    assert ended["status"] == "ERROR" and ended["result"]["errorClass"] == "RuntimeError"
    for text in (own_line("failing.py", "['missing']", "run_job"), "KeyError: 'missing'",
                 own_line("failing.py", "raise RuntimeError", "run_job"), "RuntimeError: could not look it up"):
        assert text in ended["result"]["stack"]
    assert [o["result"]["errorClass"] for o in stoker.get("/jobs", status="error", limit=1)] == ["RuntimeError"]


def test_an_exception_in_a_task_names_the_users_line(stoker, py, good_after):
    error = stoker.failure("stoker_jobs.failing.TaskRaises")
    assert error["errorClass"].endswith("PythonException")
    assert "ZeroDivisionError: integer division or modulo by zero" in error["message"]
    line = line_of("suite/stoker_jobs/failing.py", "1 // n")
    assert 'stoker_jobs/failing.py", line %d, in <lambda>' % line in error["message"] + error["stack"]
    assert 'File "stoker_jobs/failing.py", line %d, in run_job' % line in error["stack"]


def test_what_spark_refuses(stoker, py, good_after):
    error = stoker.failure("stoker_jobs.failing.NoSuchTable")
    assert error["errorClass"].endswith("AnalysisException")
    assert "[TABLE_OR_VIEW_NOT_FOUND] The table or view `no_such_table` cannot be found" in error["message"]
    assert own_line("failing.py", "FROM no_such_table", "run_job") in error["stack"]
    error = stoker.failure("stoker_jobs.failing.JavaRaises")
    assert "Caused by: org.apache.spark.SparkRuntimeException: [USER_RAISED_EXCEPTION] deliberate" in error["message"]


def test_a_result_that_json_cannot_say(stoker, py, good_after):
    error = stoker.failure("stoker_jobs.failing.ReturnsFrame")
    assert error["errorClass"] == "RESULT_NOT_JSON"
    assert error["message"] == failed(1, "result.rows[1] is a pyspark DataFrame: return .collect() or .take(n) of it")


def test_exits(stoker, py, good_after):
    error = stoker.failure("stoker_jobs.failing.Exits", "status = 3")
    assert error["message"] == failed(3, "SystemExit: the job called sys.exit(3)")
    assert stoker.failure("stoker_jobs.failing.Exits", "status = 0")["message"].startswith(
        "Python job ran successfully but failed to write any jobOutput")
    error = stoker.failure("stoker_jobs.failing.Vanishes", "status = 5")
    assert error["message"] == failed(5, "the job ended its own process with exit status 5\nlast words")


def test_signals(stoker, py, good_after):
    error = stoker.failure("stoker_jobs.failing.Segfaults")
    assert error["message"].startswith(
        failed(139, "the job's process was ended by signal 11 (Segmentation fault)\nreading address 0")[:-1])
    line = line_of("suite/stoker_jobs/failing.py", "string_at(0)")
    assert 'stoker_jobs/failing.py", line %d in run_job' % line in error["message"]
    error = stoker.failure("stoker_jobs.failing.Signalled", "signal = 15")
    assert error["message"] == failed(143, "the job's process was ended by signal 15 (Terminated)")


def test_stopping_the_shared_spark_context(stoker, py, good_after):
    assert stoker.value("stoker_jobs.failing.StopsSpark") == "stopped"


@pytest.mark.parametrize("catch", [False, True])
def test_printing_without_end(stoker, py, good_after, catch):
    reply = stoker.run("stoker_jobs.process.PrintsForever", {"catch": catch})
    error = reply.body["result"]
    assert (reply.body["status"], error["errorClass"]) == ("ERROR", "LOG_TOO_LARGE")
    assert "the job printed more than %d bytes to one of its streams" % MAX_LOG in error["message"]
    assert os.path.getsize(stoker.path("logs", reply.body["jobId"] + ".1.stdout")) > MAX_LOG


def test_closing_every_descriptor(stoker, py, good_after):
    assert stoker.value("stoker_jobs.process.ClosesDescriptors") == "closed"


def test_a_thread_left_behind(stoker, py, good_after):
    """It ends with its process, which gets no other job."""
    pid = stoker.value("stoker_jobs.process.LeavesThread", "seconds = 600")
    wait_until(lambda: process(pid) is None, "end of process %d" % pid)
    assert stoker.value("stoker_jobs.process.Pid") != pid


def test_a_process_left_behind(stoker, py, good_after):
    pid = stoker.value("stoker_jobs.process.LeavesChild", "seconds = 600")
    assert process(pid) is None


def test_what_a_job_changes_in_its_process(stoker, py, good_after):
    """The next job in the same process finds everything as it was."""
    seen = [stoker.value("stoker_jobs.process.ChangesProcess") for _ in range(12)]
    assert len({job["pid"] for job in seen}) < len(seen), "no process was used twice"
    assert {json.dumps(job["before"]) for job in seen} == {json.dumps(seen[0]["before"])}
    assert seen[0]["before"][0] != "/" and seen[0]["before"][1:3] == [None, False] and seen[0]["before"][3] != 0


# ---------------------------------------------------------------- contexts of the other kinds, beside the first

@pytest.fixture(scope="class")
def sc(stoker, py):
    yield stoker.create_running("sc", "Spark", **{"max-jobs": 2})
    stoker.request("DELETE", "/contexts/sc")


@pytest.fixture(scope="class")
def sql(stoker, py):
    yield stoker.create_running("sql", "SQL")
    stoker.request("DELETE", "/contexts/sql")


class TestSparkContext:
    """A SparkContext with two slots."""

    @staticmethod
    def waits(stoker, files, on, go):
        return stoker.submit("stoker_jobs.process.Waits", {"on": files.path(on), "go": files.path(go)}, "sc")

    def test_several_contexts_at_once(self, stoker, py, sc):
        assert stoker.get("/contexts") == ["sc", "py"]
        assert sc["applicationId"] != py["applicationId"] and sc["id"] != py["id"]
        one = stoker.submit("stoker_jobs.word_count.ContextCount", STRINGS, "sc")
        other = stoker.submit("stoker_jobs.word_count.SessionCount", 'input.strings = ["c"]')
        assert (stoker.result(one), stoker.result(other)) == (COUNTS, {"c": 1})
        assert stoker.job(one)["contextId"] == sc["id"]

    def test_slots(self, stoker, sc, files):
        """Of five jobs two run; a third begins when one of them ends."""
        jobs = [self.waits(stoker, files, "on%d" % n, "go%d" % n) for n in range(5)]
        files.wait("on0", "on1")
        assert stoker.queued() == set(jobs[2:]) and not files.exists("on2")
        files.make("go1")
        files.wait("on2")
        assert stoker.job(jobs[1])["status"] == "FINISHED" and stoker.job(jobs[0])["status"] == "RUNNING"
        assert not files.exists("on3")
        for n in (0, 2, 3, 4):
            files.make("go%d" % n)
        assert len({stoker.result(job) for job in jobs}) <= 2, "more processes than slots"

    def test_delete_with_jobs(self, stoker, py, sc, files):
        """Those that run and those that wait end with their context; other contexts do not notice."""
        config = {"file": files.path("log"), "go": files.path("never"), "beat": files.path("beat")}
        jobs = [stoker.submit("stoker_jobs.process." + name, config, "sc")
                for name in ("Appends", "AppendsInTasks", "Appends")]
        wait_until(lambda: len(files.lines("log")) == 2 and files.size("beat"), "two running jobs")
        caller = Background(stoker.run, "stoker_jobs.process.Nothing", context="sc")
        wait_until(lambda: len(stoker.queued()) == 2, "two waiting jobs")
        reply = stoker.request("DELETE", "/contexts/sc")
        assert (reply.status, reply.body) == (200, {"status": "SUCCESS", "result": "Context stopped"}), reply
        ended = stoker.context("sc")
        assert (ended["state"], ended["id"]) == ("FINISHED", sc["id"]) and "applicationId" not in ended
        assert stoker.left_of(sc["id"]) == []
        terminated = {"message": "Context (sc) for this job was terminated", "errorClass": "", "stack": ""}
        assert [stoker.job(job)["status"] for job in jobs] == ["ERROR"] * 3
        assert [stoker.job(job)["result"] for job in jobs] == [terminated] * 3
        assert caller.value().body["result"] == terminated
        assert len(files.lines("log")) == 2
        assert stoker.get("/contexts") == ["py"]
        reply = stoker.request("DELETE", "/contexts/sc")
        assert (reply.status, reply.body) == (404, {"status": "ERROR", "result": "context sc not found"})
        reply = stoker.post_job("stoker_jobs.process.Nothing", context="sc")
        assert (reply.status, reply.body) == (404, {"status": "ERROR", "result": "context sc not found"})
        assert stoker.value("stoker_jobs.word_count.SessionCount", STRINGS) == COUNTS


class TestSQLContext:
    """A SQLContext, which at last loses its JVM."""

    def test_jobs(self, stoker, sql):
        assert stoker.value("stoker_jobs.word_count.SQLCount", STRINGS, "sql") == COUNTS
        assert stoker.value("stoker_jobs.sql.Average", PEOPLE, "sql") == AVERAGES
        reply = stoker.run("stoker_jobs.sql.Average", PEOPLE, "py")
        assert (reply.status, reply.body["result"]["message"]) == (400, problem("Expected a SQLContext"))

    def test_two_jobs_share_a_table(self, stoker, sql):
        reply = stoker.run("stoker_jobs.sql.UseTable", context="sql")
        missing = "expect 'people_table' table to have been created by earlier job"
        assert (reply.status, reply.body["result"]["message"]) == (400, problem(missing))
        assert stoker.value("stoker_jobs.sql.MakeTable", PEOPLE, "sql") == "done"
        assert stoker.value("stoker_jobs.sql.UseTable", context="sql") == AVERAGES

    def test_its_jvm_is_killed(self, stoker, py, sql, files):
        job = stoker.submit("stoker_jobs.process.Waits", {"on": files.path("on"), "go": files.path("never")}, "sql")
        files.wait("on")
        end(next(p.pid for p in stoker.processes(sql["id"]) if p.kind == "java"))
        ended = stoker.ended(job)
        assert ended["status"] == "ERROR"
        assert ended["result"]["message"] == "Unexpected termination of context " + sql["id"]
        wait_until(lambda: stoker.context("sql")["state"] == "KILLED", "end of the context")
        assert "the driver JVM ended by signal SIGKILL" in stoker.context("sql")["error"]
        assert stoker.left_of(sql["id"]) == []
        assert stoker.value("stoker_jobs.word_count.SessionCount", STRINGS) == COUNTS


def test_hive_context(stoker, py):
    hive = stoker.create_running("hive", "Hive")
    try:
        assert stoker.value("stoker_jobs.word_count.HiveCount", STRINGS, "hive") == COUNTS
        assert stoker.value("stoker_jobs.sql.HiveWindow", PEOPLE, "hive") == RANKS
        assert stoker.value("stoker_jobs.sql.HiveTable", context="hive") is None
        reply = stoker.run("stoker_jobs.sql.HiveWindow", PEOPLE)
        assert (reply.status, reply.body["result"]["message"]) == (400, problem("Expected a HiveContext"))
    finally:
        stoker.delete_context("hive")
    assert stoker.left_of(hive["id"]) == []


def test_a_job_without_a_context(stoker, py):
    """It has one for itself, with the settings of its config, which is gone soon after it."""
    config = STRINGS + "\nspark.context-settings { context-factory = spark }"
    job = stoker.submit("stoker_jobs.word_count.ContextCount", config, context="")
    assert stoker.result(job) == COUNTS
    context = stoker.context(stoker.job(job)["context"])
    assert context["name"].endswith("-stoker_jobs.word_count.ContextCount") and context["id"] != py["id"]
    wait_until(lambda: stoker.context(context["name"])["state"] == "FINISHED", "end of the job's context")
    assert stoker.left_of(context["id"]) == [] and stoker.get("/contexts") == ["py"]


def test_a_data_file(stoker, py):
    """A job opens by its path what was uploaded for it."""
    path = stoker.request("POST", "/data/numbers.csv", b"bob,1\njon,20\nmary,300\n").body["result"]["filename"]
    assert stoker.value("stoker_jobs.sql.ReadFile", {"path": path}) == 321
    assert stoker.request("DELETE", "/data/" + quote(path, safe="")).status == 200
    assert "PATH_NOT_FOUND" in stoker.failure("stoker_jobs.sql.ReadFile", {"path": path})["message"]


def test_several_binaries(stoker, py):
    """All are imported from, on executors too; of two that bring the same module, the first wins."""
    stoker.upload_jobs("app1", "app_v1", "zip")
    stoker.upload_jobs("app2", "app_v2", "zip")

    def run(cp, main_class):
        reply = stoker.request("POST", "/jobs", STRINGS, cp=cp, mainClass=main_class, context="py", sync="true",
                               timeout=int(WAIT))
        assert reply.status == 200, reply
        return reply.body["result"]
    for cp, version in (("jobs,app1,app2", 1), ("app2,app1", 2), ("app1", 1)):
        assert run(cp, "app.Version") == versions(version)
    assert run("app1,jobs", "stoker_jobs.word_count.SessionCount") == COUNTS
