"""Memory over many requests: what leaks shows here, and only here."""

import time
from collections.abc import Callable

from bench.error import BenchError
from bench.kind import HttpKind
from bench.load import Shape
from bench.machine import resident_mib

SHAPE = Shape(connections=64)
WARM_UP_S = 5
LIMIT_S = 1800.0

_CHUNK_S = 10

Say = Callable[[str], None]


def soak(kind: HttpKind, pid: int, num_requests: int, say: Say) -> tuple[tuple[int, float], ...]:
    """Ask that often, in chunks; (requests so far, MiB of the largest process of `pid`) after each.

    Raises BenchError when a request fails, or when it takes too long.
    """
    kind.check()
    kind.load(SHAPE, WARM_UP_S)
    samples = [(0, max(resident_mib(pid)))]
    deadline = time.monotonic() + LIMIT_S
    while samples[-1][0] < num_requests:
        if time.monotonic() > deadline:
            raise BenchError(f"only {samples[-1][0]:,} of {num_requests:,} requests in {LIMIT_S:.0f} s; ask for fewer")
        num_answers = kind.load(SHAPE, _CHUNK_S).num_answers
        samples.append((samples[-1][0] + num_answers, max(resident_mib(pid))))
        say(f"{samples[-1][0]:,} of {num_requests:,} requests, {samples[-1][1]:.1f} MiB")
    return tuple(samples)
