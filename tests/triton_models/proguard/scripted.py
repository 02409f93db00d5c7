"""An engine whose answers are written down before: for what stands above the engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from triton_models.proguard.guard.engine import Conversation, EngineState, FinishReason, Generation, Token


def answer(request: str = "safe", response: str | None = "safe", category: str = "None", think: str = "why") -> str:
    """An answer in the strict form, right or contradictory as its parts are."""
    line = "" if response is None else f"Response:{response}\n"
    return f"<think>{think}</think>\n<answer>\nRequest:{request}\n{line}Category:{category}\n</answer>"


class ScriptedEngine:
    """Answers with `script` in turn, one token a character, and remembers what it was asked.

    An exception in the script is raised. `likely` gives the likely tokens of a step, from the text before it.
    """

    def __init__(
        self,
        script: Sequence[str | Exception],
        likely: Callable[[str], Mapping[str, float]] | None = None,
        finish_reason: FinishReason = "stop",
    ) -> None:
        self.asked: list[Conversation] = []
        self._script = list(script)
        self._likely = likely
        self._finish_reason = finish_reason

    async def generate(self, conversation: Conversation) -> Generation:
        self.asked.append(conversation)
        planned = self._script.pop(0)
        if isinstance(planned, Exception):
            raise planned
        text = planned[: conversation.max_tokens]
        tokens = tuple(Token(ord(c), self._likely_at(text[:at])) for at, c in enumerate(text))
        reason = self._finish_reason if text == planned else "length"
        return Generation(text, tokens, len(conversation.user), reason, 0.5)

    def _likely_at(self, before: str) -> dict[int, float] | None:
        if self._likely is None:
            return None
        return {ord(c): log_probability for c, log_probability in self._likely(before).items()}

    def token_text(self, token: int) -> bytes:
        return chr(token).encode()

    def state(self) -> EngineState:
        return EngineState(0, 0, 0, 0, 0)

    async def aclose(self) -> None:
        pass
