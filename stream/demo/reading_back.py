"""A topic from its beginning to its end, as it stands in Kafka."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from stream.clock import Clock, SystemClock
from stream.errors import DeliveryError


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """A record as Kafka keeps it."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None


def read_back(
    properties: Mapping[str, str | int | bool], topic: str, *, timeout: float = 60.0, clock: Clock | None = None
) -> Iterator[StoredRecord]:
    """Every committed record of `topic` that it holds when its end is reached, each partition in order.

    Blocks while it reads. Raises `DeliveryError` when the end is not reached in `timeout` seconds.
    """
    clock = clock or SystemClock()
    consumer = Consumer(
        {
            **properties,
            "group.id": "proguard-read-back",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
            "auto.offset.reset": "earliest",
        }
    )
    try:
        found = consumer.list_topics(topic, timeout=10).topics[topic]
        if found.error is not None:
            raise DeliveryError(topic, f"cannot be read: {found.error.str()}")
        consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in found.partitions])
        unread = set(found.partitions)
        give_up = clock.monotonic() + timeout
        while unread:
            for message in consumer.consume(1000, 0.2):
                error, partition = message.error(), message.partition()
                if error is not None and error.code() == KafkaError._PARTITION_EOF:
                    unread.discard(partition if partition is not None else -1)
                elif error is not None:
                    raise DeliveryError(topic, f"cannot be read: {error.str()}")
                else:
                    yield _stored(message.partition(), message.offset(), message.key(), message.value())
            if unread and clock.monotonic() > give_up:
                raise DeliveryError(topic, f"{len(unread)} partitions were not read to their end in {timeout:.0f} s")
    except KafkaException as error:
        raise DeliveryError(topic, f"cannot be read: {error.args[0].str()}") from error
    finally:
        consumer.close()


def _stored(
    partition: int | None, offset: int | None, key: str | bytes | None, value: str | bytes | None
) -> StoredRecord:
    return StoredRecord(
        partition=-1 if partition is None else partition,
        offset=-1 if offset is None else offset,
        key=key.encode() if isinstance(key, str) else key,
        value=value.encode() if isinstance(value, str) else value,
    )
