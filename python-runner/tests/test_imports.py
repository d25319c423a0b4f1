"""imports.py, in a process of its own each: who watches imports does so for life."""
import json
import subprocess
import sys

MODULES = {
    "outer": "import inner\nfrom package import part",
    "inner": "",
    "package/__init__": "",
    "package/part": "",
    "broken": "def fail():\n    raise ValueError('here')\nfail()",
    "unlucky": "import broken",
}
SCRIPT = """
import importlib, json, sys, threading, traceback
from stoker_runner import imports
seen = []

def failure():
    try:
        import unlucky
    except ValueError:
        return traceback.format_exc()
plain = failure()
imports.watch(lambda: len(seen), lambda name, before, loaded: seen.append([name, before, loaded]))
import json, outer, inner
importlib.import_module("colorsys")
importlib.import_module("colorsys")
watched = failure()
try:
    import missing
except ImportError as e:
    missing = traceback.format_exc()
thread = threading.Thread(target=lambda: importlib.import_module("sched"))
thread.start()
thread.join()
print(json.dumps([seen, plain, watched, missing]))
"""


def test_outermost_imports_of_new_modules_are_told_of(tmp_path):
    for name, text in MODULES.items():
        path = tmp_path / (name + ".py")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", "import sys; sys.path.insert(0, %r)\n" % str(tmp_path) + SCRIPT],
                         stdout=subprocess.PIPE, text=True, check=True, timeout=60)
    seen, plain, watched, missing = json.loads(run.stdout)
    names = ["outer", "colorsys", "unlucky", "missing", "sched"]
    assert seen == [[name, n, name not in ("unlucky", "missing")] for n, name in enumerate(names)]
    assert watched == plain and plain.count("File") == 4, "the watch shows in tracebacks: " + watched
    assert missing.count("File") == 1 and missing.endswith("No module named 'missing'\n"), missing
