"""The seam between the worker and whatever judges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from schemas.prompt import RenderedPrompt


@dataclass(frozen=True, slots=True)
class Completion:
    """One raw answer. Scores are probabilities of unsafe, None where the guard gives none."""

    text: str
    finish_reason: str
    request_score: float | None
    response_score: float | None
    prompt_tokens: int
    completion_tokens: int
    model: str
    version: str
    manifest: str


class Guard(Protocol):
    """Something that completes a rendered prompt."""

    async def complete(
        self, prompt: RenderedPrompt, images: Sequence[bytes], *, timeout: float, traceparent: str | None = None
    ) -> Completion:
        """The completion, within `timeout` seconds.

        Raises a `GuardError`. Cancelling the call cancels the request on the server.
        """
        ...

    async def probe(self, *, timeout: float) -> None:
        """Return when the guard answers real requests; raise a `GuardError` when it does not.

        A server's own readiness is not enough: a Triton whose Python stub has died still calls itself ready.
        """
        ...

    async def aclose(self) -> None:
        """Release connections. Requests in flight are cancelled."""
        ...
