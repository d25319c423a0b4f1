"""Jobs that fail, each in a way that users have met: `Fail` runs the one that its config names.

`fails` says what the error object has to say: code, retry, and of the line marked `# here`, in the case or in the
function `at`, file, line and source. A case without a mark has no line of its own. What ends an executor is for a cluster only.
"""
import os
import signal

CASES = {}


class Case:
    def __init__(self, function, code, retry, exit_code, at, cluster):
        self.function, self.code, self.retry, self.exit_code = function, code, retry, exit_code
        self.at, self.cluster = at or function, cluster


def fails(code, retry="never", exit_code=4, at=None, cluster=False):
    def note(function):
        CASES[function.__name__] = Case(function, code, retry, exit_code, at, cluster)
        return function
    return note


class Fail:
    def validate(self, context, runtime, config):
        return config["case"]

    def run_job(self, context, runtime, case):
        return CASES[case].function(context)


class FailInValidate:
    def validate(self, context, runtime, config):
        CASES[config["case"]].function(context)

    def run_job(self, context, runtime, data):
        return None


# ---- SQL

@fails("SPARK_PARSE")
def misspelled_statement(spark):
    spark.sql("SELEC 1")  # here


@fails("SPARK_PARSE")
def unbalanced_expression(spark):
    spark.range(1).selectExpr("(id + 1")  # here


@fails("SPARK_PARSE")
def unknown_type_in_a_schema(spark):
    spark.createDataFrame([(1,)], "a nosuchtype")  # here


@fails("SPARK_ANALYSIS")
def unknown_column(spark):
    spark.range(1).select("no_such_column")  # here


@fails("SPARK_ANALYSIS")
def unknown_function(spark):
    spark.sql("SELECT no_such_function(1)")  # here


@fails("SPARK_ANALYSIS")
def types_that_do_not_fit(spark):
    spark.sql("SELECT array(1) + 1")  # here


@fails("SPARK_ANALYSIS")
def union_of_different_widths(spark):
    spark.range(1).union(spark.sql("SELECT 1, 2")).collect()  # here


@fails("SPARK_ANALYSIS")
def output_that_exists(spark):
    spark.range(1).write.parquet(os.getcwd())  # here


@fails("SPARK_ANALYSIS")
def unknown_format(spark):
    spark.read.format("no_such_format").load("/tmp")  # here


@fails("SPARK_ANALYSIS")
def a_stream_read_as_a_table(spark):
    spark.readStream.format("rate").load().collect()  # here


@fails("INPUT_MISSING")
def unknown_table(spark):
    spark.table("no_such_table").collect()  # here


@fails("INPUT_MISSING")
def unknown_schema(spark):
    spark.sql("USE no_such_schema")  # here


@fails("INPUT_MISSING")
def unknown_path(spark):
    spark.read.parquet("/nowhere/data")  # here


@fails("INPUT_MISSING")
def unknown_path_of_an_rdd(spark):
    spark.sparkContext.textFile("/nowhere/data.txt").collect()  # here


@fails("INPUT_MISSING")
def a_file_removed_while_it_is_read(spark):
    path = os.path.join(os.getcwd(), "removed.parquet")
    spark.range(10).coalesce(1).write.mode("overwrite").parquet(path)
    frame = spark.read.parquet(path)
    for name in os.listdir(path):
        os.unlink(os.path.join(path, name))
    frame.collect()  # here


@fails("CONFIG_INVALID")
def a_setting_with_a_bad_value(spark):
    spark.conf.set("spark.sql.shuffle.partitions", "many")  # here


@fails("CONFIG_INVALID")
def a_setting_of_the_start(spark):
    spark.conf.set("spark.executor.memory", "2g")  # here


# ---- tasks

@fails("SPARK_TASK_FAILED")
def udf_that_raises(spark):
    from pyspark.sql.functions import udf

    def halve(n):
        return 1 // n  # here
    spark.range(3).select(udf(halve, "long")("id")).collect()


@fails("SPARK_TASK_FAILED")
def rdd_function_that_raises(spark):
    def check(n):
        raise ValueError("no %d" % n)  # here
    spark.sparkContext.parallelize(range(4), 2).map(check).collect()


def reciprocal(n):
    return 1 / n  # here


@fails("SPARK_TASK_FAILED", at=reciprocal)
def function_of_the_module_that_raises(spark):
    spark.sparkContext.parallelize([0], 1).map(reciprocal).collect()


@fails("SPARK_TASK_FAILED")
def pandas_udf_that_raises(spark):
    from pyspark.sql.functions import pandas_udf

    def look(series):
        return series.no_such_attribute  # here
    spark.range(3).select(pandas_udf(look, "long")("id")).collect()


