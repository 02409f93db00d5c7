"""What came from outside reaches a terminal as text and as nothing else."""

from __future__ import annotations

import io
import unicodedata
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text

from schemas.base import Source
from schemas.deadletters import DeadLetter, Reason
from schemas.verdicts import CategoryRef, Label
from stream.operator.rendering import clean, dead_letter_row, milliseconds, printable, verdict_row
from tests.stream.operator.parts import indeterminate, verdict

ATTACKS = [
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "a\rb",
    "a\nb",
    "\x9b2J",
    "‮dlrow",
    "\x08\x08\x08",
    "x\u2028y",
    "\x7f",
]


def shown(text: Text | str) -> str:
    console = Console(file=io.StringIO(), width=300, color_system=None)
    console.print(text, soft_wrap=True)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@given(st.text())
def test_nothing_that_steers_a_terminal_survives(text: str) -> None:
    assert all(unicodedata.category(character)[0] != "C" for character in clean(text))


@given(st.text(alphabet=st.characters(categories=["L", "N", "P", "S"])))
def test_letters_of_every_script_are_left_alone(text: str) -> None:
    assert clean(text) == text


@given(st.text(), st.integers(min_value=1, max_value=50))
def test_a_limit_cuts_before_escaping(text: str, limit: int) -> None:
    assert clean(text, limit) == clean(text if len(text) <= limit else text[: limit - 1] + "…")


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_hostile_id_stays_on_its_line(attack: str) -> None:
    name = CategoryRef(id=None, path=[], name=attack, in_taxonomy=False)
    line = shown(verdict_row(verdict(category=name)))
    assert line.endswith("\n")
    assert line[:-1].isprintable()


def test_brackets_in_a_name_are_not_markup() -> None:
    name = CategoryRef(id=None, path=[], name="[red]Ballot[/red] [/]", in_taxonomy=False)
    assert "new risk: [red]Ballot[/red] [/]" in shown(verdict_row(verdict(category=name)))
    assert shown(printable("[red]Ballot[/red] [/]")) == "[red]Ballot[/red] [/]\n"


def test_a_row_says_what_was_decided() -> None:
    line = shown(verdict_row(verdict(response=Label.SAFE)))
    assert line.split() == [
        "08:00:02",
        "agora",
        "post-1",
        "text",
        "unsafe",
        "safe",
        "block",
        "25",
        "ms",
        "C8S1",
        "Violence",
        "/",
        "Weapons",
    ]


def test_an_indeterminate_row_says_why_and_is_never_safe() -> None:
    line = shown(verdict_row(indeterminate()))
    assert "indeterminate: guard_unavailable" in line
    assert "review" in line
    assert "safe" not in line


def test_the_time_for_images_is_counted_once() -> None:
    assert milliseconds(verdict()) == 25.0
    assert milliseconds(verdict(timings={"evidence": 4.0})) == 4.0


def test_a_dead_letter_row_says_why_and_where() -> None:
    letter = DeadLetter(
        id="d",
        reason=Reason.MALFORMED,
        detail="event: json_invalid\x1b[2J",
        attempt=1,
        event_id=None,
        tenant=None,
        verdict_id=None,
        source=Source(topic="content.events", partition=3, offset=12),
        key=None,
        headers=[],
        value=b"{",
        failed_at=datetime(2026, 5, 4, 8, 0, 2, tzinfo=UTC),
    )
    line = shown(dead_letter_row(letter))
    assert "dead letter: malformed  content.events[3]@12  event: json_invalid\\x1b[2J" in line
