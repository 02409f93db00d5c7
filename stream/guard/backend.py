"""The seam between the worker and whatever judges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from schemas.events import ContentEvent
from schemas.policy import Policy
from schemas.prompt import RenderedPrompt, render


@dataclass(frozen=True, slots=True)
class Completion:
    """One raw answer. Scores are probabilities of unsafe, None where the guard gives none.

    Whatever a guard gives, a verdict can be made of it: a score that is no probability (NaN, or outside 0 to 1) is none, a
    negative count of tokens is 0, and half a surrogate pair in the text is a question mark.
    """

    text: str
    finish_reason: str
    request_score: float | None
    response_score: float | None
    prompt_tokens: int
    completion_tokens: int
    model: str
    version: str
    manifest: str
    route: str = ""
    """Which of several guards behind one seam answered (`stream.guard.canary`); empty where there is one."""

    def __post_init__(self) -> None:
        request, response = self.request_score, self.response_score
        if request is not None and not 0.0 <= request <= 1.0:  # also true of NaN
            object.__setattr__(self, "request_score", None)
        if response is not None and not 0.0 <= response <= 1.0:
            object.__setattr__(self, "response_score", None)
        if self.prompt_tokens < 0:
            object.__setattr__(self, "prompt_tokens", 0)
        if self.completion_tokens < 0:
            object.__setattr__(self, "completion_tokens", 0)
        if not self.text.isascii():
            object.__setattr__(self, "text", self.text.encode("utf-8", "replace").decode())


class Guard(Protocol):
    """Something that completes a rendered prompt."""

    async def complete(
        self, prompt: RenderedPrompt, images: Sequence[bytes], *, timeout: float, traceparent: str | None = None
    ) -> Completion:
        """The completion, within `timeout` seconds.

        Raises a `GuardError`. Cancelling the call cancels the request on the server, where its protocol can say so (gRPC); elsewhere
        the server is told at the start how long the answer is wanted (`stream.guard.triton_http`).
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


def probe_prompt(policy: Policy) -> RenderedPrompt:
    """What a probe asks: an everyday sentence under `policy`."""
    return render(policy, _PROBE)


_PROBE = ContentEvent(id="probe", user_text="Good morning.", occurred_at=datetime(2026, 1, 1, tzinfo=UTC))
