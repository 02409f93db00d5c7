"""The verdict on one event, and the out-of-distribution event that goes with a named risk.

Neither holds raw content. The rationale is the guard's own text about the content and can be switched off.
"""

from __future__ import annotations

import hashlib
import uuid
from enum import StrEnum
from typing import Annotated

from pydantic import Field, FiniteFloat, StringConstraints

from schemas.base import Contract, Identifier, Instant, Sha256, Source
from schemas.deadletters import Reason
from schemas.events import Kind, Modality

VERDICT_TYPE = "stream.proguard.verdict.issued.v1"
OOD_TYPE = "stream.proguard.ood.observed.v1"
DEAD_LETTER_TYPE = "stream.proguard.verdict.failed.v1"

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "urn:proguard-stream:verdict:v1")
_NAMESPACE_HASHED = hashlib.sha1(_NAMESPACE.bytes, usedforsecurity=False)

NO_MANIFEST = ""
"""The manifest of a verdict that no guard answered."""


def verdict_id(event_id: str, policy_digest: str, manifest: str, attempt: int = 1) -> str:
    """UUIDv5 of event id, policy digest and model manifest: a replay gives the same id, another model or policy another.

    From the second attempt on (a redriven dead letter) the attempt is in it too. Otherwise the decided verdict of an event whose
    first answer could not be parsed would have the id of the indeterminate one, and whoever keeps one verdict an id would
    drop it, or replace the other, without a word. The same letter sent twice is the same attempt, so the same id.
    """
    name = f"{len(event_id)}:{event_id}|{policy_digest}|{manifest}"
    # No name of a first attempt begins with digits and a slash.
    return _uuid5(name if attempt <= 1 else f"{attempt}/{name}")


def _uuid5(name: str) -> str:
    """`str(uuid.uuid5(_NAMESPACE, name))` in a third of the time (RFC 9562, 5.5): every verdict has one."""
    hashed = _NAMESPACE_HASHED.copy()
    hashed.update(name.encode())
    digits = hashed.hexdigest()
    # The version in place of one digit, and the variant in the upper two bits of another.
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-5{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:32]}"


class Label(StrEnum):
    SAFE = "safe"
    UNSAFE = "unsafe"


class Status(StrEnum):
    """`indeterminate` is never safe: the policy's action for it applies and the event is dead-lettered too."""

    DECIDED = "decided"
    INDETERMINATE = "indeterminate"


class CategoryRef(Contract):
    """The risk. In the taxonomy: an id of the policy. Outside: a name the guard gave, with neither id nor path."""

    id: str | None
    path: Annotated[list[str], Field(description="Names from the top category down.")]
    name: str
    in_taxonomy: bool


class Scores(Contract):
    """Probability of unsafe, 0 to 1; null where the guard gives none."""

    request: Annotated[float, Field(ge=0, le=1)] | None = None
    response: Annotated[float, Field(ge=0, le=1)] | None = None


class PolicyRef(Contract):
    name: str
    version: str
    digest: Sha256


class ModelRef(Contract):
    """Which guard answered. `manifest` is the digest of its weights' manifest; empty when none answered."""

    name: str
    version: str
    manifest: str


class EvidenceRef(Contract):
    """An image that was judged. `sha256` is of the canonical bytes that the guard saw, `source_sha256` of the fetched ones."""

    uri: str
    sha256: Sha256
    source_sha256: Sha256
    media_type: str
    size: Annotated[int, Field(ge=0)]


class Usage(Contract):
    prompt_tokens: Annotated[int, Field(ge=0)] = 0
    completion_tokens: Annotated[int, Field(ge=0)] = 0


class Verdict(Contract):
    """What was decided on one event, with everything needed to reproduce it."""

    id: Annotated[
        str,
        Field(
            description="UUIDv5 of event id, policy digest and model manifest; of a redriven event, of the attempt too."
        ),
    ]
    event_id: Identifier
    tenant: Identifier
    kind: Kind
    modality: Modality
    status: Status
    reason: Annotated[Reason | None, Field(description="Why the verdict is indeterminate; null when decided.")] = None
    request: Label | None
    response: Annotated[
        Label | None, Field(description="Null for an image alone and for content without a model's answer.")
    ]
    category: CategoryRef | None
    scores: Scores
    action: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]
    rationale: str | None
    policy: PolicyRef
    model: ModelRef
    prompt_digest: Annotated[Sha256 | None, Field(description="SHA-256 of the rendered system and user messages.")]
    evidence: list[EvidenceRef]
    usage: Usage
    cached: Annotated[
        bool,
        Field(
            description="The answer was given to the same content, under the same policy and model, before or at the same time. "
            "Its tokens are counted once, in the verdict that was not cached."
        ),
    ] = False
    timings: Annotated[dict[str, FiniteFloat], Field(description="Milliseconds by stage.")]
    degraded: Annotated[list[str], Field(description="What was not as it should be, e.g. `tolerant_reading`.")]
    source: Source
    issued_at: Instant


class OodEvent(Contract):
    """A verdict whose risk fits no category of the policy: input of the emerging-risk board."""

    id: Annotated[str, Field(description="The verdict's id.")]
    event_id: Identifier
    tenant: Identifier
    name: Annotated[str, Field(description="The guard's name for the risk.")]
    modality: Modality
    author: Identifier | None
    locale: str | None
    scores: Scores
    action: str
    policy: PolicyRef
    model: ModelRef
    source: Source
    occurred_at: Instant
    issued_at: Instant
