"""How long an event takes at a steady rate: through the service, as a reader of verdicts sees it, and by the bare client alone.

What the service adds is the difference: the guard, Triton and its client take their time in both.
"""

from __future__ import annotations

import statistics
import threading
import time
from dataclasses import dataclass

from confluent_kafka import OFFSET_END, Consumer, Producer, TopicPartition

from tests.benchmarks.load import content
from tests.end_to_end.harness import Stage

WARM_UP_S = 1.0
"""The first second warms connections and caches up, and does not count."""


@dataclass(frozen=True)
class Latency:
    """Milliseconds from sending an event to having its answer."""

    p50: float
    p99: float


def service_latency(stage: Stage, *, rate: float, events: int, order: str) -> Latency:
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
    assert len(seen) == events, f"{events - len(seen)} verdicts did not come"
    return latency_of([seen[key] - at for key, at in sent.items() if at - began > WARM_UP_S])


def latency_of(seconds: list[float]) -> Latency:
    ordered = sorted(seconds)
    return Latency(p50=statistics.median(ordered) * 1000, p99=ordered[int(len(ordered) * 0.99)] * 1000)


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
            # One at a time: `consume` would wait for as many as it was asked for.
            message = consumer.poll(0.1)
            if message is not None and message.error() is None and isinstance(key := message.key(), bytes):
                seen.setdefault(key, time.monotonic())
    finally:
        consumer.close()
