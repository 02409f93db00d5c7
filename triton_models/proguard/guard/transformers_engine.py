"""The engine for any local checkpoint of the Qwen2.5-VL kind, by transformers, on a CPU or a GPU.

Batching is in flight: requests join the running batch between two steps. transformers' own continuous batching (5.24) takes neither
images nor three-dimensional rotary positions, so the scheduler is ours (`scheduler`, `batch`, `slots`); the model class, the
processor and the tokenizer are the checkpoint's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from .batch import Batch, Job
from .chat import Chat
from .constraint import Constraint, Grammars
from .engine import Conversation, EngineState, Generation
from .errors import LoadError, TooLongError
from .grammar import Allowed
from .prefixes import BLOCK, Prefixes
from .runner import Runner
from .scheduler import Scheduler
from .settings import Settings
from .vocabulary import Vocabulary

PREPARING_THREADS = 2
"""Decoding and scaling images releases the interpreter's lock; more threads than this only take cores from the model."""


class TransformersEngine:
    """See `engine.Engine`. Decoding is greedy: sampling entries of the checkpoint's generation configuration are not used."""

    def __init__(
        self,
        chat: Chat,
        runner: Runner,
        *,
        grammars: Grammars | None,
        max_batch: int,
        max_context: int | None,
        prefill_tokens: int,
        prefix_tokens: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._chat = chat
        self._runner = runner
        self._grammars = grammars
        self._context = min(runner.context, max_context or runner.context)
        self._clock = clock
        self._vocabulary = Vocabulary(chat.tokenizer)
        self._batch = Batch(
            runner,
            self._vocabulary,
            Prefixes(runner, capacity=prefix_tokens, chunk=prefill_tokens),
            prefill_tokens=prefill_tokens,
            clock=clock,
        )
        self._scheduler = Scheduler(self._batch, max_batch=max_batch, release_memory=_release(runner.device))
        self._pool = ThreadPoolExecutor(PREPARING_THREADS, "guard-prompt")
        self._preparing = 0

    @classmethod
    def load(cls, settings: Settings, checkpoint: Path) -> TransformersEngine:
        """Open the processor and the weights. Raises `LoadError`. Blocks for as long as that takes."""
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        chat = Chat.load(checkpoint, min_pixels=settings.min_pixels, max_pixels=settings.max_pixels)
        runner = Runner.load(checkpoint, device=settings.device, dtype=settings.dtype)
        grammars = None
        if settings.constrained:
            grammars = Grammars(
                chat.tokenizer, runner.vocabulary_size, runner.end_ids, max_think_chars=settings.max_think_chars
            )
        return cls(
            chat,
            runner,
            grammars=grammars,
            max_batch=settings.max_batch,
            max_context=settings.max_context,
            prefill_tokens=settings.prefill_tokens,
            prefix_tokens=settings.prefix_tokens,
        )

    async def generate(self, conversation: Conversation) -> Generation:
        """See `Engine.generate`."""
        self._scheduler.check_alive()
        asked_at = self._clock()
        self._preparing += 1
        try:
            job = await asyncio.get_running_loop().run_in_executor(self._pool, self._prepare, conversation, asked_at)
        finally:
            self._preparing -= 1
        self._scheduler.submit(job)
        return await asyncio.wrap_future(job.future)

    def token_text(self, token: int) -> bytes:
        """See `Engine.token_text`."""
        return self._vocabulary.bytes_of(token)

    def state(self) -> EngineState:
        """See `Engine.state`."""
        load = self._scheduler.load()
        return EngineState(
            running=load.running,
            waiting=load.waiting + self._preparing,
            prompt_tokens=self._batch.prompt_tokens,
            generated_tokens=self._batch.generated_tokens,
            reused_blocks=self._batch.reused_tokens // BLOCK,
        )

    async def aclose(self) -> None:
        """See `Engine.aclose`. Returns when the step under way is done."""
        await asyncio.get_running_loop().run_in_executor(None, self._scheduler.close)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _prepare(self, conversation: Conversation, asked_at: float) -> Job:
        """In a thread of the pool: decoding and scaling take milliseconds per megapixel."""
        constraint = self._constraint(conversation)
        prompt = self._chat.expand(self._chat.encode(conversation))
        asked = len(prompt.token_ids) + conversation.max_tokens
        if asked > self._context:
            raise TooLongError(
                f"the prompt has {len(prompt.token_ids)} tokens and {conversation.max_tokens} are asked for:"
                f" together more than the context of {self._context}"
            )
        return Job(prompt, self._runner.positions(prompt), conversation.max_tokens, constraint, asked_at)

    def _constraint(self, conversation: Conversation) -> Constraint | None:
        if not conversation.constrained:
            return None
        if self._grammars is None:
            raise LoadError("this engine was made without the grammar: set `constrained: true`")
        allowed = Allowed.by(conversation.system, conversation.user, bool(conversation.images))
        return self._grammars.constraint(allowed)


def _release(device: torch.device) -> Callable[[], None]:
    return torch.cuda.empty_cache if device.type == "cuda" else lambda: None
