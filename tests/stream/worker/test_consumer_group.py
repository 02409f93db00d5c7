"""The consumer thread as a member of a real Kafka group: what it commits, reads back, gives up and tells."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException
from structlog.testing import capture_logs

from stream.devkit.kafka import KafkaBroker
from stream.worker import consumer as module
from stream.worker.ledger import Commit, encode
from tests.stream.worker.consuming import PROTOCOLS, Desk, OtherOwner, Protocol, SecondMember, desk, still, until


def generation(token: object) -> bytes:
    """The group's generation in a member's token: four bytes behind librdkafka's own mark."""
    assert isinstance(token, bytes)
    return token[7:11]


in_both_protocols = pytest.mark.parametrize("protocol", PROTOCOLS)


@in_both_protocols
async def test_only_what_the_books_give_is_committed_with_its_metadata(
    kafka_broker: KafkaBroker, protocol: Protocol
) -> None:
    async with desk(kafka_broker, partitions=2, protocol=protocol) as at:
        at.send(10)
        await until(lambda: at.books.count == 10)
        assert at.committed() is None
        at.complete(7, partition=99)
        at.complete(4, encode(0b10))
        await until(lambda: at.committed() == Commit(4, encode(0b10)))
        assert at.committed(1) is None
        at.complete(4, encode(0b110))
        await until(lambda: at.committed() == Commit(4, encode(0b110)))
        at.complete(10)
        await until(lambda: at.committed() == Commit(10, ""))
        assert at.failures == []
        assert at.metric("proguard_commits_total", result="ok") == 3


@in_both_protocols
async def test_what_the_group_has_committed_is_read_back_before_the_first_record(
    kafka_broker: KafkaBroker, protocol: Protocol
) -> None:
    at = Desk(kafka_broker, partitions=2, protocol=protocol)
    at.send(10)
    left = Commit(4, encode(0b1010))
    at.commit(left)
    async with desk(kafka_broker, desk=at):
        await until(lambda: at.books.count == 6)
        assert at.books.owned == {(at.topic, 0): left, (at.topic, 1): None}
        assert at.books.offsets() == list(range(4, 10))
        assert at.committed() == left


@in_both_protocols
async def test_an_assignment_waits_for_the_transaction_of_a_dead_owner(
    kafka_broker: KafkaBroker, protocol: Protocol
) -> None:
    at = Desk(kafka_broker, protocol=protocol, commits=False, poll_interval_ms=60_000)
    at.send(10)
    dead = OtherOwner(at)
    dead.begin(Commit(6, encode(0b100)))
    async with desk(kafka_broker, desk=at):
        await until(lambda: at.members() == 1)
        await still(lambda: not at.books.calls and at.books.count == 0, 0.7)
        dead.end()
        await until(lambda: at.books.count == 4)
        assert at.books.owned == {(at.topic, 0): Commit(6, encode(0b100))}
        assert at.books.offsets() == [6, 7, 8, 9]


async def test_without_an_answer_about_what_is_committed_nothing_is_read(kafka_broker: KafkaBroker) -> None:
    class Forgetful(Consumer):  # type: ignore[misc]
        def committed(self, partitions: Any, *_: Any, **__: Any) -> Any:
            error = KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED)
            return [SimpleNamespace(topic=p.topic, partition=p.partition, error=error) for p in partitions]

    async with desk(kafka_broker, consumer=Forgetful) as at:
        at.send(5)
        await until(lambda: at.failures)
        (failure,) = at.failures
        assert isinstance(failure, KafkaException)
        assert failure.args[0].code() == KafkaError.GROUP_AUTHORIZATION_FAILED
        assert (at.books.count, at.books.owned) == (0, {})


async def test_an_assignment_outlasts_a_coordinator_that_does_not_answer_yet(kafka_broker: KafkaBroker) -> None:
    tries: list[float] = []

    class Hasty(Consumer):  # type: ignore[misc]
        def committed(self, partitions: Any, timeout: float) -> Any:
            tries.append(timeout)
            return super().committed(partitions, timeout=timeout if len(tries) > 2 else 1e-6)

    async with desk(kafka_broker, consumer=Hasty) as at:
        at.send(5)
        await until(lambda: at.books.count == 5)
        assert len(tries) == 3
        assert at.failures == []


