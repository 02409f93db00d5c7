"""What the service adds to the guard's own time, seen by a reader of verdicts, at a steady rate."""

from __future__ import annotations

import statistics
import threading
import time
from dataclasses import dataclass

from confluent_kafka import OFFSET_END, Consumer, Producer, TopicPartition

from tests.benchmarks.load import content
from tests.end_to_end.harness import Stage


@dataclass(frozen=True)
class Latency:
    """Milliseconds beyond the guard's."""

    p50: float
    p99: float


def added_latency(stage: Stage, *, rate: float, events: int, order: str, guard_ms: float) -> Latency:
    """Send `events` at `rate` a second to a worker that is ready; wait for each verdict as a `read_committed` reader sees it."""
    sent: dict[bytes, float] = {}
    seen: dict[bytes, float] = {}
    reading = threading.Event()
    reader = threading.Thread(target=_read, args=(stage, seen, events, reading))
    reader.start()
    reading.wait(30)
    producer = Producer({**stage.properties, "linger.ms": 0})
    began = time.monotonic()
    for number in range(events):
        time_of_it = began + number / rate
        while (ahead := time_of_it - time.monotonic()) > 0:
            producer.poll(min(ahead, 0.005))
        key = f"latency-{number}".encode()
        sent[key] = time.monotonic()
        producer.produce(stage.topics.content, content(number, order), key)
    producer.flush(30)
    reader.join(120)
    # The first second warms connections and caches up.
    steady = [key for key, at in sent.items() if at - began > 1.0 and key in seen]
    added = sorted((seen[key] - sent[key]) * 1000 - guard_ms for key in steady)
    return Latency(p50=statistics.median(added), p99=added[int(len(added) * 0.99)])


def _read(stage: Stage, seen: dict[bytes, float], expected: int, reading: threading.Event) -> None:
    consumer = Consumer(
        {
            **stage.properties,
            "group.id": "bench-latency",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "fetch.wait.max.ms": 5,
        }
    )
    try:
        topic = stage.topics.verdicts
        numbers = consumer.list_topics(topic, timeout=10).topics[topic].partitions
        consumer.assign([TopicPartition(topic, number, OFFSET_END) for number in numbers])
        consumer.poll(1.0)
        reading.set()
        give_up = time.monotonic() + 120
        while len(seen) < expected and time.monotonic() < give_up:
            for message in consumer.consume(200, 0.01):
                key = message.key()
                if message.error() is None and isinstance(key, bytes):
                    seen.setdefault(key, time.monotonic())
    finally:
        consumer.close()
