"""One event's way: read, resolve images, render the prompt, judge, parse, decide. It always ends in one outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from schemas import answer as answers
from schemas.deadletters import Reason
from schemas.events import ContentEvent, ImageRef
from schemas.prompt import RenderedPrompt
from schemas.verdicts import EvidenceRef, Label
from stream.clock import Clock, Deadline
from stream.errors import EventError
from stream.evidence.canonical import CanonicalImage
from stream.guard.cache import Judged, Question, VerdictCache
from stream.guard.errors import GuardError, GuardTimeoutError, GuardUnavailableError
from stream.guard.protection import ProtectedGuard
from stream.policies.decision import decide
from stream.policies.source import LivePolicy, Policies
from stream.telemetry.logs import frames
from stream.telemetry.metrics import WorkerMetrics
from stream.telemetry.tracing import Tracer
from stream.worker import outcomes
from stream.worker.outcomes import Progress
from stream.worker.reading import read
from stream.worker.records import InputRecord, Outcome

_log = structlog.get_logger(__name__)


class Evidence(Protocol):
    """Fetches images and makes them canonical. Raises `EventError` with an image reason."""

    async def resolve(self, images: Sequence[ImageRef], *, deadline: float | None) -> list[CanonicalImage]: ...


@dataclass(frozen=True, slots=True)
class Limits:
    """What one event may cost."""

    max_event_bytes: int
    max_text_chars: int
    deadline_s: float
    with_rationale: bool


class Pipeline:
    """Turns records into outcomes. Safe to run for many records at once; holds no state between them."""

    def __init__(
        self,
        *,
        policies: Policies,
        evidence: Evidence,
        guard: ProtectedGuard,
        limits: Limits,
        clock: Clock,
        metrics: WorkerMetrics,
        tracer: Tracer,
        cache: VerdictCache | None = None,
    ) -> None:
        self._policies = policies
        self._evidence = evidence
        self._guard = guard
        self._limits = limits
        self._clock = clock
        self._metrics = metrics
        self._tracer = tracer
        self._cache = cache

    async def process(self, record: InputRecord) -> Outcome:
        """The outcome of `record`. Raises nothing but cancellation: a fault of ours is an outcome too."""
        progress = Progress(began=self._clock.monotonic())
        try:
            found = read(record, self._limits.max_event_bytes)
        except EventError as error:
            return outcomes.unreadable(record, progress, error.reason, error.detail, issued_at=self._clock.now())
        except Exception as error:
            # No event, so no verdict: the reason has to be one that replaces it.
            self._log_fault(record, error)
            detail = f"reading it failed: {type(error).__name__}"
            return outcomes.unreadable(record, progress, Reason.MALFORMED, detail, issued_at=self._clock.now())
        live = self._policies.for_tenant(found.event.tenant)
        with self._tracer.process(record, found.traceparent) as progress.traceparent:
            try:
                return await self._judge(record, found.event, live, progress)
            except EventError as error:
                reason, detail = error.reason, error.detail
            except GuardError as error:
                reason, detail = _reason_of(error), str(error)
                self._metrics.guard_errors.labels(reason.value).inc()
            except Exception as error:
                reason, detail = Reason.INTERNAL, type(error).__name__
                self._log_fault(record, error)
            return outcomes.indeterminate(
                record, found.event, live, progress, reason, detail, issued_at=self._clock.now()
            )

    async def _judge(self, record: InputRecord, event: ContentEvent, live: LivePolicy, progress: Progress) -> Outcome:
        deadline = Deadline(self._clock, self._limits.deadline_s)
        length = len(event.user_text) + len(event.agent_text or "")
        if length > self._limits.max_text_chars:
            raise EventError(Reason.TEXT_TOO_LONG, f"{length} characters; the limit is {self._limits.max_text_chars}")
        images: list[bytes] = []
        if event.images:
            images = await self._resolve(event, progress, deadline)
        prompt = live.systems[event.modality].join(event)
        progress.prompt_digest = prompt.digest
        began = self._lap(progress, "prepare", progress.began)

        async def ask() -> Judged:
            return await self._ask(event, live, prompt, images, deadline, progress, began)

        if self._cache is None:
            judged = await ask()
        else:
            question = Question(
                event.tenant,
                live.ref.digest,
                event.modality,
                prompt.digest,
                tuple(image.sha256 for image in progress.evidence),
                event.agent_text is not None,
            )
            judged, progress.cached = await self._cache.judged(question, deadline, ask)
            if progress.cached:
                progress.completion = judged.completion
                self._lap(progress, "judge", began)
        completion, answer = judged.completion, judged.answer
        decision = decide(answer, *outcomes.scores(event, completion), live)
        return outcomes.decided(
            record,
            event,
            live,
            progress,
            answer,
            decision,
            issued_at=self._clock.now(),
            with_rationale=self._limits.with_rationale,
        )

    async def _ask(
        self,
        event: ContentEvent,
        live: LivePolicy,
        prompt: RenderedPrompt,
        images: Sequence[bytes],
        deadline: Deadline,
        progress: Progress,
        began: float,
    ) -> Judged:
        """The guard's answer, if it is complete and can be understood: nothing else may be kept or shared."""
        completion = await self._guard.complete(prompt, images, deadline, progress.traceparent)
        progress.completion = completion
        self._lap(progress, "judge", began)
        if completion.finish_reason != "stop":
            raise EventError(Reason.GUARD_TRUNCATED, "the answer was cut off")
        try:
            answer = answers.parse(completion.text, event.modality, live.index)
        except answers.UnparsableError as error:
            raise EventError(Reason.GUARD_UNPARSABLE, str(error)) from None
        if event.agent_text is None and answer.response is Label.UNSAFE:
            raise EventError(Reason.GUARD_UNPARSABLE, "the answer judges a turn that the event does not have")
        return Judged(completion, answer)

    async def _resolve(self, event: ContentEvent, progress: Progress, deadline: Deadline) -> list[bytes]:
        began = self._clock.monotonic()
        seconds = deadline.remaining()
        try:
            async with asyncio.timeout(seconds):
                canonical = await self._evidence.resolve(event.images, deadline=seconds)
        except TimeoutError:
            raise EventError(Reason.DEADLINE_EXCEEDED, "the images took longer than the event's deadline") from None
        finally:
            self._lap(progress, "evidence", began)
        progress.evidence = [
            EvidenceRef(
                uri=reference.uri,
                sha256=image.sha256,
                source_sha256=image.source_sha256,
                media_type=image.media_type,
                size=len(image.data),
            )
            for reference, image in zip(event.images, canonical, strict=True)
        ]
        self._metrics.evidence_bytes.inc(sum(image.source_size for image in canonical))
        return [image.data for image in canonical]

    @staticmethod
    def _log_fault(record: InputRecord, error: Exception) -> None:
        _log.error(
            "event.internal_fault",
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            fault=type(error).__name__,
            frames=frames(error),
        )

    def _lap(self, progress: Progress, stage: str, since: float) -> float:
        now = self._clock.monotonic()
        progress.timings[stage] = int((now - since) * 1e6) / 1e3
        return now


def _reason_of(error: GuardError) -> Reason:
    if isinstance(error, GuardTimeoutError):
        return Reason.DEADLINE_EXCEEDED
    return Reason.GUARD_UNAVAILABLE if isinstance(error, GuardUnavailableError) else Reason.GUARD_REFUSED
