"""Figures against scikit-learn's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from training.lite.metrics import Binary, calibration_error

_pairs = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)


@given(_pairs)
def test_both_f1_agree_with_scikit_learn(pairs: list[tuple[bool, bool]]) -> None:
    labels, predictions = [p[0] for p in pairs], [p[1] for p in pairs]
    binary = Binary.of(labels, predictions)
    weighted = f1_score(labels, predictions, average="weighted", zero_division=0)
    assert binary.weighted_f1 == pytest.approx(weighted)
    if any(labels):
        assert binary.f1 == pytest.approx(f1_score(labels, predictions, zero_division=0))
    else:
        assert binary.f1 is None


def test_scores_that_mean_what_they_say_have_no_calibration_error() -> None:
    assert calibration_error([True, False, True, True], [0.75] * 4) == pytest.approx(0.0)
    assert calibration_error([True, True], [1.0, 1.0]) == pytest.approx(0.0)
    assert calibration_error([False, False], [1.0, 1.0]) == pytest.approx(1.0)
