"""What stands between the pipeline and the guard: places, retries within a budget, and waiting out an outage."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Sequence

import structlog

from schemas.prompt import RenderedPrompt
from stream.clock import Clock, Deadline
from stream.guard.backend import Completion, Guard
from stream.guard.errors import GuardError, GuardTimeoutError, GuardUnavailableError
from stream.guard.limiter import ConcurrencyLimit, limit_from
from stream.guard.places import Places
from stream.guard.retries import RetryBudget, backoff
from stream.guard.settings import GuardSettings
from stream.telemetry.logs import frames
from stream.telemetry.metrics import WorkerMetrics

_log = structlog.get_logger(__name__)

_LONGEST_PAUSE_S = 30.0
_NOBODY = contextlib.nullcontext()


class Availability:
    """Whether the guard answers: a circuit breaker. While it is down (open), one task probes it with a real request (half-open)
    and everybody else waits.

    `on_change(up)` is called in the event loop at every change; the worker pauses its partitions by it. It starts as
    down, so that a worker takes no event before a guard has answered. A guard that answers its probes and falls over as soon
    as it gets work is given a pause before the next probe, twice as long each time, up to 30 s.
    """

    def __init__(self, guard: Guard, settings: GuardSettings, clock: Clock, on_change: Callable[[bool], None]) -> None:
        self._guard = guard
        self._settings = settings
        self._clock = clock
        self._on_change = on_change
        self._up = asyncio.Event()
        self._down_since = clock.monotonic()
        self._past_outages = 0.0
        self._fruitless = 0
        self.outages = 0
        self._prober: asyncio.Task[None] | None = None

    @property
    def up(self) -> bool:
        return self._up.is_set()

    @property
    def clock(self) -> Clock:
        """The clock by which outages are measured."""
        return self._clock

    def outage_seconds(self) -> float:
        """How long the guard has been down, all outages together, the present one included."""
        return self._past_outages + (0.0 if self.up else self._clock.monotonic() - self._down_since)

    def start(self) -> None:
        """Begin to probe. Needs the running loop."""
        self._prober = asyncio.create_task(self._probe_until_up(), name="guard-probe")

    async def wait(self) -> None:
        """Return once the guard answers; at once when it does."""
        await self._up.wait()

    def answered(self) -> None:
        """Somebody got an answer that was no probe's."""
        self._fruitless = 0

    def down(self, cause: GuardError) -> None:
        """Somebody found the guard unreachable. Repeated calls while it is down change nothing."""
        if not self._up.is_set():
            return
        _log.warning("guard.down", cause=str(cause), status=cause.status)
        self._up.clear()
        self.outages += 1
        self._fruitless += 1
        self._down_since = self._clock.monotonic()
        self._on_change(False)
        self.start()

    async def aclose(self) -> None:
        if self._prober is not None:
            self._prober.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._prober

    async def _probe_until_up(self) -> None:
        if self._fruitless > 1:
            pause = self._settings.probe_interval_s * 2.0 ** min(self._fruitless - 2, 16)
            await asyncio.sleep(min(_LONGEST_PAUSE_S, pause) * random.uniform(0.5, 1.0))
        while True:
            try:
                await self._guard.probe(timeout=self._settings.timeout_s)
            except GuardError as error:
                _log.info("guard.probe_failed", cause=str(error), status=error.status)
                await asyncio.sleep(self._settings.probe_interval_s * random.uniform(0.5, 1.5))
            except Exception as error:
                # A guard that answers nonsense is no guard yet; and without its prober this one would stay down for ever.
                _log.error("guard.probe_fault", fault=type(error).__name__, frames=frames(error))
                await asyncio.sleep(self._settings.probe_interval_s * random.uniform(0.5, 1.5))
            else:
                self._past_outages = self.outage_seconds()
                self._up.set()
                self._on_change(True)
                _log.info("guard.up")
                return


