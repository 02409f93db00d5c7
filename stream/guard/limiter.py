"""How many requests may be on the guard at a time: fixed, or adapted to how it answers."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable
from statistics import median
from typing import Protocol

from stream.clock import Clock
from stream.guard.settings import GuardSettings


class ConcurrencyLimit(Protocol):
    """Decides from what it is told about requests. All calls belong to the event loop, cost microseconds and never fail.

    Only requests of the same `kind` are compared with one another; there are few kinds.
    `in_flight` is how many requests were on the guard when this one was sent, itself included.
    """

    @property
    def limit(self) -> int:
        """Requests that may be on the guard now, 1 or more. Those beyond a limit that has shrunk are left to finish."""
        ...

    def answered(self, kind: Hashable, seconds: float, in_flight: int) -> None:
        """A request was answered after `seconds`."""
        ...

    def dropped(self) -> None:
        """A request timed out, or found nobody."""
        ...


class FixedLimit:
    """Always the same number."""

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def answered(self, kind: Hashable, seconds: float, in_flight: int) -> None:
        """Changes nothing."""

    def dropped(self) -> None:
        """Changes nothing."""


_FEWEST = 16
"""Answers that make a window at least. A median of fewer jumps about by more than a queue does."""

_QUIET_ANSWERS = 24
"""Quiet answers that end a measurement."""

_REMEMBERED = 31
"""Quiet answers of one kind that are remembered. Odd, so that their median is one of them and no mean of two."""

_SMOOTHING = 0.5
"""Share of a window's proposal that takes effect, so that the limit settles where it would swing."""

_TOO_MANY_DROPS = 0.1
"""Share of a window that may be dropped before that counts as congestion. Below, it is the drops' own fault."""

_MEASURE_EVERY_S = 30.0
_MEASURE_SHARE = 50
"""A measurement that took a second is followed by this many without one: it costs a fiftieth of the time at most."""

_MEASURE_AT_LEAST_EVERY_S = 600.0


class AdaptiveLimit:
    """Lets the limit grow while the guard answers as fast as when it is quiet, and shrinks it when requests queue there.

    The gradient controller of Envoy's adaptive concurrency filter, with the window rules of Netflix's concurrency-limits
    (`Gradient2Limit`: clamped gradient, smoothing, no growth of a limit that is not used)::

        stretch  = median of (round trip / quiet round trip of its kind), over one window
        gradient = min(1, max(1/2, tolerance / stretch))
        limit    = (1 - 1/2) * limit + 1/2 * (gradient * limit + sqrt(limit)), between `least` and `most`

    A window is one round of answers: as many as the limit, and 16 at least. The limit changes at its end, and only if at
    least half of it was in use. With a guard that serves N at a time, it settles a little above `tolerance` * N.

    - It is the *median*, so one answer in a hundred that takes seconds moves nothing.
    - The *quiet round trip* is the median of the last 31 answers to requests that were sent with at most `least` in flight.
      When there is none yet, and from time to time while the limit is held down, the limit goes to `least` until 24 such
      answers have come. Otherwise content that has become longer would look like a queue for ever. `least` is by this
      definition not too much for the guard.
    - Where more than a tenth of a window was *dropped*, its gradient is 1/2. Fewer drops change nothing: an attacker
      whose content makes the guard time out must not be able to throttle everybody.
    """

    def __init__(self, clock: Clock, *, least: int, most: int, tolerance: float) -> None:
        if not 1 <= least <= most or tolerance <= 1:
            raise ValueError("1 <= least <= most and tolerance > 1")
        self._clock = clock
        self._least = least
        self._most = most
        self._tolerance = tolerance
        self._level = float(most)
        self._quiet: dict[Hashable, deque[float]] = {}
        self._base: dict[Hashable, float] = {}
        self._stretches: list[float] = []
        self._drops = 0
        self._most_in_flight = 0
        self._measured = 0
        self._measuring_since: float | None = clock.monotonic()
        self._next_measurement = 0.0
        self.limit = least

    def answered(self, kind: Hashable, seconds: float, in_flight: int) -> None:
        if in_flight <= self._least:
            self._learn(kind, seconds)
        if self._measuring_since is not None:
            return
        base = self._base.get(kind)
        if base is None:
            self._measure_if_due()
            return
        self._stretches.append(max(seconds, 1e-6) / base)
        if in_flight > self._most_in_flight:
            self._most_in_flight = in_flight
        self._close_window_if_full()

    def dropped(self) -> None:
        if self._measuring_since is None:
            self._drops += 1
            self._close_window_if_full()

    def _learn(self, kind: Hashable, seconds: float) -> None:
        """One round trip on a quiet guard. Too short to be told from nothing, it is taken as a microsecond."""
        quiet = self._quiet.setdefault(kind, deque(maxlen=_REMEMBERED))
        quiet.append(max(seconds, 1e-6))
        if self._measuring_since is None:
            self._base[kind] = median(quiet)
            return
        self._measured += 1
        if self._measured >= _QUIET_ANSWERS:
            self._end_measurement(self._measuring_since)

    def _close_window_if_full(self) -> None:
        answers = len(self._stretches)
        if answers + self._drops < max(_FEWEST, self.limit):
            return
        congested = self._drops > _TOO_MANY_DROPS * (answers + self._drops)
        used = 2 * self._most_in_flight >= self.limit
        stretch = median(self._stretches) if answers else math.inf
        self._begin_window()
        gradient = 0.5 if congested else min(1.0, max(0.5, self._tolerance / stretch))
        if congested or used:
            headroom = 0.0 if congested else math.sqrt(self._level)
            proposed = gradient * self._level + headroom
            self._set(self._level + _SMOOTHING * (proposed - self._level))
        if gradient < 1.0 and not congested:
            self._measure_if_due()

    def _measure_if_due(self) -> None:
        now = self._clock.monotonic()
        if now >= self._next_measurement:
            self._measuring_since = now
            self._measured = 0
            self._quiet.clear()
            self.limit = self._least

    def _end_measurement(self, since: float) -> None:
        now = self._clock.monotonic()
        for kind, quiet in self._quiet.items():
            self._base[kind] = median(quiet)
        pause = min(max(_MEASURE_EVERY_S, _MEASURE_SHARE * (now - since)), _MEASURE_AT_LEAST_EVERY_S)
        self._next_measurement = now + pause
        self._measuring_since = None
        self._begin_window()
        self._set(self._level)

    def _begin_window(self) -> None:
        self._stretches.clear()
        self._drops = 0
        self._most_in_flight = 0

    def _set(self, level: float) -> None:
        self._level = min(float(self._most), max(float(self._least), level))
        self.limit = int(self._level)


def limit_from(settings: GuardSettings, clock: Clock) -> ConcurrencyLimit:
    """The limit that the settings ask for."""
    least, most = min(settings.min_in_flight, settings.max_in_flight), settings.max_in_flight
    if settings.limiter == "fixed" or least == most:
        return FixedLimit(most)
    return AdaptiveLimit(clock, least=least, most=most, tolerance=settings.limiter_tolerance)
