"""What one job does to its process, on real workers and Spark: the next job is right, and so are its neighbours."""
import json
import os
import signal

import pytest
from conftest import FLAGS
from harness import make_binary
from test_processes import COUNT, alive

MIB = 1 << 20

# What a reused worker puts back: (name, what the job does, an expression that shows it).
RESTORED = [
    ("cwd", "os.chdir('/')", "os.getcwd()"),
    ("environ", "os.environ['LEFT'] = '1'", "os.environ.get('LEFT')"),
    ("environ, removed", "del os.environ['PYTHONHASHSEED']", "os.environ.get('PYTHONHASHSEED')"),
    ("environ, replaced", "os.environ = dict(os.environ, LEFT='1')",
     "[type(os.environ).__name__, os.environ.get('LEFT')]"),
    ("environ of C, putenv", "os.putenv('LEFT', 'c')", "subprocess.getoutput('echo $LEFT')"),
    ("environ of C, setenv", "ctypes.CDLL(None).setenv(b'LEFT', b'c', 1)", "subprocess.getoutput('echo $LEFT')"),
    ("environ of C, unsetenv", "os.unsetenv('PYTHONHASHSEED')", "subprocess.getoutput('echo $PYTHONHASHSEED')"),
    ("time zone", "os.environ['TZ'] = 'Asia/Tokyo'; time.tzset()", "[time.tzname, time.timezone]"),
    ("sys.path", "sys.path.append('/left')", "sys.path"),
    ("sys.path, replaced", "sys.path = ['/left']", "sys.path"),
    ("sys.argv", "sys.argv = ['left']", "sys.argv"),
    ("sys.meta_path", "sys.meta_path.insert(0, object())", "len(sys.meta_path)"),
    ("umask", "os.umask(0)", "[os.umask(0o22), os.umask(0o22)]"),
    ("signal handler", "signal.signal(signal.SIGTERM, lambda *_: None)", "str(signal.getsignal(signal.SIGTERM))"),
    ("signal mask", "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})",
     "sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ()))"),
    ("alarm", "signal.setitimer(signal.ITIMER_REAL, 1000)", "signal.getitimer(signal.ITIMER_REAL)[0] > 0"),
    ("timer of processor time", "signal.setitimer(signal.ITIMER_PROF, 1000)",
     "signal.getitimer(signal.ITIMER_PROF)[0] > 0"),
    ("open files", "resource.setrlimit(resource.RLIMIT_NOFILE, (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))",
     "resource.getrlimit(resource.RLIMIT_NOFILE)"),
    ("stack size", "resource.setrlimit(resource.RLIMIT_STACK, (1 << 20, resource.getrlimit(resource.RLIMIT_STACK)[1]))",
     "resource.getrlimit(resource.RLIMIT_STACK)"),
    ("process group", "os.setpgid(0, os.getppid())", "os.getpgrp() == os.getpid()"),
    ("locale", "locale.setlocale(locale.LC_ALL, 'C')", "locale.setlocale(locale.LC_ALL)"),
    ("decimals", "decimal.getcontext().prec = 3", "decimal.getcontext().prec"),
    ("decimals, replaced", "decimal.setcontext(decimal.Context(prec=3))", "decimal.getcontext().prec"),
    ("numpy errors", "numpy.seterr(all='raise')", "numpy.geterr()"),
    ("numpy printing", "numpy.set_printoptions(precision=2)", "numpy.get_printoptions()['precision']"),
    ("pandas options", "import pandas; pandas.set_option('display.max_rows', 3)",
     "__import__('pandas').get_option('display.max_rows')"),
    ("warnings", "warnings.simplefilter('error')", "[str(f) for f in warnings.filters]"),
    ("warnings, replaced", "warnings.filters = []", "len(warnings.filters)"),
    ("logging, root", "logging.basicConfig(level=logging.DEBUG, force=True)",
     "[logging.root.level, len(logging.root.handlers)]"),
    ("logging, level", "logging.getLogger('py4j').setLevel(1)", "logging.getLogger('py4j').level"),
    ("logging, handler", "logging.getLogger('left').addHandler(logging.StreamHandler())",
     "len(logging.getLogger('left').handlers)"),
    ("logging, filter", "logging.getLogger('py4j').addFilter(print)", "len(logging.getLogger('py4j').filters)"),
    ("logging, propagate", "logging.getLogger('py4j').propagate = False", "logging.getLogger('py4j').propagate"),
    ("logging, disabled", "logging.getLogger('py4j').disabled = True", "logging.getLogger('py4j').disabled"),
    ("logging.disable", "logging.disable(logging.CRITICAL)", "logging.root.manager.disable"),
    ("sys.excepthook", "sys.excepthook = print", "str(sys.excepthook)"),
    ("sys.displayhook", "sys.displayhook = print", "str(sys.displayhook)"),
    ("sys.unraisablehook", "sys.unraisablehook = print", "str(sys.unraisablehook)"),
    ("threading.excepthook", "threading.excepthook = print", "str(threading.excepthook)"),
    ("sys.settrace", "sys.settrace(lambda *_: None)", "str(sys.gettrace())"),
    ("sys.setprofile", "sys.setprofile(lambda *_: None)", "str(sys.getprofile())"),
    ("threading.settrace", "threading.settrace(print)", "str(threading._trace_hook)"),
    ("recursion limit", "sys.setrecursionlimit(9999)", "sys.getrecursionlimit()"),
    ("switch interval", "sys.setswitchinterval(1)", "sys.getswitchinterval()"),
    ("digits of integers", "sys.set_int_max_str_digits(0)", "sys.get_int_max_str_digits()"),
    ("collector off", "gc.disable()", "gc.isenabled()"),
    ("collector's thresholds", "gc.set_threshold(1, 2, 3)", "gc.get_threshold()"),
    ("socket time-out", "socket.setdefaulttimeout(1)", "socket.getdefaulttimeout()"),
    ("stack size of threads", "threading.stack_size(1 << 20)", "threading.stack_size()"),
    ("csv field size", "csv.field_size_limit(7)", "csv.field_size_limit()"),
    ("tempfile.tempdir", "tempfile.tempdir = '/left'", "tempfile.tempdir"),
    ("asyncio policy", "asyncio.set_event_loop_policy(asyncio.DefaultEventLoopPolicy())",
     "str(asyncio.events._event_loop_policy)"),
    ("start method", "multiprocessing.set_start_method('spawn')",
     "str(multiprocessing.context._default_context._actual_context)"),
    ("standard streams", "sys.stdout = sys.stderr = None", "[sys.stdout is None, sys.stderr is None]"),
    ("context variable", "import contextvars; threading.left = getattr(threading, 'left', None) or "
     "contextvars.ContextVar('left', default=0); threading.left.set(1)",
     "threading.left.get() if hasattr(threading, 'left') else 0"),
    ("environment of executors", "context.sparkContext.environment['LEFT'] = '1'",
     "context.sparkContext.environment.get('LEFT')"),
]
# What makes it retire: (name, what the job does, what the reason names).
RETIRED = [
    ("function of a module", "json.dumps = None", "json.dumps"),
    ("function of os", "os.getcwd = lambda: '/'", "os.getcwd"),
    ("builtin", "import builtins; builtins.open = None", "builtins.open"),
    ("new builtin", "import builtins; builtins.left = 1", "builtins.left"),
    ("function of Spark", "import pyspark.sql.functions as f; f.col = None", "pyspark.sql.functions"),
    ("method of Spark", "import pyspark.sql; pyspark.sql.SparkSession.sql = None", "SparkSession.sql"),
    ("method of pandas", "import pandas; pandas.DataFrame.head = None", "DataFrame.head"),
    ("module", "sys.modules['json'] = sys", "module json"),
    ("module, removed", "del sys.modules['json']", "module json"),
    ("nice value", "os.setpriority(os.PRIO_PROCESS, 0, 19); become_nobody()", "nice value"),
    ("hard limit", "resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256)); become_nobody()", "resource limit"),
    ("descriptors", "sys.left = [os.dup(0) for _ in range(200)]", "descriptors"),
    ("threads", "threading.Thread(target=time.sleep, args=(99,), name='stays', daemon=True).start()", "stays"),
]
IMPORTS = """
import asyncio, csv, ctypes, decimal, gc, json, locale, logging, multiprocessing, numpy, os, resource, signal, socket
import subprocess, sys, tempfile, threading, time, warnings

def become_nobody():
    if os.geteuid() == 0:       # who could put everything back
        os.setuid(65534)
"""
if os.geteuid() == 0:
    RETIRED.append(("user id", "become_nobody()", "user id"))
