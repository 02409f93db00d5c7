"""From what is known about a record to the contracts that are written. Pure: no I/O, no clock of its own."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache

from schemas.answer import Answer, Reading
from schemas.deadletters import DeadLetter, Header, Reason
from schemas.events import ContentEvent
from schemas.verdicts import (
    NO_MANIFEST,
    EvidenceRef,
    ModelRef,
    OodEvent,
    Status,
    Verdict,
    verdict_id,
)
from stream.guard.backend import Completion
from stream.policies.decision import Decision
from stream.policies.source import LivePolicy
from stream.worker.reading import attempt_of
from stream.worker.records import InputRecord, Outcome

_DEAD_LETTERS = uuid.uuid5(uuid.NAMESPACE_URL, "urn:proguard-stream:dead-letter:v1")


@dataclass(slots=True)
class Progress:
    """What has become known about an event on its way. The verdict tells all of it, also when the way ends early."""

    began: float
    traceparent: str | None = None
    prompt_digest: str | None = None
    evidence: Sequence[EvidenceRef] = ()
    completion: Completion | None = None
    cached: bool = False
    """Whether the completion was had without asking the guard."""
    timings: dict[str, float] = field(default_factory=dict)
    """Milliseconds by stage, in whole microseconds."""


def decided(
    record: InputRecord,
    event: ContentEvent,
    live: LivePolicy,
    progress: Progress,
    answer: Answer,
    decision: Decision,
    *,
    issued_at: datetime,
    with_rationale: bool,
) -> Outcome:
    """The outcome of an answer that was understood: a verdict, and an OOD event when the guard named the risk."""
    degraded = ["tolerant_reading"] if answer.reading is Reading.TOLERANT else []
    verdict = Verdict.model_validate(
        {
            **_common(record, event, live, progress, issued_at),
            "status": Status.DECIDED,
            "request": answer.request,
            "response": answer.response if event.agent_text is not None else None,
            "category": decision.category,
            "action": decision.action,
            "rationale": answer.rationale if with_rationale else None,
            "degraded": degraded,
        }
    )
    ood = None
    if answer.risk_name is not None:
        ood = OodEvent(
            id=verdict.id,
            event_id=event.id,
            tenant=event.tenant,
            name=answer.risk_name,
            modality=verdict.modality,
            author=event.author,
            locale=event.locale,
            scores=verdict.scores,
            action=verdict.action,
            policy=verdict.policy,
            model=verdict.model,
            source=verdict.source,
            occurred_at=event.occurred_at,
            issued_at=issued_at,
        )
    return Outcome(record, verdict, ood, None, progress.traceparent, progress.began)


def indeterminate(
    record: InputRecord,
    event: ContentEvent,
    live: LivePolicy,
    progress: Progress,
    reason: Reason,
    detail: str,
    *,
    issued_at: datetime,
) -> Outcome:
    """The outcome of an event that was read and not judged: a verdict that is never safe, and a dead letter to redrive."""
    verdict = Verdict.model_validate(
        {
            **_common(record, event, live, progress, issued_at),
            "status": Status.INDETERMINATE,
            "reason": reason,
            "request": None,
            "response": None,
            "category": None,
            "action": live.policy.rules.indeterminate,
            "rationale": None,
            "degraded": [],
        }
    )
    letter = _dead_letter(record, reason, detail, issued_at, event=event, verdict=verdict)
    return Outcome(record, verdict, None, letter, progress.traceparent, progress.began)


def unreadable(record: InputRecord, progress: Progress, reason: Reason, detail: str, *, issued_at: datetime) -> Outcome:
    """The outcome of a record that is no event: a dead letter in the verdict's place."""
    letter = _dead_letter(record, reason, detail, issued_at, event=None, verdict=None)
    return Outcome(record, None, None, letter, progress.traceparent, progress.began)


def _common(
    record: InputRecord, event: ContentEvent, live: LivePolicy, progress: Progress, issued_at: datetime
) -> Mapping[str, object]:
    # The parts are dictionaries, so that the verdict and all of them are checked in one go: that costs half as much.
    completion = progress.completion
    manifest = completion.manifest if completion else NO_MANIFEST
    request_score, response_score = scores(event, completion)
    return {
        "id": verdict_id(event.id, live.ref.digest, manifest, attempt_of(record)),
        "event_id": event.id,
        "tenant": event.tenant,
        "kind": event.kind,
        "modality": event.modality,
        "scores": {"request": request_score, "response": response_score},
        "policy": live.ref,
        "model": _model_ref(completion.model, completion.version, manifest) if completion else _NO_MODEL,
        "prompt_digest": progress.prompt_digest,
        "evidence": list(progress.evidence),
        "usage": {"prompt_tokens": completion.prompt_tokens, "completion_tokens": completion.completion_tokens}
        if completion is not None and not progress.cached
        else {},
        "cached": progress.cached,
        "timings": progress.timings,
        "source": {"topic": record.topic, "partition": record.partition, "offset": record.offset},
        "issued_at": issued_at,
    }


@lru_cache(maxsize=64)
def _model_ref(name: str, version: str, manifest: str) -> ModelRef:
    """Few models answer many events, and a part that is checked already is not checked again."""
    return ModelRef(name=name, version=version, manifest=manifest)


_NO_MODEL = ModelRef(name="", version="", manifest=NO_MANIFEST)


def scores(event: ContentEvent, completion: Completion | None) -> tuple[float | None, float | None]:
    """The guard's probabilities of unsafe, request and response; None for a turn that the event does not have, whatever the
    guard says about it."""
    if completion is None:
        return None, None
    return completion.request_score, completion.response_score if event.agent_text is not None else None


MAX_KEPT_VALUE = 8 * 1024 * 1024
"""Bytes of an original value that a dead letter carries. A larger one stays in the input topic alone: it would not fit a
record, and one that cannot be written would stop every worker that meets it."""


def _dead_letter(
    record: InputRecord,
    reason: Reason,
    detail: str,
    failed_at: datetime,
    *,
    event: ContentEvent | None,
    verdict: Verdict | None,
) -> DeadLetter:
    attempt = attempt_of(record)
    value = record.value
    if value is not None and len(value) > MAX_KEPT_VALUE:
        detail = f"{detail}; the value ({len(value)} bytes, SHA-256 {hashlib.sha256(value).hexdigest()}) is left at its source"
        value = None
    name = f"{len(record.topic)}:{record.topic}/{record.partition}/{record.offset}/{attempt}"
    return DeadLetter(
        id=str(uuid.uuid5(_DEAD_LETTERS, name)),
        reason=reason,
        detail=detail[:512],
        attempt=attempt,
        event_id=event.id if event else None,
        tenant=event.tenant if event else None,
        verdict_id=verdict.id if verdict else None,
        source=record.source,
        key=record.key,
        headers=[Header(name=header, value=value) for header, value in record.headers],
        value=value,
        failed_at=failed_at,
    )
