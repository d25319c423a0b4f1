"""Contexts over Spark Job Server's routes: creating, settings, listing, deleting; every way to fail at the start."""

import json
import os
import re
import signal
import time
import urllib.parse

import pytest

from kit import unique, wait_for

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


def is_gone(server, name):
    """No process, no folder, no name: what a context may leave is its row and its log."""
    context, state, _ = server.context_row(name)
    assert state in ("STOPPED", "FAILED", "LOST")
    wait_for(lambda: not os.path.exists(server.path("contexts", context)), "removal of its folder")
    mark = ("STOKER_CONTEXT=" + context).encode()
    for pid in server.pids():
        with open("/proc/%d/environ" % pid, "rb") as f:
            assert mark not in f.read()
    assert name not in server.get("/contexts").json


# ---- life


def test_create_show_delete(server):
    """The whole life, with the exact bodies."""
    name = unique("ctx")
    reply = server.post("/contexts/" + name)
    assert (reply.status, reply.json) == (200, {"status": "SUCCESS", "result": "Context initialized"})
    assert reply.headers["Content-Type"] == "application/json"
    assert name in server.get("/contexts").json
    shown = server.get("/contexts/" + name).json
    assert sorted(shown) == ["applicationId", "endTime", "id", "name", "startTime", "state", "url"]
    assert (shown["name"], shown["state"], shown["endTime"]) == (name, "RUNNING", "Empty")
    assert shown["applicationId"].startswith("fake-") and shown["url"] == "http://127.0.0.1:4040"
    assert re.fullmatch(TIME, shown["startTime"])
    reply = server.delete("/contexts/" + name)
    assert (reply.status, reply.json) == (200, {"status": "SUCCESS", "result": "Context stopped"})
    is_gone(server, name)
    ended = server.get("/contexts/" + name).json
    assert sorted(ended) == ["endTime", "id", "name", "startTime", "state"]
    assert (ended["id"], ended["state"]) == (shown["id"], "FINISHED") and re.fullmatch(TIME, ended["endTime"])
    with open(server.path("logs", "context.%s.log" % shown["id"])):
        pass


@pytest.mark.parametrize("how", ["delete", "zygote", "keeper"])
def test_no_process_of_an_ended_context_is_recorded(server, app, how):
    """A row of `processes` goes with its process, however the context ends."""
    name = server.create()
    assert server.run(name, app).status == 200
    context = server.context_row(name)[0]
    assert len(server.rows("SELECT * FROM processes WHERE context_id = ?", context)) >= 4
    if how == "delete":
        assert server.delete("/contexts/" + name).status == 200
    else:
        os.kill(server.pid(name, how[0]), signal.SIGKILL)
        wait_for(lambda: server.context_row(name)[1] == "LOST", "end of the context")
    assert server.rows("SELECT role FROM processes WHERE context_id = ?", context) == []


def test_list_is_newest_first(server, own_context):
    names = [own_context() for _ in range(3)]
    listed = [n for n in server.get("/contexts").json if n in names]
    assert listed == names[::-1]


def test_unknown_context(server):
    reply = server.get("/contexts/nowhere")
    assert (reply.status, reply.json) == (404, {"status": "ERROR", "result": "can't find context with name nowhere"})
    reply = server.delete("/contexts/nowhere")
    assert (reply.status, reply.json) == (404, {"status": "ERROR", "result": "context nowhere not found"})


def test_duplicate(server, context):
    """400, and the one that is there is not touched."""
    before = server.get("/contexts/" + context).json
    reply = server.post("/contexts/" + context)
    assert (reply.status, reply.json) == (400, {"status": "ERROR", "result": "context %s exists" % context})
    assert server.get("/contexts/" + context).json == before
    wait_for(
        lambda: len(os.listdir(server.path("contexts"))) == len(server.get("/contexts").json),
        "no folder of the refused one",
    )


def test_name_of_an_ended_context_is_free(server, own_context):
    name = unique("ctx")
    ids = set()
    for _ in range(2):
        server.create(name)
        ids.add(server.get("/contexts/" + name).json["id"])
        assert server.delete("/contexts/" + name).status == 200
        assert server.delete("/contexts/" + name).status == 404
    assert len(ids) == 2


