"""python-runner/PROTOCOL.md, kept by real zygotes, keepers and workers: connections, ends, logs, leftovers."""
import glob
import json
import os
import signal
import subprocess
import time

import pytest
from conftest import FLAGS, wait_until
from harness import make_binary

WAITING = FLAGS + """
raise_flag(args[0])
wait_flag(args[1])
result = "waited"
"""
COUNT = "result = context.sparkContext.parallelize(range(1000), 2).count()"


def alive(pid):
    """Live and no zombie."""
    try:
        with open("/proc/%d/stat" % pid) as f:
            return f.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def of_context(context):
    """Pids of everything that belongs to a context."""
    found = []
    for path in glob.glob("/proc/[0-9]*/environ"):
        try:
            with open(path, "rb") as f:
                if b"STOKER_CONTEXT=" + context.id.encode() in f.read().split(b"\0"):
                    found.append(int(path.split("/")[2]))
        except OSError:
            continue
    return [pid for pid in found if alive(pid)]


def spool(server, name):
    return os.path.join(server.state, "spool", name)


# ---------------------------------------------------------------- the connection

def test_a_job_in_flight_survives_the_server(server, workers, flag):
    worker = workers()
    job = worker.start(WAITING, [flag.path("runs"), flag.path("go")])
    flag.wait("runs")
    server.kill()
    since = server.mark()
    server.listen()
    hello = worker.wait("hello", since=since)
    assert hello["attempts"] == [{"job": job.id, "attempt": 1}] and hello["results"] == []
    assert hello["state"] == "ready" and hello["set"] == "set-1"
    flag.raise_("go")
    assert json.loads(job.done()["result"]) == "waited"


def test_a_run_that_stands_in_a_broken_connection_counts(server, workers, flag):
    worker = workers()
    os.kill(worker.pid, signal.SIGSTOP)
    job = worker.start(WAITING, [flag.path("runs"), flag.path("go")])
    server.kill()
    os.kill(worker.pid, signal.SIGCONT)
    flag.wait("runs")
    since = server.mark()
    server.listen()
    assert worker.wait("hello", since=since)["attempts"] == [{"job": job.id, "attempt": 1}]
    flag.raise_("go")
    job.done()


def test_a_result_without_a_server_is_spooled_and_sent_later(server, workers, flag):
    worker = workers()
    job = worker.start(WAITING, [flag.path("runs"), flag.path("go")])
    flag.wait("runs")
    server.kill()
    flag.raise_("go")
    path = spool(server, job.id + ".1")
    wait_until(lambda: os.path.exists(path), what="spool file")
    with open(path) as f:
        body = json.load(f)
    assert body["outcome"] == "finished" and body["type"] == "done"
    since = server.mark()
    server.listen()
    hello = worker.wait("hello", since=since)
    assert hello["results"] == [{"job": job.id, "attempt": 1}] and hello["attempts"] == []
    assert worker.wait("done", since=since, job=job.id) == body
    wait_until(lambda: not os.path.exists(path), what="removal of the spool file after the ack")
    assert worker.value("result = 2") == 2


def test_an_unacknowledged_result_is_kept_and_repeated(server, workers):
    worker = workers()
    server.acks = False
    job = worker.start("result = 1")
    first = job.done()
    server.kill()
    wait_until(lambda: os.path.exists(spool(server, job.id + ".1")), what="spool file")
    since = server.mark()
    server.acks = True
    server.listen()
    assert worker.wait("done", since=since, job=job.id) == first


def test_only_welcome_counts(server, workers):
    """A listener that nobody serves: the worker dials again."""
    worker = workers()
    server.welcomes = False
    server.kill()
    since = server.mark()
    server.listen()
    worker.wait("hello", since=since)
    server.welcomes = True
    worker.wait("(closed)", since=since)   # after 5 s without welcome
    worker.wait("hello")
    assert worker.value("result = 1") == 1


def test_a_worker_lists_nothing_it_does_not_know(server, workers):
    """Thereby it denies an attempt."""
    worker = workers()
    worker.run("result = 1")
    server.kill()
    since = server.mark()
    server.listen()
    hello = worker.wait("hello", since=since)
    assert hello["attempts"] == [] and hello["results"] == []


def test_a_refused_worker_ends(server, workers, context):
    worker = workers()
    server.refuse.add((worker.context.id, worker.name))
    since = server.mark()
    server.kill()
    server.listen()
    assert context.wait("z", "exited", since=since, process=worker.name)["status"] == 0


