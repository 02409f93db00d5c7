"""Results: a completion, and the handle that waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from datetime import timedelta
from types import SimpleNamespace
from typing import Any


@dataclass(slots=True)
class Logprob:
    logprob: float
    rank: int | None = None


@dataclass(slots=True)
class CompletionOutput:
    index: int
    text: str = ""
    token_ids: list[int] | None = field(default_factory=list)
    cumulative_logprob: float | None = None
    logprobs: Any = field(default_factory=list)
    prompt_logprobs: Any = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    generation_logits: Any = None
    additional_context_outputs: Any = None
    additional_generation_outputs: Any = None
    disaggregated_params: Any = None
    request_perf_metrics: Any = None
    _postprocess_result: Any = None


class GenerationResult:
    """Answers come through a queue that belongs to the loop that was running when it was made, as in the real one."""

    def __init__(self, request_id: int, prompt_token_ids: list[int], abort: Callable[[int], None]) -> None:
        try:
            asyncio.get_running_loop()
            self._queue: asyncio.Queue[Any] | None = asyncio.Queue()
        except RuntimeError:
            self._queue = None
        self.request_id = request_id
        self.prompt_token_ids = prompt_token_ids
        self._abort = abort
        self._aborted = False
        self._done = False
        self._outputs = [CompletionOutput(0)]

    @property
    def outputs(self) -> list[CompletionOutput]:
        return self._outputs

    @property
    def finished(self) -> bool:
        return self._done

    def abort(self) -> None:
        self._abort(self.request_id)
        self._aborted = True

    def aborted(self) -> bool:
        return self._aborted

    async def aresult(self) -> GenerationResult:
        assert self._queue is not None, (
            "The asyncio event loop was not present during initialization, so async operations are not available."
        )
        while not self._done:
            response = await self._queue.get()
            if isinstance(response, Exception):
                raise response
            self._outputs, self._done = [response], True
        return self

    def __await__(self) -> Generator[Any, None, GenerationResult]:
        return self.aresult().__await__()

    def put(self, response: CompletionOutput | Exception) -> None:
        """Only the fake has this: the executor's side of the queue."""
        if self._queue is not None:
            self._queue.put_nowait(response)


def perf_metrics(first_token_s: float, reused_blocks: int) -> Any:
    """The attributes of `RequestPerfMetrics` that are read, with times as the real bindings give them."""
    arrival = timedelta(seconds=100)
    return SimpleNamespace(
        timing_metrics=SimpleNamespace(
            arrival_time=arrival, first_token_time=arrival + timedelta(seconds=first_token_s)
        ),
        kv_cache_metrics=SimpleNamespace(num_reused_blocks=reused_blocks),
    )
