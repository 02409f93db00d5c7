"""Order by key: outcomes leave in the order in which their records came, however the judging finishes."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Slot(Generic[T]):
    """A place in a key's lane. Settled once."""

    __slots__ = ("key", "outcome")

    def __init__(self, key: bytes | None) -> None:
        self.key = key
        self.outcome: T | None = None


class KeyLanes(Generic[T]):
    """One queue for each key that has records in flight. A record without a key is a key of its own.

    Records of one key are judged at the same time; only their outcomes wait for their turn.
    """

    __slots__ = ("_lanes",)

    def __init__(self) -> None:
        self._lanes: dict[bytes, deque[Slot[T]]] = {}

    def enter(self, key: bytes | None) -> Slot[T]:
        """Take the next place in the lane of `key`."""
        slot: Slot[T] = Slot(key)
        if key is not None:
            self._lanes.setdefault(key, deque()).append(slot)
        return slot

    def settle(self, slot: Slot[T], outcome: T) -> list[T]:
        """`slot` has its outcome. Returns those whose turn has come, in order; often just this one, or none yet."""
        if slot.key is None:
            return [outcome]
        slot.outcome = outcome
        lane = self._lanes[slot.key]
        ready: list[T] = []
        while lane and lane[0].outcome is not None:
            ready.append(lane.popleft().outcome)  # type: ignore[arg-type]  # checked in the condition
        if not lane:
            del self._lanes[slot.key]
        return ready