def test_hello_says_who_is_there(server, workers, context):
    worker = workers()
    since = server.mark()
    server.kill()
    server.listen()
    zygote = context.wait("z", "hello", since=since)
    children = {c["process"]: c for c in zygote["children"]}
    assert children["k"]["role"] == "keeper" and children[worker.name]["pid"] == worker.pid
    keeper = context.wait("k", "hello", since=since)
    assert keeper["state"] == "running" and worker.name in keeper["workers"]
    assert keeper["started"]["spark_version"] == "4.3.0"
    hello = worker.wait("hello", since=since)
    with open("/proc/%d/stat" % worker.pid) as f:
        assert hello["start_time"] == int(f.read().rsplit(")", 1)[1].split()[19]) == children[worker.name]["start_time"]


# ---------------------------------------------------------------- how jobs and workers end

def test_interrupt_of_python_code(workers, flag):
    worker = workers()
    job = worker.start(FLAGS + "raise_flag(args[0])\nwhile True: pass", [flag.path("runs")])
    flag.wait("runs")
    job.interrupt()
    done = job.done()
    assert done["outcome"] == "interrupted" and done["error"]["code"] == "KILLED"
    assert done["retire"] and job.interrupted()["current"] is True     # it may have been anywhere, be it within a library
    assert workers().value("result = 1") == 1


def test_an_interrupt_that_the_job_turns_into_its_own_error_is_still_one(workers, flag):
    worker = workers()
    job = worker.start(FLAGS + """
raise_flag(args[0])
try:
    time.sleep(60)
except BaseException as e:
    raise RuntimeError("mine") from e
""", [flag.path("runs")])
    flag.wait("runs")
    job.interrupt()
    assert job.done()["outcome"] == "interrupted"


@pytest.mark.parametrize("code,status", [("import sys; sys.exit(3)", 3), ("import sys; sys.exit()", 0),
                                         ("import sys; sys.exit('why')", 1)])
def test_sys_exit(workers, code, status):
    worker = workers()
    error = worker.run(code)["error"]
    assert error["code"] == "EXITED" and error["exit_code"] == status and "sys.exit" in error["message"]
    assert worker.value("result = 1") == 1


def test_os_exit_and_a_segfault_are_told_by_the_zygote(workers, context, server):
    one, two = workers(), workers()
    since = server.mark()
    one.start("import os; os._exit(7)")
    assert context.wait("z", "exited", since=since, process=one.name)["status"] == 7
    two.start("print('last words'); import ctypes; ctypes.string_at(0)")
    exited = context.wait("z", "exited", since=since, process=two.name)
    assert exited["signal"] == signal.SIGSEGV and exited["status"] is None
    with open(os.path.join(server.state, "logs", two.name + ".stdout")) as f:
        assert f.read() == "last words\n"
    with open(os.path.join(server.state, "logs", two.name + ".stderr")) as f:
        assert "Segmentation fault" in f.read()


def test_a_fork_that_comes_back_from_the_jobs_code_answers_nothing(workers):
    worker = workers()
    job = worker.start("import os\nresult = 'child' if os.fork() == 0 else 'parent'")
    assert json.loads(job.done()["result"]) == "parent"
    assert worker.value("result = 1") == 1
    assert len(worker.seen("done", since=job.since, job=job.id)) == 1


def test_threads_left_retire_the_worker(workers, context, server):
    worker = workers()
    since = server.mark()
    done = worker.run("import threading, time\nthreading.Thread(target=time.sleep, args=(99,), name='stays').start()")
    assert done["outcome"] == "finished" and "stays" in done["retire"]
    assert context.wait("z", "exited", since=since, process=worker.name)["status"] == 0


def test_a_thread_that_is_just_ending_retires_nobody(workers):
    done = workers().run("import threading, time\nthreading.Thread(target=time.sleep, args=(.02,)).start()")
    assert "retire" not in done


def test_retire(workers):
    worker = workers()
    assert worker.retire()["status"] == 0


def test_limits_of_a_worker(workers, context):
    old = dict(context.spec)
    try:
        context.respec(max_jobs_per_worker=2)
        worker = workers()
        assert ["retire" in worker.run("result = 1") for _ in range(2)] == [False, True]
        context.respec(max_jobs_per_worker=0, max_worker_growth=32 << 20)
        worker = workers()
        assert "retire" not in worker.run("result = 1")
        assert "memory" in worker.run("import sys; sys.kept = bytearray(64 << 20)")["retire"]
    finally:
        context.respec(**old)


