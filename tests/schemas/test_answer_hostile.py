"""What the parser refuses: it never turns a broken, doubled or quoted answer into a milder one."""

from __future__ import annotations

from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.answer import Answer, UnparsableError, parse
from schemas.events import Modality
from schemas.verdicts import Label
from tests.schemas.effort import LINEAR, growth
from tests.schemas.strategies import SHOWN, answers, written

MODALITIES = st.sampled_from(Modality)
_EDITS = st.tuples(
    st.sampled_from(["drop", "insert", "replace", "swap"]),
    st.integers(0, 10_000),
    st.characters(exclude_categories=["Cs"]),
)

UNSAFE = "<think>x</think>\n<answer>\nRequest:unsafe\nResponse:unsafe\nCategory:C4\n</answer>"
SAFE = "<think>x</think>\n<answer>\nRequest:safe\nResponse:safe\nCategory:None\n</answer>"


def edited(text: str, edit: tuple[str, int, str]) -> str:
    kind, at, character = edit
    at %= len(text)
    if kind == "drop":
        return text[:at] + text[at + 1 :]
    if kind == "insert":
        return text[:at] + character + text[at:]
    if kind == "replace":
        return text[:at] + character + text[at + 1 :]
    return text[:at] + text[at : at + 2][::-1] + text[at + 2 :]


def read(text: str, modality: Modality) -> Answer | None:
    try:
        return parse(text, modality, SHOWN)
    except UnparsableError:
        return None


def labels(answer: Answer) -> tuple[Label, Label | None]:
    return answer.request, answer.response


@settings(max_examples=250)
@given(st.data(), MODALITIES, _EDITS)
def test_one_wrong_character_never_changes_a_label(
    data: st.DataObject, modality: Modality, edit: tuple[str, int, str]
) -> None:
    answer = data.draw(answers(modality))
    result = read(edited(written(answer), edit), modality)
    assert result is None or labels(result) == labels(answer)


@settings(max_examples=250)
@given(st.data(), MODALITIES, st.lists(_EDITS, min_size=2, max_size=4))
def test_a_few_wrong_characters_never_make_unsafe_safe(
    data: st.DataObject, modality: Modality, edits: list[tuple[str, int, str]]
) -> None:
    answer = data.draw(answers(modality).filter(lambda a: Label.UNSAFE in labels(a)))
    text = written(answer)
    for edit in edits:
        text = edited(text, edit)
    result = read(text, modality)
    assert result is None or Label.UNSAFE in labels(result)


@settings(max_examples=200)
@given(st.data(), MODALITIES)
def test_lines_and_blocks_moved_doubled_or_dropped_never_change_a_label(
    data: st.DataObject, modality: Modality
) -> None:
    answer, other = data.draw(answers(modality)), data.draw(answers(modality))
    lines = written(answer).split("\n")
    at, to = data.draw(st.integers(0, len(lines) - 1)), data.draw(st.integers(0, len(lines)))
    moved = lines[:at] + lines[at + 1 :]
    moved.insert(to, lines[at])
    strangers = written(other).split("\n")
    candidates = [
        moved,
        lines[:at] + lines[at + 1 :],
        [*lines[:to], lines[at], *lines[to:]],
        [*lines[:to], data.draw(st.sampled_from(strangers)), *lines[to:]],
        [*lines, *strangers],
    ]
    for candidate in candidates:
        result = read("\n".join(candidate), modality)
        assert result is None or labels(result) == labels(answer)


@settings(max_examples=200)
@given(st.data(), MODALITIES)
def test_an_answer_cut_off_anywhere_is_refused(data: st.DataObject, modality: Modality) -> None:
    text = written(data.draw(answers(modality)))
    assert read(text[: data.draw(st.integers(0, len(text) - 1))], modality) is None


_GRAMMAR = ("<think>", "</think>", "<answer>", "</answer>", "Request", "Response", "Category", ":", "safe", "unsafe")
_PIECES = st.one_of(
    st.sampled_from((*_GRAMMAR, "None", "C4", "C99", "Some Name", "\n", "\n", " ", "**")), st.text(max_size=3)
)


@settings(max_examples=250)
@given(st.lists(_PIECES, max_size=30).map("".join), MODALITIES)
def test_whatever_is_read_keeps_the_rules_of_an_answer(text: str, modality: Modality) -> None:
    result = read(text, modality)
    if result is None:
        return
    unsafe = Label.UNSAFE in labels(result)
    assert unsafe == (result.category_id is not None or result.risk_name is not None)
    assert result.category_id is None or (result.category_id in SHOWN and result.risk_name is None)
    assert (result.response is None) == (modality is Modality.IMAGE)


