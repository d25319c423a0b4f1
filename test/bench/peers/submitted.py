"""What a server that runs spark-submit for each job pays: everything from nothing."""
from pyspark.sql import SparkSession

assert SparkSession.builder.getOrCreate().range(1000).count() == 1000
