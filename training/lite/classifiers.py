"""Calibrated classifiers, folded into the few arrays that the guard reads."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.neural_network import MLPClassifier

from triton_models.proguard_lite.guard.encoder import Vectors
from triton_models.proguard_lite.guard.heads import Perceptron

_FOLDS = 3
_SEEDS = 3
# Unit vectors of 384 numbers are small numbers: at this scale the optimiser's default steps suit them.
_SCALE = 4.0


def balanced(
    groups: Sequence[str], labels: NDArray[np.bool_], *, cap: int, extra: Mapping[str, float]
) -> NDArray[np.float64]:
    """Weights that let no source shout: a source counts by at most `cap` rows a label (times `extra`), both labels alike."""
    weights = np.zeros(len(groups))
    names = np.array(groups)
    for name in sorted(set(groups)):
        for label in (False, True):
            members = (names == name) & (labels == label)
            count = int(members.sum())
            if count:
                weights[members] = extra.get(name, 1.0) * min(count, cap) / count
    for label in (False, True):
        weights[labels == label] *= len(groups) / 2 / weights[labels == label].sum()
    return weights


def fit_perceptron(
    features: Vectors, labels: NDArray[np.bool_], weights: NDArray[np.float64], *, units: int, decay: float
) -> Perceptron:
    """The mean of a few small networks, which is one network beside itself, calibrated (Platt) on out-of-fold scores.

    The probabilities are calibrated for as many unsafe as safe turns. Deterministic given its arguments.
    """
    scores = np.zeros(len(labels))
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=0)
    for fit_on, score_on in folds.split(features, labels):
        network = _network(features[fit_on], labels[fit_on], weights[fit_on], units, decay, seed=0)
        scores[score_on] = _logits(network, features[score_on])
    platt = LogisticRegression(C=1e6, max_iter=1000).fit(scores[:, None], labels, sample_weight=weights)
    slope, shift = float(platt.coef_[0, 0]), float(platt.intercept_[0])
    networks = [_network(features, labels, weights, units, decay, seed) for seed in range(_SEEDS)]
    return Perceptron(
        hidden=_f32(np.concatenate([_SCALE * network.coefs_[0] for network in networks], axis=1)),
        hidden_bias=_f32(np.concatenate([network.intercepts_[0] for network in networks])),
        output=_f32(np.concatenate([slope * network.coefs_[1][:, 0] / _SEEDS for network in networks])),
        output_bias=slope * float(np.mean([network.intercepts_[1][0] for network in networks])) + shift,
    )


def fit_logistic(
    features: Vectors, labels: NDArray[np.bool_], weights: NDArray[np.float64], *, strength: float
) -> tuple[Vectors, float]:
    """Weight and bias of a plain logistic regression on a few features."""
    model = LogisticRegression(C=strength, max_iter=3000).fit(features, labels, sample_weight=weights)
    return _f32(model.coef_[0]), float(model.intercept_[0])


def _network(
    features: Vectors, labels: NDArray[np.bool_], weights: NDArray[np.float64], units: int, decay: float, seed: int
) -> MLPClassifier:
    network = MLPClassifier(
        (units,), alpha=decay, batch_size=256, learning_rate_init=2e-3, max_iter=15, random_state=seed
    )
    with warnings.catch_warnings():
        # Stopping early is the regularisation.
        warnings.simplefilter("ignore", ConvergenceWarning)
        network.fit(_SCALE * features, labels, sample_weight=weights)
    return network


def _logits(network: MLPClassifier, features: Vectors) -> NDArray[np.float64]:
    hidden = np.maximum(_SCALE * features @ network.coefs_[0] + network.intercepts_[0], 0.0)
    logits: NDArray[np.float64] = (hidden @ network.coefs_[1])[:, 0] + network.intercepts_[1][0]
    return logits


def _f32(array: NDArray[np.float64]) -> Vectors:
    return array.astype(np.float32)
