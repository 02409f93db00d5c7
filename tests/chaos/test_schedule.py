"""The schedule and the workload follow from the seed, and faults do not touch what another one holds."""

from __future__ import annotations

import json
from collections import Counter
from itertools import islice
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.chaos.faults import KINDS, Kind
from tests.chaos.schedule import Claims, plan
from tests.chaos.workload import ANSWERS, Workload

SEEDS = st.integers(0, 2**32)
ARENA: Any = SimpleNamespace(base=[SimpleNamespace(number=number) for number in range(3)])


def named(name: str) -> Kind:
    (kind,) = [kind for kind in KINDS if kind.name == name]
    return kind


def claim(claims: Claims, name: str, chance: float = 0.0) -> frozenset[str] | None:
    (planned,) = [one for one in plan(0, len(KINDS), KINDS) if one.kind is named(name)]
    taken = claims.take(ARENA, planned, timeout=0)
    return None if taken is None else taken[1]


@given(SEEDS, st.integers(0, 120))
def test_a_seed_is_one_schedule_that_deals_every_kind_in_turn(seed: int, faults: int) -> None:
    planned = plan(seed, faults, KINDS)
    assert planned == plan(seed, faults, KINDS)
    assert len(planned) == faults
    counts = Counter(one.kind.name for one in planned)
    assert max(counts.values(), default=0) - min(counts[kind.name] for kind in KINDS) <= 1
    assert all(one.kind.seconds[0] <= one.seconds <= one.kind.seconds[1] for one in planned)


@given(SEEDS)
def test_a_seed_is_one_workload(seed: int) -> None:
    one, other = Workload(seed, ["a.png"]), Workload(seed, ["a.png"])
    assert list(islice(one.events(), 50)) == list(islice(other.events(), 50))
    assert one.expected == other.expected


def test_the_workload_holds_every_kind_of_event() -> None:
    workload = Workload(7, ["a.png"])
    events = list(islice(workload.events(), 4000))
    readable = [value for value, _ in events if value and value.startswith(b'{"id": "e')]
    texts = [json.loads(value)["user_text"] for value in readable]
    assert len(readable) == len(workload.expected)
    assert all(any(f"say={answer}]" in text or f"[[{answer}]]" in text for text in texts) for answer in ANSWERS)
    assert any("delay=3000]" in text for text in texts)
    assert any(b'"images"' in value for value in readable)
    assert any(value is None for value, _ in events)
    assert len({key for _, key in events}) > 300
    assert sum(key is None for _, key in events) > 100


def test_a_fault_waits_for_what_another_one_holds() -> None:
    claims = Claims()
    held = [claim(claims, "worker kill -9") for _ in range(3)]
    assert sorted(name for names in held if names for name in names) == ["worker-0", "worker-1", "worker-2"]
    assert claim(claims, "worker stopped, a zombie") is None
    assert claim(claims, "Kafka link cut") is not None
    assert claim(claims, "broker kill -9") == {"broker"}
    assert claim(claims, "broker restarted") is None
    claims.give_back(["worker-1"])
    assert claim(claims, "worker stopped, a zombie") == {"worker-1"}
