"""What each head is fitted on: rows of the data folder, thinned, and sentences written for this project."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from training.lite.dataset import Row, benign, category_map, mapped, own_responses, own_unsafe

OWN = "own"
# More rows of one source and label than this teach nothing new and cost minutes of encoding.
_ROWS_EACH = 2500
# The first words of a text show what it is, and a thousand characters are two windows of the encoder.
_CHARACTERS = 1000
# Content whose own words are the harm: hateful or explicit text is as unsafe in a response as in a request.
_SPEAKS_FOR_ITSELF = frozenset({"hatecheck", "openai_moderation"})
_MEDICAL_ETHICS = "medsafety"


@dataclass(frozen=True, slots=True)
class Sample:
    """One example for a head. `context` is the request before a response, empty elsewhere."""

    source: str
    text: str
    context: str
    unsafe: bool


@dataclass(frozen=True, slots=True)
class Risk:
    """An unsafe request and the id of the default policy that it belongs to; None where none fits."""

    source: str
    text: str
    category: str | None


def request_samples(rows: Sequence[Row]) -> list[Sample]:
    """Requests, once each, and our own sentences; the empty text counts among the safe ones."""
    samples = {Sample(row.source, row.request[:_CHARACTERS], "", row.request_unsafe) for row in rows if row.request}
    own = [Sample(OWN, text, "", False) for text in (*benign("train"), "")]
    own += [Sample(OWN, text, "", True) for _, text in own_unsafe("train")]
    return _thinned(samples) + own


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
            for context in (request[:_CHARACTERS], ""):
                samples.add(Sample(row.source, row.response[:_CHARACTERS], context, row.response_unsafe))
        elif row.source in _SPEAKS_FOR_ITSELF:
            samples.add(Sample(row.source, row.request[:_CHARACTERS], "", row.request_unsafe))
    own = [Sample(OWN, text, "", False) for text in benign("train")]
    own += [Sample(OWN, text, "", label) for label, text in own_responses("train")]
    return _thinned(samples) + own


def risks(rows: Sequence[Row], *, own: bool = True) -> list[Risk]:
    """Unsafe requests whose category is known, some of one kind that no category of the default policy covers, and with
    `own` our own train sentences."""
    mapping = category_map()
    known = [
        Risk(row.source, row.request[:_CHARACTERS], mapping[row.source][row.category or ""])
        for row in rows
        if mapped(row, mapping)
    ]
    medical = [Risk(row.source, row.request[:_CHARACTERS], None) for row in rows if row.source == _MEDICAL_ETHICS]
    written = [Risk(OWN, text, category) for category, text in own_unsafe("train")] if own else []
    return known + medical[:150] + written


def _thinned(samples: set[Sample]) -> list[Sample]:
    groups: dict[tuple[str, bool], list[Sample]] = defaultdict(list)
    for sample in sorted(samples, key=lambda sample: (sample.source, sample.text, sample.context, sample.unsafe)):
        groups[sample.source, sample.unsafe].append(sample)
    chosen = random.Random(0)
    return [s for group in groups.values() for s in chosen.sample(group, min(len(group), _ROWS_EACH))]
