"""A name for a risk that no shown category fits, out of a bank of names that is far wider than any policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .encoder import Vectors

# A name this similar to a phrase of the policy says what the policy already says.
_SAME = 0.72


@dataclass(frozen=True, slots=True)
class Named:
    """A name of the bank and how near the text is to it."""

    name: str
    nearness: float


@dataclass(frozen=True, slots=True)
class PhraseBank:
    """`phrases` holds two unit rows a name: the name itself, and the name with its cue."""

    names: tuple[str, ...]
    phrases: Vectors

    def free_of(self, policy: Vectors) -> NDArray[np.intp]:
        """Positions of the names that no phrase of the policy says already; all of them when none is left."""
        similar = (self.phrases[0::2] @ policy.T).max(axis=1)
        free = np.flatnonzero(similar < _SAME)
        return free if free.size else np.arange(len(self.names))

    def nearest(self, text: Vectors, among: NDArray[np.intp], mix: float) -> Named:
        """The nearest of the names `among` to any of a text's centred windows."""
        similar = text @ self.phrases.T
        plain, cued = similar[:, 0::2][:, among], similar[:, 1::2][:, among]
        scores = (mix * np.maximum(plain, cued) + (1.0 - mix) * (plain + cued) / 2.0).max(axis=0)
        best = int(np.argmax(scores))
        return Named(self.names[int(among[best])], float(scores[best]))


def read_phrases(path: Path) -> list[tuple[str, str]]:
    """(name, cue) for each line of the bank's file; blank lines and those that begin with # are not entries."""
    entries: list[tuple[str, str]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            name, _, cue = line.partition(":")
            entries.append((name.strip(), cue.strip()))
    return entries


def texts(entries: Sequence[tuple[str, str]]) -> list[str]:
    """What is embedded for `entries`, in the order of `PhraseBank.phrases`."""
    return [text for name, cue in entries for text in (name, f"{name}: {cue}" if cue else name)]
