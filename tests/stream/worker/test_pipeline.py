from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from schemas.deadletters import Reason
from schemas.events import ImageRef
from schemas.policy import Policy, Rules, Threshold, default_policy
from schemas.verdicts import DEAD_LETTER_TYPE, Label, Status, verdict_id
from stream.errors import EventError
from stream.evidence.canonical import CanonicalImage
from stream.guard.backend import Completion
from stream.guard.errors import GuardError, GuardRefusedError, GuardTimeoutError, GuardUnavailableError
from stream.telemetry.metrics import WorkerMetrics
from stream.worker.records import InputRecord, Outcome
from tests.stream.worker.parts import (
    SAFE,
    TRACE,
    ScriptedGuard,
    answer_text,
    completion,
    content,
    live_default,
    pipeline,
    record,
)
from tests.support.clock import ManualClock

SECRET = "the secret words"
IMAGE = {"uri": "media://demo/a.png"}


async def judge(guard: Completion | Exception, value: bytes | None = None, **options: object) -> Outcome:
    built = await pipeline(ScriptedGuard(guard), **options)  # type: ignore[arg-type]
    return await built.process(record(value=value))


def verdict_reason(outcome: Outcome) -> Reason | None:
    """The reason of an indeterminate outcome, which is one in both of its records and safe in none."""
    verdict, letter = outcome.verdict, outcome.dead_letter
    assert verdict is not None
    assert letter is not None
    assert verdict.status is Status.INDETERMINATE
    assert verdict.reason is letter.reason
    assert verdict.action == "review"
    return verdict.reason


class Store:
    """Evidence that does what a test says."""

    def __init__(self, *, raises: Exception | None = None, hangs: bool = False, images: int = 1) -> None:
        self.raises, self.hangs, self.images = raises, hangs, images
        self.deadline: float | None = None

    async def resolve(self, images: Sequence[ImageRef], *, deadline: float | None) -> list[CanonicalImage]:
        self.deadline = deadline
        if self.raises is not None:
            raise self.raises
        if self.hangs:
            await asyncio.Event().wait()
        data = b"canonical"
        digest = hashlib.sha256(data).hexdigest()
        return [
            CanonicalImage(
                data=data,
                media_type="image/png",
                width=1,
                height=1,
                sha256=digest,
                source_sha256="0" * 64,
                source_size=7,
            )
        ] * self.images


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (GuardTimeoutError("late"), Reason.DEADLINE_EXCEEDED),
        (GuardUnavailableError("gone"), Reason.GUARD_UNAVAILABLE),
        (GuardRefusedError("no"), Reason.GUARD_REFUSED),
        (GuardError("else"), Reason.GUARD_REFUSED),
        (RuntimeError(SECRET), Reason.INTERNAL),
    ],
)
async def test_every_failure_of_the_guard_has_its_reason(error: Exception, reason: Reason) -> None:
    assert verdict_reason(await judge(error)) is reason


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("nonsense", Reason.GUARD_UNPARSABLE),
        ("", Reason.GUARD_UNPARSABLE),
        (answer_text("safe", "safe", "C1"), Reason.GUARD_UNPARSABLE),
        (answer_text("unsafe", "safe", "C99"), Reason.GUARD_UNPARSABLE),
        (answer_text("safe", "unsafe", "C1"), Reason.GUARD_UNPARSABLE),
    ],
)
async def test_an_answer_that_is_none_is_indeterminate(text: str, reason: Reason) -> None:
    assert verdict_reason(await judge(completion(text))) is reason


@pytest.mark.parametrize("finish", ["length", "cancelled", ""])
async def test_an_answer_that_was_cut_off_is_not_believed_even_if_it_parses(finish: str) -> None:
    outcome = await judge(completion(SAFE, finish_reason=finish))
    assert verdict_reason(outcome) is Reason.GUARD_TRUNCATED
    assert outcome.verdict is not None
    assert outcome.verdict.model.manifest == "sha"


async def test_a_fault_of_ours_is_an_outcome_and_its_log_line_holds_no_content() -> None:
    with capture_logs() as lines:
        outcome = await judge(ValueError(SECRET), content(text=SECRET))
    assert verdict_reason(outcome) is Reason.INTERNAL
    (line,) = [line for line in lines if line["event"] == "event.internal_fault"]
    assert (line["topic"], line["partition"], line["offset"], line["fault"]) == ("content", 0, 0, "ValueError")
    assert SECRET not in str(lines)
    assert outcome.dead_letter is not None
    assert SECRET not in outcome.dead_letter.detail


