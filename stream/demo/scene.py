"""The demo's scene: everything started for real, the samples sent, the verdicts watched, the sums read back."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition

from schemas.deadletters import DeadLetter
from schemas.policy import default_policy
from schemas.topics import DEFAULT_TOPICS
from schemas.verdicts import Verdict
from stream.clock import Clock, SystemClock
from stream.demo.audit import AuditReport, audit_topics
from stream.devkit.stack import DevStack
from stream.devkit.worker import WorkerProcess
from stream.errors import DevkitError
from stream.guard.errors import GuardError
from stream.guard.settings import GuardSettings
from stream.guard.triton import triton_guard
from stream.operator.sending import SendReport, records_of, send

SAMPLES = Path(__file__).with_name("samples")
GUARD = "proguard_lite"
STALLED_S = 120.0
"""Seconds without a new outcome after which the demo gives up waiting."""


@dataclass(frozen=True, slots=True)
class Scene:
    """A running service: what to send to, and the worker that judges."""

    stack: DevStack
    worker: WorkerProcess
    settings: Mapping[str, str]

    @property
    def properties(self) -> dict[str, str | int | bool]:
        """librdkafka properties of any client."""
        return {"bootstrap.servers": self.stack.kafka.bootstrap}


def guard_answers(url: str, model: str = GUARD) -> bool:
    """Whether the model answers a real request right now."""

    async def ask() -> None:
        guard = triton_guard(GuardSettings(url=url, model=model), default_policy())
        try:
            await guard.probe(timeout=5)
        finally:
            await guard.aclose()

    try:
        asyncio.run(ask())
    except GuardError:
        return False
    return True


def worker_settings(stack: DevStack, images: Path, model: str = GUARD) -> dict[str, str]:
    """The environment of a worker on `stack` that asks `model` and may read the images of `images` as `media://demo`."""
    stores = {"media://demo": {"kind": "local", "root": str(images)}}
    return {
        "PROGUARD_KAFKA__BOOTSTRAP_SERVERS": stack.kafka.bootstrap,
        "PROGUARD_GUARD__URL": stack.triton.http_url,
        "PROGUARD_GUARD__MODEL": model,
        "PROGUARD_EVIDENCE__STORES": json.dumps(stores),
        # All samples arrive at once, and a guard on a few cores takes its time for the images: be as patient as that takes.
        "PROGUARD_GUARD__TIMEOUT_S": "300" if model != GUARD else "120",
        "PROGUARD_LIMITS__DEADLINE_S": "600" if model != GUARD else "180",
    }


def create_topics(settings: Mapping[str, str], environment: Mapping[str, str]) -> None:
    """Create the topics as an operator would: by the command."""
    command = [sys.executable, "-m", "stream.operator.cli", "topics", "create", "--partitions", "4", "--json"]
    done = subprocess.run(
        command, env={**environment, **settings}, capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode:
        raise DevkitError(f"the topics could not be created: {done.stderr.strip() or done.stdout.strip()}")


def send_samples(scene: Scene, file: Path, on_sent: Callable[[int], None]) -> SendReport:
    """Every line of `file` to the content topic. Blocks until all are acknowledged."""
    producer = Producer({**scene.properties, "linger.ms": 5, "enable.idempotence": True})
    with file.open("rb") as lines:
        return send(producer, DEFAULT_TOPICS.content, records_of(lines), on_sent=on_sent)


def outcomes(scene: Scene, expected: int, clock: Clock | None = None) -> Iterator[Verdict | DeadLetter]:
    """Outcomes as they arrive, one an event (a dead letter only where it replaces a verdict), until `expected` are there.

    Blocks in between; ends early when nothing arrives for `STALLED_S` seconds or the worker has ended.
    """
    clock = clock or SystemClock()
    consumer = Consumer({**scene.properties, "group.id": "proguard-demo", "enable.auto.commit": False})
    try:
        topics = consumer.list_topics(timeout=10).topics
        consumer.assign(
            [
                TopicPartition(topic, partition, OFFSET_BEGINNING)
                for topic in (DEFAULT_TOPICS.verdicts, DEFAULT_TOPICS.dead_letters)
                for partition in topics[topic].partitions
            ]
        )
        seen, last = 0, clock.monotonic()
        while seen < expected and scene.worker.running and clock.monotonic() - last < STALLED_S:
            message = consumer.poll(0.2)
            if message is None or message.error() is not None:
                continue
            last = clock.monotonic()
            outcome: Verdict | DeadLetter
            if message.topic() == DEFAULT_TOPICS.verdicts:
                outcome = Verdict.model_validate_json(message.value() or b"")
            else:
                outcome = DeadLetter.model_validate_json(message.value() or b"")
                if outcome.verdict_id is not None:
                    continue
            seen += 1
            yield outcome
    finally:
        consumer.close()


def read_sums(scene: Scene) -> AuditReport:
    """What the topics hold now."""
    return audit_topics(scene.properties, DEFAULT_TOPICS)


def scratch_folder() -> Path:
    """A folder for the demo's logs and data, outside the checkout."""
    return Path(tempfile.mkdtemp(prefix="proguard-demo-"))