def test_many_at_once(server, app):
    """Six contexts created, used and deleted side by side; two creates of one name make one."""
    names = [unique("ctx") for _ in range(6)]
    replies = [server.background("POST", "/contexts/" + n) for n in names + names[:1]]
    statuses = [r().status for r in replies]
    assert sorted(statuses) == [200] * 6 + [400] and statuses[1:6] == [200] * 5
    jobs = {n: server.start_job(n, app, {"result": n}) for n in names}
    for name, job in jobs.items():
        assert server.wait_job(job, "FINISHED")["result"] == name
    assert [r().status for r in [server.background("DELETE", "/contexts/" + n) for n in names]] == [200] * 6
    for name in names:
        is_gone(server, name)


def test_limit_of_contexts(daemon):
    """max-contexts: 503 with Retry-After; when one has gone there is room."""
    server = daemon(max_contexts=2).start()
    server.create("a")
    server.create("b")
    reply = server.post("/contexts/c")
    assert reply.status == 503 and int(reply.headers["Retry-After"]) >= 1 and "max-contexts" in reply.result
    assert os.listdir(server.path("contexts")).__len__() == 2
    assert server.delete("/contexts/a").status == 200
    server.create("c")


# ---- names


@pytest.mark.parametrize("name", ["ctx", "c-1_2.3", "with space", "Ünï", "école", "日本", "x" * 255, "a/b", "a?b"])
def test_names_that_are_taken(server, name):
    server.create(name)
    quoted = urllib.parse.quote(name, safe="")
    assert server.get("/contexts/" + quoted).json["name"] == name
    assert server.delete("/contexts/" + quoted).status == 200


@pytest.mark.parametrize("name", ["1a", "-a", "_a", " a", ".", "..", "$x", "🙂"])
def test_names_must_begin_with_a_letter(server, name):
    reply = server.post("/contexts/" + urllib.parse.quote(name, safe=""))
    assert (reply.status, reply.json) == (400, {"status": "ERROR", "result": "context name must start with letters"})


@pytest.mark.parametrize(
    "raw", ["a%00", "a%0a", "a%0d%0aX-Evil:1", "a%ff", "a%c3%28", "a%zz", "a%2", "a" * 256, "a%7f", "a%c2%80"]
)
def test_names_that_are_refused(server, raw):
    reply = server.post("/contexts/" + raw)
    assert reply.status == 400 and reply.json["status"] == "ERROR" and "X-Evil" not in reply.headers


# ---- settings


def spec_of(server, name):
    with open(server.path("contexts", server.context_row(name)[0], "spec.json")) as f:
        return json.load(f)


def test_settings_reach_the_spec(server, own_context):
    """Spark settings of the query, short names, passthrough, Hadoop and Python settings, and what jobs see of them."""
    name = own_context(
        **{
            "num-cpu-cores": "4",
            "memory-per-node": "512m",
            "spark.executor.instances": "2",
            "spark.sql.shuffle.partitions": "7",
            "passthrough.spark.ui.enabled": "false",
            "hadoop.fs.defaultFS": "file:///",
            "python.paths": "/opt/a,lib/b",
            "max-jobs-per-context": "3",
            "context-factory": "spark.jobserver.python.PythonSQLContextFactory",
            "my.own": "x y",
            "launcher.spark.driver.memory": "1g",
        }
    )
    spec = spec_of(server, name)
    assert (spec["context"], spec["name"], spec["kind"]) == (server.context_row(name)[0], name, "sql")
    conf = spec["spark_conf"]
    assert all(isinstance(v, str) for v in conf.values())
    wanted = {
        "spark.app.name": name,
        "spark.cores.max": "4",
        "spark.executor.memory": "512m",
        "spark.executor.instances": "2",
        "spark.sql.shuffle.partitions": "7",
        "spark.ui.enabled": "false",
        "spark.driver.memory": "1g",
        "spark.master": "local[*]",
    }
    assert {k: conf.get(k) for k in wanted} == wanted
    assert spec["hadoop_conf"] == {"fs.defaultFS": "file:///"} and spec["python_paths"] == [
        "/opt/a",
        os.path.join(server.folder, "lib/b"),
    ]
    assert spec["settings"]["my"]["own"] == "x y" and spec["settings"]["context"]["name"] == name
    assert spec["settings"]["is-adhoc"] == "false" and spec["settings"]["num-cpu-cores"] == "4"
    assert (spec["max_result_inline"], spec["max_result"], spec["max_log"]) == (65536, 1 << 30, 4 << 30)
    assert os.stat(server.path("contexts", spec["context"], "spec.json")).st_mode & 0o777 == 0o600


