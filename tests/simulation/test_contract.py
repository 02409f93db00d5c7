"""One contract over the simulated brokers and a real one: what the schedules take for granted about Kafka is so.

Not modelled in the simulation, and so no part of this: the offsets that transactions' markers take in an output topic, the moment
between the answer to a commit and the marker that makes its records visible (commits of offsets do have it), static membership,
and the broker-side group protocol.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random

import pytest
from confluent_kafka import KafkaError

from stream.worker.ledger import METADATA_LIMIT, Commit
from tests.simulation.contract import NOWHERE, Scene, SimulatedKafka, ends_the_producer, refused, until
from tests.simulation.group import Token
from tests.simulation.loop import SimLoop
from tests.simulation.real_clients import RealKafka

SEEDS = 20
"""Orders of events in which the simulation runs each scenario."""

LEFT, NEXT = Commit(3, "left"), Commit(5, "next")

Scenario = Callable[[Scene], Awaitable[None]]


def on_both(scenario: Scenario) -> Callable[..., None]:
    """A test of `scenario` for each implementation."""

    def test(implementation: str, request: pytest.FixtureRequest) -> None:
        if implementation == "real":
            asyncio.run(_play(scenario, Scene(RealKafka(request.getfixturevalue("kafka_broker")))))
            return
        for seed in range(SEEDS):
            random = Random(seed)
            loop = SimLoop(random)
            loop.run(lambda loop=loop, random=random: _play(scenario, Scene(SimulatedKafka(loop, random))))  # type: ignore[misc]

    test.__doc__ = scenario.__doc__
    return pytest.mark.parametrize("implementation", ["simulated", "real"])(test)


async def _play(scenario: Scenario, scene: Scene) -> None:
    try:
        await scenario(scene)
    finally:
        await scene.close()


# What readers see.


@on_both
async def test_records_of_an_open_transaction_are_hidden_until_it_commits(at: Scene) -> None:
    writer = await at.writer()
    await writer.begin("a", "b")
    assert await at.kafka.read(committed=False) == ["a", "b"]
    assert await at.kafka.read(committed=True) == []
    await writer.commit()
    await at.until_read("a", "b")


@on_both
async def test_records_of_an_aborted_transaction_are_never_seen_with_read_committed(at: Scene) -> None:
    writer = await at.writer()
    await writer.begin("undone")
    await writer.abort()
    await writer.begin("done")
    await writer.commit()
    await at.until_read("done")
    assert await at.kafka.read(committed=False) == ["undone", "done"]


@on_both
async def test_nothing_behind_an_open_transaction_is_seen_before_it_ends(at: Scene) -> None:
    writer, plain = await at.writer(), at.plain()
    await plain.write("before")
    await writer.begin("within")
    await plain.write("behind")
    assert await at.kafka.read(committed=False) == ["before", "within", "behind"]
    assert await at.kafka.read(committed=True) == ["before"]
    await writer.abort()
    await at.until_read("before", "behind")


@on_both
async def test_nothing_behind_the_oldest_open_transaction_is_seen_though_a_later_one_has_committed(at: Scene) -> None:
    first, second = await at.writer("first"), await at.writer("second")
    await first.begin("first")
    await second.begin("second")
    await second.commit()
    assert await at.kafka.read(committed=True) == []
    await first.commit()
    await at.until_read("first", "second")


# Offsets in transactions.


@on_both
async def test_offsets_become_effective_with_the_commit_of_their_transaction_and_with_their_metadata(at: Scene) -> None:
    await at.commit_outside(LEFT)
    writer = await at.writer()
    await writer.begin("a")
    await writer.send_offsets(NEXT)
    assert await at.committed(stable=False) == LEFT
    await writer.commit()
    assert await at.committed() == NEXT


@on_both
async def test_after_an_abort_the_commit_before_stands(at: Scene) -> None:
    await at.commit_outside(LEFT)
    writer = await at.writer()
    await writer.begin("a")
    await writer.send_offsets(NEXT)
    await writer.abort()
    assert await at.committed() == LEFT


@on_both
async def test_the_last_offsets_that_a_transaction_sends_are_its_commit(at: Scene) -> None:
    writer = await at.writer()
    await writer.begin()
    await writer.send_offsets(NEXT)
    await writer.send_offsets(LEFT)
    await writer.commit()
    assert await at.committed() == LEFT


@on_both
async def test_a_new_owner_is_not_told_a_position_while_a_transaction_with_offsets_is_under_way(at: Scene) -> None:
    await at.commit_outside(LEFT)
    writer = await at.writer()
    await writer.begin()
    await writer.send_offsets(NEXT)
    assert (await refused(at.committed(timeout=0.5))).code() == KafkaError._TIMED_OUT
    asked = asyncio.create_task(at.committed())
    await writer.commit()
    assert await asked == NEXT


@on_both
async def test_a_member_reads_nothing_while_a_transaction_with_offsets_is_under_way_then_from_its_end(
    at: Scene,
) -> None:
    await at.kafka.arrive(10)
    writer = await at.writer()
    await writer.begin()
    await writer.send_offsets(NEXT)
    member = await at.join()
    polls = member.polls
    await until(lambda: member.polls >= polls + 5)
    assert member.read == []  # of no partition that was assigned with it: their positions are asked for in one request
    await writer.commit()
    expected = [*((0, offset) for offset in range(NEXT.position, 10)), *((1, offset) for offset in range(10))]
    await until(lambda: len(member.read) >= len(expected))
    assert sorted(member.read) == expected


@on_both
async def test_commit_metadata_has_a_limit_beyond_which_the_transaction_must_be_aborted(at: Scene) -> None:
    writer = await at.writer()
    commit = NEXT
    for fits in ("x" * METADATA_LIMIT, "x" * 4095, "é" * 4095):
        commit = Commit(commit.position + 1, fits)
        await writer.begin()
        await writer.send_offsets(commit)
        await writer.commit()
        assert await at.committed() == commit
    await writer.begin("undone")
    error = await refused(writer.send_offsets(Commit(1, "x" * 4096)))
    assert (error.code(), error.txn_requires_abort()) == (KafkaError.OFFSET_METADATA_TOO_LARGE, True)
    assert (await refused(writer.commit())).txn_requires_abort()
    await writer.abort()
    assert await at.committed() == commit
    await writer.begin("done")
    await writer.commit()
    await at.until_read("done")


# Who may write.


@on_both
async def test_a_second_holder_of_a_transactional_id_fences_the_first_and_aborts_what_it_has_open(at: Scene) -> None:
    await at.commit_outside(LEFT)
    first = await at.writer()
    await first.begin("first")
    await first.send_offsets(NEXT)
    second = await at.writer()
    assert await at.committed() == LEFT
    assert ends_the_producer(await refused(first.commit()))
    assert ends_the_producer(await refused(first.write("more")))
    await second.begin("second")
    await second.commit()
    await at.until_read("second")
    assert await at.committed() == LEFT


@on_both
async def test_a_fenced_producer_cannot_add_to_its_transaction(at: Scene) -> None:
    first = await at.writer()
    await first.begin("first")
    second = await at.writer()
    await refused(first.write("more"))
    assert ends_the_producer(await refused(first.commit()))
    await second.begin("second")
    await second.commit()
    await at.until_read("second")
    assert "more" not in await at.kafka.read(committed=False)


@on_both
async def test_a_transaction_older_than_its_timeout_is_aborted_and_cannot_be_committed(at: Scene) -> None:
    await at.commit_outside(LEFT)
    slow, plain = await at.writer(timeout_s=2.0), at.plain()
    await slow.begin("late")
    await slow.send_offsets(NEXT)
    await plain.write("behind")
    assert await at.committed() == LEFT  # the answer comes when the transaction is over
    await at.until_read("behind")
    assert ends_the_producer(await refused(slow.commit()))
    assert await at.committed() == LEFT
    assert await at.kafka.read(committed=True) == ["behind"]


# Who may commit.


async def _places_that_are_over(at: Scene) -> tuple[Token, Token, Token]:
    """A place of an older generation, of a member that has left, and the one that is valid. The group has one member."""
    stays = await at.join()
    older = stays.token
    leaves = await at.join()
    left = leaves.token
    await at.leave(leaves)
    await at.settled()
    assert older.member == stays.token.member
    assert older.generation < left.generation < stays.token.generation
    return older, left, stays.token


@on_both
async def test_offsets_of_a_place_that_is_over_are_refused_and_the_transaction_must_be_aborted(at: Scene) -> None:
    await at.commit_outside(LEFT)
    older, left, valid = await _places_that_are_over(at)
    writer = await at.writer()
    for over, code in ((older, KafkaError.ILLEGAL_GENERATION), (left, KafkaError.UNKNOWN_MEMBER_ID)):
        await writer.begin("undone")
        error = await refused(writer.send_offsets(NEXT, over))
        assert (error.code(), error.txn_requires_abort(), ends_the_producer(error)) == (code, True, False)
        assert (await refused(writer.write("more"))).code() == KafkaError._STATE
        assert (await refused(writer.commit())).txn_requires_abort()
        await writer.abort()
        assert await at.committed() == LEFT
    await writer.begin("done")
    await writer.send_offsets(NEXT, valid)
    await writer.commit()
    assert await at.committed() == NEXT
    await at.until_read("done")


@on_both
async def test_a_place_is_looked_at_when_offsets_are_sent_and_not_when_the_transaction_commits(at: Scene) -> None:
    member = await at.join()
    writer = await at.writer()
    await writer.begin()
    await writer.send_offsets(NEXT, member.token)
    await at.leave(member)
    await writer.commit()
    assert await at.committed() == NEXT


@on_both
async def test_offsets_without_a_place_are_taken_in_a_transaction_whoever_is_in_the_group(at: Scene) -> None:
    """That is what makes the token matter: nothing else keeps a transaction from committing what is somebody else's."""
    await at.join()
    writer = await at.writer()
    await writer.begin()
    await writer.send_offsets(NEXT, NOWHERE)
    await writer.commit()
    assert await at.committed() == NEXT


