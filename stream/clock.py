"""Time as a dependency, so that tests and the simulation can own it."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Wall-clock time for what is written down, monotonic time for what is measured."""

    def now(self) -> datetime:
        """The current time, aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds from an arbitrary start; never goes back."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()


class Deadline:
    """A point in monotonic time that an event must not pass.

    Time in which nobody could have worked on the event (the guard was down and its partitions were paused) can be given
    back with `extend`: an outage is waited out, not answered with a flood of indeterminate verdicts.
    """

    __slots__ = ("_at", "_clock")

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock = clock
        self._at = clock.monotonic() + seconds

    def remaining(self) -> float:
        """Seconds left; zero or less when it has passed."""
        return self._at - self._clock.monotonic()

    def extend(self, seconds: float) -> None:
        """Move the deadline by the seconds that were nobody's fault."""
        self._at += seconds
