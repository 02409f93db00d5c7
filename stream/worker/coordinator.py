"""The event loop's side of the worker: which partitions are owned, what is in flight on them, what may be committed."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable, Iterable, Sequence

import structlog

from stream.clock import Clock
from stream.errors import ProGuardStreamError
from stream.telemetry.logs import frames
from stream.telemetry.metrics import WorkerMetrics
from stream.worker.backlog import Backlog
from stream.worker.delivery import Delivery
from stream.worker.lanes import KeyLanes, Slot
from stream.worker.ledger import PartitionLedger
from stream.worker.pipeline import Pipeline
from stream.worker.records import InputRecord, Outcome

_log = structlog.get_logger(__name__)

TopicPartition = tuple[str, int]
Positions = dict[TopicPartition, int]


class _Owned:
    """One partition while this process owns it."""

    __slots__ = ("broken", "closed", "drained", "lanes", "ledger", "tasks")

    def __init__(self) -> None:
        self.ledger = PartitionLedger()
        self.lanes: KeyLanes[Outcome] = KeyLanes()
        self.tasks: set[asyncio.Task[None]] = set()
        self.drained = asyncio.Event()
        self.drained.set()
        self.closed = False
        self.broken = False


class OffsetsWentBackError(ProGuardStreamError):
    """A partition delivered an offset at or before one that was delivered already. A restart begins at the last commit."""

    def __init__(self, topic: str, partition: int, offset: int) -> None:
        super().__init__(f"{topic} [{partition}] went back to offset {offset}: was the topic made anew?")
        self.topic = topic
        self.partition = partition
        self.offset = offset


class Coordinator:
    """Runs the pipeline for every accepted record and keeps the books.

    All methods but `positions` belong to the event loop. A partition that was given up is closed: what still finishes for it is
    neither written nor counted.
    """

    def __init__(
        self,
        *,
        pipeline: Pipeline,
        delivery: Delivery,
        backlog: Backlog,
        clock: Clock,
        metrics: WorkerMetrics,
        on_fault: Callable[[BaseException], None],
    ) -> None:
        self._pipeline = pipeline
        self._delivery = delivery
        self._backlog = backlog
        self._clock = clock
        self._metrics = metrics
        self._on_fault = on_fault
        self._owned: dict[TopicPartition, _Owned] = {}
        self._positions: Positions = {}
        self._positions_lock = threading.Lock()

    def assign(self, partitions: Iterable[TopicPartition]) -> None:
        """These partitions are ours from now on, with empty books."""
        for partition in partitions:
            self._close(partition)
            self._owned[partition] = _Owned()
        self._metrics.partitions.set(len(self._owned))

    def accept(self, records: Sequence[InputRecord]) -> None:
        """Take up records, each partition's in order. Those of a partition that is not ours any more are dropped.

        A partition whose offsets go back (its topic was made anew, or lost its end) is a fault, reported to `on_fault`: its
        records would otherwise be skipped. Nothing more is taken up for it.
        """
        self._metrics.events.inc(len(records))
        for record in records:
            owned = self._owned.get((record.topic, record.partition))
            if owned is None or owned.broken:
                self._backlog.give_back(1)
                continue
            try:
                owned.ledger.begin(record.offset)
            except ValueError:
                owned.broken = True
                self._backlog.give_back(1)
                self._on_fault(OffsetsWentBackError(record.topic, record.partition, record.offset))
                continue
            owned.drained.clear()
            slot = owned.lanes.enter(record.key)
            task = asyncio.create_task(self._run(owned, slot, record))
            owned.tasks.add(task)
            task.add_done_callback(owned.tasks.discard)

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

    def release(self, partitions: Iterable[TopicPartition]) -> None:
        """Give these partitions up: cancel what is unfinished. Take `positions` before, commit them after or never."""
        for partition in partitions:
            self._close(partition)
        self._metrics.partitions.set(len(self._owned))

    def owned(self) -> list[TopicPartition]:
        """The partitions that are ours."""
        return list(self._owned)

    def positions(self, partitions: Iterable[TopicPartition] | None = None) -> Positions:
        """The offsets that may be committed. Safe from any thread: a snapshot, each one at most too low."""
        with self._positions_lock:
            if partitions is None:
                return dict(self._positions)
            return {partition: self._positions[partition] for partition in partitions if partition in self._positions}

    async def _run(self, owned: _Owned, slot: Slot[Outcome], record: InputRecord) -> None:
        try:
            outcome = await self._pipeline.process(record)
            if owned.closed:
                return
            for ready in owned.lanes.settle(slot, outcome):
                self._delivery.write(ready, functools.partial(self._written, owned))
        except asyncio.CancelledError:
            if not owned.closed:
                # A library cancelled itself. The offset would stay unfinished for ever, and nobody would know.
                self._on_fault(ProGuardStreamError("the judging of an event was cancelled from inside"))
            raise
        except Exception as error:
            # The pipeline promises not to raise, so this is a fault of the books themselves: stop before they go wrong.
            _log.error("coordinator.fault", fault=type(error).__name__, frames=frames(error))
            self._on_fault(error)

    def _written(self, owned: _Owned, outcome: Outcome) -> None:
        if owned.closed:
            return
        record = outcome.record
        if owned.ledger.complete(record.offset):
            position = owned.ledger.position
            assert position is not None
            with self._positions_lock:
                self._positions[record.topic, record.partition] = position
        if owned.ledger.unfinished == 0:
            owned.drained.set()
        self._backlog.give_back(1)
        self._count(outcome)

    def _close(self, partition: TopicPartition) -> None:
        owned = self._owned.pop(partition, None)
        with self._positions_lock:
            self._positions.pop(partition, None)
        if owned is None:
            return
        owned.closed = True
        owned.drained.set()
        for task in owned.tasks:
            task.cancel()
        self._backlog.give_back(owned.ledger.unfinished)

    def _count(self, outcome: Outcome) -> None:
        metrics = self._metrics
        if outcome.verdict is not None:
            metrics.verdicts.labels(outcome.verdict.status.value, outcome.verdict.action).inc()
            for kind in outcome.verdict.degraded:
                metrics.degraded.labels(kind).inc()
        if outcome.ood is not None:
            metrics.ood.inc()
        if outcome.dead_letter is not None:
            metrics.dead_letters.labels(outcome.dead_letter.reason.value).inc()
        metrics.latency.observe(self._clock.monotonic() - outcome.began)

    def held(self) -> int:
        """Offsets in all ledgers, for the metric."""
        return sum(owned.ledger.held for owned in self._owned.values())