if len(os.sched_getaffinity(0)) > 1:
    RESTORED.append(("processors", "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})",
                     "sorted(os.sched_getaffinity(0))"))


@pytest.mark.parametrize("name,change,look", RESTORED, ids=[each[0] for each in RESTORED])
def test_a_reused_worker_puts_back(one_worker, name, change, look):
    show = IMPORTS + "result = [os.getpid(), %s]" % look
    first = one_worker.value(show)
    changed = one_worker.run(IMPORTS + change + "\nresult = [os.getpid(), %s]" % look)
    assert "retire" not in changed, changed
    assert json.loads(changed["result"]) != first, "the job has changed nothing"
    assert one_worker.value(show) == first
    assert one_worker.value(COUNT) == 1000


@pytest.mark.parametrize("name,change,reason", RETIRED, ids=[each[0] for each in RETIRED])
def test_a_worker_retires_when_it_cannot_put_back(workers, context, server, name, change, reason):
    worker, other = workers(), workers()
    since = server.mark()
    done = worker.run(IMPORTS + change + "\nresult = 1")
    assert done["outcome"] == "finished" and reason in done["retire"], done
    assert context.wait("z", "exited", since=since, process=worker.name)["status"] == 0
    assert other.value(COUNT) == 1000


@pytest.fixture
def one_worker(server, context, _kept=[]):
    """The same worker for all tests of a table."""
    if not _kept or context.seen("z", "exited", process=_kept[0].name):
        _kept[:] = [context.worker()]
    return _kept[0]


