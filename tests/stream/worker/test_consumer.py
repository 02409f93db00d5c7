"""The consumer thread on a real Kafka group."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, Producer
from structlog.testing import capture_logs

from stream.devkit.kafka import KafkaBroker
from stream.worker import consumer as module
from tests.stream.worker.consuming import SESSION_MS, Desk, SecondMember, desk, send_with_raw_header, still, until

LONGER_THAN_A_SESSION_S = 2.2 * SESSION_MS / 1000


async def test_everything_is_handed_over_once_in_order_and_as_it_is(kafka_broker: KafkaBroker) -> None:
    async with desk(kafka_broker, partitions=2) as at:
        producer = Producer({"bootstrap.servers": at.bootstrap})
        headers = [("a", b"1"), ("a", None), ("é", b"\xff")]
        producer.produce(at.topic, b"\x00\xff", b"\xfe", 0, headers=headers, timestamp=1_700_000_000_000)
        producer.produce(at.topic, None, None, 0)
        assert producer.flush(20) == 0
        at.send(700, partition=1)
        await until(lambda: at.books.count == 702)
        assert (at.books.offsets(0), at.books.offsets(1)) == ([0, 1], list(range(700)))
        first, second = at.books.accepted[0]
        assert (first.topic, first.value, first.key, first.timestamp_ms) == (
            at.topic,
            b"\x00\xff",
            b"\xfe",
            1_700_000_000_000,
        )
        assert first.headers == tuple(headers)
        assert (second.value, second.key, second.headers) == (None, None, ())
        assert (at.backlog.count, at.books.told("assign")) == (702, [[0, 1]])


async def test_headers_that_the_client_cannot_read_do_not_end_the_worker(kafka_broker: KafkaBroker) -> None:
    async with desk(kafka_broker) as at:
        send_with_raw_header(at.bootstrap, at.topic, b"bad\xff\xfe")
        at.send(1)
        await until(lambda: at.books.count == 2)
        assert [(record.headers, record.headers_lost) for record in at.books.accepted[0]] == [((), True), ((), False)]
        assert at.failures == []


async def test_only_positions_that_the_books_give_are_committed(kafka_broker: KafkaBroker) -> None:
    async with desk(kafka_broker, partitions=2) as at:
        at.send(10)
        await until(lambda: at.books.count == 10)
        assert at.committed() < 0
        at.books.ready = {(at.topic, 0): 4, (at.topic, 99): 7}
        await until(lambda: at.committed() == 4)
        assert at.committed(1) < 0
        at.books.ready[at.topic, 0] = 10
        await until(lambda: at.committed() == 10)
        await until(lambda: at.metric("proguard_commits_total", result="ok") == 2)
        assert at.failures == []


async def test_a_full_backlog_pauses_and_loses_nothing(kafka_broker: KafkaBroker) -> None:
    async with desk(kafka_broker, limit=10) as at:
        at.send(100)
        await until(lambda: at.metric("proguard_paused", why="backlog") == 1)
        await still(lambda: at.books.count == 10, 0.3)
        given_back = 0
        while at.books.count < 100:
            seen = at.books.count
            at.backlog.give_back(seen - given_back)
            given_back = seen
            await until(lambda seen=seen: at.books.count > seen)  # type: ignore[misc]
            assert at.backlog.count <= 10
        assert at.books.offsets() == list(range(100))
        assert at.metric("proguard_paused", why="backlog") == 0


async def test_a_worker_that_takes_nothing_for_longer_than_a_session_stays_in_its_group(
    kafka_broker: KafkaBroker,
) -> None:
    async with desk(kafka_broker) as at:
        await until(lambda: at.books.owned)
        at.thread.hold("guard")
        await until(lambda: at.metric("proguard_paused", why="guard") == 1)
        at.send(5)
        before = at.thread.last_poll
        await still(lambda: at.books.count == 0, LONGER_THAN_A_SESSION_S)
        assert at.thread.last_poll > before
        assert (at.members(), at.books.calls) == (1, [("assign", [0])])
        at.thread.unhold("guard")
        await until(lambda: at.books.count == 5)
        assert at.metric("proguard_paused", why="guard") == 0


async def test_every_hold_has_to_be_undone_and_is_shown_by_its_name(kafka_broker: KafkaBroker) -> None:
    async with desk(kafka_broker) as at:
        at.thread.hold("guard")
        await until(lambda: at.metric("proguard_paused", why="guard") == 1)
        at.thread.hold("stopping")
        await until(lambda: at.metric("proguard_paused", why="stopping") == 1)
        at.thread.unhold("guard")
        await until(lambda: at.metric("proguard_paused", why="guard") == 0)
        await until(lambda: at.books.owned)
        at.send(1)
        await still(lambda: at.books.count == 0, 0.3)
        at.thread.unhold("stopping")
        await until(lambda: at.books.count == 1)


async def test_partitions_that_come_while_nothing_is_taken_stay_paused(kafka_broker: KafkaBroker) -> None:
    async with desk(kafka_broker, partitions=2) as at:
        at.thread.hold("guard")
        await until(lambda: len(at.books.owned) == 2)
        second = SecondMember(at)
        await until(lambda: len(second.assigned) == 1)
        at.send(3, partition=0)
        at.send(3, partition=1)
        await asyncio.to_thread(second.leave)
        await until(lambda: len(at.books.owned) == 2)
        await still(lambda: at.books.count == 0, 0.5)
        at.thread.unhold("guard")
        await until(lambda: at.books.count == 6)


async def test_a_partition_that_is_taken_away_is_drained_then_committed_then_given_up(
    kafka_broker: KafkaBroker,
) -> None:
    async with desk(kafka_broker, partitions=2) as at:
        at.send(5, partition=0)
        at.send(5, partition=1)
        await until(lambda: at.books.count == 10)
        at.books.calls.clear()
        in_flight = asyncio.Event()

        async def drain() -> bool:
            await in_flight.wait()
            at.books.ready = {(at.topic, 0): 5, (at.topic, 1): 5}
            return True

        at.books.on_drain = drain
        second = SecondMember(at)
        await until(lambda: at.books.told("drain"))
        assert (second.assigned, at.books.told("release")) == (set(), [])
        in_flight.set()
        await until(lambda: second.assigned)
        (gone,) = second.assigned
        assert at.books.calls[:2] == [("drain", [gone]), ("release", [gone])]
        assert at.committed(gone) == 5
        assert at.books.owned == {(at.topic, 1 - gone)}
        at.books.on_drain = None
        await asyncio.to_thread(second.leave)


@pytest.mark.parametrize("how", ["it says so", "it never ends"])
async def test_a_drain_that_fails_commits_only_what_is_complete_and_the_group_goes_on(
    kafka_broker: KafkaBroker, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(module, "_PATIENCE_S", 0.2)
    async with desk(kafka_broker, drain_s=0.1) as at:
        at.send(5)
        await until(lambda: at.books.count == 5)
        at.books.ready = {(at.topic, 0): 2}
        await until(lambda: at.committed() == 2)

        async def drain() -> bool:
            if how == "it never ends":
                await asyncio.Event().wait()
            at.books.ready[at.topic, 0] = 3
            return False

        at.books.on_drain = drain
        assert await at.thread.finish(20)
        await until(lambda: at.books.told("release") == [[0]])
        assert at.committed() == (3 if how == "it says so" else 2)
        assert (at.members(), at.failures) == (0, [])


async def test_what_was_lost_to_the_group_is_released_and_not_committed(kafka_broker: KafkaBroker) -> None:
    async with desk(kafka_broker) as at:
        at.send(5)
        await until(lambda: at.books.count == 5)
        loop = asyncio.get_running_loop()

        def stall() -> None:
            """The polling thread stands still until the group has expelled it, with a position in its hands."""
            at.books.on_positions = None
            asyncio.run_coroutine_threadsafe(until(lambda: at.members() == 0), loop).result(20)
            at.books.ready[at.topic, 0] = 5

        with capture_logs() as lines:
            at.books.on_positions = stall
            await until(lambda: at.books.told("release") == [[0]])
            await until(lambda: at.books.told("assign") == [[0], [0]])
            await until(lambda: at.books.count == 10)
        assert at.committed() < 0
        assert at.books.told("drain") == []
        assert "consumer.lost" in {line["event"] for line in lines}
        assert (at.books.offsets(), at.failures) == ([*range(5), *range(5)], [])


async def test_finishing_commits_and_leaves_the_group(kafka_broker: KafkaBroker) -> None:
    async with desk(kafka_broker) as at:
        at.send(3)
        await until(lambda: at.books.count == 3)

        async def drain() -> bool:
            at.books.ready[at.topic, 0] = 3
            return True

        at.books.on_drain = drain
        assert await at.thread.finish(20)
        assert (at.members(), at.committed()) == (0, 3)
        assert at.books.owned == set()


async def test_an_error_in_the_thread_is_reported_and_the_group_is_left(kafka_broker: KafkaBroker) -> None:
    async with desk(kafka_broker) as at:
        await until(lambda: at.books.owned)
        fault = RuntimeError("books on fire")

        def burn() -> None:
            raise fault

        at.books.on_positions = burn
        await until(lambda: at.failures)
        assert at.failures == [fault]
        await until(lambda: at.members() == 0)


async def test_a_commit_that_is_refused_for_one_partition_is_tried_again(kafka_broker: KafkaBroker) -> None:
    tries: list[list[int]] = []

    class Refusing(Consumer):  # type: ignore[misc]
        """Answers the first commit as a broker does that takes one of two partitions."""

        def commit(self, *args: Any, **options: Any) -> Any:
            tries.append(sorted(partition.partition for partition in options["offsets"]))
            answers = super().commit(*args, **options)
            if len(tries) > 1:
                return answers
            error = KafkaError(KafkaError.NOT_COORDINATOR)
            return [
                SimpleNamespace(topic=one.topic, partition=one.partition, error=error if one.partition else None)
                for one in answers
            ]

    async with desk(kafka_broker, partitions=2, consumer=Refusing) as at:
        await until(lambda: len(at.books.owned) == 2)
        at.books.ready = {(at.topic, 0): 1, (at.topic, 1): 1}
        await until(lambda: len(tries) == 2)
        assert tries == [[0, 1], [1]]
        assert at.metric("proguard_commits_total", result="failed") == 1


async def test_a_topic_that_is_not_there_is_no_end(kafka_broker: KafkaBroker) -> None:
    at = Desk(kafka_broker, topic="missing.topic")
    with capture_logs() as lines:
        at.thread.start()
        await until(lambda: any(line["event"] == "consumer.error" for line in lines))
        assert at.failures == []
        assert await at.thread.finish(20)
