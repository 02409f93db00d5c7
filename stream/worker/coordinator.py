"""The event loop's side of the worker: which partitions are owned, what is in flight on them, what may be committed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import structlog

from stream.clock import Clock
from stream.errors import ProGuardStreamError
from stream.telemetry.logs import frames
from stream.telemetry.metrics import WorkerMetrics
from stream.worker.backlog import Backlog
from stream.worker.counting import OutcomeCounts
from stream.worker.lanes import Slot
from stream.worker.ledger import Commit, LedgerStateError
from stream.worker.partitions import Commits, OffsetsWentBackError, OwnedPartition, TopicPartition
from stream.worker.records import InputRecord, Outcome
from stream.worker.writer import Sink, Writer

_log = structlog.get_logger(__name__)


class Judge(Protocol):
    """What turns a record into its outcome (`stream.worker.pipeline.Pipeline`). Never raises but on cancellation."""

    async def process(self, record: InputRecord) -> Outcome: ...


class Coordinator:
    """Runs the pipeline for every accepted record and keeps the books.

    All methods belong to the event loop. A partition that was given up is closed: what still finishes for it is neither written
    nor counted. A partition whose window is full waits: `on_full` names those that do, whenever that
    changes. `on_written` hears of each batch of outcomes once it is safe in Kafka.
    """

    def __init__(
        self,
        *,
        judge: Judge,
        sink: Sink,
        backlog: Backlog,
        clock: Clock,
        metrics: WorkerMetrics,
        window: int,
        batch_interval_s: float,
        max_batch: int,
        on_fault: Callable[[BaseException], None],
        on_full: Callable[[frozenset[TopicPartition]], None] = lambda _full: None,
        on_written: Callable[[Sequence[Outcome]], None] = lambda _outcomes: None,
    ) -> None:
        self._judge = judge
        self._backlog = backlog
        self._clock = clock
        self._metrics = metrics
        self._window = window
        self._on_fault = on_fault
        self._on_full = on_full
        self._on_outcomes = on_written
        self._full: frozenset[TopicPartition] = frozenset()
        self._owned: dict[TopicPartition, OwnedPartition] = {}
        self._writer = Writer(
            sink,
            clock,
            interval_s=batch_interval_s,
            max_batch=max_batch,
            on_written=self._written,
            on_failure=on_fault,
            on_aborted=metrics.batches.labels("aborted").inc,
        )
        self._counts = OutcomeCounts(metrics)

    def start(self) -> None:
        """Begin to write. Needs the running loop."""
        self._writer.start()

    async def aclose(self) -> None:
        """Stop writing. What is not written stays uncommitted."""
        await self._writer.aclose()

    def assign(self, partitions: Mapping[TopicPartition, Commit | None]) -> None:
        """These partitions are ours from now on, with the books that the group has committed.

        A commit whose metadata cannot be read is a fault: going on without it would judge events twice.
        """
        for name, committed in partitions.items():
            self._close(name)
            try:
                self._owned[name] = OwnedPartition(name, committed)
            except LedgerStateError as error:
                self._on_fault(ProGuardStreamError(f"{name[0]} [{name[1]}]: {error}"))
        self._metrics.partitions.set(len(self._owned))
        self._look_for_full_windows()

    def accept(self, records: Sequence[InputRecord]) -> None:
        """Take up records, each partition's in order. Those of a partition that is not ours any more, and those that have
        their outcome already, are dropped.

        A partition whose offsets go back (its topic was made anew, or lost its end) is a fault, reported to `on_fault`: its
        records would otherwise be skipped. Nothing more is taken up for it.
        """
        self._metrics.events.inc(len(records))
        for record in records:
            owned = self._owned.get((record.topic, record.partition))
            if owned is None or owned.broken or not self._begin(owned, record):
                self._backlog.give_back(1)
                continue
            owned.drained.clear()
            slot = owned.lanes.enter(record.key)
            task = asyncio.create_task(self._run(owned, slot, record))
            owned.tasks.add(task)
            task.add_done_callback(owned.tasks.discard)
        self._look_for_full_windows()

    def _begin(self, owned: OwnedPartition, record: InputRecord) -> bool:
        try:
            return owned.ledger.begin(record.offset)
        except LedgerStateError:
            owned.broken = True
            self._on_fault(OffsetsWentBackError(record.topic, record.partition, record.offset))
            return False

    async def drain(self, partitions: Iterable[TopicPartition], timeout: float) -> bool:
        """Wait until everything in flight on these partitions is written, for at most `timeout` seconds in all."""
        busy = [self._owned[partition].drained for partition in partitions if partition in self._owned]
        waiting = [drained.wait() for drained in busy if not drained.is_set()]
        if not waiting:
            return True
        try:
            async with asyncio.timeout(timeout):
                await asyncio.gather(*waiting)
        except TimeoutError:
            return False
        return True

    async def give_up(self, partitions: Iterable[TopicPartition], drain_s: float) -> Commits:
        """Finish what is in flight on these partitions for at most `drain_s` seconds, then release them.

        Returns what is complete: to be committed at once, or never.
        """
        names = list(partitions)
        if not await self.drain(names, drain_s):
            _log.warning("coordinator.drain_timed_out", partitions=[number for _, number in names])
        complete = self.commits(names)
        self.release(names)
        return complete

    def joined(self, membership: object) -> None:
        """This process's present place in the group, as the sink needs it to commit."""
        self._writer.membership = membership

    def release(self, partitions: Iterable[TopicPartition]) -> None:
        """Give these partitions up: cancel what is unfinished. Take `commits` before, commit them after or never."""
        for partition in partitions:
            self._close(partition)
        self._metrics.partitions.set(len(self._owned))
        self._look_for_full_windows()

    def owned(self) -> list[TopicPartition]:
        """The partitions that are ours."""
        return list(self._owned)

    def commits(self, partitions: Iterable[TopicPartition] | None = None) -> Commits:
        """What may be committed now, for each partition that has begun."""
        names = list(self._owned) if partitions is None else [name for name in partitions if name in self._owned]
        found = {name: self._owned[name].ledger.commit() for name in names}
        return {name: commit for name, commit in found.items() if commit is not None}

    async def _run(self, owned: OwnedPartition, slot: Slot[Outcome], record: InputRecord) -> None:
        try:
            outcome = await self._judge.process(record)
            if owned.closed:
                return
            for ready in owned.lanes.settle(slot, outcome):
                self._writer.add(owned, ready)
        except asyncio.CancelledError:
            if not owned.closed:
                # A library cancelled itself. The offset would stay unfinished for ever, and nobody would know.
                self._on_fault(ProGuardStreamError("the judging of an event was cancelled from inside"))
            raise
        except Exception as error:
            # The pipeline promises not to raise, so this is a fault of the books themselves: stop before they go wrong.
            _log.error("coordinator.fault", fault=type(error).__name__, frames=frames(error))
            self._on_fault(error)

    def _written(self, outcomes: Sequence[Outcome]) -> None:
        self._backlog.give_back(len(outcomes))
        self._counts.count(outcomes, self._clock.monotonic())
        self._on_outcomes(outcomes)
        if self._full:
            self._look_for_full_windows()

    def _look_for_full_windows(self) -> None:
        full = frozenset(name for name, owned in self._owned.items() if owned.ledger.reach >= self._window)
        if full != self._full:
            self._full = full
            self._metrics.waiting_partitions.set(len(full))
            self._on_full(full)

    def _close(self, partition: TopicPartition) -> None:
        owned = self._owned.pop(partition, None)
        if owned is None:
            return
        owned.closed = True
        owned.drained.set()
        for task in owned.tasks:
            task.cancel()
        self._backlog.give_back(owned.ledger.unfinished)

    def held(self) -> int:
        """Completed offsets that wait behind a gap, in all ledgers, for the metric."""
        return sum(owned.ledger.remembered for owned in self._owned.values())