@fails("SPARK_TASK_FAILED")
def map_in_pandas_that_raises(spark):
    def frames(batches):
        for batch in batches:
            yield batch[["no_such_column"]]  # here
    spark.range(3).mapInPandas(frames, "id long").collect()


@fails("SPARK_TASK_FAILED")
def for_each_that_raises(spark):
    def check(rows):
        assert not list(rows), "there are rows"  # here
    spark.range(3).foreachPartition(check)


@fails("SPARK_TASK_FAILED")
def division_by_zero(spark):
    spark.range(3).selectExpr("1 div id").collect()  # here


@fails("SPARK_TASK_FAILED")
def cast_that_cannot_be(spark):
    spark.sql("SELECT CAST('x' || id AS INT) FROM range(1)").collect()  # here


@fails("SPARK_TASK_FAILED")
def raise_error_in_sql(spark):
    spark.sql("SELECT raise_error('no') FROM range(1)").collect()  # here


@fails("SPARK_TASK_FAILED")
def a_broken_file(spark):
    path = os.path.join(os.getcwd(), "broken.parquet")
    with open(path, "wb") as f:
        f.write(b"no parquet at all")
    spark.read.schema("id long").parquet(path).collect()  # here


@fails("SPARK_TASK_FAILED")
def subquery_of_two_rows(spark):
    spark.sql("SELECT (SELECT id FROM range(2))").collect()  # here


@fails("SPARK_TASK_FAILED")
def a_batch_of_a_stream_that_raises(spark):
    def batch(frame, number):
        raise ValueError("no batch")  # here
    query = spark.readStream.format("rate").load().writeStream.foreachBatch(batch).start()
    try:
        query.awaitTermination()
    finally:
        query.stop()


@fails("INPUT_MISSING")
def a_task_that_misses_a_file(spark):
    def read(n):
        with open("/nowhere/%d" % n) as f:  # here
            return f.read()
    spark.sparkContext.parallelize([1], 1).map(read).collect()


@fails("OUT_OF_MEMORY", "with-more-memory")
def a_task_that_wants_too_much(spark):
    def much(n):
        return len(bytearray(1 << 60))  # here
    spark.sparkContext.parallelize([1], 1).map(much).collect()


@fails("CONNECTION_FAILED", "may-help")
def a_task_that_finds_nobody(spark):
    def ask(n):
        import socket
        socket.create_connection(("127.0.0.1", 1))  # here
    spark.sparkContext.parallelize([1], 1).foreach(ask)


@fails("PERMISSION_DENIED")
def a_task_that_may_not(spark):
    from pyspark.sql.functions import udf

    def write(n):
        os.unlink("/proc/version")  # here
    spark.range(1).select(udf(write)("id")).collect()


@fails("DISK_FULL", "may-help")
def a_task_that_fills_the_disk(spark):
    def write(rows):
        os.write(os.open("/dev/full", os.O_WRONLY), b"x")  # here
    spark.range(1).foreachPartition(write)


@fails("EXECUTOR_LOST", "may-help")
def a_task_that_ends_its_process(spark):
    spark.sparkContext.parallelize([1], 1).foreach(lambda n: os._exit(3))  # here


def end_the_executor(n):
    with open("/proc/%d/stat" % os.getppid()) as daemon:
        os.kill(int(daemon.read().rsplit(")", 1)[1].split()[1]), signal.SIGKILL)
    signal.pause()


@fails("EXECUTOR_LOST", "with-more-memory", cluster=True)
def a_task_whose_executor_is_killed(spark):
    spark.sparkContext.parallelize([1], 1).foreach(end_the_executor)  # here


@fails("PYTHON_MISMATCH")
def another_python(spark):
    spark.sparkContext.pythonVer = "3.1"
    spark.sparkContext.parallelize([1], 1).map(str).collect()  # here


@fails("PYTHON_MISMATCH")
def no_such_python(spark):
    spark.sparkContext.pythonExec = "/nowhere/python"
    spark.sparkContext.parallelize([1], 1).map(str).collect()  # here


@fails("RESULT_TOO_LARGE")
def more_than_the_driver_takes(spark):
    spark.sparkContext.parallelize(range(16), 16).map(lambda n: os.urandom(200000)).collect()  # here


# ---- what cannot be sent

@fails("SERIALIZATION_FAILED")
def a_lock_in_a_closure(spark):
    import threading
    lock = threading.Lock()
    spark.sparkContext.parallelize([1], 1).map(lambda n: lock).collect()  # here


@fails("SERIALIZATION_FAILED")
def the_context_in_a_closure(spark):
    context = spark.sparkContext
    context.parallelize([1], 1).map(lambda n: context.version).collect()  # here


