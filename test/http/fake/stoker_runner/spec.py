"""What the context's settings ask of the fake processes."""

import json
import os


def read(state_dir, context):
    with open(os.path.join(state_dir, "contexts", context, "spec.json")) as f:
        return json.load(f)


def wish(spec, role):
    """The text of spark.fake.<role>, or ""."""
    return spec["spark_conf"].get("spark.fake." + role, "")


def lengthen(error):
    """Fields of an error; a value {"of": character, "times": n} becomes "begin ", the character n times, and " end"."""
    return {
        key: "begin %s end" % (value["of"] * value["times"]) if isinstance(value, dict) else value
        for key, value in error.items()
    }
