"""Accumulators that are pulled from the JVM instead of pushed by it (rule A3).

As shipped, the DAG scheduler's event thread sends each finished task's updates to the submitting process and waits for
its answer: one stopped worker stalls every job of the context. Here a CollectionAccumulator of the JVM takes them under
the id of PythonAccumulatorV2, and `value` fetches what has come since the last time.
"""
import threading

import pyspark.accumulators as accumulators
from pyspark.accumulators import Accumulator, pickleSer


class NoServer:
    """Stands for pyspark's accumulator server: its address is only carried, never called."""

    def __init__(self, token, unix=False, path=None):
        self.server_address = path if unix else ("127.0.0.1", 1)

    def shutdown(self):
        pass


class AccumulatorPull:
    """Installs itself in pyspark's Accumulator class. `java` is what tasks are told to report to."""

    def __init__(self, sc, interrupts):
        self._interrupts = interrupts
        self._lock = threading.RLock()
        self._seen = 0              # updates taken from the collector so far
        self._registry = accumulators._accumulatorRegistry
        self._collector = sc._jsc.sc().collectionAccumulator()  # garbage collection would unregister it
        address, token = sc._accumulatorServer.server_address, sc._gateway.gateway_parameters.auth_token
        arguments = [address] if isinstance(address, str) else [*address, token]
        self.java = sc._jvm.PythonAccumulatorV2(*arguments)
        getattr(self.java, "metadata_$eq")(self._collector.metadata())
        sc._javaAccumulator = self.java
        self._own = len(self._registry)
        self._patch()

    def _patch(self):
        shipped = Accumulator.value

        def get(accumulator):
            if not accumulator._deserialized:
                self.pull()
            return shipped.fget(accumulator)

        def put(accumulator, value):
            """Updates that came before an assignment do not outlive it."""
            if not accumulator._deserialized:
                self.pull()
            shipped.fset(accumulator, value)
        Accumulator.value = property(get, put)

    def pull(self):
        """Applies what has come; an interrupt in between loses nothing and counts nothing twice."""
        with self._lock:
            updates = self._collector.value()
            size = updates.size()
            if size == self._seen:
                return
            for update in [bytes(b) for b in updates.subList(self._seen, size).toArray()]:
                aid, value = pickleSer.loads(update)
                with self._interrupts.shield():
                    found = self._registry.get(aid)
                    if found is not None:
                        found._value = found.accum_param.addInPlace(found._value, value)
                    self._seen += 1

    def clear_java(self):
        """Between jobs, when the job has called Spark."""
        if self._seen or self._collector.value().size():
            self._collector.reset()
            self._seen = 0

    def clear_python(self):
        """Between jobs. Ids go on, so that a late update finds no one; pyspark's own (negative ids) start at zero."""
        if len(self._registry) == self._own:
            return
        for aid, accumulator in list(self._registry.items()):
            if aid >= 0:
                del self._registry[aid]
            else:
                accumulator._value = accumulator.accum_param.zero(accumulator._value)
        self._own = len(self._registry)
