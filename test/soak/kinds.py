"""The kinds of jobs of a soak run: their classes in jobs/soak_jobs, how often they come, how they end by themselves."""
import collections

Kind = collections.namedtuple("Kind", "name cls weight natural endless make")


def kind(name, weight, natural="FINISHED", make=lambda rng: ({}, None), endless=False, cls=None):
    """make(random): (config, expected value; None for any). endless: something has to end it."""
    return Kind(name, cls or name.capitalize(), weight, natural, endless, make)


def counts(rng):
    n, k = rng.randrange(1, 2000), rng.randrange(1, 9)
    total = k * n * (n - 1) // 2
    return {"n": n, "k": k}, lambda value, version: value == [total, [version]]


def frames(rng):
    n = rng.randrange(100000)
    return {"n": n}, n


def big(rng):
    size = rng.choice((10, 70000, 2000000))
    return {"size": size}, "x" * size


def long(rng):
    return {"seconds": 600}, None


KINDS = (
    kind("nothing", 10),
    kind("sleeps", 8, make=lambda rng: ({"seconds": rng.uniform(0, 1)}, None)),
    kind("counts", 8, make=counts),
    kind("frames", 5, make=frames),
    kind("prints", 3, make=lambda rng: ({"lines": rng.choice((1, 1000))}, None)),
    kind("big", 3, make=big),
    kind("changes", 3, make=lambda rng: ({}, True)),
    kind("child", 2),
    kind("raises", 4, "USER_EXCEPTION"),
    kind("invalid", 2, "INVALID"),
    kind("exits", 3, "EXITED", make=lambda rng: ({"status": rng.randrange(256)}, None)),
    kind("crashes", 2, "SIGNALLED"),
    kind("hangs", 2, "", long, True),
    kind("busy", 2, "", long, True),
    kind("swallows", 2, "", long, True),
    kind("stage", 4, "", long, True),
    kind("threads", 2, "", long, True),
)
MEETS = kind("meets", 0)
