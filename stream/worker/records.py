"""One record as it came from Kafka, and the outcome that it leads to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from schemas.base import Source
from schemas.deadletters import DeadLetter
from schemas.verdicts import OodEvent, Verdict


class InputRecord(NamedTuple):
    """A record of the content topic, byte for byte. `timestamp_ms` is Kafka's, -1 when it has none.

    `headers_lost`: a header's name is not UTF-8, so the client library gives none of them; `headers` is empty then.
    """

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    timestamp_ms: int
    headers_lost: bool = False

    @property
    def source(self) -> Source:
        return Source(topic=self.topic, partition=self.partition, offset=self.offset)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one record leads to: a verdict, or a dead letter in its place; an indeterminate verdict brings both.

    `began` is the monotonic time in seconds at which the record was taken up.
    """

    record: InputRecord
    verdict: Verdict | None
    ood: OodEvent | None
    dead_letter: DeadLetter | None
    traceparent: str | None
    began: float

    def __post_init__(self) -> None:
        if self.verdict is None and self.dead_letter is None:
            raise ValueError("an outcome without a verdict needs a dead letter")
