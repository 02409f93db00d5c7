"""Figures from labels and predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Binary:
    """Counts of a two-class decision; "positive" is unsafe, or outside the policy."""

    true_positive: int
    false_positive: int
    false_negative: int
    true_negative: int

    @staticmethod
    def of(labels: Sequence[bool], predictions: Sequence[bool]) -> Binary:
        """Count. Both sequences have one entry an event."""
        pairs = list(zip(labels, predictions, strict=True))
        return Binary(
            pairs.count((True, True)),
            pairs.count((False, True)),
            pairs.count((True, False)),
            pairs.count((False, False)),
        )

    @property
    def total(self) -> int:
        """Events."""
        return self.true_positive + self.false_positive + self.false_negative + self.true_negative

    @property
    def positives(self) -> int:
        """Events whose label is positive."""
        return self.true_positive + self.false_negative

    @property
    def f1(self) -> float | None:
        """F1 of the positive class; None without a positive label."""
        return _f1(self.true_positive, self.false_positive, self.false_negative) if self.positives else None

    @property
    def weighted_f1(self) -> float:
        """F1 of both classes, weighted by how many labels each has. Never to be compared with `f1`."""
        positive = _f1(self.true_positive, self.false_positive, self.false_negative)
        negative = _f1(self.true_negative, self.false_negative, self.false_positive)
        return (positive * self.positives + negative * (self.total - self.positives)) / self.total

    @property
    def recall(self) -> float | None:
        """Share of the positive that was found; None without a positive label."""
        return self.true_positive / self.positives if self.positives else None

    @property
    def false_positive_rate(self) -> float | None:
        """Share of the negative that was called positive; None without a negative label."""
        negatives = self.total - self.positives
        return self.false_positive / negatives if negatives else None


def calibration_error(labels: Sequence[bool], scores: Sequence[float], bins: int = 10) -> float:
    """Expected calibration error: the mean distance between score and share of positives in equal bins of the score."""
    error = 0.0
    for index in range(bins):
        low, high = index / bins, (index + 1) / bins
        inside = [i for i, s in enumerate(scores) if low <= s < high or (index == bins - 1 and s == 1.0)]
        if inside:
            share = sum(labels[i] for i in inside) / len(inside)
            error += abs(share - sum(scores[i] for i in inside) / len(inside)) * len(inside) / len(scores)
    return error


def _f1(hits: int, false: int, missed: int) -> float:
    return 2 * hits / (2 * hits + false + missed) if hits else 0.0
