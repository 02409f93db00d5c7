"""One partition while this process owns it: its books, its lanes, and what runs for it."""

from __future__ import annotations

import asyncio

from stream.errors import ProGuardStreamError
from stream.worker.lanes import KeyLanes
from stream.worker.ledger import Commit, PartitionLedger
from stream.worker.records import Outcome

TopicPartition = tuple[str, int]
Commits = dict[TopicPartition, Commit]


class OffsetsWentBackError(ProGuardStreamError):
    """A partition ends before what was read of it, or delivers again what it had delivered. A restart begins at the last commit."""

    def __init__(self, topic: str, partition: int, offset: int) -> None:
        super().__init__(f"{topic} [{partition}] went back to offset {offset}: was the topic made anew?")
        self.topic = topic
        self.partition = partition
        self.offset = offset


class OwnedPartition:
    """Belongs to the event loop. Once `closed`, nothing that still finishes for it is written or counted."""

    __slots__ = ("broken", "closed", "drained", "lanes", "ledger", "name", "tasks")

    def __init__(self, name: TopicPartition, committed: Commit | None) -> None:
        self.name = name
        self.ledger = PartitionLedger(committed)
        self.lanes: KeyLanes[Outcome] = KeyLanes()
        self.tasks: set[asyncio.Task[None]] = set()
        self.drained = asyncio.Event()
        self.drained.set()
        self.closed = False
        self.broken = False
