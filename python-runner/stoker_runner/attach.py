"""A worker's connection to the JVM of its context: all that a worker knows of py4j and of pyspark's insides.

Many processes share one JVM here, which pyspark was not made for. The rules (A1-A10, K2, K4, K7) and the experiments
behind them are in docs; each place below names the rule it keeps. Seen on pyspark 4.3.0 and, in prototypes, 3.5.6.

attach() patches pyspark and py4j for the rest of the process's life, so it may be called once per process. Methods of
Attachment belong to the main thread; the patched parts run in whatever thread the job calls Spark from.
"""
import contextlib
import functools
import os
import sys
import threading

import py4j.clientserver as clientserver
import py4j.protocol as protocol
import pyspark.accumulators as accumulators
from pyspark import RDD, SparkConf, SparkContext
from pyspark.java_gateway import launch_gateway
from pyspark.sql import SparkSession, SQLContext
from pyspark.sql.streaming import DataStreamWriter, StreamingQueryManager
from pyspark.sql.udf import UDFRegistration

try:
    from pyspark.sql.classic.dataframe import DataFrame
except ImportError:     # before Spark 4
    from pyspark.sql import DataFrame

from . import jvm, sets
from .needs import Needs
from .pull import AccumulatorPull, NoServer

USE_YOURS = ("this job runs in Stoker's Spark context: use the one it was given, or SparkContext.getOrCreate() and "
             "SparkSession.builder.getOrCreate(), which return it")
CONTEXT_ENDED = "this Spark context has ended"


class ContextEnded(Exception):
    """There is no live SparkContext to attach to."""


