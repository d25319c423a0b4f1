"""restore.py, in a process of its own each: what it watches it watches for life. What jobs can do is in test/spark/test_isolation.py."""
import json
import subprocess
import sys

import pytest

# argv: [what each of the jobs does], an expression that is looked at in the first and in a last one.
SCRIPT = """
import json, os, sys, threading
sys.path.insert(0, os.path.join(os.getcwd(), "modules"))
from stoker_runner import proc, restore
jobs, look = json.loads(sys.argv[1])
proc.become_subreaper()
state = restore.ProcessState("c", "w-1", os.path.join(os.getcwd(), "work"))
seen = []

def run(code):
    names = {}
    exec(code, names)
    seen.append(eval(look, names))

for code in jobs:
    restore.in_own_context(run, code)
    seen.append(state.restore())
print(json.dumps(seen))
"""


@pytest.fixture
def run(tmp_path):
    """A function that runs jobs in a new process: [what the expression was in the job, why the worker retires] of each."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "broken.py").write_text("import pandas\nraise ImportError('not here')\n")
    for name, value in (("changes", "module"), ("changes_too", "other")):
        (tmp_path / "modules" / (name + ".py")).write_text("import os\nos.environ['LEFT'] = %r\n" % value)

    def run(look, *jobs):
        done = subprocess.run([sys.executable, "-c", SCRIPT, json.dumps([jobs, look])], cwd=tmp_path, check=True, timeout=120,
                              stdout=subprocess.PIPE)
        seen = json.loads(done.stdout)
        return list(zip(seen[::2], seen[1::2]))
    return run


OPTIONS = "[pandas.get_option('display.max_rows'), pandas.get_option('display.html.border'), pandas.core.nanops._USE_BOTTLENECK]"
CHANGE = "\npandas.set_option('display.max_rows', 3, 'display.html.border', 7, 'compute.use_bottleneck', False)"
LATE = "import os, sys\nassert 'urllib.request' not in sys.modules\nos.environ['LEFT'] = '1'\nimport urllib.request"


def test_options_of_pandas_that_was_imported_late_are_put_back(run):
    (first, *_), (second, _), (third, reason), (last, _) = run(
        OPTIONS, "import pandas", "import pandas" + CHANGE, "import pandas" + CHANGE, "import pandas")
    assert second == third == [3, 7, False] and first == last and reason is None
    (late, reason), (last, _) = run(OPTIONS, "import pandas" + CHANGE, "import pandas")
    assert late == second and reason is None and last == first


@pytest.mark.parametrize("way", [
    "import os\nos.environ['LEFT'] = '1'\nimport pandas",
    "import threading\nt = threading.Thread(target=lambda: __import__('pandas'))\nt.start()\nt.join()\nimport pandas",
    "import contextlib\nwith contextlib.suppress(ImportError):\n    import broken\nimport pandas",
], ids=["after a change of the job's own", "in a thread", "by what fails"])
def test_a_worker_retires_when_it_cannot_tell_what_pandas_has_changed(run, way):
    """The warnings that it ignores, say."""
    done, = run("0", way)
    assert "changed the process" in done[1]


def test_what_a_later_job_replaces_in_what_was_imported_late_is_noticed(run):
    """The import itself changes nothing, but has come after a change of the job's own."""
    first, second = run("0", LATE, "import urllib.request\nurllib.request.urlopen = None")
    assert first == (0, None) and "urllib.request.urlopen" in second[1]


def test_a_seed_of_numpy_that_was_imported_late_is_the_jobs_own(run):
    plain, seeded = "import numpy", "import numpy\nnumpy.random.seed(1)"
    drawn = run("numpy.random.rand()", seeded, plain, seeded, plain)
    values = [value for value, _ in drawn]
    assert values[0] == values[2] and len(set(values)) == 3
    assert not any(reason for _, reason in drawn)


def test_an_import_after_one_that_came_late_is_told_apart_as_ever(run):
    """A module that changes the process stays as it is; with a change of the job's own before it the worker retires."""
    _, second, third, fourth = run("os.environ.get('LEFT')", LATE, "import changes, os", "import os",
                                   "import os\nos.environ['LEFT'] = '2'\nimport changes_too")
    assert second == third == ("module", None)
    assert "changes_too" in fourth[1]
