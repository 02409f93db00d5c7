"""The seam between the guard and whatever runs its language model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Conversation:
    """What one request asks: two rendered messages, encoded images in order, and the most tokens that may come back.

    `nudge` is put behind the user's message, as a system's reminder of the format, when a first answer broke it. With
    `constrained` the engine may only write what the output grammar allows for this kind of prompt; an engine that cannot do that
    raises `LoadError` when it is made, not here.
    """

    system: str
    user: str
    images: tuple[bytes, ...]
    max_tokens: int
    constrained: bool = False
    nudge: str | None = None


@dataclass(frozen=True, slots=True)
class Token:
    """One generated token.

    `likely` are the natural-log probabilities of the likeliest tokens at this step, before any constraint, the written one
    among them. An engine gives them at least where the text so far could be about to write a label, and may leave them out
    elsewhere (None).
    """

    id: int
    likely: Mapping[int, float] | None = None


@dataclass(frozen=True, slots=True)
class Generation:
    """What came back. `tokens` are in order, without the end token; `text` is their decoding without special tokens."""

    text: str
    tokens: tuple[Token, ...]
    prompt_tokens: int
    finish_reason: FinishReason
    first_token_s: float
    """Seconds from asking to the first token."""


@dataclass(frozen=True, slots=True)
class EngineState:
    """Gauges and counters of an engine; the counters only grow."""

    running: int
    waiting: int
    prompt_tokens: int
    generated_tokens: int
    reused_blocks: int
    """Blocks of the prompt cache that were not computed again; 0 for an engine that has no such cache."""


class Engine(Protocol):
    """Generates greedily, many requests at a time.

    Requests join a batch that is under way and leave it when they are done. An answer does not depend on what else is in
    the batch.
    """

    async def generate(self, conversation: Conversation) -> Generation:
        """The completion of `conversation`.

        Cancelling the call takes the request out of the batch within a step. Raises `BadImageError` and `TooLongError` for
        this request alone, `OverloadedError` when memory ran out, `EngineDiedError` when the engine is gone.
        """
        ...

    def token_text(self, token: int) -> bytes:
        """The bytes that a token stands for; empty for a special token."""
        ...

    def state(self) -> EngineState:
        """What it is doing now. Never blocks; may be called from any thread."""
        ...

    async def aclose(self) -> None:
        """Stop. Requests under way end with `EngineDiedError`."""
        ...
