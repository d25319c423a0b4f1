"""Names that the keeper and the workers of a context share inside its JVM."""

# Maps in the JVM's system properties, one for all processes of the context.
STREAMS = "stoker.streams"              # streaming query id -> job tags of who started it (K7)
ACCUMULATORS = "stoker.accumulators"    # worker -> its PythonAccumulatorV2 (A3)
TEMP_DIRS = "stoker.temp_dirs"          # worker -> the pyspark-* directory it made (A9)
NAMED = "stoker.named"                  # name -> named object (objects.py)
NAMED_LOCKS = "stoker.named_locks"      # name -> worker that creates the object
KEPT = "stoker.kept"                    # worker -> workers whose files are needed by what it left in the session (needs.py)
BORROWED = "stoker.borrowed"            # live worker -> workers whose files are needed by what it has read (needs.py)
NEWS = "stoker.news"                    # DROPPED -> true when a worker has dropped a named object; the keeper takes it away
SETS = "stoker.sets"                    # binary set -> its use, a space, and the workers bound to it (sets.py)
PLACES = "stoker.places"                # number -> the worker that began the use which has this place (sets.py)

DROPPED = "dropped"
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
