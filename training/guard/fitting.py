"""The temperature that makes scores honest, and how honest they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar

from training.lite.metrics import calibration_error
from triton_models.proguard.guard.calibration import scaled

LOWEST, HIGHEST = 0.05, 20.0
"""Where a temperature is looked for. Beyond, the data say no more than "all right" or "no information"."""
_EDGE = 2.0**-25  # As `calibration.scaled` has it.


@dataclass(frozen=True, slots=True)
class Quality:
    """How well scores fit labels: all of them, the smaller the better."""

    events: int
    unsafe: int
    log_loss: float
    brier: float
    ece: float
    """Expected calibration error over ten equal bins."""


def fit_temperature(labels: Sequence[bool], scores: Sequence[float]) -> float:
    """The T that minimises the mean log-loss of σ(logit(score) / T) (Guo et al. 2017, arXiv 1706.04599); 1 without both labels."""
    if len(set(labels)) < 2:
        return 1.0
    inside = np.clip(np.asarray(scores, dtype=float), _EDGE, 1 - _EDGE)
    signs = np.where(np.asarray(labels, dtype=bool), 1.0, -1.0)
    margins = signs * (np.log(inside) - np.log1p(-inside))

    def log_loss(log_temperature: float) -> float:
        return float(np.mean(np.logaddexp(0.0, -margins * math.exp(-log_temperature))))

    # Convex in 1/T, so there is one minimum.
    found = minimize_scalar(log_loss, bounds=(math.log(LOWEST), math.log(HIGHEST)), method="bounded")
    return float(math.exp(found.x))


def quality(labels: Sequence[bool], scores: Sequence[float], temperature: float = 1.0) -> Quality:
    """The figures of `scores` after `temperature`."""
    calibrated = [scaled(score, temperature) for score in scores]
    inside = [min(max(score, _EDGE), 1 - _EDGE) for score in calibrated]
    return Quality(
        events=len(labels),
        unsafe=sum(labels),
        log_loss=sum(-math.log(p if unsafe else 1 - p) for unsafe, p in zip(labels, inside, strict=True)) / len(labels),
        brier=sum((unsafe - score) ** 2 for unsafe, score in zip(labels, calibrated, strict=True)) / len(labels),
        ece=calibration_error(labels, calibrated),
    )