@fails("SERIALIZATION_FAILED")
def a_generator_in_a_udf(spark):
    from pyspark.sql.functions import udf
    numbers = (n for n in (1, 2))
    spark.range(1).select(udf(lambda n: next(numbers), "long")("id")).collect()  # here


@fails("SERIALIZATION_FAILED")
def a_result_that_cannot_be_pickled(spark):
    spark.sparkContext.parallelize([1], 1).map(lambda n: (k for k in (n,))).collect()  # here


@fails("SERIALIZATION_FAILED")
def numpy_out_of_a_udf(spark):
    from pyspark.sql.functions import udf

    def mean(n):
        import numpy
        return numpy.float64(n)
    spark.range(1).select(udf(mean, "double", useArrow=False)("id")).collect()  # here


@fails("SERIALIZATION_FAILED")
def an_object_of_java_that_cannot_be_sent(spark):
    jvm = spark.sparkContext._jvm
    out = jvm.java.io.ObjectOutputStream(jvm.java.io.ByteArrayOutputStream())
    out.writeObject(jvm.java.lang.Object())  # here


@fails("SERIALIZATION_FAILED")
def a_lock_pickled_by_hand(spark):
    import pickle
    import threading
    pickle.dumps(threading.Lock())  # here


# ---- the environment of the job's own process

@fails("INPUT_MISSING")
def a_file_that_is_not_there(spark):
    open("/nowhere/input.csv")  # here


@fails("INPUT_MISSING")
def pandas_reads_what_is_not_there(spark):
    import pandas
    pandas.read_csv("/nowhere/input.csv")  # here


@fails("PERMISSION_DENIED")
def a_file_that_may_not_be_removed(spark):
    os.unlink("/proc/version")  # here


@fails("DISK_FULL", "may-help")
def a_full_disk(spark):
    os.write(os.open("/dev/full", os.O_WRONLY), b"x")  # here


@fails("DISK_FULL", "may-help")
def a_full_disk_of_the_jvm(spark):
    out = spark.sparkContext._jvm.java.io.FileOutputStream("/dev/full")
    out.write(1)  # here


@fails("PERMISSION_DENIED")
def a_file_that_the_jvm_may_not_write(spark):
    spark.sparkContext._jvm.java.io.FileOutputStream("/proc/sys/kernel/ostype")  # here


@fails("CONNECTION_FAILED", "may-help")
def nobody_listens(spark):
    import urllib.request
    urllib.request.urlopen("http://127.0.0.1:1/")  # here


@fails("CONNECTION_FAILED", "may-help")
def no_name_node(spark):
    spark.read.text("hdfs://127.0.0.1:1/data")  # here


@fails("CONNECTION_FAILED", "may-help")
def no_such_host(spark):
    import socket
    socket.getaddrinfo("no-such-host.invalid", 80)  # here


@fails("OUT_OF_MEMORY", "with-more-memory")
def too_much_memory(spark):
    bytearray(1 << 60)  # here


@fails("DRIVER_OUT_OF_MEMORY", "with-more-memory")
def too_much_for_the_heap(spark):
    jvm = spark.sparkContext._jvm
    jvm.java.nio.ByteBuffer.allocate(2147483647)  # here


# ---- the config

@fails("CONFIG_INVALID")
def a_config_without_a_key(spark):
    from sparkjobserver import api  # noqa: F401
    from stoker_runner.loading import config_tree
    config_tree('{"input": {}}').get_string("input.path")  # here


# ---- the job's own

@fails("USER_EXCEPTION")
def a_plain_error(spark):
    {}["key"]  # here


@fails("USER_EXCEPTION")
def an_error_of_the_system_raised_by_hand(spark):
    raise FileNotFoundError("no customers today")  # here


@fails("USER_EXCEPTION")
def an_error_of_spark_that_was_handled(spark):
    try:
        spark.table("no_such_table")
    except Exception:
        raise RuntimeError("the report has no source")  # here


@fails("INPUT_MISSING")
def an_error_that_names_its_cause(spark):
    try:
        spark.table("no_such_table")
    except Exception as e:
        raise RuntimeError("the report has no source") from e  # here


@fails("USER_EXCEPTION")
def a_method_that_java_has_not(spark):
    spark.sparkContext._jvm.java.lang.System.noSuchMethod()  # here


@fails("USER_EXCEPTION")
def an_argument_that_pyspark_refuses(spark):
    spark.range(1).select(1.5)  # here


@fails("EXITED", exit_code=7)
def an_exit(spark):
    raise SystemExit(7)  # here


@fails("RESULT_NOT_JSON", exit_code=1)
def a_frame_in_the_result(spark):
    return {"rows": spark.range(1)}
