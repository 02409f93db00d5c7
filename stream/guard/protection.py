"""What stands between the pipeline and the guard: a limit of requests in flight, retries, and waiting out an outage."""

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
from stream.guard.settings import GuardSettings

_log = structlog.get_logger(__name__)


class Availability:
    """Whether the guard answers. While it is down, one task probes it and everybody else waits.

    `on_change(up)` is called in the event loop at every change; the worker pauses its partitions by it. It starts as
    down, so that a worker takes no event before a guard has answered.
    """

    def __init__(self, guard: Guard, settings: GuardSettings, on_change: Callable[[bool], None]) -> None:
        self._guard = guard
        self._settings = settings
        self._on_change = on_change
        self._up = asyncio.Event()
        self._prober: asyncio.Task[None] | None = None

    @property
    def up(self) -> bool:
        return self._up.is_set()

    def start(self) -> None:
        """Begin to probe. Needs the running loop."""
        self._prober = asyncio.create_task(self._probe_until_up(), name="guard-probe")

    async def wait(self) -> None:
        """Return once the guard answers; at once when it does."""
        await self._up.wait()

    def down(self, cause: GuardError) -> None:
        """Somebody found the guard unreachable. Repeated calls while it is down change nothing."""
        if not self._up.is_set():
            return
        _log.warning("guard.down", cause=str(cause), status=cause.status)
        self._up.clear()
        self._on_change(False)
        self.start()

    async def aclose(self) -> None:
        if self._prober is not None:
            self._prober.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._prober

    async def _probe_until_up(self) -> None:
        while True:
            try:
                await self._guard.probe(timeout=self._settings.timeout_s)
            except GuardError as error:
                _log.info("guard.probe_failed", cause=str(error), status=error.status)
                await asyncio.sleep(self._settings.probe_interval_s * random.uniform(0.5, 1.5))
            else:
                self._up.set()
                self._on_change(True)
                _log.info("guard.up")
                return


class ProtectedGuard:
    """`complete` within an event's deadline, with at most `max_in_flight` requests on the server.

    Time spent while the guard was down does not count against the deadline: the event waits. A request that was on the
    server when it failed counts as an attempt, so that an event that kills the guard is given up, not retried for ever.
    """

    def __init__(self, guard: Guard, availability: Availability, settings: GuardSettings, clock: Clock) -> None:
        self._guard = guard
        self._availability = availability
        self._settings = settings
        self._clock = clock
        self._slots = asyncio.Semaphore(settings.max_in_flight)
        self._timeouts_in_a_row = 0
        self.in_flight = 0

    async def complete(
        self, prompt: RenderedPrompt, images: Sequence[bytes], deadline: Deadline, traceparent: str | None = None
    ) -> Completion:
        """The completion. Raises the last `GuardError`, or `GuardTimeoutError` when the deadline passes first."""
        attempt = 0
        while True:
            async with self._slots:
                await self._wait_out_an_outage(deadline)
                remaining = deadline.remaining()
                if remaining <= 0:
                    raise GuardTimeoutError("the event's deadline passed before the guard was asked")
                self.in_flight += 1
                try:
                    completion = await self._guard.complete(
                        prompt, images, timeout=min(self._settings.timeout_s, remaining), traceparent=traceparent
                    )
                except GuardUnavailableError as error:
                    self._availability.down(error)
                    failure: GuardError = error
                except GuardTimeoutError as error:
                    self._timeouts_in_a_row += 1
                    if self._timeouts_in_a_row >= self._settings.down_after_timeouts:
                        self._timeouts_in_a_row = 0
                        self._availability.down(error)
                    failure = error
                else:
                    self._timeouts_in_a_row = 0
                    return completion
                finally:
                    self.in_flight -= 1
            attempt += 1
            if attempt >= self._settings.attempts:
                raise failure
            if self._availability.up:
                await asyncio.sleep(min(max(0.0, deadline.remaining()), _backoff(attempt)))

    async def _wait_out_an_outage(self, deadline: Deadline) -> None:
        if self._availability.up:
            return
        began = self._clock.monotonic()
        await self._availability.wait()
        deadline.extend(self._clock.monotonic() - began)


def _backoff(attempt: int) -> float:
    """Seconds: full jitter over an exponential ceiling (AWS Architecture Blog, "Exponential Backoff And Jitter")."""
    return random.uniform(0.0, min(2.0, 0.05 * 2**attempt))
