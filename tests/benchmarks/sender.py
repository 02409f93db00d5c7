"""Sends events at a steady rate, in a process of its own: `python -m tests.benchmarks.sender BOOTSTRAP TOPIC RATE EVENTS ORDER`."""

from __future__ import annotations

import sys
import time

from confluent_kafka import Producer

from tests.benchmarks.load import content


def send(bootstrap: str, topic: str, rate: float, events: int, order: str) -> None:
    """Their keys are their numbers. An event that is due is sent at once, however late the one before was.

    As a platform would, with the client's own 5 ms of waiting for company: a request for each event would cost the broker more than
    all that the service asks of it.
    """
    producer = Producer({"bootstrap.servers": bootstrap})
    producer.list_topics(topic, timeout=10)
    contents = [content(number, order) for number in range(events)]
    began = time.monotonic()
    for number in range(events):
        ahead = began + number / rate - time.monotonic()
        if ahead > 0:
            time.sleep(ahead)
            producer.poll(0)
        producer.produce(topic, contents[number], str(number).encode())
    producer.flush(30)


if __name__ == "__main__":
    _, bootstrap, topic, rate, events, order = sys.argv
    send(bootstrap, topic, float(rate), int(events), order)
