"""The judge: form, nudges, scores, sums of tokens."""

from __future__ import annotations

import math

import pytest

from tests.triton_models.proguard.scripted import ScriptedEngine, answer
from triton_models.proguard.guard.calibration import Calibration
from triton_models.proguard.guard.engine import Conversation
from triton_models.proguard.guard.errors import OverloadedError, TooLongError
from triton_models.proguard.guard.judge import NUDGE, NUDGE_IMAGE, Answer, Judge, JudgeState

GOOD = answer("unsafe", "safe", "C4S1")
BROKEN = "I think this is unsafe."
USER = "<BEGIN CONVERSATION>\nUser: hello\nAgent:  \n<END CONVERSATION>"
ALONE = "<BEGIN CONVERSATION>\nUser: \nAgent:  \n<END CONVERSATION>"
PLENTY = 1000


def judge_of(
    engine: ScriptedEngine, *, nudges: int = 1, constrained: bool = False, calibration: Calibration | None = None
) -> Judge:
    return Judge(engine, calibration=calibration or Calibration(), constrained=constrained, nudges=nudges)


async def ask(judge: Judge, *, user: str = USER, images: tuple[bytes, ...] = (), max_tokens: int = PLENTY) -> Answer:
    return await judge.answer("policy", user, images, max_tokens)


async def test_a_right_answer_is_asked_for_once() -> None:
    engine = ScriptedEngine([GOOD])
    judge = judge_of(engine, constrained=True)
    given = await ask(judge, images=(b"png",))
    assert (given.text, given.completion_tokens, given.prompt_tokens) == (GOOD, len(GOOD), len(USER))
    assert engine.asked == [Conversation("policy", USER, (b"png",), PLENTY, True)]
    assert judge.state() == JudgeState(answered=1, unparsable=0, nudged=0, repaired=0)


async def test_a_broken_answer_is_asked_again_within_what_is_left_and_both_are_counted() -> None:
    engine = ScriptedEngine([BROKEN, GOOD])
    judge = judge_of(engine)
    given = await ask(judge)
    assert (given.text, given.completion_tokens, given.prompt_tokens) == (GOOD, len(BROKEN + GOOD), 2 * len(USER))
    assert [asked.max_tokens for asked in engine.asked] == [PLENTY, PLENTY - len(BROKEN)]
    assert [asked.nudge for asked in engine.asked] == [None, NUDGE]
    assert judge.state() == JudgeState(answered=1, unparsable=0, nudged=1, repaired=1)


async def test_an_image_alone_is_reminded_of_its_own_form() -> None:
    engine = ScriptedEngine([GOOD, answer("unsafe", None, "C4S1")])
    judge = judge_of(engine)
    given = await ask(judge, user=ALONE, images=(b"png",))
    assert given.text == answer("unsafe", None, "C4S1")
    assert engine.asked[1].nudge == NUDGE_IMAGE
    assert "Response" in NUDGE
    assert "Response" not in NUDGE_IMAGE


async def test_what_stays_broken_is_given_as_it_was_first() -> None:
    engine = ScriptedEngine([BROKEN, "worse", "worst"])
    judge = judge_of(engine, nudges=2)
    given = await ask(judge)
    assert (given.text, given.completion_tokens) == (BROKEN, len(BROKEN + "worse" + "worst"))
    assert judge.state() == JudgeState(answered=1, unparsable=1, nudged=2, repaired=0)


@pytest.mark.parametrize(("nudges", "max_tokens"), [(0, PLENTY), (3, len(BROKEN))])
async def test_without_nudges_or_tokens_left_nothing_is_asked_again(nudges: int, max_tokens: int) -> None:
    engine = ScriptedEngine([BROKEN])
    judge = judge_of(engine, nudges=nudges)
    assert (await ask(judge, max_tokens=max_tokens)).text == BROKEN
    assert judge.state() == JudgeState(answered=1, unparsable=1, nudged=0, repaired=0)


async def test_all_asking_together_never_writes_more_than_was_allowed() -> None:
    engine = ScriptedEngine([BROKEN, GOOD])
    given = await ask(judge_of(engine), max_tokens=len(BROKEN) + 5)
    assert (given.text, given.completion_tokens) == (BROKEN, len(BROKEN) + 5)


async def test_a_reminder_that_does_not_fit_is_dropped() -> None:
    engine = ScriptedEngine([BROKEN, TooLongError("too long")])
    judge = judge_of(engine)
    assert (await ask(judge)).text == BROKEN
    assert judge.state().unparsable == 1


@pytest.mark.parametrize("script", [[TooLongError("x")], [OverloadedError("x")], [BROKEN, OverloadedError("x")]])
async def test_the_engines_errors_pass(script: list[str | Exception]) -> None:
    with pytest.raises((TooLongError, OverloadedError)):
        await ask(judge_of(ScriptedEngine(script)))


async def test_scores_are_calibrated_and_belong_to_the_answer_that_is_given() -> None:
    def likely(before: str) -> dict[str, float]:
        probability = 0.9 if before.endswith("Request:") else 0.2
        return {"u": math.log(probability), "s": math.log(1 - probability)}

    broken = "<answer>\nResponse:unsafe\n</answer>"
    engine = ScriptedEngine([broken, GOOD], likely)
    given = await ask(judge_of(engine, calibration=Calibration(request=2.0)))
    assert given.request_score == pytest.approx(3 / (1 + 3))  # the odds 9 to the power of a half
    assert given.response_score == pytest.approx(0.2)


async def test_an_answer_without_a_label_has_no_score() -> None:
    given = await ask(judge_of(ScriptedEngine([BROKEN], lambda _: {"u": 0.0}), nudges=0))
    assert math.isnan(given.request_score)
    assert math.isnan(given.response_score)
