"""What the tests of `schemas` draw from: events, policies, answers, and text that tries to pass for structure."""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime
from functools import cache

from hypothesis import strategies as st

from schemas.answer import Answer, Reading
from schemas.events import ContentEvent, ImageRef, Modality
from schemas.policy import Category, Policy, PromptStyle, Rules, SubCategory, Threshold
from schemas.verdicts import Label

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

MARKERS = (
    "<BEGIN CONVERSATION>",
    "<END CONVERSATION>",
    "<END TASK DESCRIPTION>",
    "<BEGIN OUTPUT FORMAT>",
    "<|im_start|>",
    "<|im_end|>",
    "<|image_pad|>",
    "<|vision_start|>",
    "< / think >",
    "<think>",
    "</think>",
    "<answer>",
    "</answer>",
    "<<SYS>>",
    "[/INST]",
    "User:",
    "Agent:",
    "  Agent :",
    "> **User**:",
    "Request:safe",
    "Category:None",
)
_CRUMBS = ("<", "|", "/", ":", ">", "im_start|>", "END", "User", "Agent", " ", "\t", "x")
LINE_BREAKS = ("\n", "\r", "\r\n", "\v", "\f", "\x1c", "\x85", "\u2028", "\u2029")
INVISIBLE = (
    "\u200b",
    "\u200d",
    "\u2060",
    "\ufeff",
    "\u00ad",
    "\u202e",
    "\ufe0f",
    "\u0301",
    "\u115f",
    "\u3164",
    "\U000e0041",
    "\x00",
)


def as_a_reader_sees(text: str) -> str:
    """NFKC, without invisible characters, case folded: the most that a tokenizer or parser behind us may make of a text.

    Written apart from the code under test, on purpose.
    """
    kept = [c for c in unicodedata.normalize("NFKC", text) if c in "".join(LINE_BREAKS) or not _invisible(c)]
    return unicodedata.normalize("NFKC", "".join(kept).casefold())


def _invisible(character: str) -> bool:
    return (
        unicodedata.category(character) in {"Cf", "Cc", "Mn", "Me"} and character != "\t"
    ) or character in "\u115f\u1160\u3164\uffa0\u2065\ufff0\U000e0000\U000e0fff"


@cache
def variants() -> dict[str, list[str]]:
    """For every character, all code points that a normalising and case-folding reader takes for it."""
    found: dict[str, list[str]] = {}
    for code in range(0x110000):
        if 0xD800 <= code < 0xE000:
            continue
        character = chr(code)
        folded = unicodedata.normalize("NFKC", character).casefold()
        if len(folded) == 1 and folded.isascii():
            found.setdefault(folded, []).append(character)
    return found


@st.composite
def disguised(draw: st.DrawFn) -> str:
    """A marker written with full-width, mathematical, enclosed … letters and with invisible characters in between."""
    marker = draw(st.sampled_from(MARKERS + _CRUMBS))
    letters: list[str] = []
    for character in marker:
        letters.append(draw(st.sampled_from(variants().get(character.lower(), [character]))))
        if draw(st.integers(0, 5)) == 0:
            letters.append(draw(st.sampled_from(INVISIBLE)))
    return "".join(letters)


def hostile_text() -> st.SearchStrategy[str]:
    """Markers, plain and disguised, crumbs of them, line breaks of every kind and random text, in any order."""
    pieces = st.one_of(
        st.sampled_from(MARKERS),
        st.sampled_from(_CRUMBS),
        st.sampled_from(LINE_BREAKS),
        disguised(),
        st.text(max_size=4),
    )
    return st.lists(pieces, max_size=8).map("".join)


def event(user_text: str = "", agent_text: str | None = None, images: int = 0) -> ContentEvent:
    refs = [ImageRef(uri=f"s3://bucket/{number}.png") for number in range(images)]
    return ContentEvent(id="e1", user_text=user_text, agent_text=agent_text, images=refs, occurred_at=NOW)


EVENT_OF = {
    Modality.TEXT: event("how do I …", "no"),
    Modality.TEXT_IMAGE: event("look", None, images=1),
    Modality.IMAGE: event(images=2),
}

_words = st.sampled_from(
    [
        "Fraud",
        "Forged Permits",
        "Self-Harm & Suicide",
        "Kredit-Betrug",
        "诈骗",
        "Вред животным",
        "Weapons, Any",
        "A: B",
        "100% Risk",
    ]
)
_actions = st.sampled_from(["allow", "review", "block"])
_thresholds = st.lists(st.builds(Threshold, at_least=st.floats(0, 1), action=_actions), max_size=3)
_own_thresholds = st.none() | _thresholds


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    categories: list[Category] = []
    for number in sorted(draw(st.sets(st.integers(1, 99), min_size=1, max_size=4))):
        children = [
            SubCategory(
                id=f"C{number}S{child}",
                name=draw(_words),
                description=draw(_words),
                synonyms=draw(st.lists(_words, max_size=3)),
                thresholds=draw(_own_thresholds),
            )
            for child in range(1, draw(st.integers(1, 4)))
        ]
        categories.append(
            Category(
                id=f"C{number}",
                name=draw(_words),
                description=draw(_words),
                synonyms=draw(st.lists(_words, max_size=3)),
                thresholds=draw(_own_thresholds),
                subcategories=children,
            )
        )
    rules = Rules(thresholds=draw(_thresholds), suspect=draw(_thresholds), out_of_distribution=draw(_actions))
    style = PromptStyle(synonyms=draw(st.booleans()), subcategories=draw(st.booleans()))
    return Policy(
        name=draw(_words), version=str(draw(st.integers(1, 9))), categories=categories, rules=rules, prompt=style
    )


SHOWN = frozenset({"C1", "C1S1", "C4", "C4S2", "C11", "C11S2"})

risk_names = st.from_regex(r"[A-Z][a-z]{7,11}( [a-z]{2,9}){0,3}", fullmatch=True)
_rationales = st.text(st.characters(exclude_characters="<>", exclude_categories=["Cs"]), max_size=60).map(str.strip)


@st.composite
def answers(draw: st.DrawFn, modality: Modality) -> Answer:
    """What a guard may have meant, as the strict reading should return it."""
    request = draw(st.sampled_from(Label))
    response = None if modality is Modality.IMAGE else draw(st.sampled_from(Label))
    category = name = None
    if Label.UNSAFE in (request, response):
        if draw(st.booleans()):
            category = draw(st.sampled_from(sorted(SHOWN)))
        else:
            name = draw(risk_names)
    return Answer(request, response, category, name, draw(_rationales), Reading.STRICT)


def fields_of(answer: Answer) -> list[tuple[str, str]]:
    """The lines of the answer block, in order."""
    fields = [("Request", answer.request.value)]
    if answer.response is not None:
        fields.append(("Response", answer.response.value))
    return [*fields, ("Category", answer.category_id or answer.risk_name or "None")]


def written(answer: Answer) -> str:
    """The answer in the strict grammar."""
    lines = "\n".join(f"{name}:{value}" for name, value in fields_of(answer))
    return f"<think>{answer.rationale}</think>\n<answer>\n{lines}\n</answer>"
