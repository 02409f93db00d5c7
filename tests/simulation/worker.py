"""One worker process of the simulation: the product's parts, put together as `stream.worker.service` does it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from types import SimpleNamespace
from typing import Any

from stream.telemetry.metrics import WorkerMetrics
from stream.worker.backlog import Backlog
from stream.worker.coordinator import Coordinator
from stream.worker.records import InputRecord, Outcome
from stream.worker.service import WorkerService
from tests.simulation.blocking import Edit, consumer_module, sinks_module
from tests.simulation.brokers import CONTENT, SimBrokers
from tests.simulation.consumer_client import SimConsumer
from tests.simulation.events import SOURCE, TOPICS, outcome_at
from tests.simulation.loop import SimLoop, SimProcess, current_thread
from tests.simulation.producer_client import Mishaps, SimProducer


@cache
def _metrics() -> WorkerMetrics:
    return WorkerMetrics()


@dataclass(frozen=True, slots=True)
class Settings:
    """What the workers of a schedule are set to."""

    exactly_once: bool
    max_in_flight: int
    window: int
    interval_s: float
    max_batch: int
    commit_interval_s: float
    drain_s: float
    session_s: float
    transaction_timeout_s: float
    producer_queue: int
    quick_s: float
    """Judging takes up to this long,"""
    slow: float
    """but for this share of the events,"""
    slow_s: float
    """which take up to this long."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What a mutation may replace."""

    consumer_edits: tuple[Edit, ...] = ()
    sink_edits: tuple[Edit, ...] = ()
    coordinator: type[Coordinator] = Coordinator
    backlog: type[SimBacklog] = field(default_factory=lambda: SimBacklog)
    reads_stable: bool = True


class SimClock:
    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self._loop.time())

    def monotonic(self) -> float:
        return self._loop.time()


class SimBacklog(Backlog):
    async def wait_for_room(self, timeout: float, wanted: int = 1) -> bool:  # type: ignore[override]
        until = asyncio.get_running_loop().time() + timeout
        while self.room < wanted:
            if asyncio.get_running_loop().time() >= until:
                return False
            await asyncio.sleep(0.02)
        return True


class SimJudge:
    """The pipeline's part: an outcome after some time."""

    def __init__(self, settings: Settings, rng: random.Random) -> None:
        self._settings = settings
        self._random = rng
        self.quick = False

    async def process(self, record: InputRecord) -> Outcome:
        settings = self._settings
        slow = not self.quick and self._random.random() < settings.slow
        await asyncio.sleep(self._random.random() * (settings.slow_s if slow else settings.quick_s))
        return outcome_at(record.partition, record.offset, record.key)


class SimWorker:
    """Runs until it is told to stop, fails, or is killed. Starting and ending are the service's."""

    def __init__(
        self,
        brokers: SimBrokers,
        process: SimProcess,
        settings: Settings,
        parts: Parts,
        judge: SimJudge,
        mishaps: Mishaps,
        transactional_id: str,
        on_end: Callable[[SimWorker], None],
    ) -> None:
        self.process = process
        self.failure: BaseException | None = None
        self.backlog = parts.backlog(settings.max_in_flight)
        self.books: Coordinator | None = None
        self._brokers = brokers
        self._worker_settings = settings
        self._parts = parts
        self._judge = judge
        self._mishaps = mishaps
        self._transactional_id = transactional_id
        self._on_end = on_end
        self._metrics = _metrics()
        # Names that the service's own methods use.
        self._settings = SimpleNamespace(delivery=SimpleNamespace(drain_s=settings.drain_s))
        self._consumer: Any = None
        process.main.spawn(self._run(), name=process.name)

    _shut_down = WorkerService._shut_down
    _on_guard_change = WorkerService._on_guard_change
    _service_fail = WorkerService._fail

    @property
    def _failure(self) -> BaseException | None:
        return self.failure

    @_failure.setter
    def _failure(self, failure: BaseException) -> None:
        self.failure = failure
        self._brokers.trace(self.process.name, "fails: %r", failure)

    @property
    def _books(self) -> Coordinator:
        assert self.books is not None
        return self.books

    def stop(self) -> None:
        """SIGTERM."""
        self.process.main.call_later(0.0, lambda: self._stop.set())

    def guard(self, up: bool) -> None:
        """The guard goes away, or is back."""
        if self._consumer is not None and self.process.alive:
            self._on_guard_change(up)  # type: ignore[misc]

    def _fail(self, failure: BaseException) -> None:
        self._service_fail(failure)  # type: ignore[misc]

    async def _run(self) -> None:
        settings, loop = self._worker_settings, current_thread().process.loop
        self._stop = asyncio.Event()
        clock = SimClock(loop)
        sink = None
        try:
            sink = await self._sink()
            self.books = self._parts.coordinator(
                judge=self._judge,
                sink=sink,
                backlog=self.backlog,
                clock=clock,
                metrics=self._metrics,
                window=settings.window,
                batch_interval_s=settings.interval_s if settings.exactly_once else 0.0,
                max_batch=settings.max_batch,
                on_fault=self._fail,
                on_full=lambda full: self._consumer.set_full(full),
            )
            self.books.start()
            self._consumer = consumer_module(self._parts.consumer_edits).ConsumerThread(
                SimConsumer(
                    self._brokers,
                    session_s=settings.session_s,
                    heartbeat_s=settings.session_s / 5,
                    stable=self._parts.reads_stable,
                ),
                CONTENT,
                books=self.books,
                backlog=self.backlog,
                loop=loop,
                clock=clock,
                metrics=self._metrics,
                commits=not settings.exactly_once,
                commit_interval_s=settings.commit_interval_s,
                drain_s=settings.drain_s,
                on_failure=self._fail,
            )
            self._consumer.start()
            await self._stop.wait()
            await self._shut_down()  # type: ignore[misc]
            await self.books.aclose()
        except Exception as error:
            self._failure = error
        if sink is not None:
            closed = sink.close()
            if closed is not None:
                await closed
        self.process.kill()
        self._on_end(self)

    async def _sink(self) -> Any:
        settings = self._worker_settings
        module = sinks_module(self._parts.sink_edits)
        name = self._transactional_id if settings.exactly_once else None
        producer = SimProducer(
            self._brokers,
            transactional_id=name,
            timeout_s=settings.transaction_timeout_s,
            queue=settings.producer_queue,
            mishaps=self._mishaps,
        )
        if not settings.exactly_once:
            return module.PlainSink(producer, TOPICS, SOURCE)
        sink = module.TransactionalSink(producer, TOPICS, SOURCE)
        await sink.init()
        return sink
