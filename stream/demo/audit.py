"""The books, audited from outside: what the topics hold against what was promised.

Nothing is counted on the way. The input topic says which offsets there are; the output topics say, by their `source`,
which of them have an outcome.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from schemas.base import Source
from schemas.deadletters import REPLACES_VERDICT, DeadLetter
from schemas.topics import Topics
from schemas.verdicts import OodEvent, Status, Verdict
from stream.demo.reading_back import StoredRecord, read_back

Place = tuple[int, int]
"""Partition and offset in the input topic."""


Identity = tuple[str, int, int]
"""A verdict's id, and the place of its event: one id may rightly stand for two offsets that hold the same event."""


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What was found. `ok` is the promise: one outcome an event, none without an event, in order, each complete."""

    events: int
    verdicts: list[Verdict]
    dead_letters: list[DeadLetter]
    ood: list[OodEvent]
    lost: int
    duplicated: int
    reordered: int
    faults: list[str] = field(default_factory=list)
    repeated: int = 0
    """Where repeats are allowed: outcomes that were written again under the id that they had. Else they are `duplicated`."""
    revised: int = 0
    """Where repeats are allowed: outcomes that were written again and are another one, because one of the two came of an outage:
    it is indeterminate. Reading them, the last one holds."""

    @property
    def ok(self) -> bool:
        return not (self.lost or self.duplicated or self.reordered or self.faults)

    def summary(self) -> str:
        """The one line that scripts read."""
        return (
            f"events={self.events} verdicts={len(self.verdicts)} dead_letters={len(self.dead_letters)} "
            f"ood={len(self.ood)} lost={self.lost} duplicated={self.duplicated}"
        )


def audit_topics(
    properties: Mapping[str, str | int | bool], topics: Topics, *, repeats_allowed: bool = False
) -> AuditReport:
    """Read all four topics to their end and audit them. Blocks; raises `DeliveryError` when one cannot be read."""
    return audit(
        events=read_back(properties, topics.content),
        verdicts=read_back(properties, topics.verdicts),
        dead_letters=read_back(properties, topics.dead_letters),
        ood=read_back(properties, topics.ood),
        repeats_allowed=repeats_allowed,
    )


def audit(
    *,
    events: Iterable[StoredRecord],
    verdicts: Iterable[StoredRecord],
    dead_letters: Iterable[StoredRecord],
    ood: Iterable[StoredRecord],
    repeats_allowed: bool = False,
) -> AuditReport:
    """Compare what went in with what came out.

    With `repeats_allowed` (`delivery.mode: at_least_once`) an outcome may be written again under the same id, and only the first
    of each counts for the order.
    """
    keys = {(record.partition, record.offset): record.key for record in events}
    outcomes = _Outcomes(keys, repeats_allowed)
    order = _Order(repeats_allowed)
    found_verdicts: list[Verdict] = []
    for record in verdicts:
        verdict = Verdict.model_validate_json(record.value or b"")
        found_verdicts.append(verdict)
        outcomes.add(f"verdict {verdict.id}", verdict.id, verdict.source, record.key, verdict.status)
        order.add(record.key, verdict.source)
    letters: list[DeadLetter] = []
    letter_order = _Order(repeats_allowed)
    faults: list[str] = []
    for record in dead_letters:
        letter = DeadLetter.model_validate_json(record.value or b"")
        letters.append(letter)
        letter_order.add(record.key, letter.source)
        if letter.verdict_id is None:
            outcomes.add(f"dead letter {letter.id}", letter.id, letter.source, record.key, None)
        if (letter.verdict_id is None) != (letter.reason in REPLACES_VERDICT):
            faults.append(f"dead letter {letter.id} has a verdict where its reason has none, or the other way round")
    named = [OodEvent.model_validate_json(record.value or b"") for record in ood]
    alike = _same if repeats_allowed else _equal
    faults += alike(
        "indeterminate verdicts and their dead letters",
        (_identity(v.id, v.source) for v in found_verdicts if v.status is Status.INDETERMINATE),
        (_identity(letter.verdict_id, letter.source) for letter in letters if letter.verdict_id is not None),
    )
    faults += alike(
        "named risks and OOD events",
        (_identity(v.id, v.source) for v in found_verdicts if v.category is not None and not v.category.in_taxonomy),
        (_identity(event.id, event.source) for event in named),
    )
    return AuditReport(
        events=len(keys),
        verdicts=found_verdicts,
        dead_letters=letters,
        ood=named,
        lost=sum(1 for place in keys if place not in outcomes.ids),
        duplicated=outcomes.duplicated,
        reordered=order.reordered + letter_order.reordered,
        faults=outcomes.faults + faults,
        repeated=outcomes.repeated,
        revised=outcomes.revised,
    )


class _Outcomes:
    """Which offsets have which outcome, and how often."""

    def __init__(self, keys: Mapping[Place, bytes | None], repeats_allowed: bool) -> None:
        self._keys = keys
        self._repeats_allowed = repeats_allowed
        self._indeterminate: set[Place] = set()
        self.ids: dict[Place, set[str]] = {}
        self.duplicated = 0
        self.repeated = 0
        self.revised = 0
        self.faults: list[str] = []

    def add(self, what: str, id_: str, source: Source, key: bytes | None, status: Status | None) -> None:
        place = (source.partition, source.offset)
        if status is Status.INDETERMINATE:
            self._indeterminate.add(place)
        before = self.ids.setdefault(place, set())
        if before:
            self._count_another(place, same=id_ in before)
        before.add(id_)
        if place not in self._keys:
            self.faults.append(f"{what} is about an event that is not there")
        elif key != self._keys[place]:
            self.faults.append(f"{what} has another key than its event")

    def _count_another(self, place: Place, *, same: bool) -> None:
        if not self._repeats_allowed:
            self.duplicated += 1
        elif same:
            self.repeated += 1
        elif place in self._indeterminate:
            self.revised += 1
        else:
            self.duplicated += 1


class _Order:
    """Whether the records of a key stand in the order of their events, in one output topic."""

    def __init__(self, repeats_allowed: bool) -> None:
        self._repeats_allowed = repeats_allowed
        self._last: defaultdict[tuple[bytes, int], int] = defaultdict(lambda: -1)
        self._seen: set[Place] = set()
        self.reordered = 0

    def add(self, key: bytes | None, source: Source) -> None:
        if key is None:
            return
        place = (source.partition, source.offset)
        if self._repeats_allowed and place in self._seen:
            return
        self._seen.add(place)
        lane = (key, source.partition)
        self.reordered += source.offset < self._last[lane]
        self._last[lane] = max(self._last[lane], source.offset)


def _identity(id_: str, source: Source) -> Identity:
    return id_, source.partition, source.offset


def _equal(what: str, left: Iterable[Identity], right: Iterable[Identity]) -> list[str]:
    one, other = Counter(left), Counter(right)
    difference = (one - other) + (other - one)
    return [f"{what} do not match: {difference.total()} differ"] if difference else []


def _same(what: str, left: Iterable[Identity], right: Iterable[Identity]) -> list[str]:
    """As `_equal`, whatever was repeated: a crash may fall between the two records of one outcome."""
    difference = set(left) ^ set(right)
    return [f"{what} do not match: {len(difference)} differ"] if difference else []
