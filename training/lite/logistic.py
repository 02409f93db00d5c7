"""A calibrated logistic regression, folded into one weight vector and one bias."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from triton_models.proguard_lite.guard.encoder import Vectors

_FOLDS = 5


@dataclass(frozen=True, slots=True)
class Linear:
    """sigmoid(weight · x + bias) is a probability, calibrated out of fold for as many unsafe as safe turns."""

    weight: Vectors
    bias: float


def balanced(groups: Sequence[str], unsafe: NDArray[np.bool_], cap: int, extra: dict[str, float]) -> NDArray[np.float64]:
    """Weights that let no source shout: a source counts by at most `cap` rows a label (times `extra`), and both labels alike."""
    weights = np.zeros(len(groups))
    names = np.array(groups)
    for name in sorted(set(groups)):
        for label in (False, True):
            members = (names == name) & (unsafe == label)
            count = int(members.sum())
            if count:
                weights[members] = extra.get(name, 1.0) * min(count, cap) / count
    for label in (False, True):
        weights[unsafe == label] *= len(groups) / 2 / weights[unsafe == label].sum()
    return weights


def fit_linear(features: Vectors, unsafe: NDArray[np.bool_], weights: NDArray[np.float64], *, strength: float) -> Linear:
    """Fit, then calibrate on out-of-fold scores (Platt). Deterministic given its arguments."""
    model = LogisticRegression(C=strength, max_iter=3000)
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=0)
    scores = cross_val_predict(
        model, features, unsafe, cv=folds, method="decision_function", params={"sample_weight": weights}
    )
    platt = LogisticRegression(C=1e6, max_iter=1000).fit(scores[:, None], unsafe, sample_weight=weights)
    model.fit(features, unsafe, sample_weight=weights)
    slope, shift = float(platt.coef_[0, 0]), float(platt.intercept_[0])
    weight = (slope * model.coef_[0]).astype(np.float32)
    return Linear(weight, slope * float(model.intercept_[0]) + shift)
