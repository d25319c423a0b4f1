"""A runner that only pretends: processes that speak python-runner/PROTOCOL.md, without Spark, and misbehave on request.

Contexts are told what to do by `spark.fake.*` in their Spark settings, jobs by the object "fake" in their config; see
zygote.py, keeper.py and worker.py.
"""

PROTOCOL = 1
