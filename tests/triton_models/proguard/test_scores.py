"""Scores are the marginal at the label, however the tokenizer cuts the text."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.triton_models.proguard.scripted import answer
from triton_models.proguard.guard.engine import Token
from triton_models.proguard.guard.scores import label_score, label_scores

LABELS = ("safe", "unsafe")
TEXTS = [
    answer(request, response, category)
    for request in LABELS
    for response in (*LABELS, None)
    for category in ("None", "C4S1")
]


class Tokenizer:
    """A vocabulary of pieces with every single character of the texts in it; ids are positions."""

    def __init__(self, pieces: list[str]) -> None:
        self.pieces = sorted({*pieces, *"".join(TEXTS)})

    def text(self, token: int) -> bytes:
        return self.pieces[token].encode()

    def cuts(self, text: str, choose: random.Random) -> list[int]:
        """A random way to write `text`."""
        written: list[int] = []
        at = 0
        while at < len(text):
            fitting = [i for i, piece in enumerate(self.pieces) if text.startswith(piece, at)]
            written.append(choose.choice(fitting))
            at += len(self.pieces[written[-1]])
        return written


@st.composite
def tokenizers(draw: st.DrawFn) -> Tokenizer:
    """Pieces cut from the texts, some across the start of a label, and some that are not in them."""
    pieces = []
    for _ in range(draw(st.integers(0, 30))):
        text = draw(st.sampled_from(TEXTS))
        start = draw(st.integers(0, len(text) - 1))
        pieces.append(text[start : start + draw(st.integers(1, 12))])
    return Tokenizer([*pieces, *draw(st.lists(st.text("safeun: \n", min_size=1, max_size=8), max_size=6))])


def distribution(size: int, choose: random.Random) -> dict[int, float]:
    weights = [choose.expovariate(1.0) ** 3 for _ in range(size)]
    total = sum(weights)
    return {token: math.log(weight / total) for token, weight in enumerate(weights) if weight > 0.0}


def marginal(tokenizer: Tokenizer, before: str, up_to_label: str, likely: Mapping[int, float]) -> float:
    """The definition, over whole texts: of the next texts that reach the label, the share that is on its way to `unsafe`."""
    mass = dict.fromkeys(LABELS, 0.0)
    for token, log_probability in likely.items():
        reached = before + tokenizer.pieces[token]
        for label in LABELS:
            rest = reached.removeprefix(up_to_label).lower()  # the labels are read in either case
            if rest and reached.startswith(up_to_label) and (rest.startswith(label) or label.startswith(rest)):
                mass[label] += math.exp(log_probability)
    return mass["unsafe"] / sum(mass.values())


@given(tokenizer=tokenizers(), text=st.sampled_from(TEXTS), seed=st.integers(0, 2**32))
@settings(max_examples=400)
def test_a_score_is_the_marginal_for_every_way_to_cut_the_text(tokenizer: Tokenizer, text: str, seed: int) -> None:
    choose = random.Random(seed)  # hypothesis draws the vocabulary: a number for every token of every step is too much
    written = tokenizer.cuts(text, choose)
    likely = [distribution(len(tokenizer.pieces), choose) for _ in written]
    scores = label_scores([Token(i, probable) for i, probable in zip(written, likely, strict=True)], tokenizer.text)
    for name, score in zip(("Request:", "Response:"), scores, strict=True):
        if name not in text:
            assert math.isnan(score)
            continue
        label = text.index(name) + len(name)
        before, step = "", 0
        while len(before + tokenizer.pieces[written[step]]) <= label:
            before += tokenizer.pieces[written[step]]
            step += 1
        expected = marginal(tokenizer, before, text[:label], likely[step])
        assert score == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(unsafe=st.floats(0.0, 0.4), safe=st.floats(0.1, 0.5), listed=st.sampled_from(LABELS))
def test_a_side_that_is_not_listed_gives_a_bound(unsafe: float, safe: float, listed: str) -> None:
    truth = {"unsafe": unsafe, "safe": safe} if listed == "safe" else {"unsafe": safe, "safe": unsafe}
    seen = math.log(truth[listed])
    text = f"<answer>\nRequest:{listed}\n"
    tokens = [Token(ord(c), {ord(c): seen} if at == text.index(listed) else None) for at, c in enumerate(text)]
    score = label_score(tokens, lambda token: chr(token).encode(), "request")
    true_score = truth["unsafe"] / (truth["unsafe"] + truth["safe"])
    if listed == "safe":
        assert score >= true_score - 1e-12
    else:
        assert score <= true_score + 1e-12


def test_what_rounding_leaves_of_a_whole_list_is_no_mass_for_the_label_that_is_not_in_it() -> None:
    text = "<answer>\nRequest:safe\n"
    rest = [1 / 3 - 1e-9 / 3] * 3
    whole = {ord("s"): math.log(1e-9)} | {1000 + n: math.log(share) for n, share in enumerate(rest)}
    assert 1.0 - sum(map(math.exp, whole.values())) != 0.0
    tokens = [Token(ord(c), whole if at == text.index("safe") else None) for at, c in enumerate(text)]
    assert label_score(tokens, lambda token: chr(token).encode(), "request") == 0.0


def characters(text: str, *, likely: bool = True) -> list[Token]:
    probable = {ord("u"): math.log(0.3), ord("s"): math.log(0.5)} if likely else None
    return [Token(ord(c), probable) for c in text]


def scores_of(text: str, *, likely: bool = True) -> tuple[float, float]:
    return label_scores(characters(text, likely=likely), lambda token: chr(token).encode())


def test_a_label_in_the_reasoning_is_not_the_answers() -> None:
    text = "<think>\nRequest:unsafe\n</think>\n<answer>\nRequest:safe\nCategory:None\n</answer>"
    tokens = characters(text)
    at = text.rindex("Request:") + len("Request:")
    tokens[at] = Token(ord("s"), {ord("u"): math.log(0.01), ord("s"): math.log(0.99)})
    assert label_score(tokens, lambda token: chr(token).encode(), "request") == pytest.approx(0.01)


@pytest.mark.parametrize(
    "text", ["<answer>\n**Request:** Unsafe\n", "<answer>\n- request : safe\n", "< ANSWER >\r\nRequest: `safe`\r\n"]
)
def test_a_label_that_is_read_tolerantly_is_scored_too(text: str) -> None:
    assert scores_of(text)[0] == pytest.approx(0.375)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Request:safe\n",
        "<answer>\n",
        "<answer>\nRequest:\n",
        "<answer>\nRequest:maybe\n",
        "<answer>\nMyRequest:safe\n",
    ],
)
def test_no_label_has_no_score(text: str) -> None:
    assert all(math.isnan(score) for score in scores_of(text))


def test_no_likely_tokens_have_no_score() -> None:
    assert all(math.isnan(score) for score in scores_of(answer("unsafe", "unsafe", "C1"), likely=False))


def test_tokens_that_cut_a_character_in_two_are_read_as_bytes() -> None:
    pieces = [b"<answer>\xe2\x80", b"\xa6\nRequest:", b"un", b"safe", b"\n", b"s"]
    likely = {2: math.log(0.8), 5: math.log(0.1)}
    tokens = [Token(i, likely if i == 2 else None) for i in range(5)]
    assert label_score(tokens, lambda token: pieces[token], "request") == pytest.approx(8 / 9)
