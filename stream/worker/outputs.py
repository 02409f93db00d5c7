"""What an outcome becomes on which topic."""

from __future__ import annotations

from typing import NamedTuple

from pydantic import TypeAdapter

from schemas.deadletters import DeadLetter
from schemas.envelope import Headers, seal
from schemas.topics import Topics
from schemas.verdicts import DEAD_LETTER_TYPE, OOD_TYPE, VERDICT_TYPE, OodEvent, Verdict
from stream.worker.records import Outcome

_VERDICT = TypeAdapter(Verdict)
_OOD = TypeAdapter(OodEvent)
_DEAD_LETTER = TypeAdapter(DeadLetter)


class OutputRecord(NamedTuple):
    """A record to be written."""

    topic: str
    key: bytes | None
    value: bytes
    headers: Headers


def output_records(outcome: Outcome, topics: Topics, ce_source: str) -> list[OutputRecord]:
    """What `outcome` becomes on which topic. Keys are the input's; an OOD event's is its tenant."""
    key, trace = outcome.record.key, outcome.traceparent
    records: list[OutputRecord] = []
    if outcome.verdict is not None:
        verdict = outcome.verdict
        headers = seal(id=verdict.id, type=VERDICT_TYPE, source=ce_source, time=verdict.issued_at, traceparent=trace)
        records.append(OutputRecord(topics.verdicts, key, _VERDICT.dump_json(verdict), headers))
    if outcome.ood is not None:
        ood = outcome.ood
        headers = seal(id=ood.id, type=OOD_TYPE, source=ce_source, time=ood.issued_at, traceparent=trace)
        records.append(OutputRecord(topics.ood, ood.tenant.encode(), _OOD.dump_json(ood), headers))
    if outcome.dead_letter is not None:
        letter = outcome.dead_letter
        headers = seal(id=letter.id, type=DEAD_LETTER_TYPE, source=ce_source, time=letter.failed_at, traceparent=trace)
        records.append(OutputRecord(topics.dead_letters, key, _DEAD_LETTER.dump_json(letter), headers))
    return records
