"""`python -m stoker_runner.check`: one line of JSON with the versions of what an environment has, or null.

Imports none of it and reads versions from the names of the folders that installers leave (NAME-VERSION.dist-info, as
the packaging standard has it, or .egg-info of older ones): importlib.metadata says the same and takes 40 ms to import.
"""
import json
import os
import sys

PACKAGES = ("pyspark", "pyhocon", "numpy", "pandas", "pyarrow")


def versions():
    found = dict.fromkeys(("python", *PACKAGES))
    found["python"] = "%d.%d.%d" % sys.version_info[:3]
    for folder in sys.path:
        try:
            entries = os.listdir(folder or ".")
        except OSError:
            continue
        for entry in entries:
            stem, extension = os.path.splitext(entry)
            name, _, rest = stem.partition("-")
            if extension in (".dist-info", ".egg-info") and rest and found.get(name.lower(), "") is None:
                found[name.lower()] = rest.partition("-")[0]
    return found


if __name__ == "__main__":
    print(json.dumps(versions()))
