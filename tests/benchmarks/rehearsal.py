"""Before anything is measured: the broker does what it will do, until Java has compiled what that runs.

A broker in production has done so long ago. One that was just started gives a sixth of two cores to Java's compiler for two to three
minutes, and what is measured then is the compiler.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
from confluent_kafka import Consumer, Producer

from tests.benchmarks.load import SLOW, content
from tests.end_to_end.harness import Stage

LOOK_S = 10.0
QUIET_CORES = 0.03
"""Of a core: below it the compiler counts as done. What is left comes in short bursts."""
QUIET_LOOKS = 3
LONGEST_S = 360.0


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """How long it took, and how much of a core Java's compiler had at the end of it."""

    seconds: float
    compiler_cores: float


def compiler_seconds(pid: int) -> float:
    """CPU seconds that the compiler's threads of a Java process have had so far (Linux: by their names)."""
    names = {"C1 CompilerThre", "C2 CompilerThre"}
    seconds = 0.0
    for thread in psutil.Process(pid).threads():
        try:
            name = Path(f"/proc/{pid}/task/{thread.id}/comm").read_text().strip()
        except FileNotFoundError:  # Java ends those that it has no work for
            continue
        if name in names:
            seconds += thread.user_time + thread.system_time
    return seconds


def rehearse(stage: Stage) -> Rehearsal:
    """Write, read and commit, a record or two at a time and hundreds of transactions a second, until the broker's compiler has been
    quiet for `QUIET_LOOKS` looks, or `LONGEST_S` have passed."""
    began, shares = time.monotonic(), [1.0]
    while time.monotonic() - began < LONGEST_S:
        compiled, since = compiler_seconds(stage.broker.pid), time.monotonic()
        _work(stage, lambda since=since: time.monotonic() - since < LOOK_S)
        shares.append((compiler_seconds(stage.broker.pid) - compiled) / (time.monotonic() - since))
        if len(shares) > QUIET_LOOKS and max(shares[-QUIET_LOOKS:]) < QUIET_CORES:
            break
    return Rehearsal(time.monotonic() - began, shares[-1])


def _work(stage: Stage, go_on: Callable[[], bool]) -> None:
    topics = stage.topics
    producer = Producer({**stage.properties, "linger.ms": 0, "enable.idempotence": True})
    writer = Producer({**stage.properties, "linger.ms": 0, "transactional.id": f"rehearsal-{stage.group}"})
    consumer = Consumer(
        {
            **stage.properties,
            "group.id": f"rehearsal-{stage.group}",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
        }
    )
    try:
        writer.init_transactions(30)
        consumer.subscribe([topics.content])
        for number in itertools.takewhile(lambda _: go_on(), itertools.count()):
            producer.produce(topics.content, content(number, SLOW), str(number).encode())
            producer.flush(10)
            if messages := consumer.consume(100, 0):
                writer.begin_transaction()
                for message in messages:
                    writer.produce(topics.verdicts, message.value(), message.key())
                writer.send_offsets_to_transaction(
                    consumer.position(consumer.assignment()), consumer.consumer_group_metadata(), 30
                )
                writer.commit_transaction(30)
    finally:
        consumer.close()
