"""A new guard on a share of the requests, beside the one that is trusted."""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

import structlog

from schemas.prompt import RenderedPrompt
from stream.clock import Clock, Deadline
from stream.guard.backend import Completion, Guard
from stream.guard.errors import GuardError, GuardTimeoutError
from stream.guard.reading import Labels, labels
from stream.guard.settings import CanarySettings
from stream.telemetry.metrics import WorkerMetrics

_log = structlog.get_logger(__name__)

CANARY_ROUTE = "canary"
"""`Completion.route` of what the canary answered."""

MOST_COMPARISONS = 8
"""Comparisons at a time. They come on top of the places that the limiter gives out, so they stay few; more are skipped."""


class Window:
    """The latest results, good or bad, and whether the bad ones are too many.

    Too many is more than the share `allowed` of the window, or of `least` results while it has fewer: a single bad answer among
    the first ten proves nothing, but ten bad ones among the first ten do.
    """

    def __init__(self, size: int, least: int, allowed: float) -> None:
        self._results: deque[bool] = deque(maxlen=size)
        self._least = min(least, size)
        self._allowed = allowed
        self.bad = 0

    def __len__(self) -> int:
        return len(self._results)

    def add(self, good: bool) -> bool:
        """Takes a result, and says whether the limit still holds."""
        if len(self._results) == self._results.maxlen:
            self.bad -= not self._results[0]
        self._results.append(good)
        self.bad += not good
        # A hundredth of 300 is 3, whatever its float is.
        return self.bad <= self._allowed * max(len(self._results), self._least) + 1e-9


class CanaryGuard:
    """A `Guard` around two: `stable`, and `canary` for a share of the requests.

    - Which requests, follows from the content alone, so a repeat goes the same way and gets the same verdict id.
    - A canary never costs an event its verdict: where it gives no answer, or one that cannot be read, the stable guard is asked, in
      the time that is left; the canary gets half of it at most. Nor can it make the guard count as down: `probe` asks the
      stable one, and what the caller sees of a failure is the stable guard's own.
    - A share of the canary's answers is asked of the stable guard too, after the event has its answer, and the labels are compared.
    - When too many answers of the window are missing, unreadable or different, the canary is off: logged, counted, `on_off` called
      once. It stays off as long as this object lives. What fails while the stable guard fails too is an outage of both, and
      counts against nobody.

    `Completion.model`, `version` and `manifest` are those of who answered; `route` says which of the two it was.
    All calls belong to the event loop. It owns both guards.
    """

    def __init__(
        self,
        stable: Guard,
        canary: Guard,
        settings: CanarySettings,
        clock: Clock,
        metrics: WorkerMetrics,
        on_off: Callable[[], None] = lambda: None,
    ) -> None:
        self._stable = stable
        self._canary = canary
        self._settings = settings
        self._clock = clock
        self._metrics = metrics
        self._on_off = on_off
        self._on = True
        self._comparisons: set[asyncio.Task[None]] = set()
        size, least = settings.window, settings.min_answers
        self._format = Window(size, least, 1 - settings.min_format_valid)
        self._agreement = Window(size, least, 1 - settings.min_agreement)
        self._failures = Window(size, least, settings.max_failures)
        metrics.canary_on.set(1)

    @property
    def on(self) -> bool:
        """Whether the canary still answers its share."""
        return self._on

    async def complete(
        self, prompt: RenderedPrompt, images: Sequence[bytes], *, timeout: float, traceparent: str | None = None
    ) -> Completion:
        if self._on:
            lot = _lots(prompt, images)
            if lot[0] < self._settings.share:
                return await self._by_canary(prompt, images, timeout, traceparent, compare=lot[1])
        return await self._stable.complete(prompt, images, timeout=timeout, traceparent=traceparent)

    async def probe(self, *, timeout: float) -> None:
        await self._stable.probe(timeout=timeout)

    async def aclose(self) -> None:
        for task in list(self._comparisons):
            task.cancel()
        await asyncio.gather(*self._comparisons, return_exceptions=True)
        await self._canary.aclose()
        await self._stable.aclose()

    async def _by_canary(
        self,
        prompt: RenderedPrompt,
        images: Sequence[bytes],
        timeout: float,
        traceparent: str | None,
        *,
        compare: float,
    ) -> Completion:
        deadline = Deadline(self._clock, timeout)
        patience = min(self._settings.timeout_s, timeout / 2)
        completion: Completion | None = None
        said: Labels | None = None
        try:
            completion = await self._canary.complete(prompt, images, timeout=patience, traceparent=traceparent)
            said = labels(prompt, bool(images), completion)
        except GuardError as error:
            _log.info("canary.failed", cause=str(error), status=error.status)
        if completion is not None and said is not None:
            self._metrics.canary_requests.labels("answered").inc()
            self._observe(self._failures, True, "failures")
            self._observe(self._format, True, "format")
            if compare < self._settings.compare_share:
                self._compare_later(prompt, images, timeout, said)
            return replace(completion, route=CANARY_ROUTE)
        remaining = deadline.remaining()
        if remaining <= 0:
            raise GuardTimeoutError("the canary took all of the time")
        answer = await self._stable.complete(prompt, images, timeout=remaining, traceparent=traceparent)
        # Only now is it the canary's own fault.
        if completion is None:
            self._metrics.canary_requests.labels("failed").inc()
            self._observe(self._failures, False, "failures")
        else:
            self._metrics.canary_requests.labels("unreadable").inc()
            self._observe(self._failures, True, "failures")
            self._observe(self._format, False, "format")
        return answer

    def _compare_later(self, prompt: RenderedPrompt, images: Sequence[bytes], timeout: float, said: Labels) -> None:
        if not self._on or len(self._comparisons) >= MOST_COMPARISONS:
            self._metrics.canary_compared.labels("skipped").inc()
            return
        task = asyncio.create_task(self._compare(prompt, images, timeout, said), name="canary-comparison")
        self._comparisons.add(task)
        task.add_done_callback(self._comparisons.discard)

    async def _compare(self, prompt: RenderedPrompt, images: Sequence[bytes], timeout: float, said: Labels) -> None:
        try:
            completion = await self._stable.complete(prompt, images, timeout=timeout)
        except GuardError:
            trusted = None
        else:
            trusted = labels(prompt, bool(images), completion)
        if trusted is None:
            self._metrics.canary_compared.labels("skipped").inc()
            return
        self._metrics.canary_compared.labels("agreed" if said == trusted else "differed").inc()
        self._observe(self._agreement, said == trusted, "agreement")

    def _observe(self, window: Window, good: bool, why: str) -> None:
        if window.add(good) or not self._on:
            return
        self._on = False
        self._metrics.canary_on.set(0)
        self._metrics.canary_off.labels(why).inc()
        _log.error("canary.off", why=why, bad=window.bad, answers=len(window))
        self._on_off()


def _lots(prompt: RenderedPrompt, images: Sequence[bytes]) -> tuple[float, float]:
    """Two numbers from 0 to 1, the same for the same content: whether the canary is asked, and whether it is compared."""
    digest = bytes.fromhex(prompt.digest)
    if images:
        # All images without a text have one prompt.
        hashed = hashlib.sha256(digest)
        for image in images:
            hashed.update(image)
        digest = hashed.digest()
    return int.from_bytes(digest[:8], "big") / 2**64, int.from_bytes(digest[8:16], "big") / 2**64
