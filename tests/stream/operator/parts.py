"""The command in this process, and things to look at with it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from typer.testing import CliRunner, Result

from schemas.base import Source
from schemas.deadletters import Reason
from schemas.events import Kind, Modality
from schemas.verdicts import CategoryRef, Label, ModelRef, PolicyRef, Scores, Status, Usage, Verdict
from stream.operator.cli import app

READ_SECONDS = 20.0
NOBODY = "127.0.0.1:1"
"""An address where nothing listens."""


def run(*arguments: str | Path, environment: Mapping[str, str] | None = None, stdin: bytes | None = None) -> Result:
    """`proguard-stream ARGUMENTS` with these variables and no other `PROGUARD_` ones."""
    mine: dict[str, str | None] = {name: None for name in os.environ if name.startswith("PROGUARD_")}
    return CliRunner(env={**mine, **(environment or {})}).invoke(app, [str(part) for part in arguments], input=stdin)


def document(result: Result) -> Any:
    """The one JSON document that stands on standard output, alone."""
    return json.loads(result.stdout)


def topic_variables(topics: Mapping[str, str], bootstrap: str) -> dict[str, str]:
    """The environment of a command on `fresh_topics`."""
    return {
        "PROGUARD_KAFKA__BOOTSTRAP_SERVERS": bootstrap,
        **{f"PROGUARD_TOPICS__{role.upper()}": name for role, name in topics.items()},
    }


def verdict(**changes: object) -> Verdict:
    """A verdict that a test changes where it has to."""
    fields: dict[str, object] = {
        "id": "0d0cbe0c-6a3c-5d4e-9a35-0f3d2a3f1f11",
        "event_id": "post-1",
        "tenant": "agora",
        "kind": Kind.POST,
        "modality": Modality.TEXT,
        "status": Status.DECIDED,
        "request": Label.UNSAFE,
        "response": None,
        "category": CategoryRef(id="C8S1", path=["Violence", "Weapons"], name="Weapons", in_taxonomy=True),
        "scores": Scores(request=0.93),
        "action": "block",
        "rationale": None,
        "policy": PolicyRef(name="p", version="1", digest="0" * 64),
        "model": ModelRef(name="proguard", version="1", manifest="m"),
        "prompt_digest": "0" * 64,
        "evidence": [],
        "usage": Usage(),
        "timings": {"evidence": 4.0, "prepare": 5.0, "judge": 20.0},
        "degraded": [],
        "source": Source(topic="content.events", partition=0, offset=7),
        "issued_at": datetime(2026, 5, 4, 8, 0, 2, tzinfo=UTC),
    }
    return Verdict.model_validate({**fields, **changes})


def indeterminate(**changes: object) -> Verdict:
    undecided = {"status": Status.INDETERMINATE, "reason": Reason.GUARD_UNAVAILABLE, "request": None, "category": None}
    return verdict(**{**undecided, "action": "review", **changes})


def wait_for_topics(bootstrap: str, names: Iterable[str]) -> None:
    """A broker answers CreateTopics a moment before its own metadata shows the topic."""
    admin, wanted = AdminClient({"bootstrap.servers": bootstrap}), set(names)
    deadline = time.monotonic() + READ_SECONDS
    while not wanted <= admin.list_topics(timeout=READ_SECONDS).topics.keys():
        assert time.monotonic() < deadline, f"{wanted} did not appear"


def produce(bootstrap: str, topic: str, values: Iterable[bytes]) -> None:
    """All values, in order, to partition 0."""
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 0})
    for value in values:
        producer.produce(topic, value, partition=0)
    assert producer.flush(READ_SECONDS) == 0


def read_all(bootstrap: str, topic: str, count: int, partitions: int = 4) -> list[Message]:
    """The first `count` records of a topic, in the order of their offsets within a partition."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "test-reader", "enable.auto.commit": False})
    try:
        consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in range(partitions)])
        found: list[Message] = []
        while len(found) < count:
            batch = consumer.consume(count - len(found), READ_SECONDS)
            assert batch, f"{len(found)} of {count} records arrived"
            found += [message for message in batch if message.error() is None]
        return found
    finally:
        consumer.close()
