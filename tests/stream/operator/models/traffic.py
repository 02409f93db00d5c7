"""Live traffic: 64 requests under way through the worker's own client, and what became of each."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from schemas.events import ContentEvent
from schemas.policy import Policy, default_policy
from schemas.prompt import render
from stream.guard.errors import GuardError
from stream.guard.settings import GuardSettings
from stream.guard.triton import triton_guard

AT_A_TIME = 64


@dataclass(frozen=True, slots=True)
class Answer:
    """When it was asked and answered (monotonic seconds), and by which manifest; or why there is no answer."""

    asked: float
    answered: float
    manifest: str
    error: str = ""


class Traffic:
    """Asks without a pin, from a thread of its own, as long as the block lasts."""

    def __init__(self, url: str, model: str, policy: Policy | None = None, *, timeout_s: float = 10.0) -> None:
        self._settings = GuardSettings(url=url, model=model)
        self._policy = policy or default_policy()
        self._timeout_s = timeout_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self.answers: list[Answer] = []

    def __enter__(self) -> Self:
        self._thread.start()
        self.wait_for(AT_A_TIME)
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        if _error is None:
            self.wait_for(4 * AT_A_TIME)
        self._stop.set()
        self._thread.join(60)

    def wait_for(self, more: int) -> None:
        """Blocks until so many more answers are there."""
        wanted, deadline = len(self.answers) + more, time.monotonic() + 30 + self._timeout_s
        while len(self.answers) < wanted:
            assert time.monotonic() < deadline, "the traffic stands still"
            time.sleep(0.01)

    @property
    def errors(self) -> list[str]:
        return [answer.error for answer in self.answers if answer.error]

    @property
    def manifests(self) -> list[str]:
        """The manifests in the order of answering, each once for as long as it lasts.

        An answer of an older model to what was asked before the newer one gave its first answer was under way, and does not count.
        One to what was asked later does: the list then has that model again.
        """
        phases: list[tuple[str, float]] = []
        for answer in sorted(self.answers, key=lambda answer: answer.answered):
            if not answer.error and answer.manifest not in [name for name, _ in phases[-1:]]:
                if phases and answer.asked <= phases[-1][1]:
                    continue  # it was under way when the model of this phase gave its first answer
                phases.append((answer.manifest, answer.answered))
        return [name for name, _ in phases]

    async def _run(self) -> None:
        guard = triton_guard(self._settings, self._policy)
        event = ContentEvent(
            id="e", user_text="Good day.", agent_text="And you.", occurred_at=datetime(2026, 1, 1, tzinfo=UTC)
        )
        prompt = render(self._policy, event)

        async def ask() -> None:
            while not self._stop.is_set():
                asked, manifest, error = time.monotonic(), "", ""
                try:
                    manifest = (await guard.complete(prompt, [], timeout=self._timeout_s)).manifest
                except GuardError as fault:
                    error = f"{type(fault).__name__} {fault.status}: {fault}"
                    await asyncio.sleep(0.05)
                self.answers.append(Answer(asked, time.monotonic(), manifest, error))

        try:
            await asyncio.gather(*(ask() for _ in range(AT_A_TIME)))
        finally:
            await guard.aclose()
