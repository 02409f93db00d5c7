"""The nearest category of the policy that the prompt shows.

Nothing here is trained on one policy: an entry is its name, description and synonyms, embedded, so a category that was
added, reworded or removed counts from the next request on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .concepts import Matched
from .encoder import Encoded, TextEncoder, Vectors, unit
from .heads import Heads
from .naming import PhraseBank
from .prompt_reading import Entry, Task


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a text lies: the nearest category, the best name outside the policy, and what decides between them.

    `evidence` is what `Heads.outside` reads: nearness of the category, of the name, and of the names that the policy says
    already; the share of learned classes that the policy covers, and the share that none of them claims.
    """

    category: Entry
    name: str
    evidence: tuple[float, float, float, float, float]


@dataclass(frozen=True, slots=True)
class PolicyIndex:
    """One policy, embedded. The phrases of entry i are the rows of `phrases` from `starts[i]` on.

    `above[i]` is the position of the category over entry i, or i itself; `free` and `said` are the bank's names that this
    policy does not say, and those that it does.
    """

    entries: tuple[Entry, ...]
    phrases: Vectors
    starts: NDArray[np.intp]
    above: NDArray[np.intp]
    free: NDArray[np.intp]
    said: NDArray[np.intp]
    matched: Matched

    @staticmethod
    def build(task: Task, encoder: TextEncoder, heads: Heads, bank: PhraseBank) -> PolicyIndex:
        """Embed the policy of `task`. Blocks for about 0.3 s for 40 entries with synonyms."""
        texts: list[str] = []
        first: list[int] = []
        for entry in task.entries:
            first.append(len(texts))
            texts += [text for text in (entry.name, entry.description, *entry.synonyms) if text]
        starts = np.array(first)
        positions = {entry.id: position for position, entry in enumerate(task.entries)}
        above = [positions.get(entry.parent or entry.id, position) for position, entry in enumerate(task.entries)]
        phrases = centred(means(encoder.encode(texts)), heads.phrase_centre)
        free, said = bank.split(phrases)
        matched = heads.concepts.match(wordings(phrases, starts))
        return PolicyIndex(task.entries, phrases, starts, np.array(above), free, said, matched)

    def place(self, windows: Vectors, heads: Heads, bank: PhraseBank, *, specific: bool) -> Placement:
        """Place a text given by its (n, 384) windows. `specific` asks for sub-categories where a category has any."""
        classes = heads.concepts.classes(windows)
        own = nearness(windows @ self.phrases.T, self.starts, heads.mix)
        position = np.arange(len(self.entries))
        child = self.above != position
        similar = np.where(child, (1.0 - heads.family) * own + heads.family * own[self.above], own)
        scores = similar + heads.learned * self.matched.support(heads.concepts, classes)
        if specific:
            allowed = np.ones(len(scores), dtype=bool)
            allowed[self.above[child]] = False
        else:
            np.maximum.at(scores, self.above, scores.copy())
            allowed = ~child
        best = int(np.where(allowed, scores, -np.inf).argmax())
        names = bank.nearness(windows, heads.mix)
        bonus = heads.learned_name * (bank.concepts @ (heads.concepts.members @ classes))
        name = int(self.free[(names + bonus)[self.free].argmax()])
        evidence = (
            float(similar.max()),
            float(names[self.free].max()),
            float(names[self.said].max()) if self.said.size else float(similar.max()),
            float(self.matched.covered @ classes),
            float(classes[-1]),
        )
        return Placement(self.entries[best], bank.names[name], evidence)


def wordings(phrases: Vectors, starts: NDArray[np.intp]) -> Vectors:
    """One unit vector an entry: the mean of its phrases."""
    return unit(np.add.reduceat(phrases, starts, axis=0))


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
