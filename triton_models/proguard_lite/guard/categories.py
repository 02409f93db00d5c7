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
    """One policy, embedded. `owner[i]` is the position in `entries` of the entry that row i of `phrases` describes."""

    entries: tuple[Entry, ...]
    phrases: Vectors
    owner: NDArray[np.intp]
    names: NDArray[np.intp]

    @staticmethod
    def build(task: Task, encoder: TextEncoder, heads: Heads, bank: PhraseBank) -> PolicyIndex:
        """Embed the policy of `task`. Blocks for about 0.3 s for 40 entries with synonyms."""
        texts: list[str] = []
        owner: list[int] = []
        for position, entry in enumerate(task.entries):
            for text in (entry.name, entry.description, *entry.synonyms):
                if text:
                    texts.append(text)
                    owner.append(position)
        phrases = centred(means(encoder.encode(texts)), heads.phrase_centre)
        return PolicyIndex(task.entries, phrases, np.array(owner), bank.free_of(phrases))

    def place(self, windows: Vectors, heads: Heads, bank: PhraseBank, *, specific: bool) -> Placement:
        """Place a text given by its (n, 384) windows. `specific` asks for sub-categories where a category has any."""
        text = centred(windows, heads.text_centre)
        scores = nearness(text @ self.phrases.T, self.owner, len(self.entries), heads.mix)
        best = int(np.argmax(np.where(self._answers(specific), self._with_children(scores, specific), -np.inf)))
        named = bank.nearest(text, self.names, heads.mix)
        return Placement(self.entries[best], float(scores.max()), named.name, named.nearness)

    def _answers(self, specific: bool) -> NDArray[np.bool_]:
        parents = {entry.parent for entry in self.entries if entry.parent}
        if specific:
            return np.array([entry.id not in parents for entry in self.entries])
        ids = {entry.id for entry in self.entries}
        return np.array([entry.parent is None or entry.parent not in ids for entry in self.entries])

    def _with_children(self, scores: Vectors, specific: bool) -> Vectors:
        if specific:
            return scores
        lifted = scores.copy()
        positions = {entry.id: position for position, entry in enumerate(self.entries)}
        for position, entry in enumerate(self.entries):
            above = positions.get(entry.parent or "")
            if above is not None:
                lifted[above] = max(lifted[above], scores[position])
        return lifted


def means(encoded: list[Encoded]) -> Vectors:
    """One unit vector a text: the mean of its windows."""
    return unit(np.stack([text.windows.mean(axis=0) for text in encoded]))


def centred(vectors: Vectors, centre: Vectors) -> Vectors:
    """What remains of unit vectors without what all of their kind share, at length one again.

    Requests share their form ("how do I …"), policy phrases share theirs; taking both away brings out the topics.
    """
    return unit(vectors - centre)


def nearness(similarities: Vectors, owner: NDArray[np.intp], owners: int, mix: float) -> Vectors:
    """From (windows, phrases) similarities to one number an owner: `mix` x best phrase + (1 - `mix`) x mean phrase, of the
    window where that is highest."""
    best = np.full((similarities.shape[0], owners), -np.inf, dtype=np.float32)
    total = np.zeros_like(best)
    np.maximum.at(best.T, owner, similarities.T)
    np.add.at(total.T, owner, similarities.T)
    counts = np.bincount(owner, minlength=owners)
    mixed = mix * best + (1.0 - mix) * total / np.maximum(counts, 1)
    highest: Vectors = mixed.max(axis=0).astype(np.float32)
    return highest
