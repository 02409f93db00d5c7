"""Sinks on a real Kafka: topics, the two kinds of sinks, members of a group, and what readers see."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from schemas.topics import Topics
from stream.devkit.kafka import KafkaBroker
from stream.settings import KafkaSettings
from stream.worker.ledger import Commit
from stream.worker.partitions import Commits
from stream.worker.records import Outcome
from stream.worker.sinks import PlainSink, TransactionalSink

SOURCE = "urn:test"
WAIT_S = 20.0

Kind = Literal["plain", "transactional"]
Isolation = Literal["read_committed", "read_uncommitted"]
KINDS: tuple[Kind, ...] = ("plain", "transactional")


def topics_on(broker: KafkaBroker, **max_bytes: int) -> Topics:
    """Fresh topics of one partition; some with a size limit."""
    suffix = uuid.uuid4().hex[:8]
    topics = Topics(
        content=f"content.{suffix}",
        verdicts=f"verdicts.{suffix}",
        ood=f"ood.{suffix}",
        dead_letters=f"dead-letters.{suffix}",
    )
    wanted = [
        NewTopic(
            getattr(topics, role),
            num_partitions=1,
            replication_factor=1,
            config={"max.message.bytes": str(max_bytes[role])} if role in max_bytes else {},
        )
        for role in ("content", "verdicts", "ood", "dead_letters")
    ]
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    for created in admin.create_topics(wanted).values():
        created.result(WAIT_S)
    return topics


def stored(broker: KafkaBroker, topic: str, isolation: Isolation = "read_committed") -> list[Message]:
    """Everything in `topic` that a reader sees, in order."""
    consumer = Consumer(
        {
            "bootstrap.servers": broker.bootstrap,
            "group.id": "reads",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 10,
            "isolation.level": isolation,
        }
    )
    try:
        consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
        found: list[Message] = []
        give_up = time.monotonic() + WAIT_S
        while time.monotonic() < give_up:
            for message in consumer.consume(1000, 0.2):
                error = message.error()
                if error is None:
                    found.append(message)
                elif error.code() == KafkaError._PARTITION_EOF:
                    return found
        raise AssertionError(f"{topic} has no end")
    finally:
        consumer.close()


def committed(broker: KafkaBroker, group: str, topic: str) -> Commit | None:
    """What a group has committed for partition 0, with the metadata."""
    consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": group})
    try:
        (found,) = consumer.committed([TopicPartition(topic, 0)], timeout=WAIT_S)
        assert found.error is None
        return Commit(found.offset, found.metadata or "") if found.offset >= 0 else None
    finally:
        consumer.close()


@dataclass(slots=True)
class Writing:
    """One sink, the producer under it, and the group that it commits for."""

    kind: Kind
    broker: KafkaBroker
    topics: Topics
    producer: Producer
    sink: PlainSink | TransactionalSink
    group: str
    membership: object
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def commits(self, position: int, metadata: str = "") -> Commits:
        return {(self.topics.content, 0): Commit(position, metadata)}

    async def write(self, *outcomes: Outcome, position: int = 0, metadata: str = "") -> None:
        await self.sink.write(outcomes, self.commits(position, metadata), self.membership)

    def start_write(self, *outcomes: Outcome) -> asyncio.Task[None]:
        """A write that goes on by itself; at the end it is cancelled if it has not ended."""
        task = asyncio.create_task(self.write(*outcomes))
        self._tasks.append(task)
        return task

    def committed(self) -> Commit | None:
        return committed(self.broker, self.group, self.topics.content)

    async def aclose(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.sink.close()


@asynccontextmanager
async def writing(
    kind: Kind,
    broker: KafkaBroker,
    topics: Topics,
    *,
    producer: Callable[[dict[str, str | int | bool]], Producer] = Producer,
    transactional_id: str | None = None,
    properties: Mapping[str, str | int | bool] | None = None,
) -> AsyncIterator[Writing]:
    """A sink with the properties that the worker gives it, and `properties` over them."""
    group = f"group-{uuid.uuid4().hex[:8]}"
    settings = KafkaSettings(bootstrap_servers=broker.bootstrap, group_id=group)
    quiet: Mapping[str, str | int | bool] = {"log_level": 0, **(properties or {})}
    sink: PlainSink | TransactionalSink
    if kind == "plain":
        client = producer({**settings.producer(linger_ms=0), **quiet})
        sink = PlainSink(client, topics, SOURCE)
    else:
        client = producer({**settings.transactional_producer(transactional_id, 15_000), **quiet})
        sink = TransactionalSink(client, topics, SOURCE)
        await sink.init(WAIT_S)
    # A consumer that has joined nothing: the group takes its commits as long as nobody else is in it.
    outsider = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": group})
    opened = Writing(kind, broker, topics, client, sink, group, outsider.consumer_group_metadata())
    try:
        yield opened
    finally:
        await opened.aclose()
        outsider.close()


class Members:
    """Consumers of one group, polled in turn by the thread that calls."""

    def __init__(self, broker: KafkaBroker, group: str, topic: str) -> None:
        self._properties = {**KafkaSettings(bootstrap_servers=broker.bootstrap, group_id=group).consumer()}
        self._topic = topic
        self.consumers: list[Consumer] = []

    def join(self) -> Consumer:
        """One more; blocks until each member is of the same generation."""
        joined = Consumer(self._properties)
        joined.subscribe([self._topic])
        self.consumers.append(joined)
        give_up = time.monotonic() + WAIT_S
        while time.monotonic() < give_up:
            for consumer in self.consumers:
                consumer.poll(0.02)
            if len({_generation(consumer) for consumer in self.consumers}) == 1 and self._owned() == 1:
                return joined
        raise AssertionError("the group did not settle")

    def _owned(self) -> int:
        return sum(len(consumer.assignment()) for consumer in self.consumers)

    def close(self) -> None:
        for consumer in self.consumers:
            consumer.close()


def _generation(consumer: Consumer) -> int:
    """The generation in a member's token (librdkafka's: a tag of 7 bytes, then it)."""
    token: bytes = consumer.consumer_group_metadata()
    generation = int.from_bytes(token[7:11], "little", signed=True)
    return generation if generation >= 0 else -id(consumer)
