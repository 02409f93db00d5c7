"""The events that both versions are asked: the packaged samples, or the operator's own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from schemas.envelope import BrokenEnvelopeError, UnsupportedEnvelopeError, open_envelope
from schemas.events import EVENT_TYPE, ContentEvent
from schemas.policy import Policy
from schemas.prompt import RenderedPrompt, render
from stream.demo import samples
from stream.errors import ConfigurationError, EventError
from stream.evidence.resolver import EvidenceResolver
from stream.evidence.settings import EvidenceSettings, StoreSettings
from stream.operator.sending import OutgoingRecord, records_of

MOST_SAMPLES = 5_000
"""Samples and their images are held in memory; a file may have more lines, the rest is not read."""

IMAGE_S = 30.0

_PACKAGED = Path(samples.__file__).parent


@dataclass(frozen=True, slots=True)
class Sample:
    """One question to a guard. `event_id` is what a report may show of it."""

    event_id: str
    prompt: RenderedPrompt
    images: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class GoldenSet:
    """Samples in the order of the file, and how many lines gave none: no event, too long, or without their images."""

    samples: Sequence[Sample]
    left_out: int


async def read_golden(file: Path | None, policy: Policy, evidence: EvidenceSettings, max_chars: int) -> GoldenSet:
    """One event a line, as `proguard-stream events send` takes them; the packaged samples without a file.

    Images come from the stores of `evidence`; those of the packaged samples from their own folder. Raises `ConfigurationError` when
    there is no usable event at all, or no file.
    """
    if file is None:
        stores = {"media://demo": StoreSettings(kind="local", root=_PACKAGED / "images")}
        evidence = evidence.model_copy(update={"stores": stores})
    path = file or _PACKAGED / "events.jsonl"
    try:
        with path.open("rb") as lines:
            events = [event for _, event in zip(range(MOST_SAMPLES), _events(records_of(lines)), strict=False)]
    except OSError as error:
        raise ConfigurationError(f"cannot read the events {path}: {error.strerror}") from error
    resolver = EvidenceResolver(evidence)
    try:
        found = [await _sample(event, policy, resolver, max_chars) for event in events if event is not None]
    finally:
        await resolver.aclose()
    usable = [sample for sample in found if sample is not None]
    if not usable:
        raise ConfigurationError(f"{path} has no event that a guard could be asked")
    return GoldenSet(usable, len(events) - len(usable))


def _events(records: Iterable[OutgoingRecord]) -> Iterable[ContentEvent | None]:
    for record in records:
        try:
            data = open_envelope(record.value, record.headers, EVENT_TYPE).data
            yield ContentEvent.model_validate_json(data) if record.readable else None
        except (UnsupportedEnvelopeError, BrokenEnvelopeError, ValueError):
            yield None


async def _sample(event: ContentEvent, policy: Policy, resolver: EvidenceResolver, max_chars: int) -> Sample | None:
    if len(event.user_text) + len(event.agent_text or "") > max_chars:
        return None
    try:
        images = await resolver.resolve(event.images, deadline=IMAGE_S)
    except EventError:
        return None
    return Sample(event.id, render(policy, event), tuple(image.data for image in images))
