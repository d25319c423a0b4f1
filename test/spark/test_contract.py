"""What Spark Job Server promises to Python jobs and no other test here looks at: contexts that jobs build, what one job leaves to
the next, the environment. test_server.py has the rest of its chapter on jobs, test_named_objects.py the named objects."""
import json
import os

import pytest
from harness import PYTHON, FakeContext, make_binary

JOBS = """
from sparkjobserver.api import SparkJob, build_problems

class Custom:
    def __init__(self, gateway, jvm_context, spark_conf):
        self.gateway, self.jvm_context, self.conf = gateway, jvm_context, spark_conf

class Job(SparkJob):
    def build_context(self, gateway, jvmContext, sparkConf):
        return Custom(gateway, jvmContext, sparkConf)

    def validate(self, context, runtime, config):
        if not isinstance(context, Custom):
            return build_problems(["not mine"])
        return [context.conf.get("spark.master"), runtime.jobId, config.get_list("strings")]

    def run_job(self, context, runtime, data):
        java = context.gateway.jvm.java.util.ArrayList()
        for each in data[2]:
            java.add(each)
        return {"hello": "Hello World %d" % context.jvm_context.parallelize(java).count(), "master": data[0],
                "same job": data[1] == runtime.jobId, "version": context.jvm_context.version()}

class Code(Job):
    '''Executes code, which has its SparkSession in `spark`.'''
    def validate(self, context, runtime, config):
        return config

    def run_job(self, context, runtime, config):
        from pyspark.sql import SparkSession
        names = {"spark": SparkSession.builder.getOrCreate(), "runtime": runtime}
        exec(config["code"], names)
        return names["result"]

class Raises(Job):
    def build_context(self, gateway, jvmContext, sparkConf):
        raise ValueError("no context for " + sparkConf.get("spark.master"))

class Refuses(Job):
    def build_context(self, gateway, jvmContext, sparkConf):
        return None

class ReturnsProblems(Job):
    def run_job(self, context, runtime, data):
        return build_problems(["too late"])

class OwnContext(Job):
    '''As in a job server with a JVM context for each kind: a SparkContext around it.'''
    def build_context(self, gateway, jvmContext, sparkConf):
        from pyspark import SparkContext
        return SparkContext(gateway=gateway, jsc=jvmContext, conf=sparkConf)
"""


@pytest.fixture(scope="module")
def custom(server, tmp_path_factory):
    """A context of a kind of its own, with a folder in python.paths."""
    folder = tmp_path_factory.mktemp("paths")
    (folder / "contract_lib.py").write_text("WHOSE = 'python.paths'\n")
    (folder / "contract.py").write_text("raise ImportError('the binary comes first')\n")
    context = FakeContext(server, kind="custom", python_paths=[str(folder)])
    context.start()
    yield context
    assert context.end() == 0, context.log()


@pytest.fixture
def job(server, custom):
    """A function that runs a class of JOBS in a worker of its own, or an older one: the body of `done`."""
    binary = make_binary(server.state, "contract", {"contract.py": JOBS})
    made = []

    def run(name, worker=None, **config):
        if worker is None:
            worker = custom.worker()
            made.append(worker)
        run.worker, run.binary = worker, binary
        return worker.run(cls="contract.%s" % name, binaries=[binary], binary_set=binary["digest"],
                          config=json.dumps(config))
    yield run
    for worker in made:
        worker.kill()


def test_a_context_that_the_job_builds(job):
    done = job("Job", strings=["a", "b", "a"])
    assert done["outcome"] == "finished", done
    found = json.loads(done["result"])
    assert found.pop("version").startswith(("3.", "4."))
    assert found == {"hello": "Hello World 3", "master": "local[2]", "same job": True}


def test_contexts_that_jobs_do_not_build(job):
    refused = job("Refuses")
    assert (refused["error"]["code"], refused["error"]["exit_code"]) == ("NOT_A_JOB", 2)
    assert refused["error"]["message"].startswith(
        "Expected JavaSparkContext, SQLContext or HiveContext but received 'custom'")
    raised = job("Raises", job.worker)["error"]
    assert (raised["class"], raised["exit_code"], raised["source"].strip()[:16]) == ("ValueError", 1, "raise ValueError")
    assert "raised ValueError: no context for local[2]" in raised["message"]
    own = job("OwnContext", job.worker)["error"]
    assert "this job runs in Stoker's Spark context: use the one it was given" in own["message"]
    assert json.loads(job("Job", job.worker, strings=["a"])["result"])["hello"] == "Hello World 1"


def test_problems_that_run_job_returns_are_no_result(job):
    error = job("ReturnsProblems", strings=[])["error"]
    assert (error["code"], error["exit_code"]) == ("RESULT_NOT_JSON", 1)
    assert "ValidationProblem" in error["message"]


def value(job, code, worker=None):
    done = job("Code", worker, code=code)
    assert done["outcome"] == "finished", done
    return json.loads(done["result"])


def test_views_cached_tables_and_settings_of_sql_are_the_contexts(job):
    """Whichever process the next job runs in. What is Python's own is not: test_isolation.py."""
    value(job, """
spark.range(5).createOrReplaceTempView("contract_view")
spark.range(7).createOrReplaceTempView("contract_cached")
spark.catalog.cacheTable("contract_cached")
spark.conf.set("spark.sql.shuffle.partitions", "3")
result = spark.table("contract_cached").count()
""")
    assert value(job, """
result = [spark.table("contract_view").count(), spark.catalog.isCached("contract_cached"),
          spark.conf.get("spark.sql.shuffle.partitions")]
""") == [5, True, "3"]


def test_the_environment_of_a_job(job):
    found = value(job, """
import os, subprocess, sys
child = "import contract, os; print(contract.__file__)"
result = [os.environ["PACKAGEPATH"], os.environ["PYTHONPATH"].split(os.pathsep)[0], os.environ["PYSPARK_PYTHON"],
          subprocess.run([sys.executable, "-c", child], capture_output=True, text=True).stdout.strip(),
          spark.sparkContext.pythonExec]
""")
    assert found == [job.binary["path"], job.binary["unpacked"], PYTHON, os.path.join(job.binary["unpacked"], "contract.py"),
                     PYTHON]


def test_modules_of_python_paths_are_found_everywhere_behind_the_binarys(job):
    found = value(job, """
import contract, contract_lib, subprocess, sys
def whose(_):
    import contract, contract_lib
    return contract_lib.WHOSE, hasattr(contract, "Custom")
child = "import contract, contract_lib; print(contract_lib.WHOSE, hasattr(contract, 'Custom'))"
result = [whose(0), spark.sparkContext.parallelize(range(2), 2).map(whose).distinct().collect(),
          subprocess.run([sys.executable, "-c", child], capture_output=True, text=True).stdout.split()]
""")
    assert found == [["python.paths", True], [["python.paths", True]], ["python.paths", "True"]]


def test_what_a_job_is_told_of_where_it_runs(job, custom):
    assert value(job, """
result = [type(runtime.jobId).__name__, type(runtime.contextConfig).__name__, runtime.contextConfig.get_int("num-cpu-cores"),
          [hasattr(runtime.namedObjects, name) for name in ("get", "get_or_else_create", "update", "forget", "destroy", "get_names")]]
""") == ["str", "ConfigTree", 2, [True] * 6]
