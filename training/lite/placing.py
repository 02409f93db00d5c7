"""The fits behind category and name: the concepts of the default policy, and when a risk lies outside the shown one."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from schemas.policy import Policy
from training.lite.classifiers import balanced, fit_logistic
from training.lite.removal import inside, task_of, top_of, without_half
from training.lite.samples import OWN, Risk
from training.lite.vectors import VectorTable
from triton_models.proguard_lite.guard.categories import PolicyIndex, centred, means, nearness, wordings
from triton_models.proguard_lite.guard.concepts import Concepts
from triton_models.proguard_lite.guard.encoder import TextEncoder, Vectors
from triton_models.proguard_lite.guard.heads import Heads
from triton_models.proguard_lite.guard.naming import PhraseBank
from triton_models.proguard_lite.guard.prompt_reading import Entry

_REMOVALS = 20
_STRENGTH = 3.0
# How much an example of each kind counts: our own sentences are few and varied, a policy's phrases are not requests.
_OWN_COUNTS, _PHRASE_COUNTS = 2.0, 0.5


def fit_concepts(
    found: Sequence[Risk], policy: Policy, encoder: TextEncoder, table: VectorTable, *, centre: Vectors, mix: float
) -> Concepts:
    """One class a sub-category of `policy` (or a category without any), one more for what fits none; one concept an entry.

    A risk of which only the top category is known counts for the sub-category below it that is nearest by wording.
    """
    entries = task_of(policy).entries
    groups = [[t for t in (entry.name, entry.description, *entry.synonyms) if t] for entry in entries]
    plain = means(encoder.encode([text for group in groups for text in group]))
    starts = np.cumsum([0, *(len(group) for group in groups)])[:-1]
    phrases = centred(plain, centre)
    parents = {entry.parent for entry in entries}
    classes = [entry for entry in entries if entry.id not in parents]
    position = {entry.id: index for index, entry in enumerate(classes)}
    rows: list[Vectors] = []
    labels: list[int] = []
    counts: list[float] = []
    for risk in found:
        vector = table.means([risk.text])[0]
        near = nearness(vector[None] @ phrases.T, starts, mix)
        rows.append(vector)
        labels.append(_class_of(risk.category, entries, position, near))
        counts.append(_OWN_COUNTS if risk.source == OWN else 1.0)
    owner = np.repeat(np.arange(len(entries)), [len(group) for group in groups])
    for vector, entry_index in zip(plain, owner, strict=True):
        if entries[entry_index].id in position:
            rows.append(vector)
            labels.append(position[entries[entry_index].id])
            counts.append(_PHRASE_COUNTS)
    weight, bias = _softmax(np.stack(rows), np.array(labels), np.array(counts), len(classes) + 1)
    members = np.zeros((len(entries), len(classes) + 1), dtype=np.float32)
    for index, entry in enumerate(entries):
        for class_index, below in enumerate(classes):
            members[index, class_index] = entry.id in (below.id, below.parent)
    return Concepts(wordings(phrases, starts), weight, bias, members)


def fit_outside(
    found: Sequence[Risk], policy: Policy, heads: Heads, bank: PhraseBank, encoder: TextEncoder, table: VectorTable
) -> Heads:
    """`heads` with the decision between category and name, calibrated by removing half of `policy` at random, many times.

    Each time some concepts are forgotten as well, so that the decision also suits categories nothing was learned about.
    """
    evidence: list[tuple[float, ...]] = []
    outside: list[bool] = []
    groups: list[str] = []
    for seed in range(_REMOVALS):
        shown = without_half(policy, seed)
        partly = replace(heads, concepts=_forgetful(heads.concepts, policy, seed))
        index = PolicyIndex.build(task_of(shown), encoder, partly, bank)
        for risk in found:
            evidence.append(index.place(table.windows(risk.text), partly, bank, specific=True).evidence)
            outside.append(not inside(risk.category, shown))
            groups.append(risk.source)
    labels = np.array(outside)
    weights = balanced(groups, labels, cap=200 * _REMOVALS, extra={OWN: 2.0})
    weight, bias = fit_logistic(np.array(evidence, dtype=np.float32), labels, weights, strength=100.0)
    return replace(heads, outside_weight=weight, outside_bias=bias)


def _class_of(category: str | None, entries: Sequence[Entry], position: dict[str, int], near: Vectors) -> int:
    if category is None:
        return len(position)
    if category in position:
        return position[category]
    below = [index for index, entry in enumerate(entries) if entry.parent == category]
    return position[entries[max(below, key=lambda index: float(near[index]))].id]


def _softmax(
    rows: Vectors, labels: NDArray[np.intp], counts: NDArray[np.float64], classes: int
) -> tuple[Vectors, Vectors]:
    sizes = Counter(labels.tolist())
    weights = counts / np.sqrt([sizes[label] for label in labels.tolist()])
    model = LogisticRegression(C=_STRENGTH, max_iter=3000).fit(rows, labels, sample_weight=weights / weights.mean())
    weight = np.zeros((classes, rows.shape[1]), dtype=np.float32)
    bias = np.full(classes, -1e4, dtype=np.float32)  # A class without an example is never the answer.
    weight[model.classes_] = model.coef_
    bias[model.classes_] = model.intercept_
    return weight, bias


def _forgetful(concepts: Concepts, policy: Policy, seed: int) -> Concepts:
    """`concepts` as if a third of the top categories had never been learned."""
    entries = task_of(policy).entries
    tops = [category.id for category in policy.categories]
    forgotten = set(random.Random(1000 + seed).sample(tops, len(tops) // 3))
    wording, bias = concepts.wording.copy(), concepts.bias.copy()
    for index, entry in enumerate(entries):
        if top_of(entry.id) in forgotten:
            wording[index] = 0.0
            bias[concepts.members[index] > 0] = -1e4
    return replace(concepts, wording=wording, bias=bias)