class Attachment:
    """The attached SparkContext and session, and the properties of the job that runs with them."""

    def __init__(self, process, interrupts):
        self.process, self.interrupts = process, interrupts
        self.spoiled = False        # the job has shut the gateway down
        self.called = False         # this job has called the JVM
        self._attempt = None        # (job, attempt) that runs
        self.streams = []           # Java streaming queries that this job has started
        self.listeners = []         # (manager, listener) that this job has added
        self.job = None             # the id of the one that runs
        self._properties = None     # of the running job, for the next connection of any of its threads (A4)
        self._tags = jvm.worker_tag(process)

    # -- attaching

    def open(self, gateway):
        """gateway: {port, secret} of this worker's own Py4JServer (K1). Raises ContextEnded."""
        self._patch_stop()
        self._patch_py4j()
        self.gateway = self._launch(gateway)
        self.gateway.shutdown = self.gateway._gateway_client.shutdown_gateway = self._refuse_shutdown
        jsc = self._active_context()
        start_server = accumulators._start_update_server
        accumulators._start_update_server = NoServer
        try:
            self.sc = SparkContext(gateway=self.gateway, jsc=jsc, conf=SparkConf(_jconf=jsc.getConf()))
        finally:
            accumulators._start_update_server = start_server
        self.interrupts.install()       # A1: over the handler of _do_init
        # The JVM's default session, before a job's newSession() can become it.
        self.spark = SparkSession(self.sc)
        shared = self.sc._jvm
        jvm.shared_map(shared, jvm.TEMP_DIRS).put(self.process, self.sc._temp_dir)
        self._streams_map = jvm.shared_map(shared, jvm.STREAMS)
        self.needs = Needs(shared, self.process)
        self.accumulators = AccumulatorPull(self.sc, self.interrupts)
        jvm.shared_map(shared, jvm.ACCUMULATORS).put(self.process, self.accumulators.java)
        self._patch_user_calls()
        self._environment = dict(self.sc.environment)
        self._includes = list(self.sc._python_includes)
        self._to_df = RDD.toDF

    def rest(self):
        """Attached, before the first job: the JVM thread that has served attach() ends."""
        self.drop_connections()
        self.called = False

    @staticmethod
    def _launch(gateway):
        """pyspark's own function connects when these are set; the job's children must not see them."""
        os.environ["PYSPARK_GATEWAY_PORT"] = str(gateway["port"])
        os.environ["PYSPARK_GATEWAY_SECRET"] = gateway["secret"]
        try:
            return launch_gateway()
        finally:
            del os.environ["PYSPARK_GATEWAY_PORT"], os.environ["PYSPARK_GATEWAY_SECRET"]

    def _refuse_shutdown(self, *args, **kwargs):
        """K1: the keeper ends the server, when the worker has ended."""
        self.spoiled = True

    def _active_context(self):
        """A2: never getOrCreate(), which would make another application in the place of one that has ended."""
        spark = self.gateway.jvm.org.apache.spark
        active = getattr(getattr(spark, "SparkContext$"), "MODULE$").getActive()
        if not active.isDefined() or active.get().isStopped():
            raise ContextEnded(CONTEXT_ENDED)
        return spark.api.java.JavaSparkContext(active.get())

    def context_object(self, kind):
        """What jobs of a context of that kind get as `context`; None when they build it themselves."""
        if kind == "custom":
            return None
        if kind == "spark":
            return self.sc
        if kind == "sql":
            return SQLContext(self.sc, self.spark)
        if kind == "hive":
            return _hive_context(self.sc, self.spark)
        return self.spark

    # -- patches

    @staticmethod
    def _patch_stop():
        """A2: an exception while attaching, and a job's own stop(), would end the context of everybody.

        Silent, for it is the right last line of a script that runs elsewhere too.
        """
        def stop(_self):
            return None
        SparkContext.stop = SparkSession.stop = stop

    def _patch_py4j(self):
        """A4: py4j makes a connection at each thread's first call and after each lost one, so that is where a job's
        properties are set, and no call pays for it. Threads that serve callbacks come with a connection from the JVM,
        whose thread has inherited them.

        A1: an interrupted connection is closed at once. py4j's own clean-up leaves it in a state in which the next
        call, while the traceback holds it, gets "Answer from Java side is empty".
        """
        make, send = clientserver.JavaClient._create_new_connection, clientserver.ClientServerConnection.send_command

        def create(client):
            connection = make(client)
            self.called = True
            if self._properties and not isinstance(threading.current_thread(), clientserver.FinalizerWorker):
                self._set_properties(connection)
            return connection

        def send_command(connection, command):
            try:
                return send(connection, command)
            except KeyboardInterrupt:
                connection.close()
                raise
        clientserver.JavaClient._create_new_connection = create
        clientserver.ClientServerConnection.send_command = send_command

    def _set_properties(self, connection):
        """One command at a time: sent together they wait 40 ms for a delayed acknowledgement."""
        head = "%s%s\nsetLocalProperty\n" % (protocol.CALL_COMMAND_NAME, self.sc._jsc._target_id)
        try:
            for key, value in self._properties.items():
                answer = connection.send_command("%s%s%se\n" % (
                    head, protocol.get_command_part(key), protocol.get_command_part(value)))
                if not answer.startswith(protocol.SUCCESS):
                    raise protocol.Py4JNetworkError("cannot set the job's properties")
        except BaseException:
            connection.close()      # a thread is never left half set: its next call starts anew
            raise

    def _patch_user_calls(self):
        add_file, started, init = SparkContext.addFile, DataStreamWriter._sq, SparkContext.__init__
        add_listener = StreamingQueryManager.addListener

        def addFile(sc, path, recursive=False):
            """K4: a file that could not be added stays listed and would fail every later task of every worker."""
            before = set(sc.listFiles)
            try:
                add_file(sc, path, recursive)
            except Exception:
                listed = sc._jsc.sc().addedFiles().get("default").get()
                for key in set(sc.listFiles) - before:
                    if key.endswith("/" + os.path.basename(path)):     # not what a neighbour added meanwhile
                        listed.remove(key)
                raise

        def clearJobTags(sc):
            """K2: all tags but the ones a cancel needs."""
            sc.setLocalProperty(jvm.TAGS, self._tags)

        def _sq(writer, jsq):
            """K7: notes whose stream it is."""
            self._streams_map.put(jsq.id().toString(), self._tags)
            self.streams.append(jsq)
            return started(writer, jsq)

        def shielded(method):
            """K7: an interrupt between the stream's start and _sq() would leave one that nobody knows the owner of."""
            @functools.wraps(method)
            def call(*args, **kwargs):
                with self.interrupts.shield():
                    return method(*args, **kwargs)
            return call

        def addListener(manager, listener):
            self.listeners.append((manager, listener))
            return add_listener(manager, listener)

        def __init__(sc, *args, **kwargs):
            """A8: pyspark's own message speaks of a second context and where the first was made."""
            if SparkContext._active_spark_context is not None:
                raise RuntimeError(USE_YOURS)
            init(sc, *args, **kwargs)

        def remote(_builder, *args, **kwargs):
            raise RuntimeError(USE_YOURS)
        SparkContext.addFile, SparkContext.clearJobTags, SparkContext.__init__ = addFile, clearJobTags, __init__
        DataStreamWriter._sq, StreamingQueryManager.addListener = _sq, addListener
        SparkSession.Builder.remote = remote
        DataStreamWriter.start = shielded(DataStreamWriter.start)
        DataStreamWriter.toTable = shielded(DataStreamWriter.toTable)
        for cls, name in _outliving():
            self._patch_outliving(cls, name)

    def _patch_outliving(self, cls, name):
        shipped = getattr(cls, name)

        @functools.wraps(shipped)
        def call(*args, **kwargs):
            self.needs.keep()
            return shipped(*args, **kwargs)
        setattr(cls, name, call)

    # -- binaries

    def bind(self, shipping):
        """A10: from now on this worker's tasks run in executor processes of their own for this binary set."""
        use = sets.join(jvm.shared_map(self.sc._jvm, jvm.SETS), jvm.shared_map(self.sc._jvm, jvm.PLACES),
                        shipping.binary_set, self.process)
        self._environment.update(shipping.environment(self.sc, use))
        self.sc.environment.clear()
        self.sc.environment.update(self._environment)
        self._includes += shipping.send(self.sc, use)
        self.drop_connections()     # A4: the job's first call makes one that carries its properties

    # -- jobs

    def begin(self, job, attempt, pool, description):
        """Nothing is sent to the JVM here: most of it would be wasted on jobs that never call Spark."""
        self.job = job
        self._tags = "%s,%s" % (jvm.worker_tag(self.process), jvm.attempt_tag(job, attempt))
        self._properties = {jvm.TAGS: self._tags, "spark.jobGroup.id": job}
        if description:
            self._properties["spark.job.description"] = description
        if pool:
            self._properties["spark.scheduler.pool"] = pool
        self.called = False
        self._attempt = job, attempt

    def caller(self):
        """(job, attempt) of the job that runs, once it has called the JVM, else None. Any thread."""
        attempt = self._attempt
        return attempt if self.called and attempt is self._attempt else None

    def reset(self):
        """A5: undoes what the job did to this process's side of Spark. None, or why the worker cannot be used again."""
        reason, self._attempt = None, None
        if self.spoiled:
            reason = "its job shut the gateway to Spark down"
        elif self.called:
            reason = self._reset_jvm()
        self._properties = None
        self._tags = jvm.worker_tag(self.process)
        if self.called:
            self.drop_connections()
        self._reset_python()
        return reason

    def _reset_jvm(self):
        try:
            self._end_streams()
            self.accumulators.clear_java()
            return CONTEXT_ENDED if self.sc._jsc.sc().isStopped() else None
        except Exception as e:
            return "its connection to Spark is broken (%s)" % type(e).__name__

    def _end_streams(self):
        for manager, listener in self.listeners:
            manager.removeListener(listener)
        for query in self.streams:
            query.stop()
            self._streams_map.remove(query.id().toString())
        self.listeners.clear()
        self.streams.clear()

    def _reset_python(self):
        self.accumulators.clear_python()
        sc = self.sc
        if sc.environment != self._environment:
            sc.environment.clear()
            sc.environment.update(self._environment)
        if sc._python_includes != self._includes:
            sc._python_includes[:] = self._includes
        SparkSession._instantiatedSession = SparkSession._activeSession = self.spark
        SparkContext._active_spark_context = sc
        if RDD.toDF is not self._to_df:     # each new session makes it its own
            RDD.toDF = self._to_df

    def drop_connections(self):
        """A5: a JVM thread's group, pool, tags and active session end with it; the next call has a new one."""
        idle = self.gateway._gateway_client.deque
        for connection in list(idle):
            if connection.initiated_from_client:    # on a callback's its own thread reads: close() would hang
                with contextlib.suppress(ValueError):
                    idle.remove(connection)
                    connection.close()


def _outliving():
    """(class, method) of what leaves a user's Python functions in the JVM's session, which all workers share."""
    found = [(UDFRegistration, "register")]
    found += [(DataFrame, "create%sTempView" % kind) for kind in ("", "OrReplace", "Global", "OrReplaceGlobal")]
    found += [(DataFrame, "registerTempTable")] if hasattr(DataFrame, "registerTempTable") else []
    sources = getattr(sys.modules.get("pyspark.sql.datasource"), "DataSourceRegistration", None)
    found += [(sources, "register")] if sources else []
    table_functions = getattr(sys.modules.get("pyspark.sql.udtf"), "UDTFRegistration", None)
    return found + ([(table_functions, "register")] if table_functions else [])


def _hive_context(sc, spark):
    """A HiveContext around the given session: its own constructor would look for another and warn of old age."""
    cls = getattr(sys.modules["pyspark.sql.context"], "HiveContext", SQLContext)
    context = cls.__new__(cls)
    SQLContext.__init__(context, sc, spark)
    return context


def attach(process, interrupts, gateway):
    """Attaches this process to the context's JVM; once per process. Raises ContextEnded and py4j's errors."""
    attachment = Attachment(process, interrupts)
    attachment.open(gateway)
    return attachment
