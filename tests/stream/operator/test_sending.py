"""What `events send` makes of lines, and what it tells about records that Kafka did not take."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from importlib import resources

import pytest
from confluent_kafka import Producer
from hypothesis import given
from hypothesis import strategies as st

from schemas.envelope import open_envelope
from schemas.events import EVENT_TYPE, ContentEvent
from stream.devkit.mock_kafka import MockKafka
from stream.operator import sending
from stream.operator.sending import LineTooLongError, OutgoingRecord, records_of, send

SAMPLES = resources.files("stream.demo.samples").joinpath("events.jsonl").read_bytes()
EVENT = {"id": "post-1", "user_text": "Hello.", "occurred_at": "2026-05-04T08:00:00Z"}


def one(**changes: object) -> OutgoingRecord:
    return value_of(json.dumps({**EVENT, **changes}).encode())


def value_of(line: bytes) -> OutgoingRecord:
    (record,) = records_of([line])
    return record


@given(st.binary(min_size=1).filter(lambda line: b"\n" not in line))
def test_any_line_is_sent_unchanged(line: bytes) -> None:
    record = value_of(line + b"\n")
    assert record.value == line
    assert record.line == 1


def test_the_key_is_the_thread_then_the_id_then_nothing() -> None:
    assert one(attributes={"thread": "t-1"}).key == b"t-1"
    assert one().key == b"post-1"
    assert one(id=7).key is None
    assert value_of(b"not JSON").key is None
    assert value_of(b'["a list"]').key is None


def test_a_structured_event_is_keyed_by_the_event_inside() -> None:
    envelope = {"specversion": "1.0", "id": "ce-1", "type": EVENT_TYPE, "source": "/x"}
    threaded = value_of(json.dumps({**envelope, "data": {**EVENT, "attributes": {"thread": "t-1"}}}).encode())
    assert threaded.key == b"t-1"
    assert threaded.headers == [("content-type", b"application/cloudevents+json")]
    assert threaded.readable
    assert value_of(json.dumps({**envelope, "data": EVENT}).encode()).key == b"post-1"
    assert value_of(json.dumps({**envelope, "data": 1}).encode()).key == b"ce-1"


def test_a_readable_line_gets_the_headers_of_binary_mode() -> None:
    record = one(id="postId-é")
    headers = dict(record.headers)
    assert headers["ce_id"] == "postId-é".encode()
    assert headers["ce_type"] == EVENT_TYPE.encode()
    assert headers["ce_time"] == datetime(2026, 5, 4, 8, tzinfo=UTC).isoformat().encode()
    assert (
        ContentEvent.model_validate_json(open_envelope(record.value, record.headers, EVENT_TYPE).data).id == "postId-é"
    )


@pytest.mark.parametrize(
    "line", [b"{", b"\xff\xfe", b"[" * 100_000, b'{"id": "x"}', b'{"id": "\\ud800"}', b"9" * 5000, b"\x00", b"  "]
)
def test_an_unreadable_line_gets_no_headers(line: bytes) -> None:
    record = value_of(line)
    assert record.headers == []
    assert not record.readable


def test_lines_end_at_newlines_only_and_empty_ones_are_left_out() -> None:
    lines = io.BytesIO("a b\u2028c\r\n\n\nd".encode())
    records = list(records_of(lines))
    assert [(record.line, record.value) for record in records] == [(1, "a b\u2028c\r".encode()), (4, b"d")]


def test_the_samples_are_all_sent() -> None:
    records = list(records_of(io.BytesIO(SAMPLES)))
    assert len(records) == SAMPLES.count(b"\n")
    assert b"\n".join(record.value for record in records) + b"\n" == SAMPLES
    assert sum(not record.readable for record in records) == 11


def test_a_line_beyond_the_limit_is_never_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "MAX_LINE_BYTES", 100)
    reads: list[int] = []

    class Counting(io.BytesIO):
        def readline(self, size: int | None = -1, /) -> bytes:
            line = super().readline(size)
            reads.append(len(line))
            return line

    file = Counting(b"x" * 100 + b"\n" + b"y" * 10_000)
    records = records_of(file)
    assert next(records).value == b"x" * 100
    with pytest.raises(LineTooLongError, match="line 2 has more than 100 bytes"):
        next(records)
    assert max(reads) <= 102


def test_a_refused_record_is_told_with_its_line_and_does_not_stop_the_rest() -> None:
    with MockKafka() as kafka:
        producer = Producer({"bootstrap.servers": kafka.bootstrap, "message.max.bytes": 2000})
        counts: list[int] = []
        report = send(producer, "events", records_of([b"a", b"b" * 5000, b"c"]), on_sent=counts.append)
    assert (report.records, report.unreadable, report.failed) == (2, 3, 1)
    assert report.failures[0][0] == 2
    assert "too large" in report.failures[0][1]
    assert counts[-1] == 2


def test_many_failures_are_counted_and_few_described() -> None:
    with MockKafka() as kafka:
        producer = Producer({"bootstrap.servers": kafka.bootstrap, "message.max.bytes": 1000})
        report = send(producer, "events", records_of([b"b" * 5000] * 50))
    assert report.failed == 50
    assert len(report.failures) == sending.MAX_FAILURES


def test_a_full_queue_is_waited_for() -> None:
    with MockKafka() as kafka:
        producer = Producer({"bootstrap.servers": kafka.bootstrap, "queue.buffering.max.messages": 10})
        assert send(producer, "events", records_of([b"x"] * 500)).records == 500


def test_records_before_a_fault_in_the_file_are_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "MAX_LINE_BYTES", 10)
    with MockKafka() as kafka:
        producer = Producer({"bootstrap.servers": kafka.bootstrap})
        with pytest.raises(LineTooLongError):
            send(producer, "events", records_of([b"1", b"2", b"3" * 11]))
        assert len(producer) == 0


def test_the_rate_is_a_limit() -> None:
    class StepClock:
        """Goes on by 10 ms each time somebody looks."""

        def __init__(self) -> None:
            self.time = 0.0

        def now(self) -> datetime:
            return datetime(2026, 1, 1, tzinfo=UTC)

        def monotonic(self) -> float:
            self.time += 0.01
            return self.time

    clock = StepClock()
    with MockKafka() as kafka:
        producer = Producer({"bootstrap.servers": kafka.bootstrap})
        # The real waits are librdkafka's; the clock that counts is ours.
        assert send(producer, "events", records_of([b"x"] * 5), rate=25.0, clock=clock).records == 5
    assert clock.time >= 4 / 25.0
