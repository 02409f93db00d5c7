"""Outcomes to a real Kafka: one contract over both ways of writing, and what only one of them promises."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
import uuid
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from confluent_kafka import Message, Producer
from structlog.testing import capture_logs

from schemas.deadletters import DeadLetter
from schemas.topics import Topics
from schemas.verdicts import DEAD_LETTER_TYPE, OOD_TYPE, VERDICT_TYPE, OodEvent, Verdict
from stream.devkit.kafka import KafkaBroker
from stream.errors import DeliveryError, StuckClientError
from stream.worker import sinks
from stream.worker.ledger import Commit, encode
from stream.worker.sinks import TransactionalSink
from stream.worker.writer import WriteAbortedError
from tests.stream.worker.parts import TRACE, failed, judged, record, unreadable
from tests.stream.worker.writing import KINDS, SOURCE, Isolation, Kind, Members, stored, topics_on, writing

SMALL = 2000
LARGE_TEXT = random.Random(1).randbytes(5000).hex()
"""Too large for a small topic, compressed too."""

both = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def own_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    """A broker that these tests may pause."""
    with KafkaBroker(tmp_path_factory.mktemp("pausable")) as broker:
        yield broker


def headers_of(message: Message) -> dict[str, bytes | None]:
    return dict(message.headers() or ())


def verdicts(broker: KafkaBroker, topics: Topics, isolation: Isolation = "read_committed") -> list[int]:
    """The offsets whose verdicts a reader sees, in order."""
    found = stored(broker, topics.verdicts, isolation)
    return [Verdict.model_validate_json(message.value() or b"").source.offset for message in found]


async def until_refused(write: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """As the writer does it: a transaction may break before anybody says which of its records broke it."""
    for _ in range(20):
        with contextlib.suppress(WriteAbortedError):
            await write()
            return


@both
async def test_every_record_of_an_outcome_arrives_with_key_envelope_and_trace_context(
    kafka_broker: KafkaBroker, kind: Kind
) -> None:
    topics = topics_on(kafka_broker)
    decided, lost, broken = (
        judged(record(0), risk_name="A New Risk"),
        failed(record(1)),
        unreadable(record(2, key=None)),
    )
    async with writing(kind, kafka_broker, topics) as out:
        await out.write(decided, lost, broken)
    found = stored(kafka_broker, topics.verdicts)
    (ood,) = stored(kafka_broker, topics.ood)
    letters = stored(kafka_broker, topics.dead_letters)
    assert [Verdict.model_validate_json(m.value() or b"") for m in found] == [decided.verdict, lost.verdict]
    assert OodEvent.model_validate_json(ood.value() or b"") == decided.ood
    assert [DeadLetter.model_validate_json(m.value() or b"") for m in letters] == [lost.dead_letter, broken.dead_letter]
    assert [m.key() for m in (*found, ood, *letters)] == [b"k", b"k", b"default", b"k", None]
    assert decided.verdict is not None
    assert headers_of(found[0]) == {
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


@both
async def test_a_write_waits_for_a_broker_that_does_not_answer_and_blocks_nobody_else(
    own_broker: KafkaBroker, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sinks, "_CALL_S", 0.3)  # so that the calls are tried again, too
    topics = topics_on(own_broker)
    async with writing(kind, own_broker, topics) as out:
        await out.write(judged(record(0)))
        own_broker.pause()
        try:
            written = out.start_write(*(failed(record(n)) for n in range(1, 50)))
            longest, turned = 0.0, time.monotonic()
            until = turned + 1.5
            while turned < until:
                await asyncio.sleep(0.005)
                longest, turned = max(longest, time.monotonic() - turned), time.monotonic()
            assert not written.done()
            assert longest < 1.0
        finally:
            own_broker.resume()
        async with asyncio.timeout(20):
            await written
        assert verdicts(own_broker, topics) == list(range(50))


@both
async def test_closing_does_not_wait_for_a_broker_that_does_not_answer(
    own_broker: KafkaBroker, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sinks, "_CALL_S", 0.3)
    topics = topics_on(own_broker)
    timeouts = {"transaction.timeout.ms": 1000, "delivery.timeout.ms": 1000} if kind == "transactional" else {}
    async with writing(kind, own_broker, topics, properties=timeouts) as out:
        own_broker.pause()
        try:
            written = out.start_write(judged(record(0)))
            await asyncio.sleep(0.1)
            began = time.monotonic()
            await out.aclose()
            assert time.monotonic() - began < 5
            assert written.cancelled()
        finally:
            own_broker.resume()


@both
@pytest.mark.parametrize("room", [1, 7])
async def test_a_full_local_queue_neither_blocks_nor_reorders_nor_loses(
    kafka_broker: KafkaBroker, kind: Kind, room: int
) -> None:
    topics = topics_on(kafka_broker)
    count = 100
    async with writing(kind, kafka_broker, topics, properties={"queue.buffering.max.messages": room}) as out:
        await out.write(*(failed(record(n)) for n in range(count)))
    assert verdicts(kafka_broker, topics) == list(range(count))
    letters = [DeadLetter.model_validate_json(m.value() or b"") for m in stored(kafka_broker, topics.dead_letters)]
    assert [letter.source.offset for letter in letters] == list(range(count))


async def test_batches_that_are_written_side_by_side_keep_their_order(kafka_broker: KafkaBroker) -> None:
    topics = topics_on(kafka_broker)
    async with writing("plain", kafka_broker, topics, properties={"queue.buffering.max.messages": 5}) as out:
        batches = [range(start, start + 10) for start in range(0, 80, 10)]
        await asyncio.gather(*(out.write(*(judged(record(n)) for n in batch)) for batch in batches))
    assert verdicts(kafka_broker, topics) == list(range(80))


@both
async def test_a_record_that_the_topic_is_too_small_for_ends_the_writing_and_names_the_cause(
    kafka_broker: KafkaBroker, kind: Kind
) -> None:
    topics = topics_on(kafka_broker, verdicts=SMALL)
    with capture_logs() as lines:
        async with writing(kind, kafka_broker, topics) as out:
            await out.write(judged(record(0)), position=1)
            with pytest.raises(DeliveryError, match="size too large") as refused:
                await until_refused(lambda: out.write(judged(record(1), rationale=LARGE_TEXT), judged(record(2))))
            assert LARGE_TEXT not in str(refused.value)
            if kind == "transactional":
                assert out.committed() == Commit(1, "")
                assert verdicts(kafka_broker, topics) == [0]
    assert LARGE_TEXT not in str(lines)
    assert verdicts(kafka_broker, topics)[:1] == [0]
    assert 1 not in verdicts(kafka_broker, topics)


@both
async def test_one_refused_record_of_many_is_a_refusal(kafka_broker: KafkaBroker, kind: Kind) -> None:
    topics = topics_on(kafka_broker, dead_letters=SMALL)
    value = b'{"id":"e0","occurred_at":"2026-01-01T00:00:00Z","user_text":"' + LARGE_TEXT.encode() + b'"}'
    async with writing(kind, kafka_broker, topics) as out:
        with pytest.raises(DeliveryError):
            await until_refused(lambda: out.write(failed(record(0, value=value)), judged(record(1))))


@both
async def test_a_record_that_the_client_refuses_leaves_nothing_open(kafka_broker: KafkaBroker, kind: Kind) -> None:
    topics = topics_on(kafka_broker)
    async with writing(kind, kafka_broker, topics, properties={"message.max.bytes": SMALL}) as out:
        with pytest.raises(DeliveryError) as refused:
            await out.write(judged(record(0)), judged(record(1), rationale=LARGE_TEXT))
        assert refused.value.topic == topics.verdicts
        await out.write(judged(record(2)))
    seen = verdicts(kafka_broker, topics)
    assert seen == ([2] if kind == "transactional" else [0, 2])


async def test_a_topic_that_is_not_there_is_a_refusal_that_names_it(kafka_broker: KafkaBroker) -> None:
    topics = Topics(verdicts=f"missing.{uuid.uuid4().hex[:8]}")
    async with writing("plain", kafka_broker, topics, properties={"topic.metadata.propagation.max.ms": 200}) as out:
        with pytest.raises(DeliveryError) as refused:
            await out.write(judged(record(0)))
        assert refused.value.topic == topics.verdicts


async def test_a_refusal_is_heard_before_the_acknowledgement_of_what_came_after(kafka_broker: KafkaBroker) -> None:
    topics = topics_on(kafka_broker, verdicts=SMALL)
    heard: list[str] = []

    async def write(name: str, *outcomes: Any) -> None:
        try:
            await out.write(*outcomes)
        except DeliveryError:
            heard.append(f"{name} refused")
        else:
            heard.append(f"{name} acknowledged")

    async with writing("plain", kafka_broker, topics, properties={"batch.num.messages": 1}) as out:
        # The first batch has more to wait for than the second, which is behind it.
        first = [judged(record(0), rationale=LARGE_TEXT), *(unreadable(record(n)) for n in range(1, 200))]
        await asyncio.gather(write("first", *first), write("second", judged(record(200))))
    assert heard == ["first refused", "second acknowledged"]


async def test_nothing_of_a_transaction_is_seen_before_its_commit_and_all_of_it_after(
    kafka_broker: KafkaBroker,
) -> None:
    topics = topics_on(kafka_broker)
    before: list[tuple[list[int], list[int], int]] = []

    class Watched(Producer):  # type: ignore[misc]
        def commit_transaction(self, *arguments: Any) -> Any:
            assert self.flush(20) == 0
            before.append(
                (
                    verdicts(kafka_broker, topics, "read_uncommitted"),
                    verdicts(kafka_broker, topics),
                    len(stored(kafka_broker, topics.dead_letters)),
                )
            )
            return super().commit_transaction(*arguments)

    async with writing("transactional", kafka_broker, topics, producer=Watched) as out:
        await out.write(*(failed(record(n)) for n in range(3)), position=3)
        assert before == [([0, 1, 2], [], 0)]
        assert verdicts(kafka_broker, topics) == [0, 1, 2]
        assert len(stored(kafka_broker, topics.dead_letters)) == 3
        assert out.committed() == Commit(3, "")


async def test_position_and_remembered_offsets_are_committed_with_the_outcomes(kafka_broker: KafkaBroker) -> None:
    topics = topics_on(kafka_broker)
    async with writing("transactional", kafka_broker, topics) as out:
        metadata = encode(0b1011 << 100)
        await out.write(judged(record(7)), position=5, metadata=metadata)
        assert out.committed() == Commit(5, metadata)
        await out.write(judged(record(5)), position=8)
        assert out.committed() == Commit(8, "")


async def test_an_aborted_write_shows_nothing_commits_nothing_and_may_be_repeated(kafka_broker: KafkaBroker) -> None:
    topics = topics_on(kafka_broker)
    async with writing("transactional", kafka_broker, topics) as out:
        with pytest.raises(WriteAbortedError, match="OFFSET_METADATA_TOO_LARGE"):
            await out.write(judged(record(0)), position=1, metadata="x" * 5000)
        assert (verdicts(kafka_broker, topics), out.committed()) == ([], None)
        await out.write(judged(record(0)), position=1)
        assert (verdicts(kafka_broker, topics), out.committed()) == ([0], Commit(1, ""))


async def test_a_membership_of_an_older_generation_commits_nothing(kafka_broker: KafkaBroker) -> None:
    topics = topics_on(kafka_broker)
    async with writing("transactional", kafka_broker, topics) as out:
        members = Members(kafka_broker, out.group, topics.content)
        try:
            first = await asyncio.to_thread(members.join)
            out.membership = first.consumer_group_metadata()
            await out.write(judged(record(0)), position=1)
            await asyncio.to_thread(members.join)
            with pytest.raises(WriteAbortedError):
                await out.write(judged(record(1)), position=2)
            assert (verdicts(kafka_broker, topics), out.committed()) == ([0], Commit(1, ""))
            out.membership = first.consumer_group_metadata()
            await out.write(judged(record(1)), position=2)
            assert (verdicts(kafka_broker, topics), out.committed()) == ([0, 1], Commit(2, ""))
        finally:
            members.close()


async def test_a_member_that_the_group_does_not_know_commits_nothing(kafka_broker: KafkaBroker) -> None:
    topics = topics_on(kafka_broker)
    async with writing("transactional", kafka_broker, topics) as out:
        members = Members(kafka_broker, out.group, topics.content)
        try:
            first = await asyncio.to_thread(members.join)
            out.membership = first.consumer_group_metadata()
        finally:
            members.close()
        with pytest.raises(WriteAbortedError):
            await out.write(judged(record(0)), position=1)
        assert (verdicts(kafka_broker, topics), out.committed()) == ([], None)


async def test_a_second_process_of_the_same_transactional_id_ends_the_first(kafka_broker: KafkaBroker) -> None:
    topics = topics_on(kafka_broker)
    name = uuid.uuid4().hex
    async with writing("transactional", kafka_broker, topics, transactional_id=name) as zombie:
        await zombie.write(judged(record(0)), position=1)
        async with writing("transactional", kafka_broker, topics, transactional_id=name) as heir:
            with pytest.raises(DeliveryError, match="fenced"):
                await zombie.write(judged(record(1)), position=2)
            assert zombie.committed() == Commit(1, "")
            await heir.write(judged(record(1)))
    assert verdicts(kafka_broker, topics) == [0, 1]


async def test_without_a_broker_transactions_do_not_start() -> None:
    producer = Producer({"bootstrap.servers": "127.0.0.1:1", "transactional.id": "x", "log_level": 0})
    sink = TransactionalSink(producer, Topics(), SOURCE)
    try:
        with pytest.raises(DeliveryError, match="cannot start transactions"):
            await sink.init(0.3)
    finally:
        sink.close()


class Hanging(Producer):  # type: ignore[misc]
    """A client whose first transactional call does not come back, which the real one does after some outages."""

    def __init__(self) -> None:
        super().__init__({"bootstrap.servers": "127.0.0.1:1", "transactional.id": "x", "log_level": 0})
        self.released = threading.Event()

    def init_transactions(self, _timeout: float) -> None:
        self.released.wait(60)


async def test_a_client_that_does_not_come_back_ends_the_worker_and_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sinks, "_LOOK_S", 0.02)
    monkeypatch.setattr(sinks, "_STUCK_S", 0.1)
    producer = Hanging()
    sink = TransactionalSink(producer, Topics(), SOURCE)
    try:
        with pytest.raises(StuckClientError, match="has not come back"):
            await sink.init()
        async with asyncio.timeout(5):
            await asyncio.to_thread(sink.close)
    finally:
        producer.released.set()
