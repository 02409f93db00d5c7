"""From a seed to what a schedule is made of: settings, events, weather and faults."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

from stream.worker.partitions import TopicPartition
from tests.simulation.brokers import CONTENT, InputEntry
from tests.simulation.network import Weather
from tests.simulation.producer_client import Mishaps
from tests.simulation.worker import Settings

SESSION_S = 6.0


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that happens at a time, or at a step of a worker's process: so many steps after the one before it."""

    kind: str
    at_s: float
    worker: int
    seconds: float = 0.0
    step: int | None = None
    choice: float = 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    """One schedule before it runs. In a `calm` one nothing fails: workers come and go, and none may die of it."""

    seed: int
    calm: bool
    settings: Settings
    workers: int
    stable_ids: bool
    arrivals: tuple[tuple[float, TopicPartition, InputEntry], ...]
    gaps: bool
    weather: Weather
    mishaps: Mishaps
    faults: tuple[Fault, ...]
    faults_end_s: float

    def __str__(self) -> str:
        faults = [
            f"  {fault.at_s:6.2f} {fault.kind} worker={fault.worker} seconds={fault.seconds:.2f} step={fault.step}"
            for fault in self.faults
        ]
        head = f"seed {self.seed}{' calm' if self.calm else ''}: {self.workers} workers, {len(self.arrivals)} events"
        return "\n".join([head, f"  {self.settings}", f"  {self.weather}", f"  {self.mishaps}", *faults])


_FAULTS = (
    ("crash", 3),
    ("crash_step", 6),
    ("freeze", 4),
    ("freeze_step", 6),
    ("stall", 3),
    ("stall_and_join", 4),
    ("replace", 2),
    ("join", 4),
    ("leave", 3),
    ("slow", 1),
    ("guard_down", 1),
)


def plan(seed: int) -> Plan:
    """The schedule of `seed`: the same one each time."""
    rng = Random(seed)
    calm = rng.random() < 0.2
    lasts = rng.uniform(4.0, 20.0)
    gaps = rng.random() < 0.4
    settings = Settings(
        exactly_once=rng.random() < 0.65,
        max_in_flight=rng.choice((2, 6, 20, 64)),
        window=rng.choice((4, 8, 16, 400)),
        interval_s=rng.choice((0.02, 0.1, 0.3)),
        max_batch=rng.choice((1, 3, 10, 100)),
        commit_interval_s=rng.choice((0.1, 0.5, 2.0)),
        drain_s=rng.uniform(0.3, 4.0),
        session_s=SESSION_S,
        transaction_timeout_s=rng.uniform(3.0, SESSION_S),
        producer_queue=rng.choice((2, 10, 1000)),
        quick_s=rng.choice((0.01, 0.1, 0.5)),
        slow=0.0 if calm else rng.choice((0.0, 0.1, 0.3)),
        slow_s=rng.uniform(1.0, 15.0),
    )
    if calm:
        settings = _patient(settings)
    weather, mishaps = Weather(latency_s=rng.choice((0.001, 0.005, 0.02))), Mishaps()
    if not calm:
        weather.spike = rng.choice((0.0, 0.01, 0.05))
        weather.spike_s = rng.uniform(0.1, 3.0)
        weather.loss = rng.choice((0.0, 0.0, 0.01, 0.05))
        if rng.random() < 0.35:
            mishaps = Mishaps(rng.uniform(0, 0.05), rng.uniform(0, 0.01), rng.uniform(0, 0.03))
        # From dice of its own, so that the other schedules stay what they were before this fault was thought of.
        weather.strays = Random(~seed).choice((0.0, 0.0, 0.0, 0.03))
    return Plan(
        seed=seed,
        calm=calm,
        settings=settings,
        workers=rng.choice((1, 2, 2, 3)),
        stable_ids=rng.random() < 0.4,
        arrivals=_arrivals(rng, lasts, gaps),
        gaps=gaps,
        weather=weather,
        mishaps=mishaps,
        faults=tuple(sorted(_faults(rng, lasts, calm), key=lambda fault: fault.at_s)),
        faults_end_s=lasts,
    )


def _patient(settings: Settings) -> Settings:
    """Time enough to drain: everything in flight is judged and written well before."""
    fields = {name: getattr(settings, name) for name in Settings.__slots__}
    return Settings(**(fields | {"drain_s": 4.0, "quick_s": 0.1, "slow": 0.0, "max_in_flight": 20, "max_batch": 100}))


def _arrivals(rng: Random, lasts: float, gaps: bool) -> tuple[tuple[float, TopicPartition, InputEntry], ...]:
    found = []
    at_once = rng.random() < 0.4
    keys = [f"key-{n}".encode() for n in range(rng.choice((1, 3, 8)))]
    keyless = rng.choice((0.0, 0.2, 0.9))
    for number in range(rng.randint(1, 3)):
        offset = rng.choice((0, 0, 3))
        for _ in range(rng.randint(2, 35)):
            key = None if rng.random() < keyless else rng.choice(keys)
            at = 0.0 if at_once else rng.uniform(0.0, lasts)
            found.append([at, (CONTENT, number), InputEntry(offset, key, b"")])
            offset += 1 + (int(math.log(1 - rng.random()) * -4) if gaps and rng.random() < 0.3 else 0)
    times = sorted(item[0] for item in found)  # type: ignore[type-var]
    by_number: dict[TopicPartition, list[InputEntry]] = {}
    for _, name, entry in found:  # type: ignore[assignment]
        by_number.setdefault(name, []).append(entry)  # type: ignore[arg-type]
    arrivals = []
    for at in times:
        name = rng.choice([name for name, entries in by_number.items() if entries])
        arrivals.append((at, name, by_number[name].pop(0)))
    return tuple(arrivals)  # type: ignore[arg-type]


def _faults(rng: Random, lasts: float, calm: bool) -> list[Fault]:
    kinds = ("join", "leave") if calm else tuple(kind for kind, weight in _FAULTS for _ in range(weight))
    found = []
    for _ in range(rng.choice((2, 4, 6) if calm else (1, 2, 3, 5, 8))):
        kind = rng.choice(kinds)
        step = rng.randint(1, 250) if kind.endswith(("_step", "_and_join")) else None
        fault = Fault(kind, rng.uniform(0.0, lasts), rng.randrange(4), _seconds(rng, kind), step, rng.random())
        found.append(fault)
    return found


def _seconds(rng: Random, kind: str) -> float:
    """Around the session's length, so that some are missed by the group and some are not."""
    if kind in ("freeze", "freeze_step", "replace"):
        return rng.uniform(0.1, 2.0) if rng.random() < 0.25 else rng.uniform(SESSION_S - 1, SESSION_S + 8)
    if kind == "stall_and_join":
        return rng.uniform(3.0, 14.0)
    return rng.uniform(0.1, 7.0)