def test_what_a_module_changes_while_it_is_imported_stays(workers, server):
    """It is imported once in the life of a worker, so its next job would miss it."""
    binary = make_binary(server.state, "import_time", {"import_time.py": """
import decimal, json, logging, os, sys
os.environ["OF_MODULE"] = "1"
logging.getLogger("of_module").addHandler(logging.NullHandler())
decimal.getcontext().prec = 7
old_dumps = json.dumps
json.dumps = lambda *args, **kwargs: old_dumps(*args, **kwargs)
runs = 0

class Job:
    def validate(self, context, runtime, config):
        return None

    def run_job(self, context, runtime, data):
        global runs
        runs += 1
        found = [os.environ.get("OF_MODULE"), len(logging.getLogger("of_module").handlers), decimal.getcontext().prec,
                 json.dumps is old_dumps, runs, os.getpid()]
        os.environ["OF_MODULE"] = "changed"
        decimal.getcontext().prec = 3
        return found
"""})
    worker = workers()
    runs = [worker.run(cls="import_time.Job", binaries=[binary], binary_set="import_time") for _ in range(2)]
    assert not any("retire" in done for done in runs), runs
    assert [json.loads(done["result"]) for done in runs] == [["1", 1, 7, False, n, worker.pid] for n in (1, 2)]


LATE = {
    "late": """
import json, logging, os, warnings
os.environ["OF_MODULE"] = "1"
logging.getLogger("of_module").addHandler(logging.NullHandler())
warnings.filterwarnings("ignore", "of module")
old_dumps = json.dumps
json.dumps = lambda *args, **kwargs: old_dumps(*args, **kwargs)
runs = 0
""",
    "late_plain": "import late_too",
    "late_too": "import logging\nlogger = logging.getLogger(__name__)",
    "late_context": "import decimal\ndecimal.getcontext().prec = 7",
    "late_variable": "import contextvars\nleft = contextvars.ContextVar('left')\nleft.set(1)",
    "late_broken": "import os\nos.environ['OF_MODULE'] = '1'\nraise ImportError('not here')",
}