def test_a_job_that_closes_every_descriptor(workers, context, server):
    worker = workers()
    since = server.mark()
    job = worker.start("import os; os.closerange(0, 65536); result = 'closed'")
    assert context.wait("z", "exited", since=since, process=worker.name)["status"] == 0
    with open(spool(server, job.id + ".1")) as f:
        body = json.load(f)
    assert json.loads(body["result"]) == "closed"
    os.unlink(spool(server, job.id + ".1"))


@pytest.mark.parametrize("kind", ["eventfd", "timerfd"])
def test_a_job_that_closes_what_wakes_the_worker(workers, context, server, kind):
    worker = workers()
    since = server.mark()
    done = worker.run("""
        import os, time
        time.sleep(.2)
        for fd in map(int, os.listdir("/proc/self/fd")):
            try:
                if %r in os.readlink("/proc/self/fd/%%d" %% fd):
                    os.close(fd)
            except OSError:
                pass
        result = "closed"
        """ % kind)
    assert done["result"] == '"closed"' and "descriptors" in done["retire"]
    assert context.wait("z", "exited", since=since, process=worker.name)["status"] == 0


def test_a_job_that_closes_its_standard_streams(workers):
    worker = workers()
    assert worker.value("import os, sys\nfor fd in (0, 1, 2): os.close(fd)\nresult = 1") == 1
    assert worker.value("import sys\nsys.stdout.close()\nsys.stderr = None\nresult = 2") == 2
    job = worker.start("import sys\nprint('out')\nprint('err', file=sys.stderr)\nresult = sys.stdin.read()")
    done = job.done()
    assert done["result"] == '""' and (done["stdout_bytes"], done["stderr_bytes"]) == (4, 4), done
    assert (job.log("stdout"), job.log("stderr")) == ("out\n", "err\n")


# ---------------------------------------------------------------- logs and results

def test_only_jobs_that_print_have_logs(workers, server):
    worker = workers()
    silent = worker.start("result = 1")
    done = silent.done()
    assert (done["stdout_bytes"], done["stderr_bytes"]) == (0, 0)
    assert not glob.glob(os.path.join(server.state, "logs", silent.id + "*"))
    job = worker.start("""
        import os, sys
        print("\u00fc")
        os.system("echo from a child >&2")
        sys.stdout.write("no newline")
        """)
    done = job.done()
    assert job.log() == "\u00fc\nno newline" and job.log("stderr") == "from a child\n"
    assert (done["stdout_bytes"], done["stderr_bytes"]) == (13, 13)


def test_a_job_that_prints_too_much(workers, context):
    old = dict(context.spec)
    try:
        context.respec(max_log=1 << 20)
        worker = workers()
        job = worker.start("import time\nwhile True:\n    print('x' * 1000)\n    time.sleep(.0001)")
        done = job.done()
        assert done["outcome"] == "error" and done["error"]["code"] == "LOG_TOO_LARGE"
        assert done["stdout_bytes"] > 1 << 20
        assert workers().value("result = 1") == 1
    finally:
        context.respec(**old)


def test_a_job_that_prints_too_much_and_does_not_end(workers, context, server):
    old = dict(context.spec)
    try:
        context.respec(max_log=1 << 20)
        worker = workers()
        since = server.mark()
        job = worker.start("""
            import time
            while True:
                try:
                    print("x" * 1000)
                    time.sleep(.0005)
                except BaseException:
                    pass
            """)
        done = job.done()
        assert done["error"]["code"] == "LOG_TOO_LARGE" and done["retire"]
        assert context.wait("z", "exited", since=since, process=worker.name)["status"] == 0
        assert os.path.getsize(os.path.join(server.state, "logs", job.id + ".1.stdout")) == done["stdout_bytes"]
    finally:
        context.respec(**old)


def test_a_long_result_goes_to_a_file(workers, server):
    worker = workers()
    job = worker.start("result = 'x' * 100000")
    done = job.done()
    assert done["result_file"] == job.id + ".1.json" and done["result_bytes"] == 100002
    with open(os.path.join(server.state, "results", done["result_file"])) as f:
        assert json.load(f) == "x" * 100000


