"""python -m stoke, or this folder given to python: the launcher (conf/stoke.sh) does that, whatever its PYTHONPATH."""
import os
import sys

if not __package__:
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

try:
    from stoke.cli import main
except ModuleNotFoundError as missing:
    if missing.name not in ("click", "rich"):
        raise
    locks = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "requirements-stoke.txt")
    sys.exit("stoke: %s is not installed for %s: %s -m pip install --require-hashes -r %s"
             % (missing.name, sys.executable, sys.executable, locks))

if __name__ == "__main__":
    sys.exit(main())
