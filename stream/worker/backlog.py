"""How many events are in flight, shared between the consumer thread and the event loop."""

from __future__ import annotations

import threading


class Backlog:
    """A bounded count. The consumer thread takes, the event loop gives back; both may wait only briefly."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._count = 0
        self._wanted = 0
        self._room = threading.Condition()

    @property
    def count(self) -> int:
        return self._count

    @property
    def room(self) -> int:
        """How many more events may be taken; never negative."""
        return max(0, self.limit - self._count)

    def take(self, events: int) -> None:
        """`events` were read. May pass the limit: what was read must not be dropped."""
        with self._room:
            self._count += events

    def give_back(self, events: int) -> None:
        """`events` have their outcome, or were dropped with their partition."""
        with self._room:
            self._count -= events
            if self._wanted and self.limit - self._count >= self._wanted:
                self._room.notify_all()

    def wait_for_room(self, timeout: float, wanted: int = 1) -> bool:
        """Block the calling thread until there is room for `wanted` events, for at most `timeout` seconds.

        Wait for many at once: to be woken for each event costs both threads more than the event does.
        """
        with self._room:
            self._wanted = wanted
            try:
                return self._room.wait_for(lambda: self.limit - self._count >= wanted, timeout)
            finally:
                self._wanted = 0