async def test_a_fault_while_reading_is_a_dead_letter_in_the_verdicts_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(of: InputRecord, limit: int) -> object:
        raise RecursionError(SECRET)

    monkeypatch.setattr("stream.worker.pipeline.read", broken)
    with capture_logs() as lines:
        outcome = await judge(completion(SAFE))
    assert outcome.verdict is None
    assert outcome.dead_letter is not None
    assert outcome.dead_letter.reason is Reason.MALFORMED
    assert SECRET not in str(lines) + outcome.dead_letter.detail


async def test_a_record_whose_headers_cannot_be_had_is_not_judged() -> None:
    built = await pipeline(guard := ScriptedGuard(completion(SAFE)))
    outcome = await built.process(InputRecord("content", 0, 0, None, content(), (), -1, headers_lost=True))
    assert outcome.verdict is None
    assert guard.asked == []


async def test_a_text_that_is_too_long_is_not_judged_in_part() -> None:
    built = await pipeline(guard := ScriptedGuard(completion(SAFE)))
    outcome = await built.process(record(value=content(text="x" * 600, agent_text="y" * 401)))
    assert verdict_reason(outcome) is Reason.TEXT_TOO_LONG
    assert guard.asked == []


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason.value.startswith("image_")])
async def test_an_image_that_cannot_be_had_has_its_reason_and_the_guard_is_not_asked(reason: Reason) -> None:
    built = await pipeline(guard := ScriptedGuard(completion(SAFE)), evidence=Store(raises=EventError(reason, "d")))
    assert verdict_reason(await built.process(record(value=content(images=[IMAGE])))) is reason
    assert guard.asked == []


async def test_the_deadline_covers_the_images() -> None:
    store = Store(hangs=True)
    outcome = await judge(completion(SAFE), content(images=[IMAGE]), evidence=store, deadline_s=0.02)
    assert verdict_reason(outcome) is Reason.DEADLINE_EXCEEDED
    assert store.deadline == pytest.approx(0.02)


async def test_images_that_took_the_whole_deadline_leave_none_for_the_guard() -> None:
    clock = ManualClock()
    store = Store()
    original = store.resolve

    async def slow(images: Sequence[ImageRef], *, deadline: float | None) -> list[CanonicalImage]:
        clock.advance(31)
        return await original(images, deadline=deadline)

    store.resolve = slow  # type: ignore[method-assign]
    built = await pipeline(guard := ScriptedGuard(completion(SAFE)), evidence=store, clock=clock)
    assert verdict_reason(await built.process(record(value=content(images=[IMAGE])))) is Reason.DEADLINE_EXCEEDED
    assert guard.asked == []


async def test_fewer_pictures_than_images_are_a_fault_and_never_a_verdict_without_them() -> None:
    outcome = await judge(completion(SAFE), content(images=[IMAGE, IMAGE]), evidence=Store(images=1))
    assert verdict_reason(outcome) is Reason.INTERNAL


async def test_the_verdict_says_what_was_seen() -> None:
    outcome = await judge(completion(SAFE), content(images=[IMAGE]), evidence=Store())
    assert outcome.verdict is not None
    (seen,) = outcome.verdict.evidence
    assert (seen.uri, seen.size, seen.media_type) == ("media://demo/a.png", 9, "image/png")
    assert outcome.verdict.prompt_digest is not None
    assert set(outcome.verdict.timings) == {"evidence", "prepare", "judge"}


async def test_the_rationale_is_in_the_verdict_only_when_it_is_wanted() -> None:
    with_it, without = await judge(completion(SAFE)), await judge(completion(SAFE), with_rationale=False)
    assert with_it.verdict is not None
    assert without.verdict is not None
    assert (with_it.verdict.rationale, without.verdict.rationale) == ("because", None)


async def test_a_turn_that_is_absent_has_neither_a_label_nor_a_score_and_moves_no_action() -> None:
    rules = Rules(suspect=[Threshold(at_least=0.5, action="watch")])
    policy = default_policy().model_copy(update={"rules": rules})
    policy = Policy.model_validate(policy.model_dump())
    says = completion(SAFE, request_score=0.1, response_score=0.9)
    alone = (await judge(says, content(), policy=policy)).verdict
    both = (await judge(says, content(agent_text="hi"), policy=policy)).verdict
    assert alone is not None
    assert both is not None
    assert (alone.response, alone.scores.response, alone.action) == (None, None, "allow")
    assert (both.response, both.scores.response, both.action) == (Label.SAFE, 0.9, "watch")


async def test_the_same_event_gets_the_same_verdict_id_wherever_it_is_read() -> None:
    built = await pipeline(ScriptedGuard(completion(SAFE)))
    one = await built.process(record(3, value=content("same")))
    other = await built.process(record(9, partition=2, value=content("same")))
    assert one.verdict is not None
    assert other.verdict is not None
    assert one.verdict.id == other.verdict.id == verdict_id("same", live_default().ref.digest, "sha")