@pytest.fixture
def late(workers, server):
    """A function that runs code, by default always in the same worker, with the modules of LATE beside it."""
    binary = make_binary(server.state, "late", {name + ".py": text for name, text in LATE.items()})
    made = []

    def run(code):
        made[:] = made or [workers()]
        return made[0].run(IMPORTS + code, binaries=[binary], binary_set="late")
    return run


def test_what_a_module_changes_stays_when_a_job_imports_it_late(late):
    """The next job finds it in sys.modules, so its changes must be there too; those of the job itself are put back."""
    code = """
import late
late.runs += 1
result = [os.environ.get("OF_MODULE"), len(logging.getLogger("of_module").handlers),
          any("of module" in str(each) for each in warnings.filters), json.dumps is late.old_dumps, late.runs, os.getpid()]
os.environ["OF_MODULE"] = "changed"
warnings.simplefilter("error")
"""
    runs = [late(code) for _ in range(3)]
    assert not any("retire" in done for done in runs), runs
    assert [json.loads(done["result"])[:-1] for done in runs] == [["1", 1, True, False, n] for n in (1, 2, 3)]
    assert len({done["result"].split(",")[-1] for done in runs}) == 1


def test_a_late_import_that_changes_nothing_costs_no_worker(late):
    """Whatever the job has changed before it, which is put back as ever."""
    look = "\nresult = [os.environ.get('LEFT'), decimal.getcontext().prec, 'late_too' in sys.modules, os.getpid()]"
    first = late(look)
    done = late("os.environ['LEFT'] = '1'; decimal.getcontext().prec = 3\n"
                "import late_plain, colorsys, sched, http.server, xml.dom.minidom" + look)
    assert "retire" not in first and "retire" not in done, done
    pid = json.loads(first["result"])[-1]
    assert json.loads(first["result"]) == [None, 28, False, pid]
    assert json.loads(done["result"]) == ["1", 3, True, pid]
    assert json.loads(late(look)["result"]) == [None, 28, True, pid]


@pytest.mark.parametrize("code,module", [
    ("os.environ['LEFT'] = '1'\nimport late", "late"), ("import late_context", "late_context"),
    ("import late_variable", "late_variable"),
    ("import contextlib\nwith contextlib.suppress(ImportError): import late_broken", "late_broken"),
    ("t = threading.Thread(target=lambda: __import__('late')); t.start(); t.join()", "late"),
], ids=["after a change of the job's own", "context", "context variable", "failed", "thread"])
def test_a_worker_retires_when_a_late_import_and_its_job_cannot_be_told_apart(late, code, module):
    done = late(code + "\nresult = 1")
    assert done["outcome"] == "finished" and "module %s," % module in done["retire"], done


def test_a_worker_that_cannot_be_put_back_gives_its_job_the_log(workers, context, server):
    worker = workers()
    since = server.mark()
    job = worker.start("import pandas, sys\nfrom pandas._config.config import _global_config as config\n"
                       "del config['display']['max_rows']\nprint('of the job')\nprint('last words', file=sys.stderr)\n"
                       "raise ValueError('why')")
    done = job.done()
    assert "could not be put back" in done["retire"], done
    assert (done["outcome"], done["error"]["message"], done["stdout_bytes"]) == ("error", "why", 11)
    assert job.log() == "of the job\n" and job.log("stderr").startswith("last words\n")
    assert done["stderr_bytes"] == len(job.log("stderr")) and "last words" in done["error"]["stderr_tail"]
    assert context.wait("z", "exited", since=since, process=worker.name)["status"] == 0


def test_an_exception_that_cannot_be_looked_at_ends_its_job_only(workers):
    worker = workers()
    job = worker.start("""
        class Lies(Exception):
            @property
            def __context__(self):
                raise SystemExit(3)
        print("of the job")
        raise Lies("why")
        """)
    done = job.done()
    assert (done["outcome"], done["error"]["code"], done["error"]["raised_by"]) == ("error", "USER_EXCEPTION", "run_job")
    assert "Lies (cannot be described: SystemExit)" in done["error"]["message"] and job.log() == "of the job\n"
    assert "retire" not in done and worker.value(COUNT) == 1000


