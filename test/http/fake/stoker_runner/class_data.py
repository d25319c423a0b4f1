"""The fake maker of class-data archives. The wish in its settings asks for:

make    writes the side file that says that the archive is there
fail    prints its cause and exits with 1
crash   is ended by SIGSEGV
hang    sleeps, and leaves at SIGTERM
deaf    sleeps through SIGTERM, and so does a child in its group

Each run is a line of the file `runs` beside the archives. It must be told which process is the server.
"""

import json
import os
import signal
import sys


def main(folder, text, parent):
    settings = json.loads(text)
    assert int(parent) == os.getppid()
    with open(os.path.join(folder, "runs"), "a") as f:
        f.write("%s %d\n" % (settings["key"], os.getpid()))
    wish = settings["wish"]
    if wish == "make":
        open(os.path.join(folder, settings["key"] + ".json"), "w").close()
    elif wish == "fail":
        print("trace of the failure\nfake: no archive today", file=sys.stderr)
        return 1
    elif wish == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    else:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if wish == "hang" else signal.SIG_IGN)
        if wish == "deaf" and os.fork() == 0:
            os.closerange(3, 4096)
        open(os.path.join(folder, "sleeps"), "w").close()
        while True:
            signal.pause()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
