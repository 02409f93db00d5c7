"""What the guard reaches on a split: each function is one section of the report."""

from __future__ import annotations

import difflib
import json
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from schemas.events import Modality
from schemas.policy import Policy
from schemas.prompt import render_system, render_user
from training.lite.dataset import Row
from training.lite.metrics import Binary
from training.lite.removal import inside, task_of, top_of, without_half
from training.lite.samples import Risk
from triton_models.proguard_lite.guard.answer import Answer
from triton_models.proguard_lite.guard.assembly import Parts
from triton_models.proguard_lite.guard.categories import PolicyIndex, centred, means
from triton_models.proguard_lite.guard.encoder import Encoded
from triton_models.proguard_lite.guard.heads import UNSAFE_FROM
from triton_models.proguard_lite.guard.ocr import TextReader

_BATCH = 32
# Not the seeds that the decision was calibrated on.
REMOVAL_SEEDS = range(500, 510)


@dataclass(frozen=True, slots=True)
class Scored:
    """Labels and probabilities of one source's requests or responses."""

    source: str
    labels: list[bool]
    scores: list[float]

    @property
    def binary(self) -> Binary:
        """The decision at the guard's threshold."""
        return Binary.of(self.labels, [score >= UNSAFE_FROM for score in self.scores])


@dataclass(frozen=True, slots=True)
class Placed:
    """How well risks were placed: `accuracy` by top category, `accuracy_sub` where the sub-category is known."""

    events: int
    accuracy: float
    events_sub: int
    accuracy_sub: float


@dataclass(frozen=True, slots=True)
class Removed:
    """Inside or outside the policy after removals. `named_right`: share of the outside ones whose name is nearest to the
    removed category it stands for, among all top categories."""

    outside: Binary
    named_right: float


@dataclass(frozen=True, slots=True)
class Pictures:
    """Typographic images: how alike the text read is to the text written, and how many were called unsafe."""

    images: int
    likeness: float
    unsafe: float
    seconds: float


def answers(parts: Parts, turns: Sequence[tuple[str, str | None]], policy: Policy) -> list[Answer]:
    """The guard's answer to each (user, agent) text pair."""
    system = render_system(policy, Modality.TEXT)
    readings = [parts.judge.read(system, render_user(user, agent)) for user, agent in turns]
    found: list[Answer] = []
    for start in range(0, len(readings), _BATCH):
        for outcome in parts.judge.answer(readings[start : start + _BATCH]):
            if not isinstance(outcome, Answer):
                raise outcome
            found.append(outcome)
    return found


def requests(parts: Parts, rows: Sequence[Row], policy: Policy) -> list[Scored]:
    """The request head, by source. A request that a source has several times counts once."""
    distinct = sorted({(row.source, row.request, row.request_unsafe) for row in rows if row.request})
    found = answers(parts, [(request, None) for _, request, _ in distinct], policy)
    return _by_source([(source, label, a.request) for (source, _, label), a in zip(distinct, found, strict=True)])


def responses(parts: Parts, rows: Sequence[Row], policy: Policy) -> list[Scored]:
    """The response head, by source."""
    labelled = [row for row in rows if row.response and row.response_unsafe is not None]
    found = answers(parts, [(row.request, row.response) for row in labelled], policy)
    return _by_source([(r.source, bool(r.response_unsafe), a.response) for r, a in zip(labelled, found, strict=True)])


def categories(parts: Parts, found: Sequence[Risk], policy: Policy) -> Placed:
    """The nearest category of the whole policy, for risks that have one."""
    index = PolicyIndex.build(task_of(policy), parts.encoder, parts.heads, parts.bank)
    known = [(risk, risk.category) for risk in found if risk.category]
    encoded = parts.encoder.encode([risk.text for risk, _ in known])
    ids = [index.place(e.windows, parts.heads, parts.bank, specific=True).category.id for e in encoded]
    tops = [top_of(answer) == top_of(right) for answer, (_, right) in zip(ids, known, strict=True)]
    subs = [answer == right for answer, (_, right) in zip(ids, known, strict=True) if top_of(right) != right]
    return Placed(len(tops), statistics.fmean(tops), len(subs), statistics.fmean(subs))


