"""What the metrics say of outcomes, counted by the batch.

Each metric is locked, and looking a label up costs more than counting. An event counts once its outcome is safe in Kafka, so a batch
that was aborted counts once, and what a lost partition's next owner judges again counts there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from stream.telemetry.metrics import WorkerMetrics
from stream.worker.records import Outcome


class OutcomeCounts:
    """Counts outcomes by what became of them, their times and what they cost."""

    def __init__(self, metrics: WorkerMetrics) -> None:
        self._metrics = metrics
        self._batches = metrics.batches.labels("written")
        self._prompt_tokens = metrics.tokens.labels("prompt")
        self._completion_tokens = metrics.tokens.labels("completion")
        self._stages = {stage: metrics.stage.labels(stage) for stage in ("evidence", "prepare", "judge")}

    def count(self, batch: Sequence[Outcome], now: float) -> None:
        """One batch that was written, at `now` of the clock that the outcomes' `began` is of."""
        metrics = self._metrics
        self._batches.inc()
        verdicts: Counter[tuple[str, str]] = Counter()
        prompt_tokens = completion_tokens = 0
        for outcome in batch:
            metrics.latency.observe(now - outcome.began)
            if (verdict := outcome.verdict) is not None:
                verdicts[verdict.status.value, verdict.action] += 1
                prompt_tokens += verdict.usage.prompt_tokens
                completion_tokens += verdict.usage.completion_tokens
                for stage, milliseconds in verdict.timings.items():
                    self._stages[stage].observe(milliseconds / 1000)
                for kind in verdict.degraded:
                    metrics.degraded.labels(kind).inc()
            if outcome.ood is not None:
                metrics.ood.inc()
            if outcome.dead_letter is not None:
                metrics.dead_letters.labels(outcome.dead_letter.reason.value).inc()
        for labels, count in verdicts.items():
            metrics.verdicts.labels(*labels).inc(count)
        self._prompt_tokens.inc(prompt_tokens)
        self._completion_tokens.inc(completion_tokens)
