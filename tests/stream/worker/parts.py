"""What the tests of this room build their cases from: records, outcomes, and a pipeline over a guard that a test scripts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from functools import cache

from schemas.answer import Answer, Reading
from schemas.deadletters import Reason
from schemas.events import ContentEvent, ImageRef
from schemas.policy import Policy, default_policy
from schemas.prompt import RenderedPrompt
from schemas.verdicts import Label
from stream.evidence.canonical import CanonicalImage
from stream.guard.backend import Completion
from stream.guard.cache import VerdictCache
from stream.guard.protection import Availability, ProtectedGuard
from stream.guard.settings import CacheSettings, GuardSettings
from stream.policies.decision import decide
from stream.policies.source import FixedPolicies, LivePolicy, Policies
from stream.telemetry.metrics import WorkerMetrics
from stream.telemetry.tracing import PassThroughTracer, Tracer
from stream.worker import outcomes
from stream.worker.outcomes import Progress
from stream.worker.pipeline import Evidence, Limits, Pipeline
from stream.worker.records import InputRecord, Outcome
from tests.support.clock import ManualClock

TOPIC = "content"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def content(event_id: str = "e1", text: str = "hello", **fields: object) -> bytes:
    """A content event as a producer would write it."""
    return json.dumps({"id": event_id, "user_text": text, "occurred_at": "2026-01-01T00:00:00Z", **fields}).encode()


def record(
    offset: int = 0,
    *,
    partition: int = 0,
    key: bytes | None = b"k",
    value: bytes | None = None,
    headers: tuple[tuple[str, bytes | None], ...] = (),
) -> InputRecord:
    return InputRecord(TOPIC, partition, offset, key, content(f"e{offset}") if value is None else value, headers, -1)


@cache
def live_default() -> LivePolicy:
    return LivePolicy.of(default_policy())


@cache
def default_policies() -> FixedPolicies:
    return FixedPolicies(default_policy())


def unreadable(of: InputRecord) -> Outcome:
    """The smallest outcome: one dead letter."""
    return outcomes.unreadable(of, Progress(0.0), Reason.MALFORMED, "no event", issued_at=ManualClock().now())


def judged(of: InputRecord, *, risk_name: str | None = None, rationale: str = "") -> Outcome:
    """A verdict; with a `risk_name`, its OOD event too."""
    event = ContentEvent.model_validate_json(of.value or b"")
    label = Label.SAFE if risk_name is None else Label.UNSAFE
    answer = Answer(label, Label.SAFE, None, risk_name, rationale, Reading.STRICT)
    live = live_default()
    progress = Progress(0.0, traceparent=TRACE)
    now = ManualClock().now()
    decision = decide(answer, None, None, live)
    return outcomes.decided(of, event, live, progress, answer, decision, issued_at=now, with_rationale=True)


def failed(of: InputRecord) -> Outcome:
    """An indeterminate verdict and its dead letter."""
    event = ContentEvent.model_validate_json(of.value or b"")
    now = ManualClock().now()
    progress = Progress(0.0, traceparent=TRACE)
    return outcomes.indeterminate(of, event, live_default(), progress, Reason.GUARD_REFUSED, "no", issued_at=now)


def completion(text: str = "", **fields: object) -> Completion:
    """An answer of the guard `m`; scores and the rest as given."""
    known: dict[str, object] = {
        "text": text,
        "finish_reason": "stop",
        "request_score": 0.1,
        "response_score": 0.1,
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "model": "m",
        "version": "1",
        "manifest": "sha",
    }
    return Completion(**{**known, **fields})  # type: ignore[arg-type]


def answer_text(request: str, response: str | None, category: str, think: str = "because") -> str:
    lines = [f"<think>{think}</think>", "<answer>", f"Request:{request}"]
    lines += [] if response is None else [f"Response:{response}"]
    return "\n".join([*lines, f"Category:{category}", "</answer>"])


SAFE = answer_text("safe", "safe", "None")


class ScriptedGuard:
    """Answers with `says`, or raises it."""

    def __init__(self, says: Completion | Exception) -> None:
        self.says = says
        self.asked: list[tuple[RenderedPrompt, list[bytes], str | None]] = []

    async def complete(
        self, prompt: RenderedPrompt, images: Sequence[bytes], *, timeout: float, traceparent: str | None = None
    ) -> Completion:
        self.asked.append((prompt, list(images), traceparent))
        if isinstance(self.says, Exception):
            raise self.says
        return self.says

    async def probe(self, *, timeout: float) -> None:
        return

    async def aclose(self) -> None:
        return


class NoEvidence:
    """A store that no event of the test may reach."""

    async def resolve(self, images: Sequence[ImageRef], *, deadline: float | None) -> list[CanonicalImage]:
        raise AssertionError("this event has no images")


async def pipeline(
    guard: ScriptedGuard,
    *,
    evidence: Evidence | None = None,
    policy: Policy | None = None,
    tracer: Tracer | None = None,
    metrics: WorkerMetrics | None = None,
    clock: ManualClock | None = None,
    deadline_s: float = 30.0,
    with_rationale: bool = True,
    policies: Policies | None = None,
    cache: CacheSettings | None = None,
) -> Pipeline:
    """The real pipeline over `guard`, which is up."""
    clock, metrics = clock or ManualClock(), metrics or WorkerMetrics()
    settings = GuardSettings(attempts=1)
    availability = Availability(guard, settings, clock, lambda _up: None)
    availability.start()
    async with asyncio.timeout(5):
        await availability.wait()
    return Pipeline(
        policies=policies or (default_policies() if policy is None else FixedPolicies(policy)),
        evidence=evidence or NoEvidence(),
        guard=ProtectedGuard(guard, availability, settings),
        limits=Limits(262_144, 1000, deadline_s, with_rationale),
        clock=clock,
        metrics=metrics,
        tracer=tracer or PassThroughTracer(),
        cache=None if cache is None else VerdictCache(cache, availability, clock, metrics),
    )
