"""A bare warm PySpark shell: each line on standard input runs spark.range(1000).count(), its seconds are printed.

The first line that it prints is where its JVM listens, for attached.py.
"""
import os
import sys
import time

from pyspark.sql import SparkSession

spark = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
gateway = spark.sparkContext._gateway
print(gateway.gateway_parameters.port, gateway.gateway_parameters.auth_token, flush=True)
for _ in sys.stdin:
    start = time.perf_counter()
    assert spark.range(1000).count() == 1000
    print(time.perf_counter() - start, flush=True)
sys.stdout.flush()
os._exit(0)
