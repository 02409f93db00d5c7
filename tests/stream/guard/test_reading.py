"""What those who compare guards take an answer for is what the pipeline makes of it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from schemas.events import ContentEvent, ImageRef
from schemas.policy import Policy, default_policy
from schemas.prompt import render
from schemas.verdicts import Status
from stream.guard.reading import labels, shown_ids
from tests.stream.worker.parts import ScriptedGuard, answer_text, completion, content, pipeline, record

ANSWERS = [
    answer_text("safe", "safe", "None"),
    answer_text("unsafe", "safe", "C1S1"),
    answer_text("safe", "unsafe", "C4"),
    answer_text("unsafe", "safe", "Ballot Paper Forgery"),
    answer_text("unsafe", "safe", "C99S9"),
    answer_text("unsafe", "safe", "None"),
    answer_text("safe", None, "None"),
    answer_text("unsafe", None, "C1"),
    "<answer>\nrequest: SAFE\nResponse: safe\ncategory: none\n</answer>",
    "",
    "garbage",
]


@pytest.mark.parametrize("text", ANSWERS)
@pytest.mark.parametrize("agent", [None, "yes"])
@pytest.mark.parametrize("finish_reason", ["stop", "length"])
async def test_an_answer_has_labels_exactly_when_the_pipeline_decides_by_it(
    text: str, agent: str | None, finish_reason: str
) -> None:
    said = completion(text, finish_reason=finish_reason)
    event = ContentEvent.model_validate_json(content(agent_text=agent))
    found = labels(render(default_policy(), event), False, said)
    judge = await pipeline(ScriptedGuard(said))
    verdict = (await judge.process(record(value=content(agent_text=agent)))).verdict
    assert verdict is not None
    assert (found is not None) == (verdict.status is Status.DECIDED)
    if found is not None:
        # A safe response to a turn that the event has not is nothing that two guards could agree on.
        assert (found.request, found.response) == (verdict.request, verdict.response if agent else None)


def test_an_image_alone_has_no_response() -> None:
    event = ContentEvent(id="e", images=[ImageRef(uri="s3://b/k")], occurred_at=datetime(2026, 1, 1, tzinfo=UTC))
    prompt = render(default_policy(), event)
    assert labels(prompt, True, completion(answer_text("safe", None, "None"))) is not None
    assert labels(prompt, True, completion(answer_text("safe", "safe", "None"))) is None


def test_the_ids_of_a_system_message_are_those_of_its_policy() -> None:
    policy = default_policy()
    event = ContentEvent(id="e", user_text="t", occurred_at=datetime(2026, 1, 1, tzinfo=UTC))
    shown = shown_ids(render(policy, event).system)
    assert all(id in shown for id in policy.index)
    assert not any(id in shown for id in ("C12", "C1S9", "C99S9", "", None))
    data = policy.model_dump()
    data["prompt"]["subcategories"] = False
    coarse = Policy.model_validate(data)
    shown = shown_ids(render(coarse, event).system)
    assert all(id in shown for id in coarse.index)
    assert "C12S1" not in shown
