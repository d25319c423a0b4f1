"""The corpus: corpus.txt, whose head says what a block looks like. `corpus.py` as a program writes what is expected anew, from
the oracle and from our positions of errors; the difference is for a person to read."""

import json
import os
import re
import sys
from typing import NamedTuple

HERE = os.path.dirname(os.path.abspath(__file__))
PATH = os.path.join(HERE, "corpus.txt")
BLOCK = re.compile(r"^=(=|j)= ([^\n]*)\n(.*?)\n?^---\n(.*?)\n?(?=^=[=j]= |\Z)", re.M | re.S)


class Block(NamedTuple):
    """mark: '=' or 'j'. written: the text as it stands in the file. expected: the last line."""

    mark: str
    name: str
    written: str
    expected: str

    @property
    def text(self):
        return json.loads(self.written) if self.mark == "j" else self.written

    @property
    def value(self):
        """What the text means, or None where it is refused."""
        return None if self.expected.startswith(("error ", "refused ")) else json.loads(self.expected)


def read():
    """Returns (the file's head, its blocks)."""
    with open(PATH, encoding="utf-8", newline="") as f:
        whole = f.read()
    blocks = [Block(*found.groups()) for found in BLOCK.finditer(whole)]
    return whole[: BLOCK.search(whole).start()], blocks


def write(head, blocks):
    with open(PATH, "w", encoding="utf-8", newline="") as f:
        f.write(head)
        for b in blocks:
            f.write("=%s= %s\n%s\n---\n%s\n" % b)


def main():
    import sides

    head, blocks = read()
    texts = [b.text.encode() for b in blocks]
    fresh = []
    with sides.Oracle() as oracle, sides.Ours() as ours:
        for block, theirs, mine in zip(blocks, oracle.ask(texts), ours.ask(texts)):
            if theirs.ok and mine.ok:
                expected = json.dumps(json.loads(theirs.rest), ensure_ascii=False, separators=(",", ":"))
            else:
                expected = "%s %s" % ("refused" if theirs.ok else "error", mine.place or "0:0")
            if sides.differ(theirs, mine) and not block.expected.startswith("refused "):
                print("%s\n  oracle: %s\n  ours:   %s" % (block.name, theirs.line, mine.line))
            fresh.append(block._replace(expected=expected))
    write(head, fresh)


if __name__ == "__main__":
    sys.exit(main())
