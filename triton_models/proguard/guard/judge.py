"""From a request to an answer, whatever engine writes it."""

from __future__ import annotations

from dataclasses import dataclass

from .engine import FinishReason


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back to the client: the raw completion and what is known about it."""

    text: str
    finish_reason: FinishReason
    request_score: float
    """Calibrated probability of unsafe at the request's label; NaN where there is none."""
    response_score: float
    prompt_tokens: int
    completion_tokens: int
