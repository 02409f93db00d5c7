"""A real broker: it keeps its data, and it leaves nothing behind."""

from __future__ import annotations

import socket
import uuid
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Message, Producer, TopicPartition

from stream.devkit.kafka import MAX_MESSAGE_BYTES, KafkaBroker
from stream.devkit.mock_kafka import Kafka
from stream.errors import DevkitError
from tests.stream.devkit.parts import processes_about
from tests.support.services import fresh_topics

DEADLINE = 30.0


def write(broker: Kafka, topic: str, *values: bytes) -> None:
    producer = Producer(
        {"bootstrap.servers": broker.bootstrap, "enable.idempotence": True, "message.max.bytes": MAX_MESSAGE_BYTES}
    )
    answers: list[object] = []
    for value in values:
        producer.produce(topic, value, partition=0, on_delivery=lambda error, _: answers.append(error))
    assert producer.flush(DEADLINE) == 0
    assert answers == [None] * len(values)


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
        broker.restart()
        assert broker.bootstrap == address
        assert broker.pid != pid
        write(broker, topic, b"after the crash")
        assert read(broker, topic, 2) == [b"before the crash", b"after the crash"]
    assert not listens(broker.port)
    assert not processes_about(tmp_path)
    assert "Kafka Server started" in (tmp_path / "kafka.log").read_text(encoding="utf-8")


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_both_kinds_of_groups_get_their_records(kafka_broker: KafkaBroker, protocol: str) -> None:
    topic = fresh_topics(kafka_broker, "groups")["groups"]
    write(kafka_broker, topic, b"1", b"2", b"3")
    assert read(kafka_broker, topic, 3, **{"group.protocol": protocol}) == [b"1", b"2", b"3"]


def test_a_dead_letter_of_sixteen_mebibytes_fits(kafka_broker: KafkaBroker) -> None:
    topic = fresh_topics(kafka_broker, "large")["large"]
    large = bytes(16 * 1024 * 1024 * 4 // 3)
    write(kafka_broker, topic, large)
    assert read(kafka_broker, topic, 1) == [large]


def test_a_topic_that_nobody_created_does_not_come_to_be(kafka_broker: KafkaBroker) -> None:
    absent = f"absent.{uuid.uuid4().hex}"
    producer = Producer({"bootstrap.servers": kafka_broker.bootstrap, "message.timeout.ms": 1500, "log_level": 0})
    answers: list[object] = []
    producer.produce(absent, b"x", on_delivery=lambda error, _: answers.append(error))
    assert producer.flush(DEADLINE) == 0
    assert len(answers) == 1
    assert answers[0] is not None
    assert absent not in producer.list_topics(timeout=DEADLINE).topics


def test_fresh_topics_are_different_each_time(kafka_broker: KafkaBroker) -> None:
    first, second = (fresh_topics(kafka_broker, "in", "out", partitions=2) for _ in range(2))
    assert set(first) == set(second) == {"in", "out"}
    assert not set(first.values()) & set(second.values())


def test_a_broker_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(DevkitError, match=r"Invalid value no\.such\.number"):
        KafkaBroker(tmp_path, settings={"num.network.threads": "no.such.number"}).start()
    assert not processes_about(tmp_path)