def test_random_numbers_differ_between_workers_and_jobs(workers):
    draw = "import random, numpy\nresult = [random.random(), numpy.random.rand()]"
    seeded = "import random, numpy\nrandom.seed(1)\nnumpy.random.seed(1)\nresult = 0"
    one, two = workers(), workers()
    drawn = [one.value(draw), two.value(draw)]
    for worker in (one, two, one):
        worker.value(seeded)
        drawn.append(worker.value(draw))
    for column in zip(*drawn):
        assert len(set(column)) == 5, drawn


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing_works_in_every_job(one_worker, method):
    """Its helpers end with the job, and the next job gets new ones."""
    code = IMPORTS + """
from multiprocessing import shared_memory
mp = multiprocessing.get_context(%r)
memory = shared_memory.SharedMemory(create=True, size=64)
process = mp.Process(target=time.sleep, args=(0,))
process.start()
process.join()
memory.close()
memory.unlink()
result = [os.getpid(), process.exitcode]
""" % method
    assert [one_worker.value(code) for _ in range(2)] == [[one_worker.pid, 0]] * 2


def test_a_deleted_working_directory_harms_nobody(workers, context):
    """All processes of the context have it, but nothing that Stoker or Spark needs is in it."""
    one, two = workers(), workers()
    place = "import os\nresult = [os.getpid(), os.getcwd(), os.path.isdir(os.getcwd())]"
    before = [one.value(place), two.value(place)]
    deleted = one.run("import os, shutil\nos.makedirs('mine')\nshutil.rmtree(os.getcwd())\nresult = 1")
    assert "retire" not in deleted, deleted
    assert [two.value(place), one.value(place)] == before[::-1]
    after = workers()
    assert after.value(place)[1:] == before[0][1:]
    rows = "context.range(10).write.mode('overwrite').csv('rows')\nimport os\nresult = os.path.isdir('rows')"
    for worker in (one, two, after):
        assert worker.value(COUNT) == 1000
        assert worker.value(rows) is True           # Spark and Python mean the same place
        assert worker.value("result = context.read.csv('rows').count()") == 10


# ---------------------------------------------------------------- isolation=process

def test_an_isolated_job_is_the_last_of_its_worker(workers, context, server):
    worker = workers()
    assert "retire" not in worker.run("result = 1")
    since = server.mark()
    done = worker.run("result = 2", isolated=True)
    assert done["result"] == "2" and done["retire"] == "isolation=process"
    assert context.wait("z", "exited", since=since, process=worker.name)["status"] == 0


# ---------------------------------------------------------------- jobs that take their process along

@pytest.mark.parametrize("code,status,signum", [
    ("os._exit(7)", 7, None), ("ctypes.string_at(0)", None, signal.SIGSEGV), ("os.abort()", None, signal.SIGABRT),
    ("os.kill(os.getpid(), 9)", None, signal.SIGKILL), ("os.killpg(0, 15)", None, signal.SIGTERM),
], ids=["exit", "segfault", "abort", "kill", "group"])
def test_a_job_that_ends_its_process_ends_nothing_else(workers, context, server, flag, code, status, signum):
    worker, other = workers(), workers()
    neighbour = other.start(FLAGS + "raise_flag(args[0])\nwait_flag(args[1])\n" + COUNT,
                            [flag.path("runs"), flag.path("go")])
    flag.wait("runs")
    since = server.mark()
    worker.start(IMPORTS + code)
    exited = context.wait("z", "exited", since=since, process=worker.name)
    assert (exited["status"], exited["signal"]) == (status, signum)
    context.gone(worker.name)
    flag.raise_("go")
    assert json.loads(neighbour.done()["result"]) == 1000
    assert workers().value(COUNT) == 1000


