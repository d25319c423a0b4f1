"""Names that the keeper and the workers of a context share inside its JVM."""

# Maps in the JVM's system properties, one for all processes of the context.
STREAMS = "stoker.streams"              # streaming query id -> job tags of who started it (K7)
ACCUMULATORS = "stoker.accumulators"    # worker -> its PythonAccumulatorV2 (A3)
TEMP_DIRS = "stoker.temp_dirs"          # worker -> the pyspark-* directory it made (A9)
NAMED = "stoker.named"                  # name -> named object
NAMED_LOCKS = "stoker.named_locks"      # name -> worker that creates the object
KEPT = "stoker.kept"                    # worker -> true when something in the JVM needs its files (A9)
SETS = "stoker.sets"                    # binary set -> its use, a space, and the workers bound to it (sets.py)
PLACES = "stoker.places"                # number -> the worker that began the use which has this place (sets.py)

TAGS = "spark.job.tags"


def worker_tag(process):
    return "stoker-" + process


def attempt_tag(job, attempt):
    return "stoker-%s.%d" % (job, attempt)


def shared_map(jvm, key):
    """The one ConcurrentHashMap under `key`, made by whoever asks first."""
    properties = jvm.java.lang.System.getProperties()
    return (properties.get(key) or properties.putIfAbsent(key, jvm.java.util.concurrent.ConcurrentHashMap())
            or properties.get(key))


def shuts_down(jvm):
    """Whether the JVM has begun to exit: Spark's hooks stop the SparkContext then, before the status is known."""
    return jvm.org.apache.spark.util.ShutdownHookManager.inShutdown()
