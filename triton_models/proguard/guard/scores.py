"""Probability of unsafe at a label, from the log-probabilities of the tokens that wrote it.

A label is written as `safe` or as `unsafe`, and the two differ in their first character. So the whole decision is made in the one
step that writes this character, whatever the tokenizer's cut: the step's token may begin before the label (`:un`) and end
within or behind it. At that step, over the likely tokens that agree with the text already written before the label::

    unsafe = Σ P(token that goes on to `unsafe`)      safe = Σ P(token that goes on to `safe`)
    score  = unsafe / (unsafe + safe)

A token that stops before the label's first character says nothing about the label and counts for neither. The probabilities are the
model's own, before any constraint, so a constrained answer has the same scores.

Only the likeliest tokens are known. A side that has none among them is somewhere in the mass that is not listed, so it counts with
all of that: the score is then an upper bound (nothing unsafe was listed) or a lower one (nothing safe was). Both lie nearer to one
half than the truth, and no score is 0 or 1 unless everything was listed.
"""

from __future__ import annotations

import bisect
import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from .engine import Token

Field = Literal["request", "response"]
TokenText = Callable[[int], bytes]
"""The bytes of a token: `Engine.token_text`."""

_UNSAFE, _SAFE = b"unsafe", b"safe"
# Where `schemas.answer` finds the labels, its tolerant reading included: in the last answer block, at the start of a line.
_ANSWER = re.compile(rb"<\s*answer\s*>", re.IGNORECASE)
_LABELS: Mapping[Field, re.Pattern[bytes]] = {
    name: re.compile(
        rb"^[ \t*_`\"'-]*" + name.encode() + rb"[ \t*_`\"'-]*:[ \t*_`\"'-]*(?P<label>unsafe|safe)\b",
        re.IGNORECASE | re.MULTILINE,
    )
    for name in ("request", "response")
}


_ROUNDING = 1e-12
"""What the sum of a whole list's probabilities may lack of 1: no mass, but beside a label that is as unlikely it would look like some."""


def label_score(tokens: Sequence[Token], token_text: TokenText, field: Field) -> float:
    """Probability, 0 to 1, that `field`'s label is unsafe; NaN where the answer has no such label or its step no likely tokens."""
    return label_scores(tokens, token_text)[0 if field == "request" else 1]


def label_scores(tokens: Sequence[Token], token_text: TokenText) -> tuple[float, float]:
    """The same for both labels, request first. Pure; linear in the answer's length."""
    pieces = [token_text(token.id) for token in tokens]
    text = b"".join(pieces)
    ends = list(itertools.accumulate(len(piece) for piece in pieces))
    block = max((match.end() for match in _ANSWER.finditer(text)), default=None)
    if block is None:
        return math.nan, math.nan

    def score(field: Field) -> float:
        label = _LABELS[field].search(text, block)
        if label is None:
            return math.nan
        start = label.start("label")
        step = bisect.bisect_right(ends, start)  # the step whose token holds the byte at `start`
        likely = tokens[step].likely
        if not likely:
            return math.nan
        begun = text[ends[step] - len(pieces[step]) : start]
        return _unsafe_share(likely, token_text, begun)

    return score("request"), score("response")


def _unsafe_share(likely: Mapping[int, float], token_text: TokenText, begun: bytes) -> float:
    unsafe = safe = listed = 0.0
    found_unsafe = found_safe = False
    for token, log_probability in likely.items():
        probability = math.exp(log_probability)
        listed += probability
        text = token_text(token)
        if len(text) <= len(begun) or not text.startswith(begun):
            continue
        rest = text[len(begun) :].lower()
        if _begins(rest, _UNSAFE):
            unsafe, found_unsafe = unsafe + probability, True
        elif _begins(rest, _SAFE):
            safe, found_safe = safe + probability, True
    if not (found_unsafe or found_safe):
        return math.nan
    unlisted = 1.0 - listed if listed < 1.0 - _ROUNDING else 0.0
    if not found_unsafe:
        unsafe = unlisted
    elif not found_safe:
        safe = unlisted
    total = unsafe + safe
    return unsafe / total if total > 0.0 else math.nan


def _begins(rest: bytes, label: bytes) -> bool:
    return rest.startswith(label) or label.startswith(rest)
