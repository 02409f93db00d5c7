"""What of the dead-letter topic a redrive looks at: from where on, and which letters."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from pydantic import ValidationError

from schemas.deadletters import DeadLetter, Reason
from stream.clock import Clock
from stream.operator.kafka import REACH_S, KafkaUnreachableError

GROUP = "proguard-redrive"

_POLL_S = 0.2
_AT_ONCE = 500
_SILENCE_S = 30.0

Stopped = Callable[[], bool]
"""Whether the run has to end."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which letters. Times are about `failed_at`: `since` is included, `until` is not. Empty: all."""

    reasons: frozenset[Reason] = frozenset()
    tenant: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    @property
    def group(self) -> str:
        """The consumer group that remembers how far this filter has come: `proguard-redrive`, and a digest of what it asks for."""
        asked = {
            "reasons": sorted(self.reasons),
            "tenant": self.tenant,
            "since": self.since and self.since.astimezone(UTC).isoformat(),
            "until": self.until and self.until.astimezone(UTC).isoformat(),
        }
        if not any(asked.values()):
            return GROUP
        return f"{GROUP}-{hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]}"

    def takes(self, letter: DeadLetter) -> bool:
        return (
            (not self.reasons or letter.reason in self.reasons)
            and (self.tenant is None or letter.tenant == self.tenant)
            and (self.since is None or letter.failed_at >= self.since)
            and (self.until is None or letter.failed_at < self.until)
        )


@dataclass(frozen=True, slots=True)
class Stretch:
    """What of the dead-letter topic is read: from where to where on each partition, and whether an earlier run began it."""

    topic: str
    bounds: Mapping[int, tuple[int, int]]
    resumed: bool

    @property
    def size(self) -> int:
        return sum(end - start for start, end in self.bounds.values())


@dataclass(frozen=True, slots=True)
class Found:
    """A position of the dead-letter topic. Without a letter the record there is none, and `fault` says why."""

    partition: int
    offset: int
    letter: DeadLetter | None
    fault: str = ""


@dataclass(slots=True)
class RedriveReport:
    """What became of the letters. `sent` counts by reason and tenant; of a dry run, what would be sent."""

    sent: Counter[tuple[Reason, str | None]] = field(default_factory=Counter)
    filtered: int = 0
    too_many_attempts: int = 0
    unreadable: list[str] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    """Id of the letter and what Kafka said. They are passed by: the next run does not send them either."""
    interrupted: bool = False

    @property
    def letters(self) -> int:
        return self.sent.total()


def stretch(consumer: Consumer, topic: str, partitions: Sequence[int], *, again: bool) -> Stretch:
    """From the group's committed position (with `again`, from the beginning) to the present end. Blocks; raises `KafkaUnreachableError`.

    A position that the topic does not have (retention, or it was made anew) is the beginning.
    """
    try:
        names = [TopicPartition(topic, partition) for partition in partitions]
        committed = {known.partition: known.offset for known in consumer.committed(names, REACH_S)}
        bounds: dict[int, tuple[int, int]] = {}
        resumed = False
        for name in names:
            low, high = consumer.get_watermark_offsets(name, timeout=REACH_S)
            known = committed[name.partition]
            goes_on = not again and low <= known <= high and known >= 0
            resumed |= goes_on
            bounds[name.partition] = (known if goes_on else low, high)
    except KafkaException as error:
        raise KafkaUnreachableError(f"Kafka: {error.args[0].str()}") from None
    return Stretch(topic, bounds, resumed)


def letters(consumer: Consumer, what: Stretch, clock: Clock, stopped: Stopped) -> Iterator[Found]:
    """Every committed record of the stretch, each partition in order; ends early once `stopped`.

    Blocks in between. Raises `KafkaUnreachableError` when nothing comes for `_SILENCE_S` seconds before the end is reached.
    """
    unread = {partition: end for partition, (start, end) in what.bounds.items() if start < end}
    consumer.assign([TopicPartition(what.topic, partition, what.bounds[partition][0]) for partition in unread])
    heard = clock.monotonic()
    while unread and not stopped():
        messages = consumer.consume(_AT_ONCE, _POLL_S)
        if not messages and clock.monotonic() - heard > _SILENCE_S:
            raise KafkaUnreachableError(f"{what.topic} was not read to its end: no broker answers")
        for message in messages:
            partition, offset, error = message.partition(), message.offset(), message.error()
            if error is not None and error.code() != KafkaError._PARTITION_EOF:
                raise KafkaUnreachableError(f"{what.topic} cannot be read: {error.str()}")
            if partition not in unread:
                continue  # it came after the end that this run began with
            if error is None and offset is not None and offset < unread[partition]:
                yield _found(partition, offset, message)
            if error is not None or offset is None or offset + 1 >= unread[partition]:
                del unread[partition]
        heard = clock.monotonic() if messages else heard


def _found(partition: int, offset: int, message: Message) -> Found:
    try:
        return Found(partition, offset, DeadLetter.model_validate_json(message.value() or b""))
    except ValidationError as error:
        return Found(partition, offset, None, error.errors(include_input=False, include_url=False)[0]["type"])


class Selection:
    """Takes what is found apart into what is to be sent and what is not, and keeps count of the latter."""

    def __init__(self, wanted: Filter, max_attempts: int, limit: int | None, report: RedriveReport) -> None:
        self._wanted = wanted
        self._max_attempts = max_attempts
        self._left = limit
        self._report = report

    @property
    def full(self) -> bool:
        """The limit is reached: what comes next must not be passed by."""
        return self._left == 0

    def take(self, found: Found) -> DeadLetter | None:
        """The letter, when it is to be sent."""
        letter = found.letter
        if letter is None:
            self._report.unreadable.append(f"[{found.partition}]@{found.offset}: {found.fault}")
        elif not self._wanted.takes(letter):
            self._report.filtered += 1
        elif letter.attempt >= self._max_attempts:
            self._report.too_many_attempts += 1
        else:
            if self._left is not None:
                self._left -= 1
            return letter
        return None


def count(found: Iterable[Found], selection: Selection, report: RedriveReport) -> None:
    """A dry run: `report` tells what would be sent."""
    for one in found:
        if (letter := selection.take(one)) is not None:
            report.sent[letter.reason, letter.tenant] += 1
        if selection.full:
            return
