"""`python -m stoker_runner.check`: claims that everything is installed, except what FAKE_MISSING names."""

import json
import os

VERSIONS = {"python": "3.99.0", "pyspark": "4.99.0", "pyhocon": "0.99"}

if __name__ == "__main__":
    if os.environ.get("FAKE_MISSING") == "check":
        raise SystemExit("fake check: broken")
    print(json.dumps({k: None if k == os.environ.get("FAKE_MISSING") else v for k, v in VERSIONS.items()}))
