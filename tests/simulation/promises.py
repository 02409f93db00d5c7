"""What must hold at every step of every schedule, and at its end."""

from __future__ import annotations

from collections.abc import Sequence

from stream.worker.ledger import METADATA_LIMIT, decode
from stream.worker.partitions import Commits, TopicPartition
from tests.simulation.brokers import InputEntry, Sent
from tests.simulation.events import TOPICS, expected, written


class BrokenPromiseError(AssertionError):
    """A schedule in which the service does what it says it never does."""


class Promises:
    """Watches the brokers: told of every record that becomes visible and of every commit that becomes effective."""

    def __init__(self, *, exactly_once: bool) -> None:
        self._exactly_once = exactly_once
        self._inputs: dict[TopicPartition, dict[int, bytes | None]] = {}
        self._missing: dict[tuple[TopicPartition, int], set[tuple[str, str]]] = {}
        self._visible: dict[TopicPartition, set[int]] = {}
        self.records = 0
        self.repeated = 0
        self.commits = 0
        self.remembering = 0

    def arrived(self, name: TopicPartition, entries: Sequence[InputEntry]) -> None:
        """These events are in the content topic."""
        for entry in entries:
            self._inputs.setdefault(name, {})[entry.offset] = entry.key
            self._missing[name, entry.offset] = set(expected(name[1], entry.offset, entry.key))
        self._visible.setdefault(name, set())

    def visible(self, records: Sequence[Sent], commits: Commits) -> None:
        """A reader with read_committed sees `records` from now on, all at once, and `commits` are effective with them."""
        touched = set()
        for sent in records:
            self.records += 1
            found = written(sent.value)
            at = found.partition, found.offset
            touched.add(at)
            mark = sent.topic, found.id
            if mark in self._missing[at]:
                self._missing[at].discard(mark)
            elif mark not in expected(found.partition[1], found.offset, self._inputs[found.partition][found.offset]):
                raise BrokenPromiseError(f"{at} has another outcome on {sent.topic} than before")
            else:
                self.repeated += 1
                if self._exactly_once:
                    raise BrokenPromiseError(f"duplicated: {at} has a second record on {sent.topic}")
        for name, offset in touched:
            if not self._missing[name, offset]:
                self._visible[name].add(offset)
            elif self._exactly_once:
                raise BrokenPromiseError(f"half an outcome of {name} {offset} is visible")
        if commits:
            self.committed(commits)

    def committed(self, commits: Commits) -> None:
        """These commits are effective. Nothing may be passed that has no outcome; in a transaction, nothing else either."""
        for name, commit in commits.items():
            self.commits += 1
            if len(commit.metadata) > METADATA_LIMIT:
                raise BrokenPromiseError(f"{len(commit.metadata)} bytes of metadata")
            bits = decode(commit.metadata)
            self.remembering += bool(bits)
            beyond = {offset for offset in self._inputs[name] if _covered(offset, commit.position, bits)}
            lost = beyond - self._visible[name]
            if lost:
                raise BrokenPromiseError(f"lost: {name} {min(lost)} is committed and has no outcome")
            if self._exactly_once and self._visible[name] - beyond:
                again = min(self._visible[name] - beyond)
                raise BrokenPromiseError(f"forgotten: {name} {again} has its outcome and the commit does not say so")

    def unfinished(self) -> list[tuple[TopicPartition, int]]:
        """Events without their outcome."""
        return [at for at, missing in self._missing.items() if missing]

    def uncommitted(self, commits: Commits) -> list[TopicPartition]:
        """Partitions whose last commit does not cover them."""
        return [
            name
            for name, offsets in self._inputs.items()
            if offsets and (name not in commits or commits[name].position <= max(offsets) or commits[name].metadata)
        ]

    def in_order(self, topic: str, log: Sequence[Sent]) -> None:
        """First occurrences of one key's records are in the order of its events."""
        if topic == TOPICS.ood:
            return
        seen: set[tuple[TopicPartition, int]] = set()
        last: dict[tuple[TopicPartition, bytes], int] = {}
        for sent in log:
            found = written(sent.value)
            at = found.partition, found.offset
            if sent.key is None or at in seen:
                continue
            seen.add(at)
            lane = found.partition, sent.key
            if last.get(lane, -1) > found.offset:
                raise BrokenPromiseError(
                    f"reordered: key {sent.key!r} of {found.partition}: {found.offset} after {last[lane]}"
                )
            last[lane] = found.offset


def _covered(offset: int, position: int, bits: int) -> bool:
    return offset < position or bool(bits >> (offset - position) & 1)
