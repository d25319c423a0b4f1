#!/bin/sh
# stoke, Stoker's command line: @RUNNER@/stoke, run by the server's own Python when it is there.
python='@PYTHON@'
[ -x "$python" ] || python=python3
exec "$python" '@RUNNER@/stoke' "$@"
