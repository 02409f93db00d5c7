"""What a scenario of the contract is written against: writers, members and readers of some Kafka, simulated or real."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any, Protocol

import pytest
from confluent_kafka import OFFSET_STORED, KafkaError, KafkaException
from confluent_kafka import TopicPartition as KafkaPartition

from stream.worker.ledger import Commit
from stream.worker.partitions import Commits
from tests.simulation.brokers import CONTENT, InputEntry, SimBrokers
from tests.simulation.consumer_client import SimConsumer
from tests.simulation.group import Token
from tests.simulation.loop import SimLoop
from tests.simulation.network import Network, Trace, Weather
from tests.simulation.producer_client import SimProducer

WAIT_S = 30.0
PARTITIONS = 2
SESSION_S = 10.0
"""Long enough that nobody is expelled from a group because the machine is busy: members leave when they are told to."""

NOWHERE = Token(-1, "")
"""The place of a consumer that has joined no group."""


class Kafka(Protocol):
    """One implementation: a topic `content` of two partitions, a topic `outcomes` of one, and a group without members."""

    content: str
    outcomes: str

    def producer(self, transactional_id: str | None, timeout_s: float) -> Any: ...

    def consumer(self, *, stable: bool) -> Any:
        """`stable`: with read_committed."""

    async def wait(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """The result of a client's call that blocks a thread."""

    def token(self, metadata: Any) -> Token:
        """What a client's `consumer_group_metadata` says."""

    def metadata(self, token: Token) -> object:
        """The same, as a producer takes it."""

    async def arrive(self, count: int) -> None:
        """So many records, on each partition of `content`."""

    async def read(self, *, committed: bool) -> list[str]:
        """What a new reader of `outcomes` finds."""

    async def commit_as(self, token: Token, commits: Commits) -> None:
        """A commit outside of transactions by the holder of `token`, valid or not: a consumer only ever uses its newest."""