def test_a_kill_from_nowhere_is_said_to_be_one(workers, context, server, flag):
    worker = workers()
    worker.start(FLAGS + "raise_flag(args[0])\ntime.sleep(1000)", [flag.path("runs")])
    flag.wait("runs")
    since = server.mark()
    os.kill(worker.pid, signal.SIGKILL)
    exited = context.wait("z", "exited", since=since, process=worker.name)
    assert exited["signal"] == signal.SIGKILL and "nobody in Stoker" in exited["reason"], exited
    assert "out-of-memory" in exited["reason"] and exited["retry"] == "with-more-memory" and "code" not in exited


def test_the_kernel_takes_jobs_first(workers, context):
    """By the kernel's own account: of all processes of the context a worker has the highest score, the JVM not."""
    worker = workers()
    assert worker.value(COUNT) == 1000

    def read(pid, name):
        with open("/proc/%d/%s" % (pid, name)) as f:
            return int(f.read())
    jvm = context.seen("k", "started")[0]["jvm_pid"]
    others = [jvm, context.pids["k"], context.zygote.pid, os.getpid()]
    assert read(worker.pid, "oom_score") > max(read(pid, "oom_score") for pid in others)
    base = read(os.getpid(), "oom_score_adj")
    assert [read(pid, "oom_score_adj") for pid in others] == [base] * 4
    child = worker.value("import subprocess\nresult = int(subprocess.getoutput('cat /proc/self/oom_score_adj'))")
    assert child == read(worker.pid, "oom_score_adj") == min(1000, max(0, base) + 500)


# ---------------------------------------------------------------- max_memory

LIMIT = 64 * MIB


@pytest.mark.parametrize("code,line", [
    ("kept = []\nwhile True:\n    kept.append(bytearray(1 << 20))", 3),
    ("import numpy\nkept = numpy.ones(1 << 28)", 2),
    ("import mmap\nkept = mmap.mmap(-1, 1 << 30, mmap.MAP_PRIVATE)", 2),
    ("kept = 'x' * (1 << 30)\nresult = kept", 1),
], ids=["list", "numpy", "mmap", "string"])
def test_a_job_over_its_memory_ends_in_the_line_that_asked(workers, code, line):
    worker = workers()
    done = worker.run(code, max_memory=LIMIT)
    error = done["error"]
    assert (done["outcome"], error["code"], error["retry"]) == ("error", "OUT_OF_MEMORY", "with-more-memory"), error
    assert "max-memory = 64 MiB" in error["message"] and "line %d, in" % line in error["traceback"]
    assert "retire" not in done
    # the limit was this job's alone
    assert worker.value("result = len(bytearray(%d))" % (3 * LIMIT)) == 3 * LIMIT
    assert worker.value(COUNT, max_memory=LIMIT) == 1000


def test_a_limit_counts_from_what_the_worker_has(workers):
    worker = workers()
    assert worker.value("import sys\nsys.kept = bytearray(200 << 20)\nresult = 1") == 1
    assert worker.value("kept = bytearray(40 << 20)\nresult = len(kept)", max_memory=LIMIT) == 40 * MIB
    assert worker.run("kept = bytearray(70 << 20)", max_memory=LIMIT)["error"]["code"] == "OUT_OF_MEMORY"


# What a failing allocation does not stop: args[0] is a flag that says when it is over what it may use.
BEYOND = {
    "child": "code = 'import time; kept = b\"x\" * (56 << 20); time.sleep(1000)'\n"
             "child = subprocess.Popen([sys.executable, '-c', code])\n"
             "kept = b'x' * (56 << 20)\nchild.wait()",
    "forks": "for _ in range(4):\n    if os.fork() == 0:\n"
             "        kept = b'x' * (40 << 20)\n        time.sleep(1000)\nos.wait()",
    "daemon": "if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        kept = b'x' * (56 << 20)\n"
              "        time.sleep(1000)\n    os._exit(0)\nos.wait()\nkept = b'x' * (56 << 20)\ntime.sleep(1000)",
    "shared": "kept = mmap.mmap(-1, 256 << 20)\nkept.write(b'x' * (32 << 20))\nkept.write(b'x' * (32 << 20))\n"
              "kept.write(b'x' * (32 << 20))\ntime.sleep(1000)",
    "raised": "resource.setrlimit(resource.RLIMIT_DATA, (-1, -1))\nkept = b'x' * (256 << 20)\ntime.sleep(1000)",
    "blind": "def hold():\n    resource.setrlimit(resource.RLIMIT_DATA, (-1, -1))\n    kept = []\n    while True:\n"
             "        try:\n            kept.append(b'x' * (8 << 20))\n            time.sleep(.01)\n"
             "        except BaseException:\n            pass\nhold()",
    "malloc": "resource.setrlimit(resource.RLIMIT_DATA, (-1, -1))\nlibc = ctypes.PyDLL(None)\n"
              "libc.malloc.restype = ctypes.c_void_p\n"
              "libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]\n"
              "while True:\n    libc.memset(libc.malloc(1 << 20), 1, 1 << 20)\n    libc.usleep(1000)",
}