def test_settings_in_the_body_beat_the_query(server):
    """spark.context-settings of the body > query > the server's defaults; other keys of the body are nothing to us."""
    name = unique("ctx")
    body = 'spark.context-settings { spark.x = body, spark.list = [1, 2] }\nspark.z = ignored\nmemory-per-node = 9g'
    reply = server.post("/contexts/" + name + "?spark.x=query&spark.y=query", body)
    assert reply.status == 200, reply
    conf = spec_of(server, name)["spark_conf"]
    assert (conf["spark.x"], conf["spark.y"], conf["spark.list"]) == ("body", "query", "1,2")
    assert "spark.z" not in conf and "spark.executor.memory" not in conf
    assert server.delete("/contexts/" + name).status == 200


def test_defaults_of_the_configuration(daemon):
    """spark-conf and context-settings of stoker.conf; what the request names beats both."""
    server = daemon(
        spark_conf=["spark.master=local[3]", "spark.a=conf", "spark.b=conf"],
        context_settings='spark.b = settings, spark.c = settings, max-jobs-per-context = 5',
    ).start()
    server.create("c", **{"spark.c": "query"})
    conf = spec_of(server, "c")["spark_conf"]
    assert [conf[k] for k in ("spark.master", "spark.a", "spark.b", "spark.c")] == [
        "local[3]",
        "conf",
        "settings",
        "query",
    ]
    assert server.rows("SELECT max_jobs FROM contexts") == [(5,)]


@pytest.mark.parametrize(
    "factory, kind",
    [
        ("PythonSessionContextFactory", "session"),
        ("PythonSparkContextFactory", "spark"),
        ("PythonSQLContextFactory", "sql"),
        ("PythonHiveContextFactory", "hive"),
    ],
)
def test_context_factories(server, own_context, factory, kind):
    name = own_context(**{"context-factory": "spark.jobserver.python." + factory})
    assert spec_of(server, name)["kind"] == kind
    assert (spec_of(server, name)["spark_conf"].get("spark.sql.catalogImplementation") == "hive") == (kind == "hive")


def test_unknown_factory(server):
    reply = server.post("/contexts/" + unique("ctx") + "?context-factory=a.b.C")
    assert reply.status == 500 and reply.json["status"] == "CONTEXT INIT ERROR"
    assert (reply.result["errorClass"], reply.result["message"]) == ("java.lang.ClassNotFoundException", "a.b.C")


@pytest.mark.parametrize(
    "query, body, word",
    [
        ("max-jobs-per-context=0", "", "max-jobs-per-context"),
        ("max-jobs-per-context=x", "", "max-jobs-per-context"),
        ("max-jobs-per-context=1001", "", "max-jobs-per-context"),
        ("a=1&a.b=2", "", "clash"),
        ("a..b=1", "", "a..b"),
        (".=1", "", "path"),
        ("num-cpu-cores=0", "", "'num-cpu-cores' must be a whole number from 1, not '0'"),
        ("num-cpu-cores=", "", "num-cpu-cores"),
        ("num-cpu-cores=two", "", "two"),
        ("memory-per-node=", "", "'memory-per-node' must be a size like 512m or 2g, not ''"),
        ("memory-per-node=much", "", "much"),
        ("launcher.spark.driver.memory=x", "", "'launcher.spark.driver.memory'"),
        ("spark.driver.memory=x", "", "'spark.driver.memory'"),
        ("spark.executor.memory=x", "", "'spark.executor.memory'"),
        ("spark.session.hive.enabled=maybe", "", "'spark.session.hive.enabled' must be true or false, not 'maybe'"),
        ("python.paths=", "", "python.paths"),
        ("python.executable=python3", "", "'python.executable' is not supported"),
        ("cp=x", "", "cp"),
        ("", "spark.context-settings { python.paths = 7 }", "python.paths"),
        ("", "a = [", "Cannot parse config"),
        ("", 'spark.context-settings { num-cpu-cores = [1] }', "num-cpu-cores"),
        ("x=%ff", "", "UTF-8"),
        ("%00=1", "", ""),
    ],
)
def test_settings_that_are_wrong(server, query, body, word):
    """400 with the setting's name; nothing is made."""
    name = unique("ctx")
    reply = server.post("/contexts/%s?%s" % (name, query), body)
    assert reply.status == 400 and word in reply.result, reply
    assert server.get("/contexts/" + name).status == 404


# ---- starts that fail


