"""Outcomes to Kafka, at least once.

An outcome's records are acknowledged by all in-sync replicas before its offset counts as done. The producer is
idempotent, so retries neither reorder nor repeat within one producer's life; a crash in between repeats records under
the same verdict id.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import structlog
from confluent_kafka import KafkaError, KafkaException, Producer
from pydantic import TypeAdapter

from schemas.deadletters import DeadLetter
from schemas.envelope import Headers, seal
from schemas.topics import Topics
from schemas.verdicts import DEAD_LETTER_TYPE, OOD_TYPE, VERDICT_TYPE, OodEvent, Verdict
from stream.errors import DeliveryError
from stream.worker.records import Outcome

_log = structlog.get_logger(__name__)

_VERDICT = TypeAdapter(Verdict)
_OOD = TypeAdapter(OodEvent)
_DEAD_LETTER = TypeAdapter(DeadLetter)


@dataclass(frozen=True, slots=True)
class OutputRecord:
    """A record to be written."""

    topic: str
    key: bytes | None
    value: bytes
    headers: Headers


class Delivery(Protocol):
    """Writes outcomes. Called in the event loop only."""

    def write(self, outcome: Outcome, done: Callable[[Outcome], None]) -> None:
        """Queue the outcome's records and call `done` in the loop once Kafka has them all. Never blocks."""
        ...

    async def flush(self, timeout: float) -> bool:
        """Wait until every queued outcome is done, for at most `timeout` seconds. False when some are not."""
        ...


def output_records(outcome: Outcome, topics: Topics, ce_source: str) -> list[OutputRecord]:
    """What `outcome` becomes on which topic. Keys are the input's; an OOD event's is its tenant."""
    key, trace = outcome.record.key, outcome.traceparent
    records: list[OutputRecord] = []
    if outcome.verdict is not None:
        verdict = outcome.verdict
        headers = seal(id=verdict.id, type=VERDICT_TYPE, source=ce_source, time=verdict.issued_at, traceparent=trace)
        records.append(OutputRecord(topics.verdicts, key, _VERDICT.dump_json(verdict), headers))
    if outcome.ood is not None:
        ood = outcome.ood
        headers = seal(id=ood.id, type=OOD_TYPE, source=ce_source, time=ood.issued_at, traceparent=trace)
        records.append(OutputRecord(topics.ood, ood.tenant.encode(), _OOD.dump_json(ood), headers))
    if outcome.dead_letter is not None:
        letter = outcome.dead_letter
        headers = seal(id=letter.id, type=DEAD_LETTER_TYPE, source=ce_source, time=letter.failed_at, traceparent=trace)
        records.append(OutputRecord(topics.dead_letters, key, _DEAD_LETTER.dump_json(letter), headers))
    return records


class _Pending:
    """An outcome and how many acknowledgements it still waits for."""

    __slots__ = ("done", "outcome", "waiting")

    def __init__(self, outcome: Outcome, done: Callable[[Outcome], None], waiting: int) -> None:
        self.outcome = outcome
        self.done = done
        self.waiting = waiting


class AtLeastOnceDelivery:
    """One idempotent producer, with a thread of its own that serves its callbacks.

    `on_failure` is called in the loop, once, when Kafka refuses a record for good. From then on nothing more is
    written or acknowledged, so no offset behind the refused record is committed by this process.
    """

    def __init__(
        self, producer: Producer, topics: Topics, *, ce_source: str, on_failure: Callable[[DeliveryError], None]
    ) -> None:
        self._producer = producer
        self._topics = topics
        self._source = ce_source
        self._on_failure = on_failure
        self._loop = asyncio.get_running_loop()
        self._acknowledged: deque[_Pending | DeliveryError] = deque()
        self._wake_scheduled = False
        self._backlog: deque[tuple[OutputRecord, _Pending]] = deque()
        self._outstanding = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._failure: DeliveryError | None = None
        self._closing = threading.Event()
        self._poller = threading.Thread(target=self._poll, name="producer-poll", daemon=True)
        self._poller.start()

    def write(self, outcome: Outcome, done: Callable[[Outcome], None]) -> None:
        if self._failure is not None:
            return  # its offset will not be committed, so what is written now would only be written again
        records = output_records(outcome, self._topics, self._source)
        pending = _Pending(outcome, done, len(records))
        self._outstanding += 1
        self._idle.clear()
        for record in records:
            # Behind a full queue everything waits its turn, or the order would break.
            if self._backlog or not self._produce(record, pending):
                self._backlog.append((record, pending))

    async def flush(self, timeout: float) -> bool:
        try:
            async with asyncio.timeout(timeout):
                await self._idle.wait()
        except TimeoutError:
            return False
        return self._failure is None

    def close(self) -> None:
        """Stop the callback thread. Call after `flush`; blocks for a moment."""
        self._closing.set()
        self._poller.join(5)

    def _produce(self, record: OutputRecord, pending: _Pending) -> bool:
        """False when the local queue is full. A record that cannot be sent at all is a failure, not a full queue."""

        def acknowledged(error: KafkaError | None, _message: object) -> None:
            self._on_acknowledged(record.topic, error, pending)

        try:
            self._producer.produce(
                record.topic, record.value, record.key, headers=record.headers, on_delivery=acknowledged
            )
        except BufferError:
            return False
        except KafkaException as error:
            self._fail(DeliveryError(record.topic, str(error)))
        return True

    def _poll(self) -> None:
        while not self._closing.is_set():
            self._producer.poll(0.1)
            if self._backlog and self._failure is None:
                # librdkafka counts a record until its callback has returned, so a full queue may still look full to `_settle`.
                self._wake()

    def _on_acknowledged(self, topic: str, error: KafkaError | None, pending: _Pending) -> None:
        """In the callback thread: collect, and wake the loop once for many."""
        self._acknowledged.append(pending if error is None else DeliveryError(topic, error.str()))
        self._wake()

    def _wake(self) -> None:
        if not self._wake_scheduled:
            self._wake_scheduled = True
            self._loop.call_soon_threadsafe(self._settle)

    def _settle(self) -> None:
        # Cleared first: an acknowledgement that arrives from here on schedules a wake-up of its own.
        self._wake_scheduled = False
        while self._acknowledged:
            pending = self._acknowledged.popleft()
            if isinstance(pending, DeliveryError):
                self._fail(pending)
                continue
            pending.waiting -= 1
            if pending.waiting == 0 and self._failure is None:
                self._outstanding -= 1
                pending.done(pending.outcome)
        while self._backlog and self._failure is None and self._produce(*self._backlog[0]):
            self._backlog.popleft()
        if self._outstanding == 0:
            self._idle.set()

    def _fail(self, failure: DeliveryError) -> None:
        if self._failure is None:
            self._failure = failure
            self._idle.set()
            _log.error("delivery.failed", topic=failure.topic, detail=failure.detail)
            self._on_failure(failure)
