"""The three fits: request head, response head, and when a risk lies outside the shown policy."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from schemas.policy import Policy
from training.lite.dataset import Row, benign, category_map, mapped
from training.lite.logistic import Linear, balanced, fit_linear
from training.lite.removal import inside, task_of, without_half
from training.lite.vectors import VectorTable
from triton_models.proguard_lite.guard.categories import PolicyIndex
from triton_models.proguard_lite.guard.encoder import TextEncoder, Vectors
from triton_models.proguard_lite.guard.heads import Heads
from triton_models.proguard_lite.guard.naming import PhraseBank

OWN = "own_benign"
_REMOVALS = 20
# More rows of one source and label than this teach nothing new and cost minutes of encoding.
_ROWS_EACH = 2500
# Content whose own words are the harm: hateful or explicit text is as unsafe in a response as in a request.
_SPEAKS_FOR_ITSELF = frozenset({"hatecheck", "openai_moderation"})


@dataclass(frozen=True, slots=True)
class Sample:
    """One example for a head. `context` is the request before a response, empty elsewhere."""

    source: str
    text: str
    context: str
    unsafe: bool


def request_samples(rows: Sequence[Row]) -> list[Sample]:
    """Requests, once each, and our own benign sentences; the empty text is one of these."""
    samples = {Sample(row.source, row.request, "", row.request_unsafe) for row in rows if row.request}
    return _thinned(samples) + [Sample(OWN, text, "", False) for text in (*benign("train"), "")]


def response_samples(rows: Sequence[Row]) -> list[Sample]:
    """Responses, each after its request and again after none, so that the presence of a request says nothing.

    A source without its requests gets random unsafe ones, for safe and unsafe responses alike.
    """
    chosen = random.Random(0)
    unsafe = sorted({row.request for row in rows if row.request and row.request_unsafe and row.source != "davidson"})
    samples: set[Sample] = set()
    for row in rows:
        if row.response and row.response_unsafe is not None:
            request = row.request or (chosen.choice(unsafe) if unsafe else "")
            samples |= {Sample(row.source, row.response, context, row.response_unsafe) for context in (request, "")}
        elif row.source in _SPEAKS_FOR_ITSELF:
            samples.add(Sample(row.source, row.request, "", row.request_unsafe))
    return _thinned(samples) + [Sample(OWN, text, "", False) for text in benign("train")]


def fit_request(samples: Sequence[Sample], table: VectorTable) -> Linear:
    """The request head. Its texts must be in `table`."""
    unsafe = np.array([sample.unsafe for sample in samples])
    weights = balanced([sample.source for sample in samples], unsafe, cap=1500, extra={OWN: 4.0})
    return fit_linear(_rows(table, [sample.text for sample in samples]), unsafe, weights, strength=3.0)


def fit_response(samples: Sequence[Sample], table: VectorTable) -> Linear:
    """The response head, on response, request and their product."""
    unsafe = np.array([sample.unsafe for sample in samples])
    weights = balanced([sample.source for sample in samples], unsafe, cap=2000, extra={OWN: 3.0})
    response = _rows(table, [sample.text for sample in samples])
    request = table.means([sample.context for sample in samples])
    return fit_linear(np.concatenate([response, request, response * request], axis=1), unsafe, weights, strength=1.0)


def fit_outside(
    rows: Sequence[Row], policy: Policy, heads: Heads, bank: PhraseBank, encoder: TextEncoder, table: VectorTable
) -> Heads:
    """`heads` with the decision between category and name, calibrated by removing categories of `policy` at random."""
    mapping = category_map()
    known = [row for row in rows if mapped(row, mapping)]
    features: list[tuple[float, float]] = []
    outside: list[bool] = []
    for seed in range(_REMOVALS):
        shown = without_half(policy, seed)
        index = PolicyIndex.build(task_of(shown), encoder, heads, bank)
        for row in known:
            placed = index.place(table.windows(row.request), heads, bank, specific=True)
            features.append((placed.nearness, placed.name_nearness))
            outside.append(not inside(mapping[row.source][row.category or ""], shown))
    labels = np.array(outside)
    weights = balanced(["removal"] * len(labels), labels, cap=len(labels), extra={})
    fitted = fit_linear(np.array(features, dtype=np.float32), labels, weights, strength=1e4)
    return replace(heads, outside_weight=fitted.weight, outside_bias=fitted.bias)


def _rows(table: VectorTable, texts: Sequence[str]) -> Vectors:
    # The empty text has a vector too: the guard meets it in images without writing.
    return np.stack([table.means([text])[0] if text else table.windows("")[0] for text in texts])


def _thinned(samples: set[Sample]) -> list[Sample]:
    groups: dict[tuple[str, bool], list[Sample]] = defaultdict(list)
    for sample in sorted(samples, key=lambda sample: (sample.source, sample.text, sample.context)):
        groups[sample.source, sample.unsafe].append(sample)
    chosen = random.Random(0)
    return [s for group in groups.values() for s in chosen.sample(group, min(len(group), _ROWS_EACH))]
