"""Where a partition is read on is the consumer thread's to say, whatever its client takes to be the place."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, TopicPartition
from confluent_kafka.admin import AdminClient

from stream.devkit.kafka import KafkaBroker
from stream.worker.client_errors import lost_its_place
from stream.worker.ledger import Commit
from stream.worker.partitions import OffsetsWentBackError
from tests.stream.worker.consuming import PROTOCOLS, Desk, Protocol, desk, until

in_both_protocols = pytest.mark.parametrize("protocol", PROTOCOLS)


class Straying(Consumer):  # type: ignore[misc]
    """Goes once, by itself, to an offset that does not exist: from there on it is the real client that has lost its place."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.strays = threading.Event()

    def poll(self, timeout: float) -> Any:
        message = super().poll(timeout)
        if self.strays.is_set() and message is not None and message.error() is None:
            self.strays.clear()
            place = message.topic(), message.partition()
            super().incremental_unassign([TopicPartition(*place)])
            super().incremental_assign([TopicPartition(*place, 1_000_000)])
        return message


@in_both_protocols
async def test_a_client_that_lost_its_place_is_put_back_and_nothing_is_skipped_or_read_twice(
    kafka_broker: KafkaBroker, protocol: Protocol
) -> None:
    at = Desk(kafka_broker, partitions=2, protocol=protocol, consumer=Straying)
    client: Straying = at.thread._consumer
    at.send(10)
    at.send(10, partition=1)
    async with desk(kafka_broker, desk=at):
        await until(lambda: at.books.count == 20)
        for turn in range(1, 4):
            client.strays.set()
            at.send(10, start=10 * turn)
            at.send(10, partition=1, start=10 * turn)
            await until(lambda turn=turn: at.books.count >= 20 * (turn + 1))  # type: ignore[misc]
            assert not client.strays.is_set()
        assert (at.books.offsets(0), at.books.offsets(1)) == (list(range(40)), list(range(40)))
        assert at.failures == []


async def test_a_partition_that_is_put_back_while_nothing_is_taken_waits_as_the_others_do(
    kafka_broker: KafkaBroker,
) -> None:
    at = Desk(kafka_broker, limit=10, consumer=Straying)
    client: Straying = at.thread._consumer
    client.strays.set()
    at.send(30)
    async with desk(kafka_broker, desk=at):
        await until(lambda: at.metric("proguard_paused", why="backlog") == 1)
        assert not client.strays.is_set()
        taken = at.books.count
        for _ in range(10):
            await at.took_a_turn()
        assert at.books.count == taken <= 10
        at.backlog.give_back(taken)
        await until(lambda: at.books.count > taken)
        assert at.books.offsets() == list(range(at.books.count))


async def test_events_that_retention_took_before_they_were_read_are_counted_and_the_rest_is_read(
    kafka_broker: KafkaBroker,
) -> None:
    at = Desk(kafka_broker)
    at.send(10)
    at.commit(Commit(5, ""))
    admin = AdminClient({"bootstrap.servers": at.bootstrap})
    admin.delete_records([TopicPartition(at.topic, 0, 8)])[TopicPartition(at.topic, 0)].result(10)
    async with desk(kafka_broker, desk=at):
        await until(lambda: at.books.count == 2)
        assert at.books.offsets() == [8, 9]
        assert at.metric("proguard_deleted_unread_total") == 3
        assert at.failures == []


async def test_a_topic_that_ends_before_what_was_committed_stops_the_worker(kafka_broker: KafkaBroker) -> None:
    at = Desk(kafka_broker)
    at.send(10)
    at.commit(Commit(50, ""))
    async with desk(kafka_broker, desk=at):
        await until(lambda: at.failures)
        (failure,) = at.failures
        assert isinstance(failure, OffsetsWentBackError)
        assert (failure.partition, failure.offset, at.books.count) == (0, 10, 0)


class Told:
    """An error as the client gives it."""

    def __init__(self, code: int | None, topic: str | None = "t", partition: int | None = 3) -> None:
        self._code, self._topic, self._partition = code, topic, partition

    def error(self) -> KafkaError | None:
        return None if self._code is None else KafkaError(self._code)

    def topic(self) -> str | None:
        return self._topic

    def partition(self) -> int | None:
        return self._partition


def test_only_a_lost_place_is_taken_for_one() -> None:
    lost = KafkaError._AUTO_OFFSET_RESET
    assert lost_its_place(Told(lost)) == ("t", 3)  # type: ignore[arg-type]
    others = [
        Told(None),
        Told(KafkaError._TRANSPORT),
        Told(KafkaError._PARTITION_EOF),
        Told(lost, None),
        Told(lost, "t", None),
    ]
    assert [lost_its_place(message) for message in others] == [None] * len(others)  # type: ignore[arg-type]
