"""The dead-letter breaker: a worker that puts nearly everything aside is broken itself, and stops.

One bad event is a dead letter and nobody's emergency. A wrong policy, a guard with another answer format, a store without its
credentials or a producer gone wrong turn *every* event into one, at full speed, and the redrive of millions is a bad night.
So the worker looks at its own latest outcomes and stops, with the reason, when too many of them are dead letters. The two
limits (a share, and a run) are Arroyo's `DlqLimit` (getsentry/arroyo, `arroyo/dlq.py`: `max_invalid_ratio`,
`max_consecutive_count`); Arroyo counts from the start of the process, here a window of the latest outcomes counts.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated, Self

import structlog
from pydantic import BaseModel, Field, model_validator

from schemas.deadletters import Reason
from stream.errors import ProGuardStreamError
from stream.worker.reading import attempt_of
from stream.worker.records import Outcome

if TYPE_CHECKING:
    from stream.telemetry.metrics import WorkerMetrics

_log = structlog.get_logger(__name__)


class DeadLetterSettings(BaseModel):
    """When too many dead letters stop the worker."""

    enabled: bool = Field(True, description="Stop the worker when too many of its outcomes are dead letters.")
    max_ratio: Annotated[float, Field(ge=0, le=1)] = Field(
        0.5,
        description="Share of dead letters among the latest outcomes beyond which the worker stops; 0 for no limit.",
    )
    window: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        1000, description="How many of the latest outcomes the share is taken of."
    )
    min_outcomes: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        200, description="Outcomes in the window before its share of dead letters means anything."
    )
    max_run: Annotated[int, Field(ge=0)] = Field(
        500, description="Dead letters one after another at which the worker stops; 0 for no limit."
    )

    @model_validator(mode="after")
    def _can_trip(self) -> Self:
        if self.min_outcomes > self.window:
            raise ValueError("min_outcomes must not be more than window: the share would never be looked at")
        return self


class DeadLetterLimitError(ProGuardStreamError):
    """Too many dead letters. `reasons` counts those of the window by reason."""

    def __init__(self, what: str, reasons: Counter[Reason]) -> None:
        told = ", ".join(f"{reason.value} {count}" for reason, count in reasons.most_common())
        super().__init__(
            f"stopped by the dead-letter breaker: {what}; among the latest outcomes: {told}. Every outcome so far stays written; "
            "what is not committed is judged by the next start. See to the cause first. The limits are "
            "delivery.dead_letters.max_ratio and max_run, delivery.dead_letters.enabled=false switches both off"
        )
        self.reasons = reasons


class DeadLetterBreaker:
    """Hears of every batch of outcomes once it is safe in Kafka (`observe`, the coordinator's `on_written`) and calls `on_trip`, once.

    `on_trip` gets the `DeadLetterLimitError` and has to stop the worker: nothing is taken back, and outcomes that are being
    written meanwhile still arrive here. Redriven events count neither way: an operator who sends old failures again would
    otherwise stop the live stream with them, and `redrive --max-attempts` bounds them already.

    What it is not: a defence. A sender who can make most of a worker's events unjudgeable stops the worker, which then has lost and
    missed nothing; who prefers dead letters without end switches the breaker off. A worker that is started again begins to
    count at zero, so a supervisor's pauses between restarts bound the flood.
    """

    def __init__(
        self, settings: DeadLetterSettings, metrics: WorkerMetrics, on_trip: Callable[[BaseException], None]
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._on_trip = on_trip
        self._latest: deque[Reason | None] = deque()
        self._reasons: Counter[Reason] = Counter()
        self._failed = 0
        self._run = 0
        self._tripped = False

    def observe(self, outcomes: Iterable[Outcome]) -> None:
        """Count written outcomes, in order. O(1) each; never raises."""
        for outcome in outcomes:
            if attempt_of(outcome.record) > 1:
                continue
            reason = outcome.dead_letter.reason if outcome.dead_letter is not None else None
            self._count(reason)
            if reason is not None and self._settings.enabled and not self._tripped:
                self._judge(self._failed / len(self._latest))
        if self._latest:
            self._metrics.dead_letter_ratio.set(self._failed / len(self._latest))
            self._metrics.dead_letter_run.set(self._run)

    def _count(self, reason: Reason | None) -> None:
        if len(self._latest) == self._settings.window and (oldest := self._latest.popleft()) is not None:
            self._failed -= 1
            self._reasons[oldest] -= 1
        self._latest.append(reason)
        if reason is None:
            self._run = 0
            return
        self._run += 1
        self._failed += 1
        self._reasons[reason] += 1

    def _judge(self, share: float) -> None:
        settings = self._settings
        if settings.max_run and self._run >= settings.max_run:
            self._trip(f"{self._run} dead letters one after another, the limit is {settings.max_run}")
        elif settings.max_ratio and len(self._latest) >= settings.min_outcomes and share > settings.max_ratio:
            self._trip(
                f"{self._failed} of the last {len(self._latest)} outcomes are dead letters, the limit is {settings.max_ratio:.0%}"
            )

    def _trip(self, what: str) -> None:
        self._tripped = True
        reasons = +self._reasons
        _log.error("breaker.tripped", what=what, reasons={reason.value: count for reason, count in reasons.items()})
        self._on_trip(DeadLetterLimitError(what, reasons))
