"""The books, audited from outside: what the topics hold against what was promised.

Nothing is counted on the way. The input topic says which offsets there are; the output topics say, by their `source`,
which of them have an outcome.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from schemas.deadletters import REPLACES_VERDICT, DeadLetter
from schemas.topics import Topics
from schemas.verdicts import OodEvent, Status, Verdict
from stream.demo.reading_back import StoredRecord, read_back

Place = tuple[int, int]
"""Partition and offset in the input topic."""


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

    @property
    def ok(self) -> bool:
        return not (self.lost or self.duplicated or self.reordered or self.faults)

    def summary(self) -> str:
        """The one line that scripts read."""
        return (
            f"events={self.events} verdicts={len(self.verdicts)} dead_letters={len(self.dead_letters)} "
            f"ood={len(self.ood)} lost={self.lost} duplicated={self.duplicated}"
        )


def audit_topics(properties: Mapping[str, str | int | bool], topics: Topics) -> AuditReport:
    """Read all four topics to their end and audit them. Blocks; raises `DeliveryError` when one cannot be read."""
    return audit(
        events=read_back(properties, topics.content),
        verdicts=read_back(properties, topics.verdicts),
        dead_letters=read_back(properties, topics.dead_letters),
        ood=read_back(properties, topics.ood),
    )


def audit(
    *,
    events: Iterable[StoredRecord],
    verdicts: Iterable[StoredRecord],
    dead_letters: Iterable[StoredRecord],
    ood: Iterable[StoredRecord],
) -> AuditReport:
    """Compare what went in with what came out."""
    keys = {(record.partition, record.offset): record.key for record in events}
    outcomes: Counter[Place] = Counter()
    faults: list[str] = []
    found_verdicts: list[Verdict] = []
    last_of_key: defaultdict[tuple[bytes, int], int] = defaultdict(lambda: -1)
    reordered = 0
    for record in verdicts:
        verdict = Verdict.model_validate_json(record.value or b"")
        found_verdicts.append(verdict)
        place = (verdict.source.partition, verdict.source.offset)
        outcomes[place] += 1
        if place not in keys:
            faults.append(f"verdict {verdict.id} is about an event that is not there")
        elif record.key != keys[place]:
            faults.append(f"verdict {verdict.id} has another key than its event")
        if record.key is not None:
            lane = (record.key, verdict.source.partition)
            reordered += verdict.source.offset < last_of_key[lane]
            last_of_key[lane] = max(last_of_key[lane], verdict.source.offset)
    letters = [DeadLetter.model_validate_json(record.value or b"") for record in dead_letters]
    for letter in letters:
        if letter.verdict_id is None:
            place = (letter.source.partition, letter.source.offset)
            outcomes[place] += 1
            if place not in keys:
                faults.append(f"dead letter {letter.id} is about an event that is not there")
        if (letter.verdict_id is None) != (letter.reason in REPLACES_VERDICT):
            faults.append(f"dead letter {letter.id} has a verdict where its reason has none, or the other way round")
    named = [OodEvent.model_validate_json(record.value or b"") for record in ood]
    faults += _unequal(
        "indeterminate verdicts and their dead letters",
        (v.id for v in found_verdicts if v.status is Status.INDETERMINATE),
        (letter.verdict_id for letter in letters if letter.verdict_id is not None),
    )
    faults += _unequal(
        "named risks and OOD events",
        (v.id for v in found_verdicts if v.category is not None and not v.category.in_taxonomy),
        (event.id for event in named),
    )
    return AuditReport(
        events=len(keys),
        verdicts=found_verdicts,
        dead_letters=letters,
        ood=named,
        lost=sum(1 for place in keys if outcomes[place] == 0),
        duplicated=sum(count - 1 for count in outcomes.values() if count > 1),
        reordered=reordered,
        faults=faults,
    )


def _unequal(what: str, left: Iterable[str], right: Iterable[str]) -> list[str]:
    one, other = Counter(left), Counter(right)
    difference = (one - other) + (other - one)
    return [f"{what} do not match: {difference.total()} differ"] if difference else []
