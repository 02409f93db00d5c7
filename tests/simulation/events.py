"""The events of the simulation, and the outcome that each has. Built once, used by every schedule."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache

from schemas.topics import Topics
from stream.worker.outputs import OutputRecord, output_records
from stream.worker.partitions import TopicPartition
from stream.worker.records import InputRecord, Outcome
from tests.simulation.brokers import CONTENT
from tests.stream.worker.parts import content, failed, judged, unreadable

TOPICS = Topics(content=CONTENT, verdicts="verdicts", ood="ood", dead_letters="dead-letters")
SOURCE = "urn:simulation"


@dataclass(frozen=True, slots=True)
class Written:
    """What an output record says about itself."""

    partition: TopicPartition
    offset: int
    id: str


@cache
def outcome_at(partition: int, offset: int, key: bytes | None) -> Outcome:
    """The outcome of a record: a verdict, with an OOD event, with a dead letter, or a dead letter alone."""
    kind = (partition * 7 + offset * 13) % 8
    value = b"no event" if kind == 0 else content(f"e{partition}-{offset}")
    record = InputRecord(CONTENT, partition, offset, key, value, (), -1)
    if kind == 0:
        return unreadable(record)
    if kind in (1, 2):
        return failed(record)
    return judged(record, risk_name="A New Risk" if kind == 3 else None)


@cache
def _records(partition: int, offset: int, key: bytes | None) -> list[OutputRecord]:
    return output_records(outcome_at(partition, offset, key), TOPICS, SOURCE)


def cached_output_records(outcome: Outcome, _topics: Topics, _source: str) -> list[OutputRecord]:
    """In the place of `output_records`, which writes the same JSON each time."""
    return _records(outcome.record.partition, outcome.record.offset, outcome.record.key)


@cache
def expected(partition: int, offset: int, key: bytes | None) -> frozenset[tuple[str, str]]:
    """Topic and id of every record of an event's outcome."""
    return frozenset((record.topic, written(record.value).id) for record in _records(partition, offset, key))


@cache
def written(value: bytes) -> Written:
    """Reads an output record back."""
    document = json.loads(value)
    source = document["source"]
    return Written((source["topic"], source["partition"]), source["offset"], document["id"])
