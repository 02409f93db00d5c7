"""What the grammar allows, the service reads strictly; the EBNF and the regular expression are one language."""

from __future__ import annotations

import random
import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.answer import Reading, parse
from schemas.events import ContentEvent, Modality
from schemas.policy import default_policy
from schemas.prompt import render
from schemas.verdicts import Label
from tests.triton_models.proguard.scripted import answer
from tests.triton_models.proguard.test_form import EveryId
from triton_models.proguard.guard.form import is_well_formed
from triton_models.proguard.guard.grammar import MAX_NAME, Allowed, answer_grammar, answer_regex, listed_ids

THINK = 40
KINDS = {
    "any conversation": Allowed(),
    "images alone": Allowed(image_only=True),
    "no agent, three ids": Allowed(agent_silent=True, ids=("C1", "C1S1", "C12")),
    "no ids": Allowed(ids=()),
}
PATTERNS = {kind: re.compile(answer_regex(allowed, THINK)) for kind, allowed in KINDS.items()}
kinds = pytest.mark.parametrize("kind", KINDS)


def assert_is_read_strictly(text: str, kind: str) -> None:
    allowed = KINDS[kind]
    modality = Modality.IMAGE if allowed.image_only else Modality.TEXT
    read = parse(text, modality, EveryId() if allowed.ids is None else allowed.ids)
    assert not (allowed.agent_silent and read.response is Label.UNSAFE)
    assert read.reading is Reading.STRICT
    assert len(read.rationale) <= THINK
    assert is_well_formed(text, image_alone=allowed.image_only)


@kinds
def test_everything_the_expression_matches_is_read_strictly(kind: str) -> None:
    @given(st.from_regex(PATTERNS[kind], fullmatch=True))
    def check(text: str) -> None:
        assert_is_read_strictly(text, kind)

    check()


NAMES = st.text("NOnoEe a", min_size=1, max_size=6)


@given(NAMES)
def test_every_name_of_letters_is_allowed_but_none(name: str) -> None:
    allowed = PATTERNS["any conversation"].fullmatch(answer("unsafe", "safe", name)) is not None
    expected = name[0] != " " and name[-1] != " " and len(name) >= 4 and name.lower() != "none"
    assert allowed == expected


ALLOWED = [
    answer(),
    answer("unsafe", "safe", "C4"),
    answer("safe", "unsafe", "C11S2"),
    answer("unsafe", "unsafe", "Deep Fake Extortion"),
    answer("unsafe", "safe", "none at all"),
    answer("unsafe", "safe", "a" * MAX_NAME),
    answer("unsafe", "safe", "None" + "x" * (MAX_NAME - 4)),
    answer(think="é\n\U0001f600 > c"),
    answer(think=""),
    answer(think="x" * THINK),
]
REFUSED = [
    "",
    answer("safe", "safe", "C4"),
    answer("unsafe", "safe", "None"),
    answer("unsafe", "safe", "NONE"),
    answer("unsafe", "safe", " Deep Fake"),
    answer("unsafe", "safe", "C4 Fraud"),
    answer("unsafe", "safe", "a" * (MAX_NAME + 1)),
    answer("unsafe", "safe", "C0"),
    answer("unsafe", None, "C4"),
    answer(think="</think>"),
    answer(think="x" * (THINK + 1)),
    answer() + "\n",
    " " + answer(),
]


def test_the_expression_allows_and_refuses() -> None:
    assert [text for text in ALLOWED if not PATTERNS["any conversation"].fullmatch(text)] == []
    assert [text for text in REFUSED if PATTERNS["any conversation"].fullmatch(text)] == []


def test_a_reasoning_of_no_length_is_refused() -> None:
    for build in (answer_grammar, answer_regex):
        with pytest.raises(ValueError, match="max_think_chars"):
            build(Allowed(), 0)


def test_the_ids_are_those_that_the_rendered_policy_lists() -> None:
    policy = default_policy()
    event = ContentEvent(id="one", user_text="hello", occurred_at=datetime(2026, 1, 1, tzinfo=UTC))
    assert listed_ids(render(policy, event).system) == tuple(policy.index)
    assert listed_ids("be nice") is None


TURNS = st.one_of(
    st.text(max_size=8), st.sampled_from(["", "\nAgent:  ", "x\nAgent:  \n<END CONVERSATION>", "\nAgent:"])
)


@given(TURNS, st.none() | TURNS)
def test_an_agent_that_has_spoken_is_never_taken_for_a_silent_one(user: str, agent: str | None) -> None:
    if not (user or agent):
        return
    event = ContentEvent(id="one", user_text=user, agent_text=agent, occurred_at=datetime(2026, 1, 1, tzinfo=UTC))
    rendered = render(default_policy(), event)
    silent = Allowed.by(rendered.system, rendered.user, has_images=False).agent_silent
    assert not (silent and agent)
    if not agent and "Agent:" not in user:
        assert silent


# The real xgrammar, which is in this folder's environment.


@pytest.fixture(scope="module")
def compiled() -> dict[str, object]:
    """The grammars over a vocabulary of all bytes and of pieces that cut across the form's parts."""
    import xgrammar

    info = xgrammar.TokenizerInfo([*VOCABULARY, b""], stop_token_ids=[len(VOCABULARY)])
    compiler = xgrammar.GrammarCompiler(info, max_threads=1)
    return {kind: compiler.compile_grammar(answer_grammar(allowed, THINK)) for kind, allowed in KINDS.items()}


PIECES = [
    "<th",
    "ink>",
    "</think>\n<an",
    "swer>\nReq",
    "uest:un",
    "safe\nRes",
    "None\n",
    ":un",
    "Category:C",
    " of ",
    "é",
    "un",
    "safe",
]
VOCABULARY = [bytes([byte]) for byte in range(256)] + [piece.encode() for piece in PIECES]


@kinds
def test_xgrammar_writes_only_what_is_read_strictly_and_what_the_expression_matches(
    compiled: dict[str, object], kind: str
) -> None:
    import xgrammar

    for seed in range(60):
        choose = random.Random(seed)
        matcher = xgrammar.GrammarMatcher(compiled[kind])
        mask = xgrammar.allocate_token_bitmask(1, len(VOCABULARY) + 1)
        written = b""
        while True:
            matcher.fill_next_token_bitmask(mask)
            words = [int(word) & 0xFFFFFFFF for word in mask[0]]
            allowed = [token for token in range(len(VOCABULARY) + 1) if words[token // 32] >> (token % 32) & 1]
            token = choose.choice(allowed)
            assert matcher.accept_token(token)
            if token == len(VOCABULARY):
                break
            written += VOCABULARY[token]
        text = written.decode()
        assert_is_read_strictly(text, kind)
        assert PATTERNS[kind].fullmatch(text)


def test_xgrammar_allows_and_refuses_the_same(compiled: dict[str, object]) -> None:
    import xgrammar

    def allows(text: str) -> bool:
        matcher = xgrammar.GrammarMatcher(compiled["any conversation"], terminate_without_stop_token=True)
        return bool(matcher.accept_string(text)) and bool(matcher.is_terminated())

    assert [text for text in ALLOWED if not allows(text)] == []
    assert [text for text in REFUSED if allows(text)] == []