@on_both
async def test_commits_of_a_place_that_is_over_are_refused(at: Scene) -> None:
    await at.commit_outside(LEFT)
    older, left, valid = await _places_that_are_over(at)
    commits = {(at.kafka.content, 0): NEXT}
    for over, code in ((older, KafkaError.ILLEGAL_GENERATION), (left, KafkaError.UNKNOWN_MEMBER_ID)):
        assert (await refused(at.kafka.commit_as(over, commits))).code() == code
    assert (await refused(at.commit_outside(NEXT))).code() == KafkaError.UNKNOWN_MEMBER_ID
    assert await at.committed() == LEFT
    await at.kafka.commit_as(valid, commits)
    assert await at.committed() == NEXT


@on_both
async def test_a_group_without_members_takes_commits_without_a_generation_only(at: Scene) -> None:
    member = await at.join()
    await at.leave(member)
    gone = member.token
    error = await refused(at.kafka.commit_as(gone, {(at.kafka.content, 0): NEXT}))
    assert error.code() == KafkaError.UNKNOWN_MEMBER_ID
    for position, name in ((6, ""), (7, gone.member)):
        commit = Commit(position, "")
        await at.kafka.commit_as(Token(-1, name), {(at.kafka.content, 0): commit})
        assert await at.committed() == commit
