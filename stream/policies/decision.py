"""From an answer and its scores to a category and an action, by the policy's rules (see `schemas.policy.Rules`)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from schemas.answer import Answer
from schemas.policy import Threshold
from schemas.verdicts import CategoryRef, Label
from stream.policies.source import LivePolicy


class Decision(NamedTuple):
    """What a decided verdict says beyond the labels."""

    action: str
    category: CategoryRef | None


def decide(answer: Answer, request_score: float | None, response_score: float | None, live: LivePolicy) -> Decision:
    """The action for a parsed answer. `answer.category_id`, when set, is one of `live.index`."""
    rules = live.policy.rules
    if answer.request is not Label.UNSAFE and answer.response is not Label.UNSAFE:
        return Decision(_reached(rules.suspect, _highest(request_score, response_score)) or rules.safe, None)
    if answer.category_id is None:
        assert answer.risk_name is not None
        name = answer.risk_name
        return Decision(rules.out_of_distribution, CategoryRef(id=None, path=[], name=name, in_taxonomy=False))
    category, child = live.index[answer.category_id]
    path = [category.name] if child is None else [category.name, child.name]
    thresholds = next(
        (entry.thresholds for entry in (child, category) if entry is not None and entry.thresholds is not None),
        rules.thresholds,
    )
    unsafe_score = _highest(
        request_score if answer.request is Label.UNSAFE else None,
        response_score if answer.response is Label.UNSAFE else None,
    )
    return Decision(
        _reached(thresholds, unsafe_score) or rules.unsafe,
        CategoryRef(id=answer.category_id, path=path, name=path[-1], in_taxonomy=True),
    )


def _highest(one: float | None, other: float | None) -> float | None:
    if one is None or other is None:
        return one if other is None else other
    return max(one, other)


def _reached(thresholds: Iterable[Threshold], score: float | None) -> str | None:
    """The action of the highest threshold that `score` reaches; None when it reaches none or there is no score."""
    if score is None:
        return None
    reached = [threshold for threshold in thresholds if score >= threshold.at_least]
    return max(reached, key=lambda threshold: threshold.at_least).action if reached else None
