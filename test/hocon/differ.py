"""differ.py [--seconds N] [--seed N] [--variant asan]: random texts for both parsers, a few hundred at a time, until the time is over.
Texts that they read differently are made short and printed; the exit status is then 1."""

import argparse
import collections
import random
import sys
import time

import corpus
import sides
import texts

BATCH = 500


class Pair:
    """Both sides."""

    def __init__(self, variant):
        self.oracle, self.ours = sides.Oracle(), sides.Ours(variant)
        self.counts = collections.Counter()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.oracle.__exit__()
        self.ours.__exit__()

    def differences(self, batch):
        """Yields (text, oracle's answer, ours) for each of the texts (str) that are read differently."""
        raw = [t.encode() for t in batch]
        for text, theirs, mine in zip(batch, self.oracle.ask(raw), self.ours.ask(raw)):
            self.counts["values" if theirs.ok else "errors"] += 1
            if mine.kind == "limit":
                self.counts["over our limits"] += 1
            elif sides.differ(theirs, mine) and not known(theirs, mine):
                yield text, theirs, mine

    def shortened(self, text):
        """The same difference in a shorter text: pieces are left out as long as there is one."""
        size = len(text) // 2
        while size:
            shorter = [text[:i] + text[i + size :] for i in range(0, len(text), size)]
            found = list(self.differences(shorter))
            if found:
                text = found[0][0]
            else:
                size //= 2
        return text


def known(theirs, mine):
    """What docs/dialects/sjs.md says of NUL, halves of surrogate pairs and numbers beyond a double."""
    if not theirs.ok or mine.kind != "invalid":
        return False
    return any(words in mine.rest for words in ("NUL", "\\u0000", "surrogate", "a double can hold"))


def main():
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--seconds", type=float, default=60)
    options.add_argument("--seed", type=int, default=int(time.time()))
    options.add_argument("--variant", default="release")
    o = options.parse_args()
    r, end, found = random.Random(o.seed), time.monotonic() + o.seconds, {}
    seeds = [b.text for b in corpus.read()[1] if len(b.text) < 400]
    with Pair(o.variant) as pair:
        while time.monotonic() < end and len(found) < 20:
            for text, *_ in list(pair.differences(texts.some(r, BATCH, seeds))):
                short = pair.shortened(text)
                if short in found:
                    continue
                found[short] = (theirs, mine) = list(pair.differences([short]))[0][1:]
                print("%r\n  oracle: %s\n  ours:   %s" % (short, theirs.line[:300], mine.line[:300]), flush=True)
    print("seed %d: %d different; %s" % (o.seed, len(found), ", ".join("%d %s" % (n, k) for k, n in pair.counts.items())))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
