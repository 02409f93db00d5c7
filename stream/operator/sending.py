"""Lines to records of the content topic, and records to Kafka.

For operators, tests and the demo. Unreadable lines are sent as well: they are how dead letters are tried out.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from confluent_kafka import KafkaError, KafkaException, Producer
from pydantic import ValidationError

from schemas.envelope import BrokenEnvelopeError, Headers, UnsupportedEnvelopeError, open_envelope, seal
from schemas.events import EVENT_TYPE, ContentEvent
from stream.clock import Clock, SystemClock
from stream.errors import DeliveryError, ProGuardStreamError

MAX_LINE_BYTES = 16 * 1024 * 1024
SOURCE = "urn:proguard-stream:events-send"
"""CloudEvents source of what is sent."""

MAX_FAILURES = 20
"""Failures that a report describes; all are counted."""

_STRUCTURED: Headers = [("content-type", b"application/cloudevents+json")]
_WAIT_S = 0.5
_LAST_WORDS_S = 5.0


class LineTooLongError(ProGuardStreamError):
    """A line has more than `MAX_LINE_BYTES`: no topic takes it. The lines before it were sent."""


@dataclass(frozen=True, slots=True)
class OutgoingRecord:
    """One line as a record. `readable` says whether it is a content event of this release."""

    line: int
    key: bytes | None
    value: bytes
    headers: Headers
    readable: bool


@dataclass(slots=True)
class SendReport:
    """What became of the records. `failures` holds line and reason of the first `MAX_FAILURES`."""

    records: int = 0
    """Acknowledged by Kafka."""
    unreadable: int = 0
    """Of all that were handed over: no content events."""
    failed: int = 0
    failures: list[tuple[int, str]] = field(default_factory=list)

    def as_json(self) -> dict[str, object]:
        failures = [{"line": line, "reason": reason} for line, reason in self.failures]
        return {"records": self.records, "unreadable": self.unreadable, "failed": self.failed, "failures": failures}


def records_of(lines: Iterable[bytes]) -> Iterator[OutgoingRecord]:
    """One record a line, its bytes unchanged but for the `\\n` at the end; empty lines are left out.

    Lazy. Of a binary file no more than one line is in memory; raises `LineTooLongError` at a line beyond `MAX_LINE_BYTES`.

    The key is `attributes.thread` of the event, else its `id`, else nothing. An object with `specversion` is a structured CloudEvent:
    it gets that content type, and its event is in `data`. Any other event gets the binary mode's headers, and what is none gets none.
    """
    source = _bounded(lines) if isinstance(lines, io.IOBase) else lines
    for number, line in enumerate(source, start=1):
        value = line.removesuffix(b"\n")
        if len(value) > MAX_LINE_BYTES:
            raise LineTooLongError(f"line {number} has more than {MAX_LINE_BYTES} bytes; the lines before it were sent")
        if value:
            yield _record(number, value)


def send(
    producer: Producer,
    topic: str,
    records: Iterable[OutgoingRecord],
    *,
    rate: float | None = None,
    on_sent: Callable[[int], None] | None = None,
    clock: Clock | None = None,
) -> SendReport:
    """Send all records and wait until Kafka has acknowledged or refused each.

    `rate` is in records a second. `on_sent` gets the number acknowledged so far, in this thread. A refused record is in the report and
    does not stop the rest; how long an absent Kafka is waited for is the producer's `delivery.timeout.ms`. Raises
    `DeliveryError` when the producer cannot go on, and whatever `records` raises, after what was handed over had some seconds to arrive.
    """
    clock = clock or SystemClock()
    told = on_sent or (lambda _count: None)
    report = SendReport()
    began = clock.monotonic()
    try:
        for count, record in enumerate(records):
            _wait_until(producer, clock, began + count / rate if rate else began)
            report.unreadable += not record.readable
            _hand_over(producer, topic, record, report)
            told(report.records)
    except BaseException:
        producer.flush(_LAST_WORDS_S)
        raise
    while producer.flush(_WAIT_S):
        told(report.records)
    told(report.records)
    return report


def _hand_over(producer: Producer, topic: str, record: OutgoingRecord, report: SendReport) -> None:
    def answered(error: KafkaError | None, _message: object) -> None:
        if error is None:
            report.records += 1
        else:
            _failed(report, record, error)

    while True:
        try:
            producer.produce(topic, record.value, record.key, headers=record.headers, on_delivery=answered)
        except BufferError:
            producer.poll(_WAIT_S)
            continue
        except KafkaException as problem:
            error: KafkaError = problem.args[0]
            if error.fatal():
                raise DeliveryError(topic, error.str()) from None
            _failed(report, record, error)
        return


def _failed(report: SendReport, record: OutgoingRecord, error: KafkaError) -> None:
    report.failed += 1
    if len(report.failures) < MAX_FAILURES:
        report.failures.append((record.line, error.str()))


def _wait_until(producer: Producer, clock: Clock, due: float) -> None:
    """Serve acknowledgements until `due`, at least once."""
    producer.poll(0)
    while (left := due - clock.monotonic()) > 0:
        producer.poll(min(left, _WAIT_S))


def _bounded(file: io.IOBase) -> Iterator[bytes]:
    # One byte more than a line may have, so that a line of exactly that length keeps its end.
    while line := file.readline(MAX_LINE_BYTES + 1 + 1):
        yield line


def _record(number: int, value: bytes) -> OutgoingRecord:
    try:
        document = json.loads(value)
    except (ValueError, RecursionError):
        return OutgoingRecord(number, None, value, [], readable=False)
    if not isinstance(document, dict):
        return OutgoingRecord(number, None, value, [], readable=False)
    structured = "specversion" in document
    inner = document.get("data") if structured else None
    key = _key(inner if isinstance(inner, dict) else document) or _key(document)
    event = _event(value, _STRUCTURED if structured else [])
    headers: Headers = []
    if structured:
        headers = list(_STRUCTURED)
    elif event is not None:
        headers = seal(id=event.id, type=EVENT_TYPE, source=SOURCE, time=event.occurred_at)
    return OutgoingRecord(number, key, value, headers, readable=event is not None)


def _event(value: bytes, headers: Headers) -> ContentEvent | None:
    try:
        return ContentEvent.model_validate_json(open_envelope(value, headers, EVENT_TYPE).data)
    except (UnsupportedEnvelopeError, BrokenEnvelopeError, ValidationError):
        return None


def _key(document: dict[str, object]) -> bytes | None:
    attributes = document.get("attributes")
    thread = attributes.get("thread") if isinstance(attributes, dict) else None
    key = thread if isinstance(thread, str) else document.get("id")
    # Half a surrogate pair is no UTF-8, but still has to lead to one partition.
    return key.encode("utf-8", "surrogatepass") if isinstance(key, str) else None
