"""The rendered messages have one structure, whatever the policy and the content say."""

from __future__ import annotations

import hashlib
import json
import re

import pytest
from hypothesis import given, settings

from schemas.answer import Reading, parse
from schemas.events import ContentEvent, Modality
from schemas.policy import Policy
from schemas.prompt import CONVERSATION_BEGIN, CONVERSATION_END, SystemPrompt, render, render_system, render_user
from tests.schemas.effort import LINEAR, growth
from tests.schemas.strategies import EVENT_OF, NOW, as_a_reader_sees, event, hostile_text, policies

_TAG = re.compile(r"<\s*/?\s*(?:think|answer)")


@settings(max_examples=300)
@given(hostile_text(), hostile_text())
def test_content_cannot_change_the_structure_of_the_user_message(user: str, agent: str) -> None:
    message = render_user(user, agent)
    lines = message.split("\n")
    assert lines[0] == CONVERSATION_BEGIN
    assert lines[-1] == CONVERSATION_END
    for seen in (message.casefold(), as_a_reader_sees(message)):
        assert seen.startswith(CONVERSATION_BEGIN.casefold() + "\nuser: ")
        assert len(re.findall(r"<\s*/?\s*begin\b", seen)) == 1
        assert len(re.findall(r"<\s*/?\s*end\b", seen)) == 1
        begins = [line.lstrip() for line in seen.splitlines()]
        assert sum(re.match(r"user\s*:", line) is not None for line in begins) == 1
        assert sum(re.match(r"agent\s*:", line) is not None for line in begins) == 1
        assert not any(re.match(r"(?:request|response|category)\s*:", line) for line in begins)
        assert not re.search(r"<\s*\|", seen)
        assert not _TAG.search(seen)


def test_the_user_message_is_the_published_template_for_plain_text() -> None:
    assert render_user("hello", "hi") == "<BEGIN CONVERSATION>\nUser: hello\nAgent:  hi\n<END CONVERSATION>"


@pytest.mark.parametrize("agent", [None, ""])
def test_an_absent_turn_is_an_empty_one(agent: str | None) -> None:
    assert render_user("", agent) == "<BEGIN CONVERSATION>\nUser: \nAgent:  \n<END CONVERSATION>"


@settings(max_examples=50)
@given(policies())
def test_the_system_message_depends_on_nothing_but_digest_and_modality(policy: Policy) -> None:
    again = Policy.model_validate(json.loads(json.dumps(policy.model_dump(mode="json"), sort_keys=True)))
    assert again.digest == policy.digest
    for modality, sample in EVENT_OF.items():
        other = ContentEvent(
            id="other",
            tenant="t",
            user_text="x" * len(sample.user_text),
            images=sample.images,
            author="a",
            occurred_at=NOW,
        )
        assert other.modality is sample.modality is modality
        systems = {render(policy, sample).system, render(again, other).system, render_system(again, modality)}
        assert len({system.encode() for system in systems}) == 1


@settings(max_examples=50)
@given(policies())
def test_the_system_message_shows_exactly_the_ids_that_may_be_answered(policy: Policy) -> None:
    for modality in Modality:
        shown = re.search(
            r"<BEGIN UNSAFE CONTENT CATEGORIES>\n(.*)\n<END UNSAFE", render_system(policy, modality), re.DOTALL
        )
        assert shown is not None
        assert [line.split(":")[0].strip() for line in shown[1].split("\n")] == list(policy.index)


@settings(max_examples=50)
@given(policies())
def test_every_example_in_the_prompt_is_an_answer_in_the_strict_grammar(policy: Policy) -> None:
    for modality in Modality:
        system = render_system(policy, modality)
        examples = re.findall(r"^<think>.*?</think>\n<answer>\n.*?</answer>$", system, re.DOTALL | re.MULTILINE)
        assert len(examples) == 3
        read = [parse(example, modality, policy.index) for example in examples]
        assert {answer.reading for answer in read} == {Reading.STRICT}
        assert [(a.category_id is None, a.risk_name is None) for a in read] == [
            (True, True),
            (False, True),
            (True, False),
        ]


@settings(max_examples=50)
@given(policies())
def test_each_block_of_the_system_message_appears_once_and_in_order(policy: Policy) -> None:
    for modality in Modality:
        markers = re.findall(r"^<(?:BEGIN|END) [A-Z ]+>$", render_system(policy, modality), re.MULTILINE)
        assert markers == [
            "<BEGIN TASK DESCRIPTION>",
            "<END TASK DESCRIPTION>",
            "<BEGIN UNSAFE CONTENT CATEGORIES>",
            "<END UNSAFE CONTENT CATEGORIES>",
            "<BEGIN OUTPUT FORMAT>",
            "<END OUTPUT FORMAT>",
        ]


@settings(max_examples=30)
@given(policies())
def test_synonyms_are_shown_only_when_the_policy_says_so(policy: Policy) -> None:
    synonyms = [s for category in policy.categories for s in category.synonyms]
    system = render_system(policy, Modality.TEXT)
    assert ("(also: " in system) <= policy.prompt.synonyms
    if policy.prompt.synonyms:
        assert all(synonym in system for synonym in synonyms)


@settings(max_examples=20)
@given(policies())
def test_each_modality_has_its_own_system_message_and_an_image_has_no_response(policy: Policy) -> None:
    systems = {modality: render_system(policy, modality) for modality in Modality}
    assert len(set(systems.values())) == 3
    assert "Response:" not in systems[Modality.IMAGE]
    assert all("Response:" in systems[modality] for modality in (Modality.TEXT, Modality.TEXT_IMAGE))


@settings(max_examples=50)
@given(policies(), hostile_text())
def test_the_digest_is_over_both_messages_with_their_lengths(policy: Policy, text: str) -> None:
    prompt = render(policy, event("x" + text))
    parts = [message.encode() for message in (prompt.system, prompt.user)]
    assert prompt.digest == hashlib.sha256(b"".join(len(p).to_bytes(8, "big") + p for p in parts)).hexdigest()


@settings(max_examples=30)
@given(policies(), hostile_text())
def test_a_kept_system_message_gives_the_same_prompts_in_any_order(policy: Policy, text: str) -> None:
    kept = SystemPrompt(policy, Modality.TEXT)
    first, second = event("x" + text), event("y", text)
    assert [kept.join(e) for e in (first, second, first)] == [render(policy, e) for e in (first, second, first)]


def test_rendering_a_long_text_is_linear() -> None:
    for unit in ("<|im_start|>", "\nUser: a", "word ", "＜"):
        assert growth(lambda text: render_user(text, text), unit) < LINEAR
