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
class PhraseBank:
    """`phrases` holds two unit rows a name: the name itself, and the name with its cue. `concepts` is (names, concepts): how
    near a name is to what a learned concept is called."""

    names: tuple[str, ...]
    phrases: Vectors
    concepts: Vectors

    def split(self, policy: Vectors) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Positions of the names that no phrase of the policy says already, and of the others.

        When the policy says them all, all are free: some name must be left to answer.
        """
        said = (self.phrases[0::2] @ policy.T).max(axis=1) >= _SAME
        free = np.flatnonzero(~said)
        return (free if free.size else np.arange(len(self.names))), np.flatnonzero(said)

    def nearness(self, windows: Vectors, mix: float) -> Vectors:
        """How near each name is to a text, in the window where it is nearest."""
        similar = windows @ self.phrases.T
        plain, cued = similar[:, 0::2], similar[:, 1::2]
        nearest: Vectors = (mix * np.maximum(plain, cued) + (1.0 - mix) * (plain + cued) / 2.0).max(axis=0)
        return nearest


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
