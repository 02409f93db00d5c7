"""A coordinator with everything around it, all in a test's hands: what is judged, what is written, and what the group knows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from stream.telemetry.metrics import WorkerMetrics
from stream.worker.backlog import Backlog
from stream.worker.coordinator import Coordinator
from stream.worker.ledger import Commit, decode
from stream.worker.partitions import Commits, TopicPartition
from stream.worker.records import InputRecord, Outcome
from tests.stream.worker.parts import TOPIC, unreadable
from tests.support.clock import ManualClock

P0, P1, P2 = (TOPIC, 0), (TOPIC, 1), (TOPIC, 2)
Place = tuple[int, int]
Known = dict[TopicPartition, tuple[int, set[int]]]


def place(of: InputRecord) -> Place:
    return of.partition, of.offset


def known(commits: Commits) -> Known:
    """Commits as (position, complete offsets beyond it)."""
    return {name: (commit.position, remembered(commit)) for name, commit in commits.items()}


def remembered(commit: Commit) -> set[int]:
    bits = decode(commit.metadata)
    return {commit.position + n for n in range(bits.bit_length()) if bits >> n & 1}


class Judge:
    """A pipeline whose events finish when a test says so."""

    def __init__(self) -> None:
        self.open: dict[Place, asyncio.Future[Outcome]] = {}
        self.cancelled: list[Place] = []

    async def process(self, of: InputRecord) -> Outcome:
        self.open[place(of)] = asyncio.get_running_loop().create_future()
        try:
            return await self.open[place(of)]
        except asyncio.CancelledError:
            self.cancelled.append(place(of))
            raise

    def finish(self, of: InputRecord, outcome: Outcome | None = None) -> None:
        self.open[place(of)].set_result(outcome or unreadable(of))


@dataclass(slots=True)
class Batch:
    """A write that is under way."""

    outcomes: list[Outcome]
    commits: Commits
    membership: object
    answer: asyncio.Future[None]

    def places(self) -> list[Place]:
        return [place(outcome.record) for outcome in self.outcomes]


class Sink:
    """Writes that end when a test says so."""

    transactional = True

    def __init__(self, parallel: int) -> None:
        self.parallel = parallel
        self.begun: list[Batch] = []

    async def write(self, outcomes: Sequence[Outcome], commits: Commits, membership: object) -> None:
        batch = Batch(list(outcomes), commits, membership, asyncio.get_running_loop().create_future())
        self.begun.append(batch)
        await batch.answer

    @property
    def open(self) -> list[Batch]:
        return [batch for batch in self.begun if not batch.answer.done()]

    def places(self) -> list[Place]:
        """Everything that was given to be written, in order."""
        return [at for batch in self.begun for at in batch.places()]


class Desk:
    """By default each outcome is a write of its own, and any number of them are under way."""

    def __init__(self, *, window: int = 1000, parallel: int = 1000, max_batch: int = 1) -> None:
        self.judge, self.sink, self.clock = Judge(), Sink(parallel), ManualClock()
        self.backlog, self.metrics = Backlog(1000), WorkerMetrics()
        self.faults: list[BaseException] = []
        self.full: list[frozenset[TopicPartition]] = []
        self.written: list[Place] = []
        self.books = Coordinator(
            judge=self.judge,
            sink=self.sink,
            backlog=self.backlog,
            clock=self.clock,
            metrics=self.metrics,
            window=window,
            batch_interval_s=0.0,
            max_batch=max_batch,
            on_fault=self.faults.append,
            on_full=self.full.append,
            on_written=lambda outcomes: self.written.extend(place(outcome.record) for outcome in outcomes),
        )
        self.books.start()

    def known(self) -> Known:
        """What may be committed now."""
        return known(self.books.commits())

    async def accept(self, *records: InputRecord) -> None:
        self.backlog.take(len(records))
        self.books.accept(records)
        await settle()

    async def finish(self, *records: InputRecord) -> None:
        for of in records:
            self.judge.finish(of)
        await settle()

    async def acknowledge(self, *records: InputRecord) -> None:
        """The writes that hold these records are safe."""
        wanted = {place(of) for of in records}
        for batch in self.sink.open:
            if wanted & set(batch.places()):
                batch.answer.set_result(None)
        await settle()

    async def complete(self, *records: InputRecord) -> None:
        await self.finish(*records)
        await self.acknowledge(*records)

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)


@asynccontextmanager
async def desk(
    *owned: TopicPartition, committed: Mapping[TopicPartition, Commit | None] | None = None, **options: int
) -> AsyncIterator[Desk]:
    """A coordinator that owns `owned`, of which nothing is committed yet, and `committed`."""
    opened = Desk(**options)
    opened.books.assign({**dict.fromkeys(owned), **(committed or {})})
    try:
        yield opened
    finally:
        await opened.books.aclose()


async def settle() -> None:
    """Let every task take the turns that it can."""
    for _ in range(12):
        await asyncio.sleep(0)