def test_a_failure_says_where(workers, server):
    binary = make_binary(server.state, "broken", {"broken_job.py": """
class Job:
    def validate(self, context, runtime, config):
        return None

    def run_job(self, context, runtime, data):
        return context.sql("select no_such_column from range(1)").collect()
"""})
    worker = workers()
    error = worker.run(cls="broken_job.Job", binaries=[binary], binary_set="broken")["error"]
    assert (error["code"], error["file"], error["line"]) == ("SPARK_ANALYSIS", "broken_job.py", 7)
    assert "no_such_column" in error["message"]


# ---------------------------------------------------------------- what jobs leave behind

LEAVE = """
import os, subprocess, time
pids = []
pids.append(subprocess.Popen(["sleep", "1000"]).pid)
pids.append(subprocess.Popen(["sleep", "1000"], start_new_session=True).pid)
pids.append(int(subprocess.check_output("setsid sleep 1000 >/dev/null 2>&1 & echo $!", shell=True)))
r, w = os.pipe()
first = os.fork()
if first == 0:          # a daemon by the book, without exec
    os.setsid()
    second = os.fork()
    if second == 0:
        os.write(w, b"%d" % os.getpid())
        os.closerange(0, 65536)
        time.sleep(1000)
    os._exit(0)
os.waitpid(first, 0)
pids.append(int(os.read(r, 20)))
"""


def test_processes_left_by_a_job_end_with_it(workers):
    worker = workers()
    pids = worker.value(LEAVE + "result = pids")
    assert len(pids) == 4 and not any(map(alive, pids))
    assert worker.value("result = 1") == 1


def test_processes_of_a_killed_worker_end_with_it(workers, flag):
    worker, other = workers(), workers()
    worker.start(LEAVE + "open(args[0] + '.new', 'w').write(repr(pids))\nos.rename(args[0] + '.new', args[0])\n"
                 "time.sleep(1000)", [flag.path("pids")])
    flag.wait("pids")
    with open(flag.path("pids")) as f:
        pids = json.load(f)
    assert all(map(alive, pids))
    exited = worker.kill()
    assert exited["signal"] == signal.SIGKILL and exited["reason"]
    assert not any(map(alive, pids))
    assert other.value(COUNT) == 1000


def test_a_fork_that_exists_is_only_reported(workers, context):
    worker = workers()
    pid = worker.pid
    context.fork(worker.name, "worker", gateway={"port": 1, "secret": "x"})
    assert context.pids[worker.name] == pid


def test_an_exit_without_a_server_is_spooled(workers, context, server):
    worker = workers()
    server.kill()
    os.kill(worker.pid, signal.SIGKILL)
    path = spool(server, "exit.%s.%s" % (context.id, worker.name))
    wait_until(lambda: os.path.exists(path), what="spooled exit")
    with open(path) as f:
        assert json.load(f)["signal"] == signal.SIGKILL
    since = server.mark()
    server.listen()
    hello = context.wait("z", "hello", since=since)
    assert [e["process"] for e in hello["exits"]] == [worker.name]
    context.send("z", type="ack_exit", process=worker.name)
    wait_until(lambda: not os.path.exists(path), what="removal of the spooled exit")
    context.gone(worker.name)
    server.take(server.peers[context.id, "z"], dict(hello["exits"][0], type="exited"))


# ---------------------------------------------------------------- the end of a context

def test_the_keeper_killed_takes_everything_along(own_context, server):
    context = own_context()
    jvm = context.start()["jvm_pid"]
    worker = context.worker()
    since = server.mark()
    os.kill(context.pids["k"], signal.SIGKILL)
    assert context.wait("z", "exited", since=since, process="k")["signal"] == signal.SIGKILL
    assert context.wait("z", "exited", since=since, process=worker.name)["reason"]
    assert context.zygote.wait(10) == 1
    assert not alive(jvm) and not of_context(context)


def test_the_zygote_killed_takes_everything_along(own_context, server):
    context = own_context()
    context.start()
    worker = context.worker()
    worker.value("import pyspark.sql.functions as F\n" + COUNT)
    os.kill(context.zygote.pid, signal.SIGKILL)
    context.zygote.wait()
    wait_until(lambda: not of_context(context), what="end of all processes")


def test_the_jvm_killed_is_reported(own_context, server):
    context = own_context()
    started = context.start()
    os.kill(started["jvm_pid"], signal.SIGKILL)
    error = context.wait("k", "ended")["error"]
    assert error["code"] == "CONTEXT_LOST" and "SIGKILL" in error["message"]
    assert context.zygote.wait(10) == 1 and not of_context(context)


