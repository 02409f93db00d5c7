"""How work grows with the input. CPU time of this process, as a ratio of two sizes: no clock on the wall, no fixed limit."""

from __future__ import annotations

import time
from collections.abc import Callable

SMALL, LARGE = 6_250, 100_000


def growth(work: Callable[[str], object], unit: str) -> float:
    """How many times more work 16 times the input takes: about 16 when linear, about 256 when quadratic."""
    return _effort(work, unit, LARGE) / _effort(work, unit, SMALL)


def _effort(work: Callable[[str], object], unit: str, length: int) -> float:
    text = (unit * (length // len(unit) + 1))[:length]
    best = float("inf")
    for _ in range(3):
        start = time.process_time()
        work(text)
        best = min(best, time.process_time() - start)
    return best + 0.0005  # below this the resolution of the clock is what is measured


LINEAR = 80.0
"""Between 16 (linear) and 256 (quadratic), with room for caches and allocation."""
