"""The two that are compared: Typesafe Config (Oracle.java) and our parser (parse.c). Both answer any number of texts."""

import glob
import json
import os
import re
import subprocess
import threading
from typing import NamedTuple

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))


class Answer(NamedTuple):
    """A line of a side: kind ('value', or why the text is refused) and the rest of the line, a JSON text or a message."""

    kind: str
    rest: str

    @property
    def ok(self):
        return self.kind == "value"

    @property
    def line(self):
        return "%s %s" % self

    @property
    def place(self):
        """'LINE:COL' or 'LINE' of what was refused, None where it was not told."""
        found = not self.ok and re.match(r"\d+:\d+(?=: )|[1-9]\d*(?= )", self.rest)
        return found.group() if found else None

    @property
    def typed(self):
        """A text that is the same for equal values of equal types: 1, 1.0 and true differ."""
        return json.dumps(json.loads(self.rest), sort_keys=True)


class Side:
    """A program that answers texts. A context manager."""

    def __init__(self, *command):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=HERE)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.kill()
        self.process.wait()

    def ask(self, texts):
        """Yields one Answer for each text (bytes)."""
        def send():
            try:
                self.process.stdin.write(b"".join(b"%d\n%s" % (len(t), t) for t in texts))
                self.process.stdin.flush()
            except BrokenPipeError:
                pass  # the reader below tells it

        sender = threading.Thread(target=send)
        sender.start()
        for text in texts:
            line = self.process.stdout.readline()
            if not line:
                raise RuntimeError("%s ended at %r" % (self.process.args[0], text))
            yield Answer(*line.decode().rstrip("\n").split(" ", 1))
        sender.join()


class Oracle(Side):
    def __init__(self):
        jars = glob.glob(os.path.join(TOP, "build", "oracle", "config-*.jar"))
        if not jars:
            raise RuntimeError("build/oracle is empty: run 'make oracle'")
        java = os.path.join(os.environ["JAVA_HOME"], "bin", "java") if os.environ.get("JAVA_HOME") else "java"
        super().__init__(java, "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xss2m", "-cp", jars[0], "Oracle.java")


class Ours(Side):
    def __init__(self, variant="release"):
        super().__init__(os.path.join(TOP, "build", variant, "hocon-parse"))


def differ(theirs, mine):
    """Tells whether the two answers to one text differ; both refusing it is the same."""
    if theirs.ok and mine.ok:
        return theirs.typed != mine.typed
    return theirs.ok != mine.ok
