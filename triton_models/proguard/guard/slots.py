"""Keys and values of many sequences of different lengths, each in a slot of its own.

All slots start at position 0, so nothing is padded on the left, and a newcomer or a leaver moves nobody else's values. A forward pass
writes its new positions of some neighbouring slots in place and reads a view; nothing is concatenated, step after step, as a
DynamicCache would.
"""

from __future__ import annotations

from typing import Any

import torch

SLOT_STEP = 8
TOKEN_STEP = 256
Saved = list[tuple[torch.Tensor, torch.Tensor]]
"""The keys and values of one sequence, [heads, tokens, head size], layer by layer."""


class SlotCache:
    """What the model's attention layers see as their cache: they call `update`. Used by one thread."""

    def __init__(self, layers: int, heads: int, head_size: int, device: torch.device, dtype: torch.dtype) -> None:
        self._heads, self._head_size = heads, head_size
        self._device, self._dtype = device, dtype
        self._keys = [self._empty(0, 0) for _ in range(layers)]
        self._values = [self._empty(0, 0) for _ in range(layers)]
        self._first = 0
        self._rows = self._at = torch.empty(0, dtype=torch.long, device=device)
        self._visible = 0

    @property
    def is_compileable(self) -> bool:
        """Asked by transformers: slots grow, so a graph cannot be kept."""
        return False

    def reserve(self, slots: int, tokens: int) -> None:
        """Make room for `slots` sequences of `tokens` positions. What lies there stays.

        May run out of memory (the allocator's error); then everything is as usable as before.
        """
        for layer, keys in enumerate(self._keys):
            if slots <= keys.shape[0] and tokens <= keys.shape[2]:
                continue
            shape = (_up(max(slots, keys.shape[0]), SLOT_STEP), _up(max(tokens, keys.shape[2]), TOKEN_STEP))
            for held in (self._keys, self._values):
                # One at a time: the old one is free again before the next is made.
                grown = self._empty(*shape)
                grown[: held[layer].shape[0], :, : held[layer].shape[2]] = held[layer]
                held[layer] = grown

    def aim(self, first: int, past: torch.Tensor, new: int, visible: int) -> None:
        """The next forward pass adds `new` positions behind the `past` [n] ones of slots `first` to `first + n`, and reads `visible`."""
        self._first = first
        self._rows = torch.arange(first, first + len(past), device=self._device)[:, None]
        self._at = past[:, None] + torch.arange(new, device=self._device)
        self._visible = visible

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store [n, heads, new, head size] where `aim` said, and return [n, heads, visible, head size]."""
        rows = slice(self._first, self._first + keys.shape[0])
        for held, given in ((self._keys[layer_idx], keys), (self._values[layer_idx], values)):
            held[self._rows, :, self._at] = given.transpose(1, 2)
        return self._keys[layer_idx][rows, :, : self._visible], self._values[layer_idx][rows, :, : self._visible]

    def get_seq_length(self, layer_idx: int = 0) -> int:  # noqa: ARG002 - the interface's argument
        """Asked by transformers where it would make positions and masks; ours are given, so it only must not say 0."""
        return self._visible

    def move(self, source: int, target: int, tokens: int) -> None:
        """Copy the first `tokens` positions of one slot over another's."""
        for held in (*self._keys, *self._values):
            held[target, :, :tokens] = held[source, :, :tokens]

    def save(self, slot: int, tokens: int) -> Saved:
        """A copy of the first `tokens` positions of a slot."""
        return [
            (keys[slot, :, :tokens].clone(), values[slot, :, :tokens].clone())
            for keys, values in zip(self._keys, self._values, strict=True)
        ]

    def restore(self, saved: Saved, slot: int) -> None:
        """Put a saved beginning into a slot."""
        for layer, (keys, values) in enumerate(saved):
            tokens = keys.shape[1]
            self._keys[layer][slot, :, :tokens] = keys
            self._values[layer][slot, :, :tokens] = values

    def _empty(self, slots: int, tokens: int) -> torch.Tensor:
        # Zeros, not whatever was there: a masked position has weight 0, and 0 times NaN would be NaN.
        return torch.zeros(slots, self._heads, tokens, self._head_size, device=self._device, dtype=self._dtype)


def _up(number: int, step: int) -> int:
    return -(-number // step) * step