class ProtectedGuard:
    """`complete` within an event's deadline, with no more requests on the server than the limit allows.

    The deadline includes the time in the queue. Time spent while the guard was down does not count against it: the event
    waits. A request that was on the server when it failed counts as an attempt, so that an event that kills the guard is given up,
    not retried for ever. The last attempt of events that saw it fall is made one at a time: the one that kills the guard then
    fails alone, and those that were only beside it do not.

    A retry takes a token from the budget; with none left, the failure stands. Retries after an outage are free: the guard has
    answered a probe since, and a restart of the guard must not cost its events their verdicts.
    """

    def __init__(
        self,
        guard: Guard,
        availability: Availability,
        settings: GuardSettings,
        *,
        limit: ConcurrencyLimit | None = None,
        metrics: WorkerMetrics | None = None,
    ) -> None:
        """Without a `limit`, the one that the settings ask for."""
        self._guard = guard
        self._availability = availability
        self._settings = settings
        self._clock = availability.clock
        self._limit = limit or limit_from(settings, self._clock)
        self._places = Places(self._limit)
        self._budget = RetryBudget(settings.retry_ratio, settings.retry_reserve)
        self._metrics = metrics or WorkerMetrics()
        self._alone = asyncio.Lock()
        self._timeouts_in_a_row = 0
        self.in_flight = 0

    @property
    def limit(self) -> int:
        """How many requests may be on the server now."""
        return self._limit.limit

    @property
    def queued(self) -> int:
        """How many wait for a place."""
        return self._places.waiting

    async def complete(
        self, prompt: RenderedPrompt, images: Sequence[bytes], deadline: Deadline, traceparent: str | None = None
    ) -> Completion:
        """The completion. Raises the last `GuardError`, or `GuardTimeoutError` when the deadline passes first."""
        forgiven, outages_before = self._availability.outage_seconds(), self._availability.outages
        failure: GuardError | None = None
        self._budget.deposit()
        for attempt in range(1, self._settings.attempts + 1):
            if failure is not None and self._availability.up:
                await asyncio.sleep(min(max(0.0, deadline.remaining()), backoff(attempt)))
            # On the server when it fell over, or beside whoever was: an answer that timed out may mean either.
            saw_it_fall = failure is not None and self._availability.outages > outages_before
            suspect = saw_it_fall and attempt == self._settings.attempts
            async with self._alone if suspect else _NOBODY, self._places:
                await self._availability.wait()
                # Whether the outage was waited out here or in the queue before: it was nobody's time.
                outage_s = self._availability.outage_seconds()
                deadline.extend(outage_s - forgiven)
                forgiven = outage_s
                remaining = deadline.remaining()
                if remaining <= 0:
                    raise GuardTimeoutError("the event's deadline passed before the guard answered")
                outages = self._availability.outages
                try:
                    return await self._ask(prompt, images, min(self._settings.timeout_s, remaining), traceparent)
                except (GuardUnavailableError, GuardTimeoutError) as error:
                    failure = error
            if attempt < self._settings.attempts:
                self._pay_for_retry(failure, after_outage=self._availability.outages > outages)
        assert failure is not None
        raise failure

    def _pay_for_retry(self, failure: GuardError, *, after_outage: bool) -> None:
        """Raises `failure` when the budget does not allow another attempt."""
        if not after_outage and not self._budget.withdraw():
            self._metrics.retries_refused.inc()
            raise failure
        self._metrics.retries.labels("outage" if after_outage else "timeout").inc()

    async def _ask(
        self, prompt: RenderedPrompt, images: Sequence[bytes], timeout: float, traceparent: str | None
    ) -> Completion:
        """One request; what it says about the guard's health and load is passed on."""
        self.in_flight += 1
        in_flight, began, outages = self.in_flight, self._clock.monotonic(), self._availability.outages
        try:
            completion = await self._guard.complete(prompt, images, timeout=timeout, traceparent=traceparent)
        except GuardUnavailableError as error:
            self._limit.dropped()
            if (
                outages == self._availability.outages
            ):  # else it is of before a restart, and the guard has been probed since
                self._availability.down(error)
            raise
        except GuardTimeoutError as error:
            self._limit.dropped()
            self._timeouts_in_a_row += 1
            if self._timeouts_in_a_row >= self._settings.down_after_timeouts:
                self._timeouts_in_a_row = 0
                self._availability.down(error)
            raise
        finally:
            self.in_flight -= 1
        self._timeouts_in_a_row = 0
        self._availability.answered()
        # A text and a picture take different times on a healthy guard.
        self._limit.answered(bool(images), self._clock.monotonic() - began, in_flight)
        return completion
