"""Which offsets of a partition have their outcome, and what to commit so that nobody needs to find out again.

The contract. A commit is a *position* and a *set of offsets beyond it*. Every offset below the position, and every one in
the set, has its outcome in Kafka; every other one has none, or none that anybody can see. So the next owner of the partition
starts at the position, skips the set, and judges only the gaps: nothing is lost, and in a transaction nothing is repeated.

Offsets begin in rising order and are completed in any order. An offset that the log does not have (compaction, a
transaction's own records) counts as complete as soon as a later one has begun.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

METADATA_LIMIT = 4000
"""Bytes of commit metadata that may be used. A broker refuses more than `offset.metadata.max.bytes` (4,096 by default)."""

MAX_SPAN = 24_000
"""Offsets from the position to the newest begun one, at most. A bitmap of this many, uncompressed, still fits the metadata."""

_PREFIX = "pgs1:"
_END = "."
"""Not in the alphabet of base 85."""
_MAX_BITMAP_BYTES = 1 << 20
"""What is unpacked at most: a gap in the log (compaction) makes a set long, not large."""


class LedgerStateError(ValueError):
    """The books would go wrong: an offset begins or completes that must not."""


@dataclass(frozen=True, slots=True)
class Commit:
    """What to commit for one partition. `metadata` holds the completed offsets beyond `position`; empty when there are none."""

    position: int
    metadata: str


class PartitionLedger:
    """The books of one partition while this process owns it. Not thread-safe: it belongs to the event loop.

    `committed` is what the group has committed for the partition: None when nothing yet, so that the first offset begun is the
    position. Raises `LedgerStateError` when its metadata is not one that `commit` wrote; starting with an empty set instead
    would judge events twice.
    """

    __slots__ = ("_begun_to", "_complete", "_position", "_unfinished")

    def __init__(self, committed: Commit | None = None) -> None:
        self._position = committed.position if committed else None
        # Bit n stands for the offset `_position + n`.
        self._complete = decode(committed.metadata) if committed else 0
        self._begun_to = self._position
        self._unfinished = 0

    @property
    def position(self) -> int | None:
        """The first offset without an outcome; None before anything began."""
        return self._position

    @property
    def unfinished(self) -> int:
        """How many offsets have begun and are not complete."""
        return self._unfinished

    @property
    def reach(self) -> int:
        """From the position to the newest offset begun: what reading on makes longer.

        An earlier owner's completed offsets may lie further out. To wait because of them would be to wait for ever: the gaps
        before them have yet to be read.
        """
        if self._position is None or self._begun_to is None:
            return 0
        return max(0, self._begun_to - self._position)

    @property
    def span(self) -> int:
        """From the position to the newest offset begun or remembered: what the set in a commit has to cover."""
        if self._position is None or self._begun_to is None:
            return 0
        return max(self._begun_to - self._position, self._complete.bit_length())

    @property
    def remembered(self) -> int:
        """How many completed offsets lie beyond the position."""
        return self._complete.bit_count()

    def begin(self, offset: int) -> bool:
        """`offset` was read. False when it has its outcome already: skip it.

        Raises `LedgerStateError` unless it is beyond all before it.
        """
        if self._position is None or self._begun_to is None:
            self._position = self._begun_to = offset
        if offset < self._begun_to:
            raise LedgerStateError(f"offset {offset} came after {self._begun_to - 1}")
        if offset < self._position:
            # The position has run over offsets that an earlier owner had completed, and this is one of them.
            self._begun_to = offset + 1
            return False
        index = offset - self._position
        begun_to = max(self._begun_to, self._position)
        absent = offset - begun_to
        if absent:
            self._complete |= ((1 << absent) - 1) << (begun_to - self._position)
        self._begun_to = offset + 1
        if self._complete >> index & 1:
            self._advance()
            return False
        self._unfinished += 1
        self._advance()
        return True

    def complete(self, offsets: Iterable[int]) -> None:
        """The outcomes of `offsets` are safe in Kafka. Raises `LedgerStateError` for one that is not in flight."""
        added = self._bits(offsets)
        self._unfinished -= added.bit_count()
        self._complete |= added
        self._advance()

    def commit(self, adding: Iterable[int] = ()) -> Commit | None:
        """What to commit now, as if the outcomes of `adding` were safe already: for the transaction that makes them so.

        None before anything began. Changes nothing.
        """
        if self._position is None:
            return None
        complete = self._complete | self._bits(adding)
        run = _trailing_ones(complete)
        return Commit(self._position + run, encode(complete >> run))

    def _bits(self, offsets: Iterable[int]) -> int:
        bits = bytearray()
        for offset in offsets:
            if self._position is None or self._begun_to is None or not self._position <= offset < self._begun_to:
                raise LedgerStateError(f"offset {offset} is not in flight")
            index = offset - self._position
            if index >= len(bits) * 8:
                bits.extend(bytes(index // 8 + 1 - len(bits)))
            if bits[index // 8] >> (index % 8) & 1:
                raise LedgerStateError(f"offset {offset} completes twice")
            bits[index // 8] |= 1 << (index % 8)
        found = int.from_bytes(bits, "little")
        if found & self._complete:
            raise LedgerStateError("an offset is not in flight: it has its outcome already")
        return found

    def _advance(self) -> None:
        run = _trailing_ones(self._complete)
        if run:
            assert self._position is not None
            self._position += run
            self._complete >>= run


def _trailing_ones(bits: int) -> int:
    return ((bits + 1) & ~bits).bit_length() - 1


def encode(complete: int) -> str:
    """A bitmap as commit metadata: zlib where that is shorter, in base 85. Empty for an empty one.

    Fits `METADATA_LIMIT` for every bitmap of `MAX_SPAN` bits.
    """
    if not complete:
        return ""
    raw = complete.to_bytes((complete.bit_length() + 7) // 8, "little")
    packed = zlib.compress(raw, 1)
    kind, body = ("z", packed) if len(packed) < len(raw) else ("r", raw)
    return f"{_PREFIX}{kind}{base64.b85encode(body).decode()}{_END}"


def decode(metadata: str) -> int:
    """The bitmap in commit metadata. Raises `LedgerStateError` for text that `encode` did not write."""
    if not metadata:
        return 0
    # confluent-kafka (2.16) reads on to the next NUL, which a commit that another tool has copied need not have.
    metadata = metadata.partition(_END)[0]
    kind, body = metadata[len(_PREFIX) : len(_PREFIX) + 1], metadata[len(_PREFIX) + 1 :]
    if not metadata.startswith(_PREFIX) or kind not in ("z", "r") or len(metadata) > METADATA_LIMIT:
        raise LedgerStateError("the commit's metadata was not written by this service")
    try:
        raw = base64.b85decode(body)
        if kind == "z":
            unpacker = zlib.decompressobj()
            raw = unpacker.decompress(raw, _MAX_BITMAP_BYTES)
            if unpacker.unconsumed_tail or not unpacker.eof:
                raise LedgerStateError("the commit's metadata holds more than a partition's window")
    except (ValueError, zlib.error) as error:
        raise LedgerStateError("the commit's metadata is damaged") from error
    return int.from_bytes(raw, "little")
