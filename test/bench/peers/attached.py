"""What Spark Job Server does for each Python job: a fresh process, attached to the JVM that runs already (PYSPARK_GATEWAY_PORT)."""
import os
import sys

from pyspark import SparkConf, SparkContext
from pyspark.java_gateway import launch_gateway
from pyspark.sql import SparkSession

gateway = launch_gateway()
context = getattr(getattr(gateway.jvm.org.apache.spark, "SparkContext$"), "MODULE$").getActive().get()
jsc = gateway.jvm.org.apache.spark.api.java.JavaSparkContext.fromSparkContext(context)
sc = SparkContext(gateway=gateway, jsc=jsc, conf=SparkConf(_jconf=jsc.getConf()))
if sys.argv[1] == "count":
    assert SparkSession(sc).range(1000).count() == 1000
print("done", flush=True)
os._exit(0)     # the context is the shell's
