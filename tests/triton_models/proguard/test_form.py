"""The model's own check of the form agrees with the service's strict reading."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from schemas.answer import MAX_NAME, Reading, UnparsableError, parse
from schemas.events import ContentEvent, ImageRef, Modality
from schemas.policy import default_policy
from schemas.prompt import render
from tests.triton_models.proguard.scripted import answer
from triton_models.proguard.guard import form


class EveryId:
    def __contains__(self, item: object) -> bool:
        return True


def is_strict(text: str, modality: Modality) -> bool:
    try:
        return parse(text, modality, EveryId()).reading is Reading.STRICT
    except UnparsableError:
        return False


CATEGORIES = st.one_of(
    st.sampled_from(
        [
            "None",
            "none",
            "None.",
            "**None**",
            "C4",
            "C4S1",
            "c4s1",
            "C4S1.",
            "C04",
            "C4: Fraud",
            "C4 or C6",
            "A1",
            "a 1 b 2",
        ]
    ),
    st.sampled_from(
        [
            "Deep Fake",
            " Deep Fake",
            "Deep Fake ",
            "**Deep Fake**",
            "Deep  Fake.",
            "<b>",
            "x|y",
            "[x]",
            "1234",
            "Ⅽ４",
            "C\u00ad4",
        ]
    ),
    st.text(max_size=MAX_NAME + 3),
    st.text("ab \u0301éC4S1.*'\"-\u00a0\u200b\u2028", max_size=2 * MAX_NAME),
    st.integers(MAX_NAME - 1, 4 * MAX_NAME + 2).map(lambda size: "a" * size),
)
PARTS = st.sampled_from(
    [
        "<think>",
        "</think>",
        "<answer>",
        "</answer>",
        "Request:",
        "Response:",
        "Category:",
        "safe",
        "unsafe",
        "None",
        "C4",
        "\n",
        "\r\n",
        " ",
        "why",
        "</THINK>",
    ]
)
TEXTS = st.one_of(
    st.builds(
        answer,
        st.sampled_from(["safe", "unsafe", "Safe", "safe.", ""]),
        st.sampled_from(["safe", "unsafe", None]),
        CATEGORIES,
        st.one_of(st.just("why"), st.text(max_size=20), PARTS),
    ),
    st.lists(PARTS, max_size=14).map("".join),
    st.text(max_size=40),
)


@given(TEXTS, st.sampled_from(Modality), st.sampled_from(["", "\n", "\n\n", " "]), st.booleans())
@example(answer("unsafe", "safe", "C4S1"), Modality.TEXT, "", False)
@example(answer("unsafe", None, "A New Risk"), Modality.IMAGE, "\n", True)
def test_the_form_is_right_exactly_when_the_service_reads_it_strictly(
    text: str, modality: Modality, end: str, windows: bool
) -> None:
    whole = (text.replace("\n", "\r\n") if windows else text) + end
    image_alone = modality is Modality.IMAGE
    assert form.is_well_formed(whole, image_alone=image_alone) == is_strict(whole, modality)


@pytest.mark.parametrize("image_alone", [False, True])
def test_both_forms_have_answers_that_pass(image_alone: bool) -> None:
    for category in ("C4", "C11S2", "Deep Fake Extortion"):
        assert form.is_well_formed(answer("unsafe", None if image_alone else "safe", category), image_alone=image_alone)


def test_a_name_may_be_as_long_as_the_service_reads() -> None:
    assert form.MAX_NAME == MAX_NAME


TURNS = st.one_of(st.text(max_size=5), st.sampled_from(["", " ", "\n", "x"]))


@given(TURNS, st.none() | TURNS, st.booleans())
def test_an_image_alone_is_told_from_the_rendered_message(user: str, agent: str | None, image: bool) -> None:
    assume(user or agent or image)
    event = ContentEvent(
        id="one",
        user_text=user,
        agent_text=agent,
        images=[ImageRef(uri="s3://bucket/a.png")] if image else [],
        occurred_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    message = render(default_policy(), event).user
    assert form.is_image_alone(message, image) == (event.modality is Modality.IMAGE)
