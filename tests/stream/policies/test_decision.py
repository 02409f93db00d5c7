from __future__ import annotations

import pytest

from schemas.answer import Answer, Reading
from schemas.policy import Category, Policy, Rules, SubCategory, Threshold
from schemas.verdicts import Label
from stream.policies.decision import decide
from stream.policies.source import LivePolicy

SAFE, UNSAFE = Label.SAFE, Label.UNSAFE


def live() -> LivePolicy:
    strict = [Threshold(at_least=0.0, action="block")]
    policy = Policy(
        name="p",
        version="1",
        categories=[
            Category(
                id="C1",
                name="Weapons",
                description="d",
                subcategories=[
                    SubCategory(id="C1S1", name="Guns", description="d", thresholds=strict),
                    SubCategory(id="C1S2", name="Knives", description="d"),
                ],
            ),
            Category(
                id="C2",
                name="Lies",
                description="d",
                thresholds=[Threshold(at_least=0.7, action="label")],
                subcategories=[SubCategory(id="C2S1", name="Rumours", description="d")],
            ),
        ],
        rules=Rules(
            unsafe="review",
            thresholds=[Threshold(at_least=0.9, action="block"), Threshold(at_least=0.6, action="restrict")],
            suspect=[Threshold(at_least=0.4, action="watch")],
            out_of_distribution="escalate",
        ),
    )
    return LivePolicy.of(policy)


def answer(request: Label, response: Label | None, category: str | None = None, name: str | None = None) -> Answer:
    return Answer(request, response, category, name, "", Reading.STRICT)


@pytest.mark.parametrize(
    ("category", "score", "action", "path"),
    [
        ("C1S2", 0.95, "block", ["Weapons", "Knives"]),
        ("C1S2", 0.9, "block", ["Weapons", "Knives"]),
        ("C1S2", 0.61, "restrict", ["Weapons", "Knives"]),
        ("C1S2", 0.1, "review", ["Weapons", "Knives"]),
        ("C1S2", None, "review", ["Weapons", "Knives"]),
        ("C1S1", 0.01, "block", ["Weapons", "Guns"]),
        ("C1", 0.7, "restrict", ["Weapons"]),
        ("C2S1", 0.95, "label", ["Lies", "Rumours"]),
        ("C2S1", 0.6, "review", ["Lies", "Rumours"]),
    ],
)
def test_an_unsafe_answer_takes_the_highest_threshold_of_its_nearest_rules(
    category: str, score: float | None, action: str, path: list[str]
) -> None:
    decision = decide(answer(UNSAFE, SAFE, category), score, 0.99, live())
    assert decision.action == action
    assert decision.category is not None
    assert decision.category.path == path
    assert decision.category.in_taxonomy


def test_only_the_side_that_is_unsafe_counts_for_its_threshold() -> None:
    assert decide(answer(SAFE, UNSAFE, "C1S2"), 0.99, 0.65, live()).action == "restrict"


def test_a_named_risk_takes_the_action_for_what_fits_no_category() -> None:
    decision = decide(answer(UNSAFE, SAFE, name="Ballot Fraud"), 0.99, None, live())
    assert decision.action == "escalate"
    assert decision.category is not None
    assert (decision.category.id, decision.category.name) == (None, "Ballot Fraud")
    assert not decision.category.in_taxonomy


@pytest.mark.parametrize(("score", "action"), [(0.39, "allow"), (0.4, "watch"), (None, "allow")])
def test_a_safe_answer_with_a_suspect_score_is_not_simply_allowed(score: float | None, action: str) -> None:
    decision = decide(answer(SAFE, None), score, None, live())
    assert decision.action == action
    assert decision.category is None
