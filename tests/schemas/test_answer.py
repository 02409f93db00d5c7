"""The strict grammar and the tolerant reading: what is understood, and that it is understood right."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.answer import MAX_NAME, Answer, Reading, UnparsableError, parse
from schemas.events import Modality
from schemas.verdicts import Label
from tests.schemas.strategies import SHOWN, answers, fields_of, written

MODALITIES = st.sampled_from(Modality)


def content(answer: Answer, *, rationale: bool = True) -> Answer:
    """The answer without how it was read, and without its rationale where a mutation dropped that."""
    kept = answer.rationale if rationale else ""
    return dataclasses.replace(answer, reading=Reading.STRICT, rationale=kept)


@settings(max_examples=200)
@given(st.data(), MODALITIES, st.sampled_from(["\n", "\r\n"]), st.sampled_from(["", "\n"]))
def test_what_is_written_in_the_grammar_reads_back_equal(
    data: st.DataObject, modality: Modality, line_break: str, end: str
) -> None:
    answer = data.draw(answers(modality))
    text = written(answer).replace("\n", line_break) if "\n" not in answer.rationale else written(answer)
    assert parse(text + end, modality, SHOWN) == answer


@st.composite
def careless(draw: st.DrawFn, answer: Answer) -> tuple[str, bool]:
    """The answer in the hand of a careless guard; and whether its rationale is still there."""
    lines = []
    for name, value in draw(st.permutations(fields_of(answer))):
        mark = draw(st.sampled_from(["", "**", "_", "`", "* "]))
        bullet = draw(st.sampled_from(["", "- ", "  ", "\t", "* "]))
        label = draw(st.sampled_from([name, name.upper(), name.lower()]))
        token = value if answer.risk_name == value else draw(st.sampled_from([value, value.upper(), value.lower()]))
        colon = draw(st.sampled_from([":", " : ", ": ", ":\t", f"{mark.strip()}: "]))
        lines.append(
            f"{bullet}{mark}{label}{colon}{mark.strip()}{token}{mark.strip()}{draw(st.sampled_from(['', ' ', '.']))}"
        )
        lines += draw(st.sampled_from([[], [""], ["  "]]))
    think, begin, end = draw(
        st.sampled_from(
            [
                ("think", "<answer>", "</answer>"),
                ("THINK", "<Answer>", "</ANSWER>"),
                (" think ", "< answer >", "</ answer >"),
            ]
        )
    )
    kept = draw(st.booleans())
    before = f"<{think}>{answer.rationale}</{think}>" if kept else draw(st.sampled_from(["", "Here is my answer:\n"]))
    gap, tail = draw(st.sampled_from(["", "\n", "\n\n", " "])), draw(st.sampled_from(["", " ", "\n\n"]))
    return f"{before}{gap}{begin}\n" + "\n".join(lines) + f"\n{end}{tail}", kept


@settings(max_examples=200)
@given(st.data(), MODALITIES)
def test_a_careless_hand_is_read_tolerantly_with_the_same_content(data: st.DataObject, modality: Modality) -> None:
    answer = data.draw(answers(modality))
    text, rationale = data.draw(careless(answer))
    read = parse(text, modality, SHOWN)
    assert content(read) == content(answer, rationale=rationale)
    if text.removesuffix("\n") != written(answer).removesuffix("\n"):
        assert read.reading is Reading.TOLERANT or "." in text


@pytest.mark.parametrize(
    ("category", "expected"),
    [("none", None), ("None.", None), ("**None**", None), ("NONE", None)],
)
def test_none_in_another_form_is_still_none_but_not_strict(category: str, expected: str | None) -> None:
    text = f"<think>x</think>\n<answer>\nRequest:safe\nResponse:safe\nCategory:{category}\n</answer>"
    read = parse(text, Modality.TEXT, SHOWN)
    assert (read.category_id, read.risk_name, read.reading) == (expected, None, Reading.TOLERANT)


@pytest.mark.parametrize("category", ["c4s2", "**C4S2**", "`C4S2`", "C4S2.", '"C4S2"', " C4S2", "C4S2 "])
def test_an_id_in_another_form_is_the_id_and_never_a_name(category: str) -> None:
    text = f"<think>x</think>\n<answer>\nRequest:unsafe\nResponse:safe\nCategory:{category}\n</answer>"
    read = parse(text, Modality.TEXT, SHOWN)
    assert (read.category_id, read.risk_name, read.reading) == ("C4S2", None, Reading.TOLERANT)


def test_a_request_may_be_safe_and_its_response_unsafe() -> None:
    text = "<think>x</think>\n<answer>\nRequest:safe\nResponse:unsafe\nCategory:C4\n</answer>"
    read = parse(text, Modality.TEXT, SHOWN)
    assert (read.request, read.response, read.category_id) == (Label.SAFE, Label.UNSAFE, "C4")


def test_an_image_alone_is_answered_without_a_response() -> None:
    text = "<think>x</think>\n<answer>\nRequest:unsafe\nCategory:Staged Wildlife Cruelty\n</answer>"
    read = parse(text, Modality.IMAGE, SHOWN)
    assert (read.response, read.risk_name, read.reading) == (None, "Staged Wildlife Cruelty", Reading.STRICT)
    for modality in (Modality.TEXT, Modality.TEXT_IMAGE):
        with pytest.raises(UnparsableError, match="response is missing"):
            parse(text, modality, SHOWN)


def test_a_response_to_an_image_alone_is_refused() -> None:
    text = "<think>x</think>\n<answer>\nRequest:safe\nResponse:safe\nCategory:None\n</answer>"
    with pytest.raises(UnparsableError, match="no response"):
        parse(text, Modality.IMAGE, SHOWN)


@pytest.mark.parametrize(
    "name", ["Déjà Vu Scam", "深度伪造 绑架 诈骗", "Anti-Vaccine Hoax", "H5N1 Culture Advice", "Scam (Crypto)"]
)
def test_a_name_in_any_script_is_a_name(name: str) -> None:
    text = f"<think>x</think>\n<answer>\nRequest:unsafe\nResponse:safe\nCategory:{name}\n</answer>"
    read = parse(text, Modality.TEXT, SHOWN)
    assert (read.risk_name, read.category_id, read.reading) == (name, None, Reading.STRICT)


def test_a_name_is_one_line_with_single_spaces_and_composed() -> None:
    text = "<think>x</think>\n<answer>\nRequest:unsafe\nResponse:safe\nCategory:Cafe\u0301  Fraud\n</answer>"
    assert parse(text, Modality.TEXT, SHOWN).risk_name == "Café Fraud"


@pytest.mark.parametrize(
    "name", ["x" * (MAX_NAME + 1), "x" * 100_000, "???", "12345", "<b>", "a|b", "a{b}", "\u202eevil", "", " "]
)
def test_what_is_not_a_name_is_refused(name: str) -> None:
    for line_break in ("\n", "\n\n"):
        text = f"<think>x</think>{line_break}<answer>\nRequest:unsafe\nResponse:safe\nCategory:{name}\n</answer>"
        with pytest.raises(UnparsableError):
            parse(text, Modality.TEXT, SHOWN)


def test_the_error_never_quotes_the_text() -> None:
    for text in (
        "SECRET",
        "<answer>\nSECRET\n</answer>",
        "<answer>\nRequest:SECRET\nResponse:safe\nCategory:None</answer>",
    ):
        with pytest.raises(UnparsableError) as caught:
            parse(text, Modality.TEXT, SHOWN)
        assert "SECRET" not in str(caught.value)
