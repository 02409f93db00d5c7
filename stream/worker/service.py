"""The worker process: puts the parts together, runs them until it is told to stop, and takes them apart in order.

Shutdown (SIGTERM, SIGINT, or a failure) in numbered steps:

1. take no more records, keep polling so that the group does not expel this member;
2. let the events in flight finish and be acknowledged, for at most `delivery.drain_s`;
3. commit the watermarks and leave the group;
4. cancel what is left: it is uncommitted, so the next owner judges it.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable
from typing import TypeVar

import structlog
from confluent_kafka import Consumer, KafkaException, Producer

from stream.clock import Clock, SystemClock
from stream.errors import ConfigurationError, ProGuardStreamError
from stream.evidence.resolver import EvidenceResolver
from stream.guard.backend import Guard
from stream.guard.cache import VerdictCache
from stream.guard.canary import CANARY_ROUTE, CanaryGuard
from stream.guard.protection import Availability, ProtectedGuard
from stream.guard.triton import triton_guard
from stream.policies.source import DEFAULT_TENANT, Policies
from stream.settings import WorkerSettings
from stream.telemetry.metrics import WorkerMetrics
from stream.telemetry.tracing import PassThroughTracer, SdkTracer, otlp_processor
from stream.worker.backlog import Backlog
from stream.worker.breaker import DeadLetterBreaker
from stream.worker.consumer import ConsumerThread
from stream.worker.coordinator import Coordinator
from stream.worker.health import Checks, HealthServer
from stream.worker.pipeline import Limits, Pipeline
from stream.worker.sinks import PlainSink, TransactionalSink

_log = structlog.get_logger(__name__)

_TICK_S = 0.5
_ONE_REQUEST_MS = 0.5
"""What is written together goes out in one request: without a moment's wait its first record would go alone."""

T = TypeVar("T")


