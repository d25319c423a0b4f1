"""Random HOCON texts: `generated` are mostly well formed and full of references, `mutated` are texts of the corpus, damaged."""

KEYS = ["a", "b", "c"]
SCALARS = ["1", "x", '"q"', "null", "true", "false", "1.50", "foo bar", "-0", "1e3", '""', '"""r"""', "0x", "10 s", "512m",
           '" "', "a.b", "007", "9223372036854775808", "-1.5e-3", "é", "x/y"]
PIECES = list("${}[]:=,+#`^?!@*&\\\"'. \n\t/-0159eEabx") + [
    "${", "${?", '"""', "+=", "include", "null", "true", "//", "\\u", "\\u0041", "\u00a0", "é", "😀", "a", "\r", "\r\n",
    "\ufeff", "\u2028", "\u0085", "\x1c", "\v", "${a}", "${?a}", "{a:1}", "[1]", '"a"', "1.", ".5", "e5", "-", "include ",
    'include "x"', "url(", "required(", " \n", "\n\n", "\x7f"]


class Generator:
    """One object makes one text: text(). r: random.Random."""

    def __init__(self, r):
        self.r = r
        self.keys = KEYS[: r.choice([1, 2, 3, 3])] + r.choice([[], [], ['"x.y"'], ["0", "1"], ["d e"], ['""'], ["größe", "1.5"]])
        self.odd = r.random() < 0.3  # spends white space, comments and lines

    def space(self):
        return self.r.choice(["", " ", "  ", "\t", "\n", " # c\n", "\n\n", " // c\n"]) if self.odd else ""

    def blank(self):
        return self.r.choice(["", " ", "  ", "\t"]) if self.odd else " "

    def path(self):
        return ".".join(self.r.choice(self.keys) for _ in range(self.r.choice([1, 1, 1, 2, 2, 3])))

    def reference(self):
        return "${%s%s}" % (self.r.choice(["", "?", "?"]), self.path())

    def value(self, depth):
        n = self.r.random()
        if n < 0.25 or not depth:
            return self.r.choice(SCALARS) if n < 0.6 else self.reference()
        if n < 0.5:
            return self.reference()
        if n < 0.65:
            return "[%s]" % self.joined(self.value, depth - 1, 4)
        if n < 0.8:
            return self.braces(depth - 1)
        return self.r.choice([" ", "", "  "]).join(self.value(depth - 1) for _ in range(self.r.choice([2, 2, 3])))

    def field(self, depth):
        n, path = self.r.random(), self.path()
        if n < 0.12:
            return path + self.blank() + "+=" + self.blank() + self.value(depth)
        if n < 0.25 and depth:
            return path + self.blank() + self.braces(depth - 1)
        return path + self.blank() + self.r.choice("=:") + self.blank() + self.value(depth)

    def joined(self, what, depth, most):
        parts = [self.space() + what(depth) + self.blank() for _ in range(self.r.randrange(most))]
        return self.r.choice([",", ",", "\n"]).join(parts) + (self.r.choice(["", ",", "\n"]) if parts else "") + self.space()

    def braces(self, depth):
        return "{%s}" % self.joined(self.field, depth, 4)

    def text(self):
        fields = "\n".join(self.field(self.r.choice([1, 2, 2, 3])) for _ in range(self.r.randrange(1, 7)))
        return "{%s}" % fields if self.r.random() < 0.1 else fields


def generated(r):
    return Generator(r).text()


def mutated(r, seeds):
    text = list(r.choice(seeds))
    if r.random() < 0.3:
        text += [r.choice(["\n", ","])] + list(r.choice(seeds))
    for _ in range(r.randrange(1, 6)):
        kind, at = r.random(), r.randrange(len(text) + 1)
        if kind < 0.45:
            text[at:at] = r.choice(PIECES)
        elif kind < 0.7:
            del text[at : at + 1]
        elif kind < 0.85:
            start = r.randrange(len(text) + 1)
            text[at:at] = text[start : start + r.randrange(40)]
        else:
            text[at : at + 1] = r.choice(PIECES)
    return "".join(text)


def some(r, n, seeds):
    """n texts, half of them of each kind; the same ones for the same r."""
    return [generated(r) if r.random() < 0.5 else mutated(r, seeds) for _ in range(n)]