@pytest.mark.parametrize("way", BEYOND)
def test_memory_that_no_allocation_refuses_is_seen_from_outside(workers, context, server, way):
    worker, other = workers(), workers()
    since = server.mark()
    worker.start(IMPORTS + "import mmap\n" + BEYOND[way], max_memory=LIMIT)
    exited = context.wait("z", "exited", since=since, process=worker.name)
    assert (exited["code"], exited["retry"], exited["signal"]) == ("OUT_OF_MEMORY", "with-more-memory", 9), exited
    assert "max-memory = 64 MiB" in exited["reason"]
    context.gone(worker.name)
    assert not [pid for pid in marked(context, worker.name) if alive(pid)]
    assert other.value(COUNT) == 1000


def marked(context, process):
    """Pids that name the worker in their environment."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open("/proc/%s/environ" % pid, "rb") as f:
                block = f.read().split(b"\0")
        except OSError:
            continue
        if b"STOKER_PROCESS=" + process.encode() in block and b"STOKER_CONTEXT=" + context.id.encode() in block:
            found.append(int(pid))
    return found


def test_forks_that_share_their_memory_count_once(workers):
    """40 MiB of the job, seen by two forks of it, are 40 MiB and the little that forks change."""
    worker = workers()
    value = worker.value(IMPORTS + """
kept = b"x" * (40 << 20)
pids = []
for _ in range(2):
    pid = os.fork()
    if pid == 0:
        time.sleep(1.5)         # several looks of the zygote
        os._exit(0)
    pids.append(pid)
result = [os.waitpid(pid, 0)[1] for pid in pids]
""", max_memory=LIMIT)
    assert value == [0, 0]


def test_a_job_at_its_limit_can_still_be_interrupted(workers, flag):
    """Swallowing every MemoryError is not the end: it goes on with what it has."""
    worker = workers()
    job = worker.start(FLAGS + """
kept, refused = [], 0
while True:
    try:
        kept.append(bytearray(4 << 20))
    except MemoryError:
        refused += 1
        if refused == 100:
            raise_flag(args[0])
""", [flag.path("refused")], max_memory=LIMIT)
    flag.wait("refused")
    job.interrupt()
    assert job.done()["outcome"] == "interrupted"


def test_a_crash_under_a_limit_says_that_there_was_one(workers, context, server):
    worker = workers()
    since = server.mark()
    worker.start("import ctypes\nlibc = ctypes.CDLL(None)\nlibc.malloc.restype = ctypes.c_void_p\n"
                 "while True: ctypes.memset(libc.malloc(8 << 20), 1, 8 << 20)", max_memory=LIMIT)
    exited = context.wait("z", "exited", since=since, process=worker.name)
    assert exited["signal"] == signal.SIGSEGV and "max-memory = 64 MiB" in exited["reason"], exited
    assert exited["retry"] == "with-more-memory"


def test_work_with_arrow_fits_a_sensible_limit(workers):
    """Libraries reserve more than they use; a limit of four times what is used must not stop them."""
    worker = workers()
    value = worker.value("frame = context.range(100000).toPandas()\nresult = int(frame.id.sum())", max_memory=256 * MIB)
    assert value == sum(range(100000))