class WorkerService:
    """One worker. `run` returns when it has drained after a signal, and raises what made it stop otherwise."""

    def __init__(self, settings: WorkerSettings, policies: Policies, clock: Clock | None = None) -> None:
        self._settings = settings
        self._policies = policies
        self._clock = clock or SystemClock()
        self._metrics = WorkerMetrics()
        self._cache: VerdictCache | None = None
        self._failure: BaseException | None = None
        self._last_turn = self._clock.monotonic()

    async def run(self, on_started: Callable[[int], None] = lambda _port: None) -> None:
        """Work until SIGTERM or SIGINT. `on_started` gets the health port once everything is up.

        Raises `ConfigurationError` before anything was read, `DeliveryError` when Kafka refused an outcome for good,
        `DeadLetterLimitError` when too many outcomes are dead letters.
        """
        settings, clock, metrics = self._settings, self._clock, self._metrics
        loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        async with contextlib.AsyncExitStack() as stack:
            backlog = Backlog(settings.limits.max_in_flight_events)
            metrics.in_flight_limit.set(backlog.limit)
            guard = self._guard()
            stack.push_async_callback(guard.aclose)
            availability = Availability(guard, settings.guard, clock, self._on_guard_change)
            stack.push_async_callback(availability.aclose)
            evidence = EvidenceResolver(settings.evidence)
            stack.push_async_callback(evidence.aclose)
            tracer: SdkTracer | PassThroughTracer = PassThroughTracer()
            if settings.telemetry.otlp_endpoint:
                tracer = SdkTracer(otlp_processor(settings.telemetry.otlp_endpoint), group=settings.kafka.group_id)
                stack.callback(tracer.shutdown)
            self._protected = ProtectedGuard(guard, availability, settings.guard, metrics=metrics)
            self._cache = VerdictCache(settings.cache, availability, clock, metrics) if settings.cache.enabled else None
            pipeline = Pipeline(
                policies=self._policies,
                evidence=evidence,
                guard=self._protected,
                limits=Limits(
                    max_event_bytes=settings.limits.max_event_bytes,
                    max_text_chars=settings.limits.max_text_chars,
                    deadline_s=settings.limits.deadline_s,
                    with_rationale=settings.delivery.rationale,
                ),
                clock=clock,
                metrics=metrics,
                tracer=tracer,
                cache=self._cache,
            )
            consumer = self._client(Consumer, settings.kafka.consumer())
            sink = await self._sink(stack)
            delivery = settings.delivery
            exactly_once = delivery.mode == "exactly_once"
            self._books = Coordinator(
                judge=pipeline,
                sink=sink,
                backlog=backlog,
                clock=clock,
                metrics=metrics,
                window=settings.limits.window,
                batch_interval_s=(delivery.transaction_interval_ms if exactly_once else delivery.linger_ms) / 1000,
                max_batch=delivery.max_batch,
                on_fault=self._fail,
                on_full=lambda full: self._consumer.set_full(full),
                on_written=DeadLetterBreaker(delivery.dead_letters, metrics, self._fail).observe,
            )
            self._books.start()
            stack.push_async_callback(self._books.aclose)
            self._consumer = ConsumerThread(
                consumer,
                settings.topics.content,
                books=self._books,
                backlog=backlog,
                loop=loop,
                clock=clock,
                metrics=metrics,
                commits=not exactly_once,
                commit_interval_s=delivery.commit_interval_ms / 1000,
                drain_s=delivery.drain_s,
                on_failure=self._fail,
            )
            self._availability = availability
            self._consumer.hold("guard")
            health = HealthServer(
                settings.health.host,
                settings.health.port,
                live=self._live,
                ready=self._ready,
                registry=metrics.registry,
            )
            health.start()
            stack.callback(health.stop)
            for signum in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(signum, self._stop.set)
                stack.callback(loop.remove_signal_handler, signum)
            self._consumer.start()
            availability.start()
            _log.info("worker.started", health_port=health.port, group=settings.kafka.group_id)
            on_started(health.port)
            await self._until_stopped(backlog)
            await self._shut_down()
        if self._failure is not None:
            raise self._failure
        _log.info("worker.stopped")

    def _guard(self) -> Guard:
        """The guard that the settings name, with its canary if there is one."""
        settings, policy = self._settings.guard, self._policies.for_tenant(DEFAULT_TENANT).policy
        stable, canary = triton_guard(settings, policy), settings.canary_guard()
        if canary is None:
            return stable
        trial = triton_guard(canary, policy)
        return CanaryGuard(stable, trial, settings.canary, self._clock, self._metrics, on_off=self._on_canary_off)

    def _on_canary_off(self) -> None:
        if self._cache is not None:
            self._cache.forget(CANARY_ROUTE)

    async def _sink(self, stack: contextlib.AsyncExitStack) -> PlainSink | TransactionalSink:
        kafka, delivery, topics = self._settings.kafka, self._settings.delivery, self._settings.topics.topics()
        sink: PlainSink | TransactionalSink
        if delivery.mode == "at_least_once":
            sink = PlainSink(self._client(Producer, kafka.producer(_ONE_REQUEST_MS)), topics, delivery.ce_source)
        else:
            properties = kafka.transactional_producer(delivery.transactional_id, delivery.transaction_timeout_ms)
            sink = TransactionalSink(
                self._client(Producer, properties),
                topics,
                delivery.ce_source,
            )
            stack.callback(sink.close)
            await sink.init()
            return sink
        stack.callback(sink.close)
        return sink

    @staticmethod
    def _client(make: Callable[[dict[str, str | int | bool]], T], properties: dict[str, str | int | bool]) -> T:
        try:
            return make(properties)
        except KafkaException as error:
            raise ConfigurationError(f"Kafka settings: {error.args[0].str()}") from error

    async def _until_stopped(self, backlog: Backlog) -> None:
        """Wait for the end, and turn gauges on the way."""
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TICK_S):
                    await self._stop.wait()
            self._last_turn = self._clock.monotonic()
            self._metrics.in_flight.set(backlog.count)
            self._metrics.guard_in_flight.set(self._protected.in_flight)
            self._metrics.guard_limit.set(self._protected.limit)
            self._metrics.guard_queue.set(self._protected.queued)
            if self._cache is not None:
                self._metrics.cache_entries.set(len(self._cache))
                self._metrics.cache_bytes.set(self._cache.bytes)
            self._metrics.remembered.set(self._books.held())

    async def _shut_down(self) -> None:
        drain_s = self._settings.delivery.drain_s
        self._consumer.hold("stopping")
        drained = False
        if self._failure is None:
            drained = await self._books.drain(self._books.owned(), drain_s)
            _log.info("worker.drained" if drained else "worker.drain_timed_out")
        # What came between the drain and the last poll may finish; what has had its time already gets no more.
        if not await self._consumer.finish(drain_s + 10, drain_s=drain_s if drained else 0.0):
            _log.error("worker.consumer_did_not_stop")
        self._books.release(self._books.owned())

    def _on_guard_change(self, up: bool) -> None:
        self._metrics.guard_up.set(1 if up else 0)
        if up:
            self._consumer.unhold("guard")
        else:
            self._consumer.hold("guard")

    def _fail(self, failure: BaseException) -> None:
        if self._failure is None:
            if isinstance(failure, KafkaException):
                failure = ProGuardStreamError(f"Kafka: {failure.args[0].str()}")
            self._failure = failure
        self._stop.set()

    def _live(self) -> Checks:
        now, patience = self._clock.monotonic(), self._settings.health.stuck_after_s
        return {
            "polls": now - self._consumer.last_poll < patience + self._settings.delivery.drain_s,
            "turns": now - self._last_turn < patience,
        }

    def _ready(self) -> Checks:
        return {
            "guard": self._availability.up,
            "group": self._consumer.joined_group,
            "running": not self._stop.is_set(),
        }
