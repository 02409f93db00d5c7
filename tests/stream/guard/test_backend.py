from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.worker.records import Outcome
from tests.stream.worker.parts import SAFE, ScriptedGuard, completion, content, pipeline, record

NO_PROBABILITIES = [math.nan, math.inf, -math.inf, -0.001, 1.001, 1e300]


@pytest.mark.parametrize("score", NO_PROBABILITIES)
def test_a_score_that_is_no_probability_is_no_score(score: float) -> None:
    found = completion(request_score=score, response_score=score)
    assert (found.request_score, found.response_score) == (None, None)


@pytest.mark.parametrize("score", [None, 0.0, 0.25, 1.0])
def test_a_probability_stays_as_it_is(score: float | None) -> None:
    found = completion(request_score=score, response_score=score)
    assert (found.request_score, found.response_score) == (score, score)


def test_a_negative_count_of_tokens_is_zero() -> None:
    found = completion(prompt_tokens=-1, completion_tokens=-(2**31))
    assert (found.prompt_tokens, found.completion_tokens) == (0, 0)


@pytest.mark.parametrize("text", ["plain", "größer 😀", "zero\x00width\u200b"])
def test_text_that_can_be_written_stays_as_it_is(text: str) -> None:
    assert completion(text).text == text


@given(
    text=st.text(st.characters(codec=None)) | st.just(SAFE) | st.just(SAFE.replace("because", "half a pair: \ud83d")),
    scores=st.tuples(*[st.none() | st.floats()] * 2),
    tokens=st.tuples(*[st.integers(-(2**31), 2**31 - 1)] * 2),
    finish_reason=st.sampled_from(["stop", "length", "", "cancelled"]),
)
async def test_whatever_a_guard_says_ends_in_an_outcome_that_can_be_written(
    text: str, scores: tuple[float | None, float | None], tokens: tuple[int, int], finish_reason: str
) -> None:
    said = completion(
        text,
        finish_reason=finish_reason,
        request_score=scores[0],
        response_score=scores[1],
        prompt_tokens=tokens[0],
        completion_tokens=tokens[1],
    )
    judge = await pipeline(ScriptedGuard(said))
    outcome: Outcome = await judge.process(record(value=content(agent_text="hi")))
    assert outcome.verdict is not None
    assert outcome.verdict.model_dump_json()
