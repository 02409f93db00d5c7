"""What was learned about categories, kept apart from any one policy.

A concept is a category that the training data knows: how it is worded, and a classifier for texts about it. A concept
speaks for an entry of the shown policy only as far as the entry's wording means the same. So known categories are
recognised much better than by similarity alone, new ones fall back on similarity, and the concept of a category that was
removed points outside.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .encoder import Vectors, unit

# Wording this similar begins to mean the same; from the second number on it is the same. Between names of the default
# policy's different sub-categories the similarity is below the first, between an entry with and without its synonyms above it.
_BEGINS, _SAME = 0.55, 0.9


@dataclass(frozen=True, slots=True)
class Concepts:
    """`wording` is (concepts, 384), `weight` (classes, 384), `bias` (classes,), `members` (concepts, classes) of zeros and ones.

    A concept is one class, or several for a category with sub-categories. The last class belongs to no concept: risks that
    fit none of them.
    """

    wording: Vectors
    weight: Vectors
    bias: Vectors
    members: Vectors

    def classes(self, windows: Vectors) -> Vectors:
        """Probability of each class for a text given by its (n, 384) windows."""
        logits = self.weight @ unit(windows.mean(axis=0)) + self.bias
        raised = np.exp(logits - logits.max())
        probabilities: Vectors = (raised / raised.sum()).astype(np.float32)
        return probabilities

    def match(self, entry_wordings: Vectors) -> Matched:
        """Which concept each of a policy's (entries, 384) wordings means, and how surely."""
        similar = entry_wordings @ self.wording.T
        sure = np.clip((similar - _BEGINS) / (_SAME - _BEGINS), 0.0, 1.0).astype(np.float32)
        meant = sure.argmax(axis=1)
        strength = sure[np.arange(len(meant)), meant]
        covered = (strength[:, None] * self.members[meant]).max(axis=0)
        return Matched(meant, strength, covered)


@dataclass(frozen=True, slots=True)
class Matched:
    """`meant[i]` is entry i's concept and `strength[i]` how surely; `covered` is how far the policy says each class."""

    meant: NDArray[np.intp]
    strength: Vectors
    covered: Vectors

    def support(self, concepts: Concepts, classes: Vectors) -> Vectors:
        """How strongly the concepts speak for each entry, from 0 to 1."""
        support: Vectors = self.strength * (concepts.members[self.meant] @ classes)
        return support