@pytest.mark.parametrize(
    "wish, message, tail",
    [
        ({"zygote": "exit3"}, "zygote", "exits with 3 as it was asked to"),
        ({"zygote": "wrong_token"}, "zygote", "wrong token"),
        ({"zygote": "bad_protocol"}, "zygote", "protocol"),
        ({"keeper": "exit"}, "status 7", "exits with 7 as it was asked to"),
        ({"keeper": "fail"}, "fake: Spark was asked to fail", "last words of the fake JVM"),
    ],
    ids=lambda v: "-".join("%s:%s" % i for i in v.items()) if isinstance(v, dict) else "",
)
def test_start_that_fails(server, wish, message, tail):
    """500 CONTEXT INIT ERROR with the cause and the end of the log; nothing is left; the name is free."""
    name = unique("ctx")
    reply = server.post(
        "/contexts/" + name + "?" + urllib.parse.urlencode({"spark.fake." + k: v for k, v in wish.items()})
    )
    assert reply.status == 500 and reply.json["status"] == "CONTEXT INIT ERROR", reply
    assert sorted(reply.result) == ["errorClass", "message", "stack"]
    assert message in reply.result["message"] and tail in reply.result["stack"]
    is_gone(server, name)
    shown = server.get("/contexts/" + name).json
    assert shown["state"] == "ERROR" and message in shown["error"]
    server.create(name)
    assert server.delete("/contexts/" + name).status == 200


def test_zygote_that_speaks_another_language(server):
    """Bytes that are no frame end its connection; deleting the context ends the process."""
    name = unique("ctx")
    reply = server.background("POST", "/contexts/" + name + "?spark.fake.zygote=garbage")
    wait_for(lambda: server.pid(name, "z"), "zygote")
    server.wait_log("connection dropped")
    assert server.delete("/contexts/" + name, force="true").status == 200
    assert reply().status >= 400
    is_gone(server, name)


@pytest.mark.parametrize(
    "wish",
    [{"zygote": "no_hello"}, {"keeper": "hang"}, {"zygote": "slow_hello"}],
    ids=lambda w: "-".join("%s:%s" % i for i in w.items()),
)
def test_delete_while_it_is_created(server, wish):
    """Both clients are answered, the creator with what has happened; nothing is left."""
    name = unique("ctx")
    creating = server.background(
        "POST", "/contexts/%s?%s" % (name, urllib.parse.urlencode({"spark.fake." + k: v for k, v in wish.items()}))
    )
    wait_for(lambda: server.context_row(name) and server.pid(name, "k" if "keeper" in wish else "z"), "process")
    assert server.get("/contexts/" + name).json["state"] == "STARTED"
    assert server.delete("/contexts/" + name).status == 200
    answer = creating()
    assert answer.status >= 400 and "exists" not in answer.text and "stopped" in answer.text, answer
    is_gone(server, name)


def test_zygote_killed_while_it_is_created(server):
    name = unique("ctx")
    creating = server.background("POST", "/contexts/%s?spark.fake.keeper=hang" % name)
    wait_for(lambda: server.context_row(name) and server.pid(name, "k"), "keeper")
    os.kill(server.pid(name, "z"), signal.SIGKILL)
    answer = creating()
    assert answer.status == 500 and answer.json["status"] == "CONTEXT INIT ERROR"
    is_gone(server, name)


def test_create_timeout(daemon):
    """The request gives up, the context goes on being created, and is there when it is up."""
    server = daemon(context_create_timeout="1s").start()
    start = time.monotonic()
    reply = server.post("/contexts/c?spark.fake.keeper=hang")
    assert 0.9 < time.monotonic() - start < 5
    assert reply.status == 500 and reply.json["status"] == "ERROR"
    assert reply.result["errorClass"] == "akka.pattern.AskTimeoutException"
    assert server.get("/contexts/c").json["state"] == "STARTED"
    assert server.submit("c", server.upload()).status in (202, 404, 409)
    assert server.delete("/contexts/c", force="true").status == 200


def test_runner_that_cannot_be_executed(daemon):
    """The interpreter has gone since the start: the create fails with that, the server goes on."""
    server = daemon()
    script = os.path.join(server.folder, "python")
    with open(script, "w") as f:
        f.write('#!/bin/sh\necho \'{"python": "3", "pyspark": "4", "pyhocon": "1"}\'\n')
    os.chmod(script, 0o755)
    with open(server.config_path) as f:
        text = re.sub(r'python = ".*"', 'python = "%s"' % script, f.read(), count=1)
    with open(server.config_path, "w") as f:
        f.write(text)
    server.start()
    os.unlink(script)
    reply = server.post("/contexts/c")
    assert reply.status == 500 and reply.json["status"] == "CONTEXT INIT ERROR" and script in reply.result["message"]
    is_gone(server, "c")