def removals(parts: Parts, found: Sequence[Risk], policy: Policy) -> Removed:
    """Half of the categories removed, once a seed: which risks does the guard place outside, and how does it name them?"""
    encoded = parts.encoder.encode([risk.text for risk in found])
    nearest_top = _nearest_top(parts, policy)
    labels: list[bool] = []
    outside: list[bool] = []
    named: list[bool] = []
    for seed in REMOVAL_SEEDS:
        shown = without_half(policy, seed)
        index = PolicyIndex.build(task_of(shown), parts.encoder, parts.heads, parts.bank)
        for risk, text in zip(found, encoded, strict=True):
            placed = index.place(text.windows, parts.heads, parts.bank, specific=True)
            labels.append(not inside(risk.category, shown))
            outside.append(parts.heads.outside(placed.evidence) >= UNSAFE_FROM)
            if labels[-1] and outside[-1] and risk.category:
                named.append(nearest_top(placed.name) == top_of(risk.category))
    return Removed(Binary.of(labels, outside), statistics.fmean(named) if named else 0.0)


def pictures(parts: Parts, reader: TextReader, folder: Path, policy: Policy, clock: Callable[[], float]) -> Pictures:
    """FigStep's images in `folder`: writing alone, through the OCR. All of them are labelled unsafe."""
    rows = [json.loads(line) for line in (folder / "figstep_tiny.jsonl").read_text(encoding="utf-8").splitlines()]
    started = clock()
    read = [reader.read((folder / row["image"]).read_bytes()) for row in rows]
    seconds = clock() - started
    alike = [_likeness(text, row["text_in_image"]) for text, row in zip(read, rows, strict=True)]
    unsafe = [a.request >= UNSAFE_FROM for a in answers(parts, [(text, None) for text in read], policy)]
    return Pictures(len(rows), statistics.fmean(alike), statistics.fmean(unsafe), seconds / len(rows))


def rate(parts: Parts, texts: Sequence[str], policy: Policy, clock: Callable[[], float], *, batch: int) -> float:
    """Text requests a second, `batch` at a time, reading and answering included."""
    system = render_system(policy, Modality.TEXT)
    started = clock()
    for start in range(0, len(texts), batch):
        users = [render_user(text, None) for text in texts[start : start + batch]]
        parts.judge.answer([parts.judge.read(system, user) for user in users])
    return len(texts) / (clock() - started)


def _by_source(scored: Sequence[tuple[str, bool, float]]) -> list[Scored]:
    groups: dict[str, Scored] = defaultdict(lambda: Scored("", [], []))
    for source, label, score in scored:
        group = groups.setdefault(source, Scored(source, [], []))
        group.labels.append(label)
        group.scores.append(score)
    return [groups[source] for source in sorted(groups)]


def _nearest_top(parts: Parts, policy: Policy) -> Callable[[str], str]:
    """From a name to the top category whose phrases are nearest to it."""
    entries = task_of(policy).entries
    owner = [top_of(entry.id) for entry in entries for _ in (entry.name, *entry.synonyms)]
    phrases = [text for entry in entries for text in (entry.name, *entry.synonyms)]
    vectors = centred(means(parts.encoder.encode(phrases)), parts.heads.phrase_centre)
    known: dict[str, str] = {}

    def nearest(name: str) -> str:
        if name not in known:
            encoded: list[Encoded] = parts.encoder.encode([name])
            known[name] = owner[int((vectors @ centred(means(encoded), parts.heads.phrase_centre)[0]).argmax())]
        return known[name]

    return nearest


def _likeness(read: str, written: str) -> float:
    plain, wanted = ("".join(c for c in text.casefold() if c.isalnum()) for text in (read, written))
    # These images end in an empty numbered list, which is not part of the sentence.
    return difflib.SequenceMatcher(None, plain.rstrip("123."), wanted, autojunk=False).ratio()