async def test_an_assignment_whose_commits_cannot_be_had_is_a_failure(
    kafka_broker: KafkaBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_COMMITTED_S", 1e-6)
    async with desk(kafka_broker) as at:
        at.send(5)
        await until(lambda: at.failures)
        assert at.failures[0].args[0].code() == KafkaError._TIMED_OUT
        assert at.books.count == 0


async def test_a_failure_that_the_client_raises_in_c_behind_a_callback_is_told(kafka_broker: KafkaBroker) -> None:
    class Doubling(Consumer):  # type: ignore[misc]
        def incremental_assign(self, partitions: Any) -> None:
            super().incremental_assign(partitions)
            super().incremental_assign(partitions)

    async with desk(kafka_broker, consumer=Doubling) as at:
        at.send(5)
        await until(lambda: at.failures)
        (failure,) = at.failures
        assert isinstance(failure, KafkaException)
        assert failure.args[0].code() == KafkaError._CONFLICT


@in_both_protocols
async def test_where_transactions_commit_the_thread_commits_nothing_and_tells_who_it_is_before_the_first_record(
    kafka_broker: KafkaBroker, protocol: Protocol
) -> None:
    async with desk(kafka_broker, commits=False, protocol=protocol) as at:
        at.send(10)
        await until(lambda: at.books.count == 10)
        _, owned, records_by_then = at.books.memberships[0]
        assert (owned, records_by_then) == ({(at.topic, 0)}, 0)
        at.complete(10)
        await still(lambda: at.committed() is None, 0.3)
        await at.commit_in_a_transaction(Commit(10, ""))
        assert await at.thread.finish(20)
        assert (at.committed(), at.failures) == (Commit(10, ""), [])
        assert at.metric("proguard_commits_total", result="ok") is None


@in_both_protocols
async def test_what_finishes_while_a_partition_is_taken_away_can_still_be_committed_in_a_transaction(
    kafka_broker: KafkaBroker, protocol: Protocol
) -> None:
    async with desk(kafka_broker, partitions=2, commits=False, protocol=protocol) as at:
        await until(lambda: len(at.books.owned) == 2)
        for partition in (0, 1):
            at.send(2, partition)
        await at.commit_in_a_transaction(Commit(1, ""))
        faults: list[BaseException] = []

        async def finish() -> None:
            try:
                await at.commit_in_a_transaction(Commit(2, ""), partition=0)
                await at.commit_in_a_transaction(Commit(2, ""), partition=1)
            except KafkaException as error:
                faults.append(error)

        at.books.on_give_up = finish
        second = SecondMember(at)
        await until(lambda: second.assigned)
        at.books.on_give_up = None
        assert faults == []
        assert [at.committed(partition) for partition in (0, 1)] == [Commit(2, "")] * 2
        await asyncio.to_thread(second.leave)


async def test_while_an_assignment_waits_the_other_partitions_can_be_committed(kafka_broker: KafkaBroker) -> None:
    """An assignment comes with a new generation, and reading what is committed for it may take as long as a transaction."""
    async with desk(kafka_broker, partitions=2, commits=False, poll_interval_ms=60_000) as at:
        await until(lambda: len(at.books.owned) == 2)
        second = SecondMember(at)
        await until(lambda: second.assigned)
        (gone,) = second.assigned
        at.send(10, gone)
        dead = OtherOwner(at)
        dead.begin(Commit(5, ""), gone, second.membership)
        await until(lambda: generation(at.books.memberships[-1][0]) == generation(second.membership))
        before = at.books.memberships[-1][0]
        await asyncio.to_thread(second.leave)
        await until(lambda: at.members() == 1 and at.books.memberships[-1][0] != before)
        await at.commit_in_a_transaction(Commit(9, ""), partition=1 - gone)
        assert (at.topic, gone) not in at.books.owned
        dead.end()
        await until(lambda: at.books.owned.get((at.topic, gone)) == Commit(5, ""))
        await until(lambda: at.books.offsets(gone) == [5, 6, 7, 8, 9])
        assert at.failures == []


@in_both_protocols
async def test_a_partition_that_is_taken_away_is_given_up_then_committed_then_gone(
    kafka_broker: KafkaBroker, protocol: Protocol
) -> None:
    async with desk(kafka_broker, partitions=2, protocol=protocol) as at:
        at.send(5, partition=0)
        at.send(5, partition=1)
        await until(lambda: at.books.count == 10)
        at.books.calls.clear()
        in_flight = asyncio.Event()

        async def finish() -> None:
            await in_flight.wait()
            at.complete(4, encode(0b10), partition=0)
            at.complete(4, encode(0b10), partition=1)

        at.books.on_give_up = finish
        second = SecondMember(at)
        await until(lambda: at.books.told("give_up"))
        assert second.assigned == set()
        in_flight.set()
        await until(lambda: second.assigned)
        (gone,) = second.assigned
        assert at.books.calls[0] == ("give_up", [gone])
        assert at.committed(gone) == Commit(4, encode(0b10))
        assert set(at.books.owned) == {(at.topic, 1 - gone)}
        at.books.on_give_up = None
        await asyncio.to_thread(second.leave)


@pytest.mark.parametrize("how", ["with what is complete", "it never ends"])
async def test_a_drain_in_vain_commits_only_what_is_complete_and_the_group_goes_on(
    kafka_broker: KafkaBroker, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(module, "_PATIENCE_S", 0.2)
    async with desk(kafka_broker, drain_s=0.1) as at:
        at.send(5)
        await until(lambda: at.books.count == 5)
        at.complete(2)
        await until(lambda: at.committed() == Commit(2, ""))

        async def finish() -> None:
            if how == "it never ends":
                await asyncio.Event().wait()
            at.complete(3)

        at.books.on_give_up = finish
        assert await at.thread.finish(20)
        await until(lambda: not at.books.owned)
        assert at.books.told("release") == ([[0]] if how == "it never ends" else [])
        assert at.committed() == Commit(2 if how == "it never ends" else 3, "")
        assert (at.members(), at.failures) == (0, [])


@in_both_protocols
async def test_what_was_lost_to_the_group_is_released_and_not_committed(
    kafka_broker: KafkaBroker, protocol: Protocol
) -> None:
    class Stalling(Consumer):  # type: ignore[misc]
        """Stands still in its first commit until the group has expelled it."""

        def commit(self, *args: Any, **options: Any) -> Any:
            if not at.books.told("release"):
                asyncio.run_coroutine_threadsafe(until(lambda: at.members() == 0), loop).result(20)
            return super().commit(*args, **options)

    loop = asyncio.get_running_loop()
    async with desk(kafka_broker, protocol=protocol, consumer=Stalling) as at:
        at.send(5)
        await until(lambda: at.books.count == 5)
        with capture_logs() as lines:
            at.complete(5)
            await until(lambda: at.books.told("release") == [[0]])
            await until(lambda: at.books.told("assign") == [[0], [0]])
            await until(lambda: at.books.count == 10)
        assert at.committed() is None
        assert at.books.told("give_up") == []
        assert "consumer.lost" in {line["event"] for line in lines}
        assert (at.books.offsets(), at.failures) == ([*range(5), *range(5)], [])


@in_both_protocols
async def test_finishing_commits_and_leaves_the_group(kafka_broker: KafkaBroker, protocol: Protocol) -> None:
    async with desk(kafka_broker, protocol=protocol) as at:
        at.send(3)
        await until(lambda: at.books.count == 3)

        async def finish() -> None:
            at.complete(3)

        at.books.on_give_up = finish
        assert await at.thread.finish(20)
        assert (at.members(), at.committed()) == (0, Commit(3, ""))
        assert at.books.owned == {}


async def test_an_error_in_the_thread_is_reported_and_the_group_is_left(kafka_broker: KafkaBroker) -> None:
    async with desk(kafka_broker) as at:
        await until(lambda: at.books.owned)
        fault = RuntimeError("books on fire")

        def burn() -> None:
            raise fault

        at.books.on_commits = burn
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
        at.books.ready = {(at.topic, 0): Commit(1, ""), (at.topic, 1): Commit(1, "")}
        await until(lambda: len(tries) == 2)
        assert tries == [[0, 1], [1]]
        assert at.metric("proguard_commits_total", result="failed") == 1
