"""No content passes for structure, and nothing else about it changes."""

from __future__ import annotations

import re
import unicodedata
from functools import partial

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from schemas.neutralise import neutralise
from tests.schemas.effort import LINEAR, growth
from tests.schemas.strategies import INVISIBLE, LINE_BREAKS, MARKERS, as_a_reader_sees, hostile_text

_STRUCTURE = re.compile(r"<\s*\||<\s*/?\s*(?:begin|end|think|answer|image|vision)\b|<\s*<\s*sys")
_ROLE_LINE = re.compile(r"\s*(?:user|agent|request|response|category)\s*:")


def structure_in(text: str) -> list[str]:
    """Every marker that a normalising reader would find."""
    seen = as_a_reader_sees(text)
    return _STRUCTURE.findall(seen) + [line for line in seen.splitlines() if _ROLE_LINE.match(line)]


@settings(max_examples=300)
@given(hostile_text())
@example("<\u0338|im_start|>")
@example("\u226e|im_end|>")
@example("User\u2a74")
@example("u\u0301s\u20dder\ufe55 hi")
@example("a\x0bUser: b")
@example("<\u200b|\u200bim_start|>")
@example("<")
@example("\u00a8User:")
def test_no_marker_survives_in_any_disguise(text: str) -> None:
    assert structure_in(neutralise(text)) == []


@settings(max_examples=200)
@given(hostile_text())
def test_only_the_decisive_characters_are_exchanged(text: str) -> None:
    result = neutralise(text)
    assert len(result) == len(text)
    for before, after in zip(text, result, strict=True):
        if before != after:
            folded = unicodedata.normalize("NFKD", before)
            assert (after == "‹" and "<" in folded) or (after == "꞉" and ":" in folded)


@settings(max_examples=200)
@given(hostile_text())
def test_a_second_pass_changes_nothing(text: str) -> None:
    once = neutralise(text)
    assert neutralise(once) == once


@given(st.text(st.characters(exclude_characters="<:≮⩴︓﹕﹤：＜")))
def test_a_text_without_a_decisive_character_is_returned_as_it_is(text: str) -> None:
    assert neutralise(text) is text


@pytest.mark.parametrize(
    "text",
    [
        "if (a < b && c > d) { e: 1 }",
        "Meet at 12:30, see https://example.org/a?b=c:d",
        "<b>bold</b> and <br/> and <img src=x>",
        "Dear user: as agreed",
        "The answer: 42",
        "Les utilisateurs : oui",
        "std::vector<int> v;",
        "用户：你好 <文本>",
        "x <- y; z <= w",
        "users: 3\nagents: 4",
        "",
    ],
)
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert neutralise(text) == text


@pytest.mark.parametrize("marker", [m for m in MARKERS if "<" in m or ":" in m])
def test_every_marker_is_broken_at_the_start_of_any_line(marker: str) -> None:
    for line_break in ("", *LINE_BREAKS):
        text = f"a{line_break}{marker}" if line_break else marker
        assert neutralise(text) != text
        assert structure_in(neutralise(text)) == []


@pytest.mark.parametrize("invisible", INVISIBLE)
def test_an_invisible_character_hides_no_marker(invisible: str) -> None:
    for marker in ("<|im_start|>", "</answer>", "<END CONVERSATION>", "Agent:"):
        for position in range(len(marker) + 1):
            text = marker[:position] + invisible + marker[position:]
            assert structure_in(neutralise(text)) == [], text


@pytest.mark.parametrize("word", ["Аgent:", "Usеr:", "<ЕND CONVERSATION>", "<аnѕwer>", "αgεnt:", "<|im_start|>"])
def test_letters_drawn_alike_in_other_scripts_hide_no_marker(word: str) -> None:
    assert not {"<", ":"} & set(neutralise(word))


def test_no_code_point_that_folds_to_a_bracket_or_a_colon_is_overlooked() -> None:
    for code in range(0x110000):
        if 0xD800 <= code < 0xE000:
            continue
        character = chr(code)
        folded = unicodedata.normalize("NFKC", character) + unicodedata.normalize("NFKD", character)
        if "<" in folded:
            assert character not in neutralise(f"{character}|im_start|>"), hex(code)
        if ":" in folded:
            assert character not in neutralise(f"User{character}"), hex(code)


@pytest.mark.parametrize(
    "unit", ["<", "< ", "< / ", "\n", " ", "<\n", "User", "\nuser ", "user*_", "<think>", "User:\n", "> ", "é<", "＜"]
)
def test_work_grows_linearly_with_the_text(unit: str) -> None:
    assert growth(lambda text: neutralise(text + ":"), unit) < LINEAR
    assert growth(lambda text: neutralise("<é" + text), unit) < LINEAR


@pytest.mark.parametrize("filler", [" ", "\n", "/ ", "*", "\u200b"])
def test_one_bracket_before_a_long_run_is_read_once(filler: str) -> None:
    for head in ("<", "User", "\n<"):
        assert growth(partial(_neutralised_after, head), filler) < LINEAR


def _neutralised_after(head: str, text: str) -> str:
    return neutralise(head + text + ":")
