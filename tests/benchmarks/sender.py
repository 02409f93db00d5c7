"""Sends events at a steady rate, in a process of its own: `python -m tests.benchmarks.sender BOOTSTRAP TOPIC RATE EVENTS ORDER`.

Prints when each was sent, as JSON: seconds of the machine's monotonic clock, in the order of the events.
"""

from __future__ import annotations

import json
import sys
import time

from confluent_kafka import Producer

from tests.benchmarks.load import content


def send(bootstrap: str, topic: str, rate: float, events: int, order: str) -> list[float]:
    """Their keys are their numbers. An event that is due is sent at once, however late the one before was."""
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 0})
    producer.list_topics(topic, timeout=10)
    contents = [content(number, order) for number in range(events)]
    sent: list[float] = []
    began = time.monotonic()
    for number in range(events):
        ahead = began + number / rate - time.monotonic()
        if ahead > 0:
            time.sleep(ahead)
            producer.poll(0)
        sent.append(time.monotonic())
        producer.produce(topic, contents[number], str(number).encode())
    producer.flush(30)
    return sent


if __name__ == "__main__":
    _, bootstrap, topic, rate, events, order = sys.argv
    sys.stdout.write(json.dumps(send(bootstrap, topic, float(rate), int(events), order)))
