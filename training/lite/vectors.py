"""Texts to the vectors that the heads are fitted on, by the guard's own encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from triton_models.proguard_lite.guard.encoder import Encoded, TextEncoder, Vectors, unit

_STEP = 256


class VectorTable:
    """Every distinct text encoded once. Blocks for about 4 ms a short text on two cores; `progress` gets done and total."""

    def __init__(self, encoder: TextEncoder, progress: Callable[[int, int], None] | None = None) -> None:
        self._encoder = encoder
        self._progress = progress
        self._known: dict[str, Encoded] = {}

    def add(self, texts: Iterable[str]) -> None:
        """Encode those of `texts` that are not known yet."""
        fresh = sorted(set(texts) - self._known.keys(), key=lambda text: (len(text), text))
        for start in range(0, len(fresh), _STEP):
            step = fresh[start : start + _STEP]
            self._known.update(zip(step, self._encoder.encode(step), strict=True))
            if self._progress:
                self._progress(start + len(step), len(fresh))

    def windows(self, text: str) -> Vectors:
        """The (n, 384) windows of a text that was added."""
        return self._known[text].windows

    def means(self, texts: Sequence[str]) -> Vectors:
        """(len(texts), 384): each text's mean window, at unit length; a row of zeros for an empty text."""
        rows = [self._known[text].windows.mean(axis=0) if text else np.zeros(384, np.float32) for text in texts]
        return unit(np.stack(rows))
