"""System messages that were computed before: a policy's thousands of tokens, the same for every event."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch

from .chat import Prepared
from .runner import Runner
from .slots import Saved

BLOCK = 32
"""Tokens a block, for the metric of reused blocks: TensorRT-LLM's default `tokens_per_block`."""


class Prefixes:
    """Remembers the keys and values of at most `capacity` tokens, least recently used out first. Used by one thread.

    A prefix is always computed alone, before the rest of its prompt: so an answer is the same whether it was remembered or not.
    """

    def __init__(self, runner: Runner, *, capacity: int, chunk: int) -> None:
        self.reused_tokens = 0
        self._runner = runner
        self._capacity = capacity
        self._chunk = chunk
        self._held = 0
        self._known: OrderedDict[tuple[int, ...], Saved] = OrderedDict()

    def restore(self, prompt: Prepared, slot: int) -> int:
        """Put the prompt's prefix into `slot`, computing it there when it is not known. How many positions it has.

        May raise the allocator's error.
        """
        tokens = prompt.token_ids[: prompt.prefix]
        if not tokens:
            return 0
        saved = self._known.get(tokens)
        if saved is not None:
            self._known.move_to_end(tokens)
            self._runner.cache.restore(saved, slot)
            self.reused_tokens += len(tokens)
            return len(tokens)
        positions = torch.arange(len(tokens)).expand(3, -1)
        self.in_chunks(slot, 0, tokens, positions, None)
        if len(tokens) <= self._capacity:
            while self._held + len(tokens) > self._capacity:
                forgotten, _ = self._known.popitem(last=False)
                self._held -= len(forgotten)
            self._known[tokens] = self._runner.cache.save(slot, len(tokens))
            self._held += len(tokens)
        return len(tokens)

    def forget(self) -> None:
        """Give all memory back. What is asked for next is computed again."""
        self._known.clear()
        self._held = 0

    def in_chunks(
        self, slot: int, past: int, ids: Sequence[int], positions: torch.Tensor, images: torch.Tensor | None
    ) -> torch.Tensor:
        """`Runner.extend` for one sequence, a chunk at a time, which bounds the memory of its attention. Logits [1, vocabulary]."""
        image_id = self._runner.config.image_token_id
        shown = 0
        logits = torch.empty(0)
        for start in range(0, len(ids), self._chunk):
            part = ids[start : start + self._chunk]
            count = sum(id == image_id for id in part)
            embedded = None if images is None or not count else images[shown : shown + count]
            shown += count
            logits = self._runner.extend(
                slot, [past + start], [part], positions[:, None, start : start + len(part)], embedded
            )
        return logits
