"""The model's own metrics, beside the server's: `nv_inference_*` says little about a model whose `execute` returns at once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from .engine import EngineState

FIRST_TOKEN_BUCKETS = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0]
"""Seconds. From a remembered prefix on a GPU to a long queue on a CPU."""


class Counts(Protocol):
    """The judge's counters; they only grow."""

    @property
    def unparsable(self) -> int: ...

    @property
    def nudged(self) -> int: ...


class Metrics:
    """Writes what the engine and the judge say into Triton's registry.

    `pb_utils` is the Python backend's module; with a binary that has no MetricFamily nothing is written. Not thread-safe.

    `labels` must be this process's own, other versions and a new load of the same one included: two processes with the same labels
    share one metric inside the server, and what one of them gives back the other still writes to (2.51: a segmentation fault
    of the server while a version is promoted).
    """

    def __init__(
        self,
        pb_utils: Any,
        engine: Callable[[], EngineState],
        judge: Callable[[], Counts],
        labels: Mapping[str, str],
    ) -> None:
        self._engine = engine
        self._judge = judge
        self._written: dict[str, float] = {}
        self._metrics: dict[str, Any] = {}
        # A family must outlive its metrics, or the server refuses to count.
        self._families: list[Any] = []
        self._first_token: Any = None
        family = getattr(pb_utils, "MetricFamily", None)
        if family is None:
            return
        gauges = {
            "running": "Requests in the batch. At the batch's size with others waiting: add a replica.",
            "waiting": "Requests that wait for a place in the batch. Grows when the guard is too slow for what comes.",
        }
        counters = {
            "prompt_tokens_total": "Prompt tokens read.",
            "completion_tokens_total": "Tokens written.",
            "prefix_blocks_reused_total": "Blocks of prompt tokens that were not computed again.",
            "unparsable_total": "Answers that did not have the form at last. More than a few in a thousand: a wrong checkpoint.",
            "nudged_total": "Times that a request was asked again because its answer did not have the form.",
        }
        for kind, group in ((family.GAUGE, gauges), (family.COUNTER, counters)):
            for name, meaning in group.items():
                self._families.append(family(name=f"proguard_{name}", description=meaning, kind=kind))
                self._metrics[name] = self._families[-1].Metric(labels=dict(labels))
        if hasattr(family, "HISTOGRAM"):
            meaning = "Seconds from asking to the first token of an answer."
            self._families.append(
                family(name="proguard_first_token_seconds", description=meaning, kind=family.HISTOGRAM)
            )
            self._first_token = self._families[-1].Metric(labels=dict(labels), buckets=FIRST_TOKEN_BUCKETS)

    def first_token(self, seconds: float) -> None:
        """An answer's first token came after so long."""
        if self._first_token is not None:
            with contextlib.suppress(Exception):  # As below.
                self._first_token.observe(seconds)

    def write(self) -> None:
        """Bring the registry up to date. Asks the server's process once for each value that changed."""
        engine, judge = self._engine(), self._judge()
        values = {
            "running": engine.running,
            "waiting": engine.waiting,
            "prompt_tokens_total": engine.prompt_tokens,
            "completion_tokens_total": engine.generated_tokens,
            "prefix_blocks_reused_total": engine.reused_blocks,
            "unparsable_total": judge.unparsable,
            "nudged_total": judge.nudged,
        }
        for name, metric in self._metrics.items():
            step = values[name] - self._written.get(name, 0.0)
            if step:
                # A gauge may fall: increment takes what is negative there, and a counter's steps are never.
                with contextlib.suppress(Exception):  # The server is going down; answers matter more than their count.
                    metric.increment(step)
                    self._written[name] = values[name]

    def close(self) -> None:
        """Give the metrics back, while the server is still there to take them: the stub dies of what is left at its end."""
        self._first_token = None
        self._metrics.clear()
        self._families.clear()
