"""How long an event takes at a steady rate: through the service, as a reader of verdicts sees it, and by the bare client alone.

What the service adds is the difference: the guard, Triton and its client take their time in both. Sender and reader are processes
of their own: as threads of one they would wait for each other, and their waiting would count.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.end_to_end.harness import Stage

ROOT = Path(__file__).resolve().parents[2]
WARM_UP_S = 1.0
"""The first second warms connections and caches up, and does not count."""


@dataclass(frozen=True)
class Latency:
    """Milliseconds from sending an event to having its answer."""

    p50: float
    p99: float


def service_latency(stage: Stage, *, rate: float, events: int, order: str) -> Latency:
    """Send `events` at `rate` a second to a worker that is ready; wait for each verdict as a `read_committed` reader sees it."""
    bootstrap, topics = stage.broker.bootstrap, stage.topics
    with _start("reader", bootstrap, topics.verdicts, str(events)) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "reading\n"
        with _start("sender", bootstrap, topics.content, str(rate), str(events), order) as sender:
            sent: list[float] = json.loads(sender.communicate(timeout=300)[0])
        seen: dict[str, float] = json.loads(reader.communicate(timeout=300)[0])
    assert len(seen) == events, f"{events - len(seen)} verdicts did not come"
    return latency_of([seen[str(number)] - at for number, at in enumerate(sent) if at - sent[0] > WARM_UP_S])


def latency_of(seconds: list[float]) -> Latency:
    ordered = sorted(seconds)
    return Latency(p50=statistics.median(ordered) * 1000, p99=ordered[int(len(ordered) * 0.99)] * 1000)


def _start(module: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", f"tests.benchmarks.{module}", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