@pytest.mark.parametrize(
    "header", [b"00-ab-cd-01", b"a\nb", b"\xff\xfe", b"", "\u202e".encode(), b"ff" + TRACE.encode()[2:]]
)
async def test_a_trace_context_that_is_none_reaches_neither_the_guard_nor_the_outcome(header: bytes) -> None:
    built = await pipeline(guard := ScriptedGuard(completion(SAFE)))
    outcome = await built.process(record(headers=(("traceparent", header),)))
    assert outcome.traceparent is None
    assert guard.asked[0][2] is None


async def test_a_lone_surrogate_in_a_structured_events_trace_context_is_harmless() -> None:
    value = b'{"specversion":"1.0","traceparent":"\\ud800","data":' + content() + b"}"
    built = await pipeline(guard := ScriptedGuard(completion(SAFE)))
    outcome = await built.process(record(value=value, headers=(("content-type", b"application/cloudevents+json"),)))
    assert outcome.verdict is not None
    assert (outcome.traceparent, guard.asked[0][2]) == (None, None)


async def test_a_valid_trace_context_reaches_the_guard_and_the_outcome() -> None:
    built = await pipeline(guard := ScriptedGuard(completion(SAFE)))
    outcome = await built.process(record(headers=(("traceparent", TRACE.encode()),)))
    assert outcome.traceparent == guard.asked[0][2] == TRACE


async def test_guard_failures_are_counted_by_their_reason() -> None:
    metrics = WorkerMetrics()
    await judge(GuardRefusedError("no"), metrics=metrics)
    await judge(completion(SAFE), metrics=metrics)
    assert metrics.registry.get_sample_value("proguard_guard_failures_total", {"kind": "guard_refused"}) == 1


CATEGORIES = (
    st.sampled_from(["None", "C1", "C1S1", "C99", "none", "A New Risk", "C1: Violence", "\u202e", "x" * 500])
    | st.text()
)
LABELS = st.sampled_from(["safe", "unsafe", "SAFE", "perhaps", ""])
TEXTS = st.text() | st.builds(answer_text, LABELS, LABELS | st.none(), CATEGORIES, st.text(max_size=30))
SCORES = st.floats(0, 1) | st.none()
VALUES = (
    st.binary()
    | st.none()
    | st.builds(content, st.text(), st.text(), tenant=st.text(max_size=5), agent_text=st.text() | st.none())
    | st.builds(content, images=st.lists(st.fixed_dictionaries({"uri": st.text()}), max_size=3))
)
HEADER_NAMES = (
    st.sampled_from(["ce_type", "ce_specversion", "content-type", "traceparent", "proguard-attempt"]) | st.text()
)
HEADER_VALUES = st.sampled_from([DEAD_LETTER_TYPE.encode(), b"1.0", b"application/cloudevents+json"]) | st.binary()


@given(
    VALUES,
    st.lists(st.tuples(HEADER_NAMES, HEADER_VALUES | st.none()), max_size=3),
    TEXTS,
    st.sampled_from(["stop", "stop", "stop", "length"]),
    SCORES,
    SCORES,
)
@settings(max_examples=300)
def test_any_record_and_any_answer_give_one_outcome_and_nothing_unclear_is_safe(
    value: bytes | None,
    headers: list[tuple[str, bytes | None]],
    text: str,
    finish: str,
    request_score: float | None,
    response_score: float | None,
) -> None:
    said = completion(text, finish_reason=finish, request_score=request_score, response_score=response_score)

    async def run() -> Outcome:
        built = await pipeline(ScriptedGuard(said), evidence=Store())
        return await built.process(InputRecord("content", 0, 0, b"k", value, tuple(headers), -1))

    with capture_logs():
        outcome = asyncio.run(run())
    verdict, letter = outcome.verdict, outcome.dead_letter
    if verdict is None:
        assert letter is not None
        assert (letter.verdict_id, letter.value) == (None, value)
    elif verdict.status is Status.INDETERMINATE:
        assert letter is not None
        assert (letter.verdict_id, letter.value) == (verdict.id, value)
        assert verdict.action != "allow"
        assert (verdict.request, verdict.response, verdict.category, outcome.ood) == (None, None, None, None)
    else:
        assert letter is None
        unsafe = Label.UNSAFE in (verdict.request, verdict.response)
        assert (verdict.category is not None) == unsafe
        assert (verdict.action == "allow") <= (not unsafe)
        assert (outcome.ood is not None) == (verdict.category is not None and not verdict.category.in_taxonomy)
