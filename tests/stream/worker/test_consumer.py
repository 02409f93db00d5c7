"""The consumer thread on a real Kafka: what it hands over, and when it takes nothing."""

from __future__ import annotations

import asyncio

import pytest
from confluent_kafka import Producer
from structlog.testing import capture_logs

from stream.devkit.kafka import KafkaBroker
from tests.stream.worker.consuming import (
    PROTOCOLS,
    SESSION_MS,
    Desk,
    Protocol,
    SecondMember,
    desk,
    send_with_raw_header,
    still,
    until,
)

LONGER_THAN_A_SESSION_S = 2.2 * SESSION_MS / 1000

in_both_protocols = pytest.mark.parametrize("protocol", PROTOCOLS)


@in_both_protocols
async def test_everything_is_handed_over_once_in_order_and_as_it_is(
    kafka_broker: KafkaBroker, protocol: Protocol
) -> None:
    async with desk(kafka_broker, partitions=2, protocol=protocol) as at:
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


@in_both_protocols
async def test_a_worker_that_takes_nothing_for_longer_than_a_session_stays_in_its_group(
    kafka_broker: KafkaBroker, protocol: Protocol
) -> None:
    async with desk(kafka_broker, protocol=protocol) as at:
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


@in_both_protocols
async def test_partitions_that_come_while_nothing_is_taken_stay_paused(
    kafka_broker: KafkaBroker, protocol: Protocol
) -> None:
    async with desk(kafka_broker, partitions=2, protocol=protocol) as at:
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


async def test_a_full_partition_waits_and_the_others_go_on(kafka_broker: KafkaBroker) -> None:
    async with desk(kafka_broker, partitions=3) as at:
        await until(lambda: len(at.books.owned) == 3)
        at.thread.set_full(frozenset({(at.topic, 0), (at.topic, 1)}))
        await at.took_a_turn()
        for partition in range(3):
            at.send(5, partition=partition)
        await until(lambda: len(at.books.offsets(2)) == 5)
        await still(lambda: at.books.count == 5, 0.5)
        at.thread.set_full(frozenset({(at.topic, 1)}))
        await until(lambda: len(at.books.offsets(0)) == 5)
        await still(lambda: at.books.count == 10, 0.5)
        at.thread.set_full(frozenset())
        await until(lambda: at.books.count == 15)
        assert [at.books.offsets(partition) for partition in range(3)] == [list(range(5))] * 3


async def test_a_full_partition_still_waits_when_a_hold_has_ended(kafka_broker: KafkaBroker) -> None:
    async with desk(kafka_broker, partitions=2) as at:
        await until(lambda: len(at.books.owned) == 2)
        at.thread.hold("guard")
        await until(lambda: at.metric("proguard_paused", why="guard") == 1)
        at.thread.set_full(frozenset({(at.topic, 0)}))
        at.send(5, partition=0)
        at.send(5, partition=1)
        at.thread.unhold("guard")
        await until(lambda: len(at.books.offsets(1)) == 5)
        await still(lambda: at.books.offsets(0) == [], 0.5)
        at.thread.set_full(frozenset())
        await until(lambda: len(at.books.offsets(0)) == 5)


async def test_a_full_partition_that_went_and_came_back_is_read_again(kafka_broker: KafkaBroker) -> None:
    async with desk(kafka_broker, partitions=2) as at:
        await until(lambda: len(at.books.owned) == 2)
        everything = frozenset(at.books.owned)
        at.thread.set_full(everything)
        second = SecondMember(at)
        await until(lambda: second.assigned)
        (gone,) = second.assigned
        at.thread.set_full(everything - {(at.topic, gone)})  # new books are not full
        await asyncio.to_thread(second.leave)
        await until(lambda: len(at.books.owned) == 2)
        at.send(5, partition=gone)
        at.send(5, partition=1 - gone)
        await until(lambda: len(at.books.offsets(gone)) == 5)
        await still(lambda: at.books.offsets(1 - gone) == [], 0.3)


async def test_a_partition_that_went_during_a_hold_and_came_back_after_it_is_read(kafka_broker: KafkaBroker) -> None:
    async with desk(kafka_broker, partitions=2) as at:
        await until(lambda: len(at.books.owned) == 2)
        at.thread.hold("guard")
        await until(lambda: at.metric("proguard_paused", why="guard") == 1)
        second = SecondMember(at)
        await until(lambda: second.assigned)
        (gone,) = second.assigned
        at.thread.unhold("guard")
        await until(lambda: at.metric("proguard_paused", why="guard") == 0)
        await asyncio.to_thread(second.leave)
        await until(lambda: len(at.books.owned) == 2)
        at.send(5, partition=gone)
        await until(lambda: len(at.books.offsets(gone)) == 5)


async def test_a_topic_that_is_not_there_is_no_end(kafka_broker: KafkaBroker) -> None:
    at = Desk(kafka_broker, topic="missing.topic")
    with capture_logs() as lines:
        at.thread.start()
        await until(lambda: any(line["event"] == "consumer.error" for line in lines))
        assert at.failures == []
        assert await at.thread.finish(20)
