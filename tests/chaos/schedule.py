"""Which fault comes when, from a seed; and who may touch what meanwhile."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tests.chaos.arena import Arena, Slot
from tests.chaos.faults import OF_A_SLOT, Kind

MEAN_GAP_S, LONGEST_GAP_S, AT_ONCE_SHARE = 2.2, 5.0, 0.2


@dataclass(frozen=True, slots=True)
class Planned:
    """A fault to come: `gap_s` after the one before it, in force for `seconds`, where `chance` (0 to 1) says if there is a choice."""

    kind: Kind
    gap_s: float
    seconds: float
    chance: float


def plan(seed: int, faults: int, kinds: Sequence[Kind]) -> list[Planned]:
    """`faults` faults in rounds that hold every kind once; the same ones for the same seed. Some come at once after another."""
    rng = random.Random(seed)
    planned: list[Planned] = []
    while len(planned) < faults:
        for kind in rng.sample(kinds, len(kinds)):
            at_once = rng.random() < AT_ONCE_SHARE
            gap = 0.0 if at_once else min(LONGEST_GAP_S, rng.expovariate(1 / MEAN_GAP_S))
            planned.append(Planned(kind, gap, rng.uniform(*kind.seconds), rng.random()))
    return planned[:faults]


class Claims:
    """What faults hold for themselves. A fault of something shared gets a slot too, and does not touch it."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._changed = threading.Condition()

    def take(self, arena: Arena, planned: Planned, timeout: float) -> tuple[Slot, frozenset[str]] | None:
        """A slot where everything that the fault needs is free, and the names to `give_back`. None after `timeout` seconds."""
        found: list[tuple[Slot, frozenset[str]]] = []

        def some_free() -> bool:
            found[:] = [one for one in _choices(arena, planned.kind) if self._taken.isdisjoint(one[1])]
            return bool(found)

        with self._changed:
            if not self._changed.wait_for(some_free, timeout):
                return None
            chosen = found[int(planned.chance * len(found))]
            self._taken |= chosen[1]
            return chosen

    def give_back(self, names: Iterable[str]) -> None:
        with self._changed:
            self._taken.difference_update(names)
            self._changed.notify_all()


def _choices(arena: Arena, kind: Kind) -> list[tuple[Slot, frozenset[str]]]:
    return [
        (slot, frozenset(f"{need}-{slot.number}" if need in OF_A_SLOT else need for need in kind.needs))
        for slot in arena.base
    ]
