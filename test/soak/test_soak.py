"""A short soak. `make soak MINUTES=20` is the long one; its random choices are other ones each time."""
import os
import random

import soak

MINUTES = float(os.environ.get("STOKER_SOAK_MINUTES") or 1.2)


def test_short_soak(capfd):
    seed = os.environ.get("STOKER_SOAK_SEED") or str(random.SystemRandom().randrange(1 << 30))
    with capfd.disabled():
        faults = soak.soak(MINUTES, seed)
    assert faults == 0