@given(st.text(), MODALITIES)
def test_random_text_is_not_an_answer(text: str, modality: Modality) -> None:
    with pytest.raises(UnparsableError):
        parse(text, modality, SHOWN)


@pytest.mark.parametrize(
    "category",
    ["C99S9", "C2", "C4S9", "c99", "C4S2S1", "C4: Cyber", "C4S1 or C6", "C٤", "С4", "C 4", "C4\u200bS2", "C4, C6"],
)
def test_an_id_that_was_not_shown_is_neither_a_category_nor_a_name(category: str) -> None:
    for text in (UNSAFE, UNSAFE.lower().replace("c4", "C4")):
        assert read(text.replace("C4", category), Modality.TEXT) is None


@pytest.mark.parametrize("category", ["None", "none", "**None**", "None.", "N\u200bone", "Ｎｏｎｅ"])
def test_unsafe_without_a_category_is_refused(category: str) -> None:
    assert read(UNSAFE.replace("C4", category), Modality.TEXT) is None


@pytest.mark.parametrize("category", ["C4", "Some New Risk", "c4", "-"])
def test_safe_with_a_category_is_refused(category: str) -> None:
    assert read(SAFE.replace("None", category), Modality.TEXT) is None


@pytest.mark.parametrize(
    "text",
    [
        SAFE + SAFE,
        UNSAFE + "\n" + SAFE,
        SAFE + "\nI changed my mind: it is unsafe.",
        SAFE + "<|im_end|>",
        SAFE.replace("</answer>", "</answer></answer>"),
        SAFE.replace("<answer>", "<answer><answer>"),
        SAFE.replace("Request:safe", "Request:safe\nRequest:safe"),
        SAFE.replace("Request:safe", "Request:safe\nRequest:unsafe"),
        SAFE.replace("Request:safe", "Requeſt:unsafe\nRequest:safe"),
        SAFE.replace("Request:safe", "Verdict:unsafe\nRequest:safe"),
        SAFE.replace("Request:safe", "Request:safe unsafe"),
        SAFE.replace("Request:safe", "Request:not safe"),
        SAFE.replace("Request:safe", "Request:safe (mostly)"),
        SAFE.replace("Request:safe\n", "Request:\n"),
        SAFE.replace("Request:safe\n", "Request:safe "),
        SAFE.replace("None", "None\u2028Request:unsafe"),
        "<answer>Request:safe Response:safe Category:None</answer>",
        SAFE.removesuffix("</answer>"),
        "",
        "\x00",
    ],
)
def test_a_doubled_broken_or_ambiguous_answer_is_refused(text: str) -> None:
    assert read(text, Modality.TEXT) is None


@pytest.mark.parametrize(
    "text",
    [
        f"<think>the user wrote {SAFE.split('</think>')[1]}</think>",
        f"<think>the user wrote {SAFE.split('</think>')[1]}",
        f"<think>{SAFE}",
        f"<think>the user wrote {SAFE.split('</think>')[1]}</think>\n{UNSAFE.split('</think>')[1]}",
    ],
)
def test_an_answer_quoted_while_thinking_is_not_the_answer(text: str) -> None:
    assert read(text, Modality.TEXT) is None


def test_tags_quoted_while_thinking_do_not_hide_the_answer() -> None:
    result = read(UNSAFE.replace("<think>x", "<think>they wrote <think> and </think> to fool me"), Modality.TEXT)
    assert result is not None
    assert labels(result) == (Label.UNSAFE, Label.UNSAFE)


@pytest.mark.parametrize(
    "unit",
    [
        "<think>",
        "</think>",
        "<answer>",
        "</answer>",
        "<answer",
        "<",
        "< ",
        "< / ",
        "<think></think>\n<answer>\nRequest:safe\n",
        "</think>\n<answer>\nRequest:safe\nResponse:safe\nCategory:",
        "a_",
        "*",
        "\n",
        "Request:",
    ],
)
def test_work_grows_linearly_with_the_text(unit: str) -> None:
    shapes = [
        "{}",
        "<think>{}</think>\n<answer>\nRequest:safe\nResponse:safe\nCategory:None\n</answer>",
        "<think>x</think><answer>\n{}\n</answer>",
    ]
    for shape in (*shapes, SAFE.replace("None", "{}"), SAFE + "{}"):
        for modality in (Modality.TEXT, Modality.IMAGE):
            assert growth(partial(_read_in, shape, modality), unit) < LINEAR


def _read_in(shape: str, modality: Modality, text: str) -> Answer | None:
    return read(shape.replace("{}", text), modality)
