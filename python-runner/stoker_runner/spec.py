"""spec.json of a context (PROTOCOL.md section 2)."""
import json
import os

DEFAULTS = {
    "kind": "session", "spark_conf": {}, "hadoop_conf": {}, "python_paths": [], "settings": {},
    "max_result_inline": 64 << 10, "max_result": 1 << 30, "max_log": 4 << 30,   # bytes
    "max_jobs_per_worker": 0, "max_worker_growth": 0,                           # 0: no limit
}


def read_spec(state_dir, context):
    """The spec as a dict with every field of the treaty."""
    with open(os.path.join(state_dir, "contexts", context, "spec.json"), encoding="utf-8") as f:
        spec = json.load(f)
    return dict(DEFAULTS, **{k: v for k, v in spec.items() if v is not None})