def test_a_spark_context_that_stops_is_reported(own_context, server):
    context = own_context()
    context.start()
    worker = context.worker()
    since = server.mark()
    worker.start("context.sparkContext._jsc.stop()")
    assert context.wait("k", "ended", since=since)["error"]["code"] == "CONTEXT_STOPPED"
    assert context.zygote.wait(10) == 1 and not of_context(context)


def test_the_orphan_timer_waits_for_jobs(own_context, server, flag):
    context = own_context(env={"STOKER_ORPHAN_SECONDS": "1"})
    context.start()
    worker = context.worker()
    job = worker.start(WAITING, [flag.path("runs"), flag.path("go")])
    flag.wait("runs")
    server.kill()
    try:
        time.sleep(2)
        assert context.zygote.poll() is None
        flag.raise_("go")
        assert context.zygote.wait(20) == 1
        assert not of_context(context)
        with open(spool(server, job.id + ".1")) as f:
            assert json.loads(json.load(f)["result"]) == "waited"
    finally:
        server.listen()


def test_a_start_that_fails_says_why(own_context, server):
    context = own_context(spark_conf={"spark.eventLog.enabled": "true", "spark.eventLog.dir": "/no/such/directory"})
    context.fork("k", "keeper")
    error = context.wait("k", "failed")["error"]
    assert error["code"] == "CONTEXT_FAILED" and "/no/such/directory" in error["cause"]
    assert error["log_tail"]
    assert context.zygote.wait(20) == 1 and not of_context(context)


def test_a_jvm_that_does_not_start_says_why(own_context, server):
    context = own_context(spark_conf={"spark.driver.extraJavaOptions": "-Xmx1g"})
    context.fork("k", "keeper")
    error = context.wait("k", "failed")["error"]
    assert error["code"] == "CONTEXT_FAILED" and "Not allowed to specify max heap" in error["message"]
    assert context.zygote.wait(20) == 1 and not of_context(context)


def test_k5_a_hive_context_has_its_own_catalog(own_context):
    context = own_context(kind="hive")
    context.start()
    value = context.worker().value("""
        context.sql("create table k5 (n int) using parquet")
        context.sql("insert into k5 values (1)")
        result = [type(context).__name__, context.sql("select * from k5").collect()[0][0],
                  context.sparkSession.conf.get("spark.sql.catalogImplementation")]
        """)
    assert value == ["HiveContext", 1, "hive"]
    assert sorted(os.path.basename(p) for p in glob.glob(context.folder + "/*")) == [
        "busy", "context.log", "derby.log", "local", "metastore_db", "python", "spark.properties", "spec.json", "tmp",
        "warehouse", "work"]
    context.zygote.terminate()      # as `stop` with a grace of 5 s
    assert context.zygote.wait(30) == 0 and not of_context(context)


def test_executors_elsewhere_get_the_binaries_as_files(own_context, server):
    context = own_context(kind="spark", spark_conf={
        "spark.master": "local-cluster[1,2,600]", "spark.executor.memory": "600m"})
    context.start()
    for version in ("one", "two"):
        binary = make_binary(server.state, "app", {"cluster_app.py": "V = %r\n" % version})
        worker = context.worker()
        code = """
            def look(_):
                import sys, cluster_app, sparkjobserver.api
                sys.path[:] = [p for p in sys.path if "/blobs/" not in p]   # what other machines do not have
                for name in ("cluster_app",):
                    del sys.modules[name]
                import cluster_app
                return cluster_app.V, cluster_app.__file__
            result = context.parallelize(range(2), 2).map(look).collect()
            """
        for _ in range(2):
            values = worker.value(code, binaries=[binary], binary_set=binary["digest"])
            assert {v for v, _ in values} == {version}
            assert all("stoker-%s-" % binary["digest"][:16] in path for _, path in values)


def test_check_answers_without_importing_anything():
    from harness import PYTHON, RUNNER_DIR
    out = subprocess.run([PYTHON, "-m", "stoker_runner.check"], env={"PYTHONPATH": RUNNER_DIR}, capture_output=True,
                         timeout=10, check=True).stdout
    found = json.loads(out)
    assert set(found) == {"python", "pyspark", "pyhocon", "numpy", "pandas", "pyarrow"}
    assert found["pyspark"] == "4.3.0"
