"""How long an event takes at a steady rate: through the service, as a reader of verdicts sees it, and by the bare client alone.

What the service adds is the difference: the guard, Triton and its client take their time in both. Sender and reader are processes
of their own: as threads of one they would wait for each other, and their waiting would count.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import OFFSET_BEGINNING, TIMESTAMP_LOG_APPEND_TIME, Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource

from tests.end_to_end.harness import Stage

ROOT = Path(__file__).resolve().parents[2]
WARM_UP_S = 1.0
"""The first second warms connections and caches up, and does not count."""


@dataclass(frozen=True)
class Latency:
    """Milliseconds: of the service from an event's arrival in Kafka to its verdict at a reader, of the bare client from asking to
    having the answer."""

    p50: float
    p99: float


@dataclass(frozen=True)
class Seen:
    """What a steady rate came to."""

    latency: Latency
    rate: float
    """Verdicts a second, over all but the first and last tenth."""


def service_at(stage: Stage, *, rate: float, events: int, order: str) -> Seen:
    """Send `events` at `rate` a second to a worker that is ready; wait for each verdict as a `read_committed` reader sees it.

    The broker says when it had an event (to the millisecond): a sender's own waiting for company is not the service's.
    """
    bootstrap, topics = stage.broker.bootstrap, stage.topics
    _say_when_appended(bootstrap, topics.content)
    with _start("reader", bootstrap, topics.verdicts, str(events)) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "reading\n"
        with _start("sender", bootstrap, topics.content, str(rate), str(events), order) as sender:
            assert sender.wait(timeout=300) == 0
        read: dict[str, float] = json.loads(reader.communicate(timeout=300)[0])
    seen = {int(number): at for number, at in read.items()}
    assert len(seen) == events, f"{events - len(seen)} verdicts did not come"
    appended = _appended(bootstrap, topics.content, events)
    began = min(appended.values())
    times = sorted(seen.values())
    return Seen(
        latency_of([seen[number] - at for number, at in appended.items() if at - began > WARM_UP_S]),
        middle_rate(times),
    )


def _say_when_appended(bootstrap: str, topic: str) -> None:
    """Have the broker put its own time on each record of `topic`."""
    entry = ConfigEntry("message.timestamp.type", "LogAppendTime", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for done in admin.incremental_alter_configs([resource]).values():
        done.result(10)


def _appended(bootstrap: str, topic: str, events: int) -> dict[int, float]:
    """When the broker had each event, by its number."""
    found: dict[int, float] = {}
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "bench-appended", "enable.auto.commit": False})
    try:
        numbers = consumer.list_topics(topic, timeout=10).topics[topic].partitions
        consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in numbers])
        while len(found) < events:
            for message in consumer.consume(1000, 1):
                if message.error() is None and isinstance(key := message.key(), bytes):
                    kind, at = message.timestamp()
                    assert kind == TIMESTAMP_LOG_APPEND_TIME
                    # Its clock cuts the fraction of a millisecond off: half of one, in the mean.
                    found[int(key)] = (at + 0.5) / 1000
    finally:
        consumer.close()
    return found


def middle_rate(times: list[float]) -> float:
    """Events a second over all but the first and last tenth; `times` are sorted."""
    low, high = len(times) // 10, len(times) - len(times) // 10 - 1
    return (high - low) / (times[high] - times[low])


def latency_of(seconds: list[float]) -> Latency:
    ordered = sorted(seconds)
    return Latency(p50=statistics.median(ordered) * 1000, p99=ordered[int(len(ordered) * 0.99)] * 1000)


def _start(module: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", f"tests.benchmarks.{module}", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
