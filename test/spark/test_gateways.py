"""The keeper's part of a cancel (gateways.py) on a Spark of its own, with its calls into the JVM counted."""
import json
import subprocess
import sys

MANY = 2000     # Spark jobs that one job has run before it is cancelled
MOST_CALLS = 300    # into the JVM, for one round of a cancel. It takes half of that

SCRIPT = """
import json, os, sys, tempfile, threading, time
from multiprocessing.pool import ThreadPool
from pyspark import SparkConf, SparkContext
from pyspark.sql import SparkSession
from stoker_runner import jvm
from stoker_runner.gateways import Gateways

many = int(sys.argv[1])
conf = {"spark.master": "local[4]", "spark.ui.enabled": "false", "spark.ui.liveUpdate.period": "0", "spark.ui.retainedJobs": 2 * many,
        "spark.ui.retainedStages": 2 * many, "spark.python.task.killTimeout": "100ms", "spark.driver.memory": "512m"}
sc = SparkContext(conf=SparkConf().setAll(conf.items()))
sc.setLogLevel("OFF")
gateways = Gateways(sc, SparkSession(sc), tempfile.mkdtemp())
client = sc._gateway._gateway_client
send, calls = client.send_command, []

def counting(command, *args, **kwargs):
    calls.append(command)
    return send(command, *args, **kwargs)

def tagged(tag, function):
    sc.setLocalProperty(jvm.TAGS, tag)
    sc.setLocalProperty("spark.job.interruptOnCancel", "true")
    return function()

def cancel(job, tiny):
    tag = jvm.attempt_tag(job, 1)
    one = sc._jvm.java.util.ArrayList([1])
    with ThreadPool(4) as pool:
        assert sum(pool.map(lambda _: tagged(tag, lambda: sc._jsc.parallelize(one, 1).count()), range(tiny))) == tiny
    go, outcome = threading.Event(), []

    def last():
        try:
            sc.range(2, numSlices=2).foreach(lambda n: time.sleep(600))
        except Exception as e:
            outcome.append(str(e))
    thread = threading.Thread(target=tagged, args=(tag, last))
    thread.start()
    while gateways._running_tasks(tag) < 2:
        time.sleep(0.01)
    sc._jsc.sc().listenerBus().waitUntilEmpty()     # the tracker hears of a job later than the scheduler
    known = len(sc._jsc.sc().statusTracker().getJobIdsForTag(tag))
    calls.clear()
    client.send_command = counting
    found = gateways.cancel(job, 1)
    del client.send_command
    thread.join()
    return dict(found.body(), calls=len(calls), known=known, cancelled="cancelled with tag " + tag in outcome[0],
                left=gateways._running_tasks(tag))

print(json.dumps([cancel("few", 10), cancel("many", many)]))
sys.stdout.flush()
sc.stop()
"""


def test_what_a_cancel_asks_of_the_jvm_does_not_grow_with_the_spark_jobs_before_it():
    """It is slow when it looks at each Spark job that the job has had, and a job may have thousands."""
    run = subprocess.run([sys.executable, "-c", SCRIPT, str(MANY)], stdout=subprocess.PIPE, text=True, check=True, timeout=600)
    few, many = json.loads(run.stdout.splitlines()[-1])
    print(few, many)
    assert (few["known"], many["known"]) == (11, MANY + 1)
    for each in (few, many):
        assert (each["jobs"], each["tasks"], each["left"], each["cancelled"]) == (1, 2, 0, True), each
        assert each["calls"] <= (each["rounds"] + 2) * MOST_CALLS, each      # and what is done before the first and behind the last
