"""The nearest category of the policy that the prompt shows.

Nothing here is trained on one policy: an entry is its name, description and synonyms, embedded, so a category that was
added, reworded or removed counts from the next request on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .encoder import Encoded, TextEncoder, Vectors, unit
from .heads import Heads
from .naming import PhraseBank
from .prompt_reading import Entry, Task


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a text lies: the nearest category and how near, the best name for it outside the policy and how near."""

    category: Entry
    nearness: float
    name: str
    name_nearness: float


@dataclass(frozen=True, slots=True)
class PolicyIndex:
    """One policy, embedded. The phrases of entry i are the rows of `phrases` from `starts[i]` on.

    `above[i]` is the position of the category over entry i, or i itself; `names` are the bank's names that this policy
    does not say already.
    """

    entries: tuple[Entry, ...]
    phrases: Vectors
    starts: NDArray[np.intp]
    above: NDArray[np.intp]
    names: NDArray[np.intp]

    @staticmethod
    def build(task: Task, encoder: TextEncoder, heads: Heads, bank: PhraseBank) -> PolicyIndex:
        """Embed the policy of `task`. Blocks for about 0.3 s for 40 entries with synonyms."""
        texts: list[str] = []
        starts: list[int] = []
        for entry in task.entries:
            starts.append(len(texts))
            texts += [text for text in (entry.name, entry.description, *entry.synonyms) if text]
        positions = {entry.id: position for position, entry in enumerate(task.entries)}
        above = [positions.get(entry.parent or entry.id, position) for position, entry in enumerate(task.entries)]
        phrases = centred(means(encoder.encode(texts)), heads.phrase_centre)
        return PolicyIndex(task.entries, phrases, np.array(starts), np.array(above), bank.free_of(phrases))

    def place(self, windows: Vectors, heads: Heads, bank: PhraseBank, *, specific: bool) -> Placement:
        """Place a text given by its (n, 384) windows. `specific` asks for sub-categories where a category has any."""
        own = nearness(windows @ self.phrases.T, self.starts, heads.mix)
        position = np.arange(len(self.entries))
        child = self.above != position
        scores = np.where(child, (1.0 - heads.family) * own + heads.family * own[self.above], own)
        if specific:
            parents = set(self.above[child].tolist())
            allowed = np.array([index not in parents for index in position])
        else:
            np.maximum.at(scores, self.above, scores.copy())
            allowed = ~child
        scores = np.where(allowed, scores, -np.inf)
        best = int(scores.argmax())
        named = bank.nearest(windows, self.names, heads.mix)
        return Placement(self.entries[best], float(scores[best]), named.name, named.nearness)


def means(encoded: list[Encoded]) -> Vectors:
    """One unit vector a text: the mean of its windows."""
    return unit(np.stack([text.windows.mean(axis=0) for text in encoded]))


def centred(vectors: Vectors, centre: Vectors) -> Vectors:
    """What remains of phrases' unit vectors without what all phrases share, at length one again.

    Names of risks resemble one another as such; without that, their topics count.
    """
    return unit(vectors - centre)


def nearness(similarities: Vectors, starts: NDArray[np.intp], mix: float) -> Vectors:
    """One number a group of columns, from (windows, phrases) similarities: `mix` x best phrase + (1 - `mix`) x mean phrase,
    in the window where that is highest."""
    best = np.maximum.reduceat(similarities, starts, axis=1)
    counts = np.diff(np.append(starts, similarities.shape[1]))
    mean = np.add.reduceat(similarities, starts, axis=1) / counts
    highest: Vectors = (mix * best + (1.0 - mix) * mean).max(axis=0).astype(np.float32)
    return highest
