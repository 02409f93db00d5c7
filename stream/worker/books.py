"""The books of what is in flight, as the consumer's thread sees them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from stream.worker.ledger import Commit
from stream.worker.partitions import Commits, TopicPartition
from stream.worker.records import InputRecord


class Books(Protocol):
    """What the thread needs of the event loop's side (`stream.worker.coordinator.Coordinator`), where all of it is called."""

    def assign(self, partitions: Mapping[TopicPartition, Commit | None]) -> None: ...
    def accept(self, records: list[InputRecord]) -> None: ...
    async def give_up(self, partitions: list[TopicPartition], drain_s: float) -> Commits: ...
    def release(self, partitions: list[TopicPartition]) -> None: ...
    def commits(self, partitions: list[TopicPartition] | None = None) -> Commits: ...
    def joined(self, membership: object) -> None: ...
