"""Guards made of arithmetic, under as much load as a limit lets through, in simulated time."""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stream.guard.limiter import ConcurrencyLimit
from tests.support.clock import ManualClock

Server = Callable[[float, int], float]
"""When a request that is sent at a time, with so many on the server (itself included), is answered."""


@dataclass(frozen=True, slots=True)
class Run:
    """`limits[n]`: the limit after the n-th answer."""

    rate: float
    limits: Sequence[int]

    def settled(self) -> Sequence[int]:
        """The second half, without the measurements of the quiet guard."""
        return self.limits[len(self.limits) // 2 :]


def drive(
    limit: ConcurrencyLimit,
    server: Server,
    requests: int,
    clock: ManualClock,
    *,
    demand: int = 10_000,
    kind: str = "text",
) -> Run:
    """`requests` answers, with always as many in flight as the limit and the demand allow."""
    began = now = clock.monotonic()
    flying: list[tuple[float, float, int]] = []
    limits: list[int] = []
    while len(limits) < requests:
        while len(flying) < min(limit.limit, demand):
            heapq.heappush(flying, (server(now, len(flying) + 1), now, len(flying) + 1))
        end, sent, in_flight = heapq.heappop(flying)
        clock.advance(end - now)
        now = end
        limit.answered(kind, end - sent, in_flight)
        limits.append(limit.limit)
    return Run(requests / (now - began), limits)


def pool(places: int, service: Callable[[], float]) -> Server:
    """A queue before `places` that each serve one request at a time."""
    free = [0.0] * places

    def answered_at(now: float, _in_flight: int) -> float:
        end = max(now, heapq.heappop(free)) + service()
        heapq.heappush(free, end)
        return end

    return answered_at


def boundless(service: Callable[[], float]) -> Server:
    """A guard that never queues."""
    return lambda now, _in_flight: now + service()


def contended(seconds: float, best_at: int, rng: random.Random) -> Server:
    """Neil Gunther's Universal Scalability Law: beyond `best_at` requests at a time, throughput falls."""
    contention = 0.05
    coherency = (1 - contention) / best_at**2

    def answered_at(now: float, in_flight: int) -> float:
        stretch = 1 + contention * (in_flight - 1) + coherency * in_flight * (in_flight - 1)
        return now + seconds * stretch * rng.uniform(0.8, 1.2)

    return answered_at


def batching(alone: float, at_64: float, rng: random.Random) -> Server:
    """An accelerator that batches: each further request makes all a little slower."""
    return lambda now, in_flight: now + (alone + (at_64 - alone) * in_flight / 64) * rng.uniform(0.8, 1.2)


def lognormal(median: float, sigma: float, rng: random.Random) -> Callable[[], float]:
    return lambda: median * math.exp(rng.gauss(0.0, sigma))


def tail(usual: float, rare: float, share: float, rng: random.Random) -> Callable[[], float]:
    return lambda: rare if rng.random() < share else usual
