"""Which offsets of a partition are in flight, and up to where it may be committed.

The contract: `position` never passes an offset that has begun and not been completed. So after a crash the next owner
starts at or before the first event without an outcome; what lies beyond it and was already written is written again, under
the same verdict id. Nothing is ever skipped.
"""

from __future__ import annotations

from collections import deque


class PartitionLedger:
    """The offsets of one assigned partition. Not thread-safe: it belongs to the event loop.

    Offsets begin in rising order (Kafka's order of delivery), with gaps where the log has none (compaction, transactions),
    and complete in any order. Each operation is amortised O(1).
    """

    __slots__ = ("_order", "_position", "_unfinished")

    def __init__(self) -> None:
        self._order: deque[int] = deque()
        self._unfinished: set[int] = set()
        self._position: int | None = None

    @property
    def position(self) -> int | None:
        """The offset to commit: the next one to read. None while nothing below the first gap is complete."""
        return self._position

    @property
    def unfinished(self) -> int:
        """How many offsets have begun and not completed."""
        return len(self._unfinished)

    @property
    def held(self) -> int:
        """How many offsets lie at or beyond the watermark: those unfinished, and those completed behind one."""
        return len(self._order)

    def begin(self, offset: int) -> None:
        """`offset` was read. Raises `ValueError` unless it is beyond all before it."""
        last = self._order[-1] if self._order else (self._position or 0) - 1
        if offset <= last:
            raise ValueError(f"offset {offset} came after {last}")
        self._order.append(offset)
        self._unfinished.add(offset)

    def complete(self, offset: int) -> bool:
        """The outcome of `offset` is safe in Kafka. True when `position` moved.

        Raises `ValueError` for an offset that is not in flight: its outcome would be counted twice.
        """
        if offset not in self._unfinished:
            raise ValueError(f"offset {offset} is not in flight")
        self._unfinished.discard(offset)
        moved = False
        while self._order and self._order[0] not in self._unfinished:
            self._position = self._order.popleft() + 1
            moved = True
        return moved
