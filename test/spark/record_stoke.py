#!/usr/bin/env python3
"""Records `stoke` in a terminal, with a server of its own on real Spark, and puts the text into docs/stoke.md.

    make && make venv && build/venv/bin/python test/spark/record_stoke.py

Each command is run in a terminal of 100 columns. What it wrote stands behind the seconds at which it came. A bar is one line
of the screen that is written anew; of its states one in three seconds is shown.
"""
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
import time

from server import JOBS, ROOT, Stoker

PAGE = os.path.join(ROOT, "docs", "stoke.md")
BEGIN, END = "<!-- recorded by test/spark/record_stoke.py -->\n", "<!-- end of the recording -->\n"
ERASE = "\r\x1b[2K"
TOKEN = re.compile(r"\r\x1b\[2K|\r\n|\x1b\[[0-9;]*m|[^\r\x1b]+|.", re.S)
BAR_EVERY_S = 3.0
PROGRAM = [sys.executable, os.path.join(ROOT, "python-runner", "stoke")]


def run(command, env, interrupt_behind=None):
    """Runs `stoke ...` in a terminal: [(seconds, text, whether it is a bar)] and its status.

    interrupt_behind: Ctrl-C is typed once this text was written.
    """
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    begin, lines, line, written = time.monotonic(), [], "", ""
    process = subprocess.Popen(
        [*PROGRAM, *command], env=env, stdin=slave, stdout=slave, stderr=slave, cwd=ROOT, start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
    os.close(slave)
    while True:
        try:
            data = os.read(master, 65536).decode()
        except OSError:     # the last one has closed the terminal
            break
        now = time.monotonic() - begin
        for token in TOKEN.findall(data):
            if token in (ERASE, "\r\n"):
                if line:
                    lines.append((now, line, token == ERASE))
                line = ""
            elif not token.startswith("\x1b"):
                line += token
        written += data
        if interrupt_behind and interrupt_behind in written:
            os.write(master, b"\x03")
            interrupt_behind = None
    os.close(master)
    return lines, process.wait()


def shown(lines):
    """The lines as text, of the bars one in three seconds."""
    last, text = -BAR_EVERY_S, ""
    for at, line, is_bar in lines:
        if is_bar and at - last < BAR_EVERY_S:
            continue
        last = at if is_bar else last
        text += "%6.1f  %s\n" % (at, line.replace("^C", "").rstrip())
    return text


def record(stoker):
    env = dict(os.environ, STOKER_URL="http://" + stoker.address, TERM="xterm-256color", PYTHONUTF8="1")
    env.pop("NO_COLOR", None)
    text = ""
    for command, interrupt, comment in (
        ("contexts create demo -o num-cpu-cores=2", None, ""),
        ("upload watched " + os.path.relpath(os.path.join(JOBS, "watched"), ROOT), None, ""),
        ("run watched watched.Rounds -c rounds=5 -c tasks=16 -c points=1000000 -t nightly", None, ""),
        ("run watched watched.Rounds -c rounds=1000 --log stdout", "round 2 of 1000", "      (Ctrl-C behind the second line)"),
        ("ps", None, ""),
    ):
        lines, status = run(command.split(), env, interrupt)
        text += "$ stoke %s%s\n%s" % (command, comment, shown(lines))
        text += "$ echo $?\n        %d\n" % status if command.startswith("run") else ""
    return text


def main():
    with tempfile.TemporaryDirectory() as folder, Stoker(folder) as stoker:
        text = record(stoker)
    with open(PAGE) as page:
        before, _, rest = page.read().partition(BEGIN)
    with open(PAGE, "w") as page:
        page.write(before + BEGIN + "\n```text\n" + text + "```\n\n" + END + rest.partition(END)[2])
    print(text)


if __name__ == "__main__":
    main()