class SimulatedKafka:
    """What the schedules run over."""

    content = CONTENT
    outcomes = "outcomes"

    def __init__(self, loop: SimLoop, random: Random) -> None:
        self._brokers = SimBrokers(Network(loop, random, Weather(), Trace(loop, keep=False)))
        for number in range(PARTITIONS):
            self._brokers.add_input((CONTENT, number), [])

    def producer(self, transactional_id: str | None, timeout_s: float) -> SimProducer:
        return SimProducer(self._brokers, transactional_id=transactional_id, timeout_s=timeout_s)

    def consumer(self, *, stable: bool) -> SimConsumer:
        return SimConsumer(self._brokers, session_s=SESSION_S, heartbeat_s=0.2, stable=stable)

    async def wait(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        return await call(*arguments, **options)

    def token(self, metadata: Token) -> Token:
        return metadata

    def metadata(self, token: Token) -> Token:
        return token

    async def arrive(self, count: int) -> None:
        for number in range(PARTITIONS):
            self._brokers.add_input((CONTENT, number), [InputEntry(offset, None, b"") for offset in range(count)])

    async def read(self, *, committed: bool) -> list[str]:
        await asyncio.sleep(0.01)
        return [sent.value.decode() for sent in self._brokers.read(self.outcomes, committed=committed)]

    async def commit_as(self, token: Token, commits: Commits) -> None:
        await self._brokers.network.request(lambda: self._brokers.group.commit(token, commits))


class Writer:
    """A producer of `outcomes`, transactional when it has a name. Refusals come out as `KafkaException`."""

    def __init__(self, kafka: Kafka, name: str | None, timeout_s: float) -> None:
        self._kafka = kafka
        self.client = kafka.producer(name, timeout_s)

    async def init(self) -> None:
        await self._kafka.wait(self.client.init_transactions, WAIT_S)

    async def write(self, *values: str) -> None:
        """Until each record is in the log."""
        reports: list[KafkaError | None] = []
        for value in values:
            self.client.produce(
                self._kafka.outcomes, value.encode(), on_delivery=lambda error, _record: reports.append(error)
            )

        def all_reported() -> bool:
            self.client.poll(0)
            return len(reports) == len(values)

        await until(all_reported)
        for error in reports:
            if error is not None:
                raise KafkaException(error)

    async def begin(self, *values: str) -> None:
        self.client.begin_transaction()
        await self.write(*values)

    async def send_offsets(self, commit: Commit, token: Token = NOWHERE) -> None:
        place = KafkaPartition(self._kafka.content, 0, commit.position, metadata=commit.metadata)
        send = self.client.send_offsets_to_transaction
        await self._patiently(send, [place], self._kafka.metadata(token), WAIT_S)

    async def commit(self) -> None:
        await self._patiently(self.client.commit_transaction, WAIT_S)

    async def abort(self) -> None:
        await self._patiently(self.client.abort_transaction, WAIT_S)

    async def _patiently(self, call: Callable[..., Any], *arguments: Any) -> None:
        """As the worker's sink does it: what may be tried again must be."""
        while True:
            try:
                await self._kafka.wait(call, *arguments)
            except KafkaException as error:
                if not error.args[0].retriable():
                    raise
            else:
                return


class Member:
    """A consumer in the group, polled until it leaves."""

    def __init__(self, kafka: Kafka) -> None:
        self._kafka = kafka
        self._client = kafka.consumer(stable=True)
        self.token = NOWHERE
        self.owned: frozenset[int] = frozenset()
        """In the generation of `token`: both are taken down after a poll, together."""
        self._assigned: set[int] = set()
        self.read: list[tuple[int, int]] = []
        """Partition and offset of each record that came."""
        self.polls = 0
        self._leaving = False
        self._polling = asyncio.create_task(self._poll())

    async def leave(self) -> None:
        """`token` stays what it was."""
        self._leaving = True
        await self._polling

    async def _poll(self) -> None:
        wait, client = self._kafka.wait, self._client
        await wait(
            client.subscribe, [self._kafka.content], on_assign=self._on_assign, on_revoke=self._gone, on_lost=self._gone
        )
        while not self._leaving:
            message = await wait(client.poll, 0.05)
            self.polls += 1
            if message is not None and message.error() is None:
                self.read.append((message.partition(), message.offset()))
            # From here and not from the scenario: librdkafka may hang when another thread asks beside a poll.
            self.token = self._kafka.token(await wait(client.consumer_group_metadata))
            self.owned = frozenset(self._assigned)
        await wait(client.close)

    def _on_assign(self, client: Any, partitions: list[KafkaPartition]) -> Awaitable[None] | None:
        self._assigned |= {part.partition for part in partitions}
        answer: Awaitable[None] | None = client.incremental_assign(
            [KafkaPartition(part.topic, part.partition, OFFSET_STORED) for part in partitions]
        )
        return answer

    def _gone(self, _client: Any, partitions: list[KafkaPartition]) -> None:
        self._assigned -= {part.partition for part in partitions}


class Scene:
    """The people of one scenario."""

    def __init__(self, kafka: Kafka) -> None:
        self.kafka = kafka
        self.members: list[Member] = []

    def plain(self) -> Writer:
        return Writer(self.kafka, None, WAIT_S)

    async def writer(self, name: str = "writer", timeout_s: float = WAIT_S) -> Writer:
        """Ready for its first transaction."""
        made = Writer(self.kafka, name, timeout_s)
        await made.init()
        return made

    async def join(self) -> Member:
        """One more member, once all are in one generation and every partition has its owner."""
        member = Member(self.kafka)
        self.members.append(member)
        await self.settled()
        return member

    async def leave(self, member: Member) -> None:
        self.members.remove(member)
        await member.leave()

    async def settled(self) -> None:
        def is_settled() -> bool:
            tokens = [member.token for member in self.members]
            owned = [number for member in self.members for number in member.owned]
            spread = all(member.owned for member in self.members)
            one = len({token.generation for token in tokens}) == 1 and all(token.member for token in tokens)
            return one and spread and sorted(owned) == [*range(PARTITIONS)]

        await until(is_settled)

    async def commit_outside(self, commit: Commit) -> None:
        """A commit by a consumer that has joined nothing."""
        place = KafkaPartition(self.kafka.content, 0, commit.position, metadata=commit.metadata)
        client = self.kafka.consumer(stable=True)
        try:
            await self.kafka.wait(client.commit, offsets=[place], asynchronous=False)
        finally:
            await self.kafka.wait(client.close)

    async def committed(self, *, stable: bool = True, timeout: float = WAIT_S) -> Commit | None:
        """What a new owner of partition 0 is told to start from."""
        client = self.kafka.consumer(stable=stable)
        try:
            places = [KafkaPartition(self.kafka.content, 0)]
            (found,) = await self.kafka.wait(client.committed, places, timeout=timeout)
            if found.error is not None:
                raise KafkaException(found.error)
            return Commit(found.offset, found.metadata or "") if found.offset >= 0 else None
        finally:
            await self.kafka.wait(client.close)

    async def until_read(self, *values: str) -> None:
        """A reader with read_committed finds just these: soon, for a marker may follow the answer to a commit."""
        found: list[str] = []
        try:
            async with asyncio.timeout(WAIT_S):
                while (found := await self.kafka.read(committed=True)) != [*values]:
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"read {found}, not {values}") from None

    async def close(self) -> None:
        for member in self.members:
            await member.leave()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.02)


async def refused(work: Awaitable[object]) -> KafkaError:
    """The error that `work` ends with."""
    with pytest.raises(KafkaException) as found:
        await work
    error: KafkaError = found.value.args[0]
    return error


def ends_the_producer(error: KafkaError) -> bool:
    """As the worker's sink takes it. A producer that has failed before says _FATAL, whatever it was."""
    return error.fatal() or error.code() == KafkaError._FATAL
