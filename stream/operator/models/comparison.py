"""Two versions' answers to the same questions, held against each other."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from stream.clock import Clock, Deadline
from stream.guard.backend import Guard
from stream.guard.errors import GuardError, GuardUnavailableError
from stream.guard.reading import Labels, labels
from stream.operator.models.golden import Sample

AT_A_TIME = 8
"""Requests under way: the same server serves the live traffic."""

_TURN_S = 0.25


@dataclass(frozen=True, slots=True)
class Said:
    """One version's answer. `labels` is None where it gave none that can be read."""

    labels: Labels | None
    version: str = ""
    manifest: str = ""
    fault: str = ""
    """Why there is no answer at all; empty when there is one."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a new version must reach: shares of all samples, and of those that both versions answered readably."""

    min_format_valid: float
    min_agreement: float


@dataclass(frozen=True, slots=True)
class Difference:
    event_id: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """Counts over `samples` questions. Only where both can be read, is there anything to agree on."""

    samples: int
    old_valid: int
    new_valid: int
    compared: int
    agreed: int
    same_category: int
    differences: tuple[Difference, ...]

    @property
    def format_valid(self) -> float:
        return self.new_valid / self.samples if self.samples else 0.0

    @property
    def agreement(self) -> float:
        return self.agreed / self.compared if self.compared else 0.0

    def broken(self, limits: Limits) -> list[str]:
        """Each limit that does not hold, as a sentence; empty when all do."""
        faults = []
        if self.format_valid < limits.min_format_valid:
            faults.append(
                f"{self.new_valid} of {self.samples} answers can be read ({self.format_valid:.1%}, at least"
                f" {limits.min_format_valid:.1%} must be)"
            )
        if self.agreement < limits.min_agreement:
            faults.append(
                f"{self.agreed} of {self.compared} labels are the old version's ({self.agreement:.1%}, at least"
                f" {limits.min_agreement:.1%} must be)"
            )
        return faults

    def as_json(self) -> dict[str, object]:
        return {
            "samples": self.samples,
            "old_valid": self.old_valid,
            "new_valid": self.new_valid,
            "compared": self.compared,
            "agreed": self.agreed,
            "same_category": self.same_category,
            "differences": [
                {"event": difference.event_id, "old": difference.old, "new": difference.new}
                for difference in self.differences
            ],
        }


def compare(samples: Sequence[Sample], old: Sequence[Said], new: Sequence[Said]) -> Comparison:
    """Both answers to each sample, in the same order."""
    both = [
        (before.labels, after.labels)
        for before, after in zip(old, new, strict=True)
        if before.labels is not None and after.labels is not None
    ]
    return Comparison(
        samples=len(samples),
        old_valid=sum(said.labels is not None for said in old),
        new_valid=sum(said.labels is not None for said in new),
        compared=len(both),
        agreed=sum(before == after for before, after in both),
        same_category=sum(before == after and before.category == after.category for before, after in both),
        differences=tuple(
            Difference(sample.event_id, told(before), told(after))
            for sample, before, after in zip(samples, old, new, strict=True)
            if before.labels != after.labels
        ),
    )


def told(said: Said) -> str:
    """An answer's labels, short."""
    if said.labels is None:
        return said.fault or "unreadable"
    parts = [said.labels.request, said.labels.response, said.labels.category]
    return " ".join(part for part in parts if part)


async def ask_all(
    guard: Guard, samples: Sequence[Sample], *, timeout_s: float, patience_s: float, clock: Clock
) -> list[Said]:
    """Every sample's answer, `AT_A_TIME` under way. An answer that does not come in time, or is an error, is not readable.

    Waits up to `patience_s` seconds for a server that is not there; then raises `GuardUnavailableError`.
    """
    places = asyncio.Semaphore(AT_A_TIME)

    async def ask(sample: Sample) -> Said:
        async with places:
            deadline = Deadline(clock, patience_s)
            while True:
                try:
                    completion = await guard.complete(sample.prompt, sample.images, timeout=timeout_s)
                except GuardUnavailableError:
                    if deadline.remaining() <= 0:
                        raise
                    await asyncio.sleep(_TURN_S)
                except GuardError as error:
                    return Said(None, fault=str(error))
                else:
                    found = labels(sample.prompt, bool(sample.images), completion)
                    return Said(found, completion.version, completion.manifest)

    tasks = [asyncio.create_task(ask(sample)) for sample in samples]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
