"""A real broker: it keeps its data, and it leaves nothing behind."""

from __future__ import annotations

import re
import socket
import uuid
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Message, Producer, TopicPartition

from stream.devkit.kafka import MAX_MESSAGE_BYTES, KafkaBroker
from stream.devkit.mock_kafka import Kafka
from stream.devkit.process import ChildDiedError
from tests.stream.devkit.parts import processes_about
from tests.support.services import fresh_topics

DEADLINE = 30.0


def write(broker: Kafka, topic: str, *values: bytes) -> None:
    producer = Producer(
        {"bootstrap.servers": broker.bootstrap, "enable.idempotence": True, "message.max.bytes": MAX_MESSAGE_BYTES}
    )
    refused: list[object] = []
    for value in values:
        producer.produce(topic, value, partition=0, on_delivery=lambda error, _: error and refused.append(error))
    assert producer.flush(DEADLINE) == 0
    assert not refused


def read(broker: Kafka, topic: str, count: int, **settings: str | int) -> list[bytes]:
    consumer = Consumer(
        {
            "bootstrap.servers": broker.bootstrap,
            "group.id": uuid.uuid4().hex,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "log_level": 0,
        }
        | settings
    )
    try:
        if "group.protocol" in settings:
            consumer.subscribe([topic])
        else:
            consumer.assign([TopicPartition(topic, 0, 0)])
        received: list[Message] = []
        while len(received) < count:
            message = consumer.poll(DEADLINE)
            assert message is not None, f"{len(received)} of {count} arrived"
            if message.error() is None:
                received.append(message)
        return [value for message in received if (value := message.value()) is not None]
    finally:
        consumer.close()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_what_was_written_survives_kill_and_restart_and_stop_leaves_nothing_running(tmp_path: Path) -> None:
    broker = KafkaBroker(tmp_path)
    with broker:
        topic = fresh_topics(broker, "kept")["kept"]
        write(broker, topic, b"before the crash")
        address, pid = broker.bootstrap, broker.pid
        broker.kill()
        assert not listens(broker.port)
        broker.start()
        assert broker.bootstrap == address
        assert broker.pid != pid
        write(broker, topic, b"after the crash")
        broker.restart()
        assert read(broker, topic, 2) == [b"before the crash", b"after the crash"]
    assert not listens(broker.port)
    assert not processes_about(tmp_path)
    assert "Kafka Server started" in (tmp_path / "kafka.log").read_text(encoding="utf-8")
    assert not list((tmp_path / "tmp").iterdir()) or processes_about(tmp_path) == []


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_both_kinds_of_groups_get_their_records(kafka_broker: KafkaBroker, protocol: str) -> None:
    topic = fresh_topics(kafka_broker, "groups")["groups"]
    write(kafka_broker, topic, b"1", b"2", b"3")
    assert read(kafka_broker, topic, 3, **{"group.protocol": protocol}) == [b"1", b"2", b"3"]


def test_a_dead_letter_of_sixteen_mebibytes_fits(kafka_broker: KafkaBroker) -> None:
    topic = fresh_topics(kafka_broker, "large")["large"]
    large = bytes(16 * 1024 * 1024) * 4 // 3 if False else bytes(16 * 1024 * 1024 * 4 // 3)
    write(kafka_broker, topic, large)
    assert read(kafka_broker, topic, 1) == [large]


def test_a_topic_that_nobody_created_does_not_come_to_be(kafka_broker: KafkaBroker) -> None:
    producer = Producer({"bootstrap.servers": kafka_broker.bootstrap, "message.timeout.ms": 1500, "log_level": 0})
    refused: list[str] = []
    producer.produce(f"absent.{uuid.uuid4().hex}", b"x", on_delivery=lambda error, _: refused.append(error.name()))
    producer.flush(DEADLINE)
    assert refused == ["_UNKNOWN_TOPIC"] or refused == ["_MSG_TIMED_OUT"] or refused == ["UNKNOWN_TOPIC_OR_PART"]


def test_fresh_topics_are_different_each_time(kafka_broker: KafkaBroker) -> None:
    first, second = (fresh_topics(kafka_broker, "in", "out", partitions=2) for _ in range(2))
    assert set(first) == set(second) == {"in", "out"}
    assert not set(first.values()) & set(second.values())


def test_a_broker_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(ChildDiedError, match=re.compile("no.such.number|Invalid value", re.IGNORECASE)) as caught:
        KafkaBroker(tmp_path, settings={"num.network.threads": "no.such.number"}).start()
    assert caught.value.log_tail
    assert not processes_about(tmp_path)
