"""How often a request may be tried again."""

from __future__ import annotations

import random


class RetryBudget:
    """A bucket of tokens: each first request puts in `ratio`, each retry takes one out, and it holds `reserve` at most.

    So in any stretch of time there are at most `reserve` + `ratio` * requests retries, whatever fails: a guard that is in
    trouble is not hammered with several times its load. The bucket starts full. (As in Finagle's `RetryBudget` and gRPC's retry
    throttling, proposal A6, without their clocks and thresholds.)
    """

    def __init__(self, ratio: float, reserve: int) -> None:
        self._ratio = ratio
        self._reserve = float(reserve)
        self._tokens = self._reserve

    @property
    def tokens(self) -> float:
        """What is left."""
        return self._tokens

    def deposit(self) -> None:
        """A first request is made."""
        self._tokens = min(self._reserve, self._tokens + self._ratio)

    def withdraw(self) -> bool:
        """Whether a retry may be made; then its token is gone."""
        # Ten deposits of a tenth make a whole token, whatever the sum of the floats is.
        if self._tokens < 1.0 - 1e-9:
            return False
        self._tokens = max(0.0, self._tokens - 1.0)
        return True


def backoff(attempt: int) -> float:
    """Seconds before this attempt: full jitter over an exponential ceiling (AWS Architecture Blog, "Exponential Backoff And Jitter")."""
    return random.uniform(0.0, min(2.0, 0.05 * 2**attempt))
