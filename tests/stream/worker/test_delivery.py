"""Outcomes to a real Kafka."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from structlog.testing import capture_logs

from schemas.deadletters import DeadLetter
from schemas.topics import Topics
from schemas.verdicts import DEAD_LETTER_TYPE, OOD_TYPE, VERDICT_TYPE, OodEvent, Verdict
from stream.devkit.kafka import KafkaBroker
from stream.devkit.process import free_port
from stream.errors import DeliveryError
from stream.worker.delivery import AtLeastOnceDelivery
from stream.worker.records import Outcome
from tests.stream.worker.parts import TRACE, failed, judged, record, unreadable

SOURCE = "urn:test"
SMALL = 2000
LARGE_TEXT = uuid.uuid5(uuid.NAMESPACE_URL, "x").hex * 200


def topics_on(broker: KafkaBroker, **max_bytes: int) -> Topics:
    """Fresh topics of one partition; some with a size limit."""
    suffix = uuid.uuid4().hex[:8]
    topics = Topics(verdicts=f"verdicts.{suffix}", ood=f"ood.{suffix}", dead_letters=f"dead-letters.{suffix}")
    wanted = [
        NewTopic(
            getattr(topics, role),
            num_partitions=1,
            replication_factor=1,
            config={"max.message.bytes": str(max_bytes[role])} if role in max_bytes else {},
        )
        for role in ("verdicts", "ood", "dead_letters")
    ]
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    for created in admin.create_topics(wanted).values():
        created.result(20)
    return topics


def stored(broker: KafkaBroker, topic: str) -> list[Message]:
    """Everything in `topic`, in order."""
    consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": "reads", "enable.auto.commit": False})
    try:
        end = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=10)[1]
        consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
        found: list[Message] = []
        give_up = time.monotonic() + 20
        while len(found) < end and time.monotonic() < give_up:
            found += consumer.consume(1000, 0.2)
        return found
    finally:
        consumer.close()


class Sent:
    """A delivery under test, what it has done, and what failed."""

    def __init__(self, bootstrap: str, topics: Topics, **properties: str | int | bool) -> None:
        self.done: list[Outcome] = []
        self.failures: list[DeliveryError] = []
        known = {"bootstrap.servers": bootstrap, "enable.idempotence": True, "acks": "all", "log_level": 0}
        self.producer = Producer({**known, **properties})
        self.delivery = AtLeastOnceDelivery(self.producer, topics, ce_source=SOURCE, on_failure=self.failures.append)

    def write(self, *outcomes: Outcome) -> None:
        for outcome in outcomes:
            self.delivery.write(outcome, self.done.append)

    def offsets(self) -> list[int]:
        return [outcome.record.offset for outcome in self.done]


@asynccontextmanager
async def sent(bootstrap: str, topics: Topics, **properties: str | int | bool) -> AsyncIterator[Sent]:
    opened = Sent(bootstrap, topics, **properties)
    try:
        yield opened
    finally:
        opened.delivery.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


def headers_of(message: Message) -> dict[str, bytes | None]:
    return dict(message.headers() or ())


async def test_every_record_of_an_outcome_arrives_with_key_envelope_and_trace_context(
    kafka_broker: KafkaBroker,
) -> None:
    topics = topics_on(kafka_broker)
    decided, lost, broken = (
        judged(record(0), risk_name="A New Risk"),
        failed(record(1)),
        unreadable(record(2, key=None)),
    )
    async with sent(kafka_broker.bootstrap, topics) as out:
        out.write(decided, lost, broken)
        assert await out.delivery.flush(20)
        # Their keys differ, so they are acknowledged in any order.
        assert sorted(out.done, key=lambda outcome: outcome.record.offset) == [decided, lost, broken]
    verdicts = stored(kafka_broker, topics.verdicts)
    (ood,) = stored(kafka_broker, topics.ood)
    letters = stored(kafka_broker, topics.dead_letters)
    assert [Verdict.model_validate_json(m.value() or b"") for m in verdicts] == [decided.verdict, lost.verdict]
    assert OodEvent.model_validate_json(ood.value() or b"") == decided.ood
    assert [DeadLetter.model_validate_json(m.value() or b"") for m in letters] == [lost.dead_letter, broken.dead_letter]
    assert [m.key() for m in (*verdicts, ood, *letters)] == [b"k", b"k", b"default", b"k", None]
    assert decided.verdict is not None
    assert headers_of(verdicts[0]) == {
        "ce_specversion": b"1.0",
        "ce_id": decided.verdict.id.encode(),
        "ce_type": VERDICT_TYPE.encode(),
        "ce_source": SOURCE.encode(),
        "ce_time": b"2026-01-01T00:00:00+00:00",
        "content-type": b"application/json",
        "traceparent": TRACE.encode(),
    }
    assert headers_of(ood)["ce_type"] == OOD_TYPE.encode()
    assert headers_of(letters[0])["ce_type"] == DEAD_LETTER_TYPE.encode()
    assert headers_of(letters[0])["traceparent"] == TRACE.encode()
    assert "traceparent" not in headers_of(letters[1])


async def test_an_outcome_is_done_when_kafka_has_all_of_its_records_and_not_before(kafka_broker: KafkaBroker) -> None:
    topics = topics_on(kafka_broker)
    consumer = Consumer({"bootstrap.servers": kafka_broker.bootstrap, "group.id": "looks"})
    seen: list[tuple[int, int]] = []

    def done(_: Outcome) -> None:
        ends = [
            consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=10)[1]
            for topic in (topics.verdicts, topics.dead_letters)
        ]
        seen.append((ends[0], ends[1]))

    async with sent(kafka_broker.bootstrap, topics, **{"linger.ms": 0}) as out:
        for n in range(10):
            out.delivery.write(failed(record(n)), done)
        assert seen == []
        assert await out.delivery.flush(20)
    consumer.close()
    assert len(seen) == 10
    assert all(verdicts > n and letters > n for n, (verdicts, letters) in enumerate(seen))


@pytest.mark.parametrize("room", [1, 7])
async def test_a_full_local_queue_neither_blocks_nor_reorders_nor_loses(kafka_broker: KafkaBroker, room: int) -> None:
    topics = topics_on(kafka_broker)
    count = 300
    async with sent(kafka_broker.bootstrap, topics, **{"queue.buffering.max.messages": room, "linger.ms": 0}) as out:
        began = time.monotonic()
        out.write(*(failed(record(n)) for n in range(count)))
        assert time.monotonic() - began < 2
        assert await out.delivery.flush(30)
        assert out.offsets() == list(range(count))
    for topic, contract in ((topics.verdicts, Verdict), (topics.dead_letters, DeadLetter)):
        found = [contract.model_validate_json(m.value() or b"") for m in stored(kafka_broker, topic)]
        assert [one.source.offset for one in found] == list(range(count))


async def test_what_waits_for_room_goes_first_when_there_is_room_again(kafka_broker: KafkaBroker) -> None:
    topics = topics_on(kafka_broker)
    async with sent(kafka_broker.bootstrap, topics, **{"queue.buffering.max.messages": 5, "linger.ms": 0}) as out:
        out.write(*(judged(record(n)) for n in range(20)))
        pause, give_up = threading.Event(), time.monotonic() + 20
        while len(out.producer) and time.monotonic() < give_up:
            pause.wait(0.01)  # blocks the loop: the queue empties, and nobody has looked at what waits
        out.write(judged(record(20)))
        assert await out.delivery.flush(20)
    found = [Verdict.model_validate_json(m.value() or b"") for m in stored(kafka_broker, topics.verdicts)]
    assert [verdict.source.offset for verdict in found] == list(range(21))


async def test_a_record_that_the_broker_refuses_fails_once_and_nothing_after_it_is_done(
    kafka_broker: KafkaBroker,
) -> None:
    topics = topics_on(kafka_broker, verdicts=SMALL)
    with capture_logs() as lines:
        async with sent(kafka_broker.bootstrap, topics, **{"linger.ms": 0}) as out:
            out.write(judged(record(0)), judged(record(1)))
            assert await out.delivery.flush(20)
            out.write(judged(record(2), rationale=LARGE_TEXT))
            await until(lambda: bool(out.failures))
            out.write(*(judged(record(n)) for n in (3, 4)), judged(record(5), rationale=LARGE_TEXT))
            assert not await out.delivery.flush(0.5)
            assert out.offsets() == [0, 1]
    assert [failure.topic for failure in out.failures] == [topics.verdicts]
    assert LARGE_TEXT not in str(lines)
    assert len(stored(kafka_broker, topics.verdicts)) == 2


async def test_an_outcome_of_which_one_record_is_refused_is_never_done(kafka_broker: KafkaBroker) -> None:
    topics = topics_on(kafka_broker, dead_letters=SMALL)
    async with sent(kafka_broker.bootstrap, topics, **{"linger.ms": 0}) as out:
        out.write(failed(record(0, value=judged_value())), judged(record(1)))
        await until(lambda: bool(out.failures))
        assert not await out.delivery.flush(0.2)
        assert 0 not in out.offsets()
    assert [failure.topic for failure in out.failures] == [topics.dead_letters]


def judged_value() -> bytes:
    return b'{"id":"e0","occurred_at":"2026-01-01T00:00:00Z","user_text":"' + LARGE_TEXT.encode() + b'"}'


async def test_a_record_that_the_client_refuses_is_a_failure_too(kafka_broker: KafkaBroker) -> None:
    topics = topics_on(kafka_broker)
    async with sent(kafka_broker.bootstrap, topics, **{"message.max.bytes": SMALL}) as out:
        out.write(judged(record(0), rationale=LARGE_TEXT), judged(record(1)))
        assert not await out.delivery.flush(0.5)
        assert (out.offsets(), len(out.failures)) == ([], 1)


async def test_a_topic_that_is_not_there_is_a_failure_that_names_it(kafka_broker: KafkaBroker) -> None:
    topics = Topics(verdicts=f"missing.{uuid.uuid4().hex[:8]}")
    properties = {"topic.metadata.propagation.max.ms": 200, "message.timeout.ms": 5000}
    async with sent(kafka_broker.bootstrap, topics, **properties) as out:
        out.write(judged(record(0)))
        await until(lambda: bool(out.failures))
        assert (out.offsets(), out.failures[0].topic) == ([], topics.verdicts)


async def test_without_a_broker_writing_does_not_block_and_flushing_ends_in_its_time() -> None:
    async with sent(f"127.0.0.1:{free_port()}", Topics(), **{"queue.buffering.max.messages": 10}) as out:
        began = time.monotonic()
        out.write(*(judged(record(n)) for n in range(100)))
        assert not await out.delivery.flush(0.1)
        assert time.monotonic() - began < 5
        assert (out.offsets(), out.failures) == ([], [])


async def test_flushing_nothing_returns_at_once(kafka_broker: KafkaBroker) -> None:
    async with sent(kafka_broker.bootstrap, Topics()) as out:
        assert await out.delivery.flush(0.05)
