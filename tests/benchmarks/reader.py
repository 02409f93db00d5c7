"""Reads verdicts as a `read_committed` subscriber, in a process of its own: `python -m tests.benchmarks.reader BOOTSTRAP TOPIC EVENTS`.

Prints `reading` when it is at the topic's end, then, as JSON, when each event's verdict came: seconds of the wall clock, which the broker's times
are of too.
"""

from __future__ import annotations

import json
import sys
import time

from confluent_kafka import OFFSET_END, Consumer, TopicPartition

GIVE_UP_S = 120.0


def read(bootstrap: str, topic: str, events: int) -> dict[int, float]:
    """By the number of the event. Ends with the last one, or after two minutes."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "bench-latency",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "fetch.wait.max.ms": 50,
        }
    )
    seen: dict[int, float] = {}
    try:
        numbers = consumer.list_topics(topic, timeout=10).topics[topic].partitions
        consumer.assign([TopicPartition(topic, number, OFFSET_END) for number in numbers])
        consumer.poll(1.0)
        sys.stdout.write("reading\n")
        sys.stdout.flush()
        give_up = time.monotonic() + GIVE_UP_S
        while len(seen) < events and time.monotonic() < give_up:
            # One at a time: `consume` would wait for as many as it was asked for.
            message = consumer.poll(0.1)
            if message is not None and message.error() is None and isinstance(key := message.key(), bytes):
                seen.setdefault(int(key), time.time())
    finally:
        consumer.close()
    return seen


if __name__ == "__main__":
    _, bootstrap, topic, events = sys.argv
    sys.stdout.write(json.dumps(read(bootstrap, topic, int(events))))
