"""What the renderer writes, the guard reads back."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.events import Modality
from schemas.policy import Category, Policy, SubCategory
from schemas.prompt import render_system, render_user
from tests.triton_models import prompts
from triton_models.proguard_lite.guard.errors import BadPromptError
from triton_models.proguard_lite.guard.prompt_reading import read_system, read_user

_letters = st.characters(
    codec="utf-8", exclude_characters="<>|;()—\u2028\u2029\u0085", categories=["L", "M", "N", "P", "S", "Zs"]
)
_phrase = st.text(_letters, min_size=1, max_size=30).map(str.strip).filter(bool)
_sentence = st.text(
    st.characters(
        codec="utf-8", exclude_characters="<>|\u2028\u2029\u0085", categories=["L", "M", "N", "P", "S", "Zs"]
    ),
    min_size=1,
    max_size=60,
).map(str.strip)
_content = st.text(st.characters(codec="utf-8"), max_size=200)


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    categories = []
    for number in range(1, draw(st.integers(1, 4)) + 1):
        children = [
            SubCategory(
                id=f"C{number}S{child}",
                name=draw(_phrase),
                description=draw(_sentence.filter(bool)),
                synonyms=draw(st.lists(_phrase, max_size=3)),
            )
            for child in range(1, draw(st.integers(0, 3)) + 1)
        ]
        categories.append(
            Category(
                id=f"C{number}",
                name=draw(_phrase),
                description=draw(_sentence.filter(bool)),
                synonyms=draw(st.lists(_phrase, max_size=3)),
                subcategories=children,
            )
        )
    return Policy(name="test", version="1", categories=categories)


@settings(max_examples=60)
@given(policy=policies(), modality=st.sampled_from(Modality))
def test_every_entry_of_a_rendered_policy_is_read_back(policy: Policy, modality: Modality) -> None:
    task = read_system(render_system(policy, modality))
    assert [entry.id for entry in task.entries] == list(policy.index)
    for entry in task.entries:
        category, child = policy.index[entry.id]
        shown = child or category
        assert entry.name == shown.name
        assert entry.parent == (category.id if child else None)
    assert task.response is (modality is not Modality.IMAGE)


@settings(max_examples=200)
@given(user=_content, agent=_content)
def test_both_turns_are_told_apart_whatever_they_hold(user: str, agent: str) -> None:
    rendered = render_user(user, agent)
    turns = read_user(rendered)
    again = read_user(render_user(turns.user, turns.agent))
    assert (again.user, again.agent) == (turns.user, turns.agent)
    assert bool(turns.agent) == bool(agent.strip())


def test_default_policy_is_read_with_its_synonyms_and_descriptions() -> None:
    task = read_system(prompts.SYSTEM)
    assert len(task.entries) == 39
    for entry in task.entries:
        category, child = prompts.POLICY.index[entry.id]
        assert entry.synonyms == tuple((child or category).synonyms)
        assert entry.description == (child or category).description


def test_a_policy_without_synonyms_and_subcategories_is_read() -> None:
    style = prompts.POLICY.prompt.model_copy(update={"synonyms": False, "subcategories": False})
    task = read_system(prompts.system_of(prompts.changed(prompt=style)))
    assert [entry.id for entry in task.entries] == [f"C{number}" for number in range(1, 12)]
    assert not any(entry.synonyms for entry in task.entries)
    assert not task.specific


def test_the_prompt_for_text_with_images_asks_for_top_categories() -> None:
    assert read_system(prompts.SYSTEM).specific
    assert not read_system(prompts.SYSTEM_TEXT_IMAGE).specific


def test_equal_category_blocks_have_equal_digests_in_every_modality() -> None:
    systems = (prompts.SYSTEM, prompts.SYSTEM_IMAGE, prompts.SYSTEM_TEXT_IMAGE)
    assert len({read_system(system).digest for system in systems}) == 1
    assert read_system(prompts.system_of(prompts.without("C8"))).digest != read_system(prompts.SYSTEM).digest


@pytest.mark.parametrize(
    "system",
    [
        "",
        "Judge this.",
        prompts.SYSTEM.replace("<BEGIN UNSAFE CONTENT CATEGORIES>", ""),
        prompts.SYSTEM.replace("<END UNSAFE CONTENT CATEGORIES>", ""),
        prompts.SYSTEM.replace("<BEGIN OUTPUT FORMAT>", ""),
        "<BEGIN UNSAFE CONTENT CATEGORIES>\n\n<END UNSAFE CONTENT CATEGORIES>\n<BEGIN OUTPUT FORMAT>\n<END OUTPUT FORMAT>",
        prompts.SYSTEM.replace("C1: Copyright", "Copyright"),
        prompts.SYSTEM.replace("\nC2: ", "\nC1: "),
    ],
)
def test_a_system_message_without_readable_categories_is_refused(system: str) -> None:
    with pytest.raises(BadPromptError):
        read_system(system)


@pytest.mark.parametrize(
    "user",
    [
        "",
        "hello",
        "<BEGIN CONVERSATION>\nUser: x\n<END CONVERSATION>",
        "<BEGIN CONVERSATION>\nAgent: x\n<END CONVERSATION>",
    ],
)
def test_a_user_message_without_a_conversation_is_refused(user: str) -> None:
    with pytest.raises(BadPromptError):
        read_user(user)
