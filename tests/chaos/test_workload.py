"""The sender must not be what a run fails by, or what makes it easy."""

from __future__ import annotations

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from stream.devkit.kafka import KafkaBroker
from tests.chaos.workload import Feeder, Workload
from tests.end_to_end.harness import eventually
from tests.support.services import fresh_topics


def written(broker: KafkaBroker, topic: str) -> int:
    consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": "counting"})
    try:
        return int(consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=10)[1])
    except KafkaException as error:
        # A topic that was just created may have no leader yet.
        if error.args[0].code() not in (KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE):
            raise
        return 0
    finally:
        consumer.close()


def test_a_client_that_is_not_answered_is_replaced_and_what_it_held_is_counted(kafka_broker: KafkaBroker) -> None:
    topic = fresh_topics(kafka_broker, "content", partitions=1)["content"]
    feeder = Feeder({"bootstrap.servers": kafka_broker.bootstrap}, topic, Workload(1, ["a.png"]), 200, patience_s=1.0)
    feeder.start()
    eventually(lambda: written(kafka_broker, topic) > 0, 20, "the first events are there")
    kafka_broker.pause()
    try:
        eventually(lambda: feeder.replaced > 0, 20, "the client is replaced")
    finally:
        kafka_broker.resume()
    before = written(kafka_broker, topic)
    eventually(lambda: written(kafka_broker, topic) > before + 100, 30, "it goes on")
    feeder.stop()
    assert feeder.refused
    assert feeder.sent - len(feeder.refused) <= written(kafka_broker, topic) <= feeder.sent