# ---- ends


def test_delete_ends_jobs(server, app, flags):
    """Jobs that run and wait become errors with the words clients know; their sync clients are told."""
    name = server.create(**{"max-jobs-per-context": 1})
    running = server.background(
        "POST",
        "/jobs?appName=%s&classPath=a.B&context=%s&sync=true&timeout=30" % (app, name),
        {"fake": {"touch": flags.path("on"), "wait": "/nowhere"}},
    )
    flags.wait("on")
    queued = server.start_job(name, app)
    assert server.delete("/contexts/" + name).status == 200
    error = {"message": "Context (%s) for this job was terminated" % name, "errorClass": "", "stack": ""}
    assert running().json["result"] == error and running().json["status"] == "ERROR"
    assert server.wait_job(queued, "ERROR")["result"] == error
    is_gone(server, name)


def test_delete_by_force(daemon, flags):
    """SIGKILL at once, whatever the keeper does: no grace is waited for."""
    server = daemon(stop_grace="60s").start()
    server.create("c", wish={"keeper": "ignore_sigterm"})
    job = server.start_job("c", server.upload(), {"touch": flags.path("on"), "do": "hang"})
    flags.wait("on")
    assert server.delete("/contexts/c?force=true").status == 200
    server.wait_job(job, "ERROR")
    is_gone(server, "c")


@pytest.mark.parametrize("wish", [{"keeper": "ignore_sigterm"}, {"zygote": "ignore_stop"}], ids=["keeper", "zygote"])
def test_delete_of_what_does_not_want_to_end(server, wish):
    """After the grace everything of it is killed."""
    name = server.create(wish=wish)
    assert server.delete("/contexts/" + name).status == 200
    is_gone(server, name)


@pytest.mark.parametrize("force", ["", "?force=true"], ids=["stop", "force"])
@pytest.mark.parametrize("restarted", [False, True], ids=["connected", "silent"])
def test_delete_when_the_zygote_is_stopped(daemon, restarted, force):
    """By SIGSTOP. It goes on and ends the context itself: it alone knows the descent of all that jobs have started.
    silent: since the server was started it has not dialled in."""
    server = daemon(stop_grace="5s").start()
    server.create("c")
    assert server.run("c", server.upload()).status == 200
    zygote = server.pid("c", "z")
    os.kill(zygote, signal.SIGSTOP)
    if restarted:
        server.restart()
    assert server.delete("/contexts/c" + force).status == 200
    is_gone(server, "c")
    with open(server.path("logs", "context.%s.log" % server.context_row("c")[0])) as log:
        assert "fake zygote: nothing is left" in log.read()


def test_delete_timeout(daemon):
    """202 with the URL to look at; it goes on being stopped."""
    server = daemon(context_delete_timeout="1s", stop_grace="3s").start()
    server.create("c", wish={"keeper": "ignore_sigterm"})
    reply = server.delete("/contexts/c?x=1")
    assert (reply.status, reply.body) == (202, b"")
    assert reply.headers["Location"] == "http://127.0.0.1:%d/contexts/c?x=1" % server.port
    assert server.get("/contexts/c").json["state"] == "STOPPING" and "c" in server.get("/contexts").json
    wait_for(lambda: server.get("/contexts/c").json["state"] == "FINISHED", "end of the context")


def test_two_deletes_at_once(server):
    name = server.create(wish={"keeper": "ignore_sigterm"})
    replies = [server.background("DELETE", "/contexts/" + name) for _ in range(3)]
    assert [r().status for r in replies] == [200] * 3
    is_gone(server, name)


def test_delete_during_cancel(server, app, flags):
    """A job that is being cancelled when its context goes ends as KILLED."""
    name = server.create(wish={"keeper": "slow_cancel"})
    job = server.start_job(name, app, {"touch": flags.path("on"), "do": "hang"})
    flags.wait("on")
    killing = server.background("DELETE", "/jobs/" + job)
    wait_for(lambda: server.job_row(job)[0] == "CANCELLING", "cancel")
    assert server.delete("/contexts/" + name, force="true").status == 200
    assert killing().json == {"status": "KILLED"}
    assert server.job(job)["status"] == "KILLED"
    is_gone(server, name)
