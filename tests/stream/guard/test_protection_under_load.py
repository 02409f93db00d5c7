"""The protected guard as a whole, in virtual time: its limit, its queue, its budget and its breaker against guards that struggle."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest

from schemas.prompt import RenderedPrompt
from stream.clock import Deadline
from stream.guard.backend import Completion
from stream.guard.errors import GuardError, GuardTimeoutError, GuardUnavailableError
from stream.guard.protection import Availability, ProtectedGuard
from stream.guard.settings import GuardSettings
from stream.telemetry.metrics import WorkerMetrics
from tests.stream.guard.virtual_time import VirtualClock, run_virtually

PROMPT = RenderedPrompt("system", "user", "0" * 64)
ANSWER = Completion("text", "stop", 0.1, None, 1, 1, "m", "1", "manifest")


class Simulated:
    """Answers when `answered_at` says; raises a timeout where that is too late, and what `fails` gives."""

    def __init__(self, clock: VirtualClock, answered_at: Callable[[float], float]) -> None:
        self._clock = clock
        self._answered_at = answered_at
        self.fails: Callable[[], GuardError | None] = lambda: None
        self.probe_times: list[float] = []
        self.asked = 0
        self.running = 0
        self.most = 0

    async def complete(
        self, prompt: RenderedPrompt, images: Sequence[bytes], *, timeout: float, traceparent: str | None = None
    ) -> Completion:
        self.asked += 1
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            seconds = self._answered_at(self._clock.seconds) - self._clock.seconds
            await asyncio.sleep(min(seconds, timeout))
        finally:
            self.running -= 1
        failure = self.fails()
        if failure is not None:
            raise failure
        if seconds > timeout:
            raise GuardTimeoutError("late")
        return ANSWER

    async def probe(self, *, timeout: float) -> None:
        self.probe_times.append(self._clock.seconds)

    async def aclose(self) -> None:
        return


def queue(places: int, service_s: float) -> Callable[[float], float]:
    free = [0.0] * places

    def answered_at(now: float) -> float:
        end = max(now, heapq.heappop(free)) + service_s
        heapq.heappush(free, end)
        return end

    return answered_at


class Bench:
    def __init__(
        self, clock: VirtualClock, answered_at: Callable[[float], float] = lambda now: now + 0.02, **settings: object
    ) -> None:
        options = GuardSettings.model_validate(settings)
        self.clock = clock
        self.server = Simulated(clock, answered_at)
        self.metrics = WorkerMetrics()
        self.availability = Availability(self.server, options, clock, lambda _up: None)
        self.guard = ProtectedGuard(self.server, self.availability, options, metrics=self.metrics)

    async def start(self) -> Bench:
        self.availability.start()
        await self.availability.wait()
        return self

    async def ask(self, requests: int, *, at_a_time: int = 256, seconds: float = 3600.0) -> list[object]:
        """The results of that many events, with so many under way."""
        room = asyncio.Semaphore(at_a_time)

        async def one() -> Completion:
            async with room:
                return await self.guard.complete(PROMPT, [], Deadline(self.clock, seconds))

        return list(await asyncio.gather(*(one() for _ in range(requests)), return_exceptions=True))

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


def rate_of(requests: int, places: int, **settings: object) -> tuple[float, int]:
    """Answers a second through a queue with so many places, and the limit at the end."""

    async def main(clock: VirtualClock) -> tuple[float, int]:
        bench = await Bench(clock, queue(places, 0.02), **settings).start()
        assert set(await bench.ask(requests)) == {ANSWER}
        return requests / clock.seconds, bench.guard.limit

    return run_virtually(main)


@pytest.mark.parametrize("places", [4, 16])
def test_an_adapted_limit_keeps_a_saturated_guard_busy_with_a_shorter_queue_on_it(places: int) -> None:
    fixed, _ = rate_of(4000, places, limiter="fixed", max_in_flight=64)
    adapted, limit = rate_of(4000, places)
    assert adapted > 0.9 * fixed
    assert limit < 56


def test_those_beyond_the_limit_queue_and_are_counted() -> None:
    async def main(clock: VirtualClock) -> None:
        bench = await Bench(clock, queue(4, 1.0), max_in_flight=4).start()
        asking = asyncio.create_task(bench.ask(20))
        await asyncio.sleep(0.5)
        assert (bench.guard.limit, bench.guard.in_flight, bench.guard.queued) == (4, 4, 16)
        assert set(await asking) == {ANSWER}
        assert (bench.server.most, bench.guard.in_flight, bench.guard.queued) == (4, 0, 0)

    run_virtually(main)


def test_a_deadline_that_passes_in_the_queue_is_not_spent_on_the_guard() -> None:
    async def main(clock: VirtualClock) -> None:
        bench = await Bench(clock, lambda now: now + 1.0, max_in_flight=1, attempts=1).start()
        results = await bench.ask(10, seconds=3.5)
        assert results[:3] == [ANSWER] * 3
        assert all(isinstance(result, GuardTimeoutError) for result in results[3:])
        assert (bench.server.asked, clock.seconds) == (4, 3.5)

    run_virtually(main)


def test_a_guard_that_answers_nobody_gets_few_retries_and_the_rest_fail_at_once() -> None:
    async def main(clock: VirtualClock) -> None:
        options = {"retry_ratio": 0.1, "retry_reserve": 20, "timeout_s": 1.0, "down_after_timeouts": 10_000}
        bench = await Bench(clock, lambda now: now + 60.0, attempts=5, **options).start()
        results = await bench.ask(400)
        assert all(isinstance(result, GuardTimeoutError) for result in results)
        assert 400 < bench.server.asked <= 400 + 20 + 0.1 * 400
        assert bench.count("proguard_guard_retries_total", why="timeout") == bench.server.asked - 400
        assert bench.count("proguard_guard_retries_refused_total") > 300

    run_virtually(main)


def test_a_restart_of_the_guard_costs_no_event_its_verdict_even_with_no_budget() -> None:
    async def main(clock: VirtualClock) -> None:
        bench = await Bench(clock, retry_ratio=0, retry_reserve=0).start()
        bench.server.fails = lambda: GuardUnavailableError("restarting") if 0.05 < clock.seconds < 0.07 else None
        assert set(await bench.ask(1000)) == {ANSWER}
        assert bench.availability.outages == 1
        assert bench.count("proguard_guard_retries_total", why="outage") > 0
        assert bench.count("proguard_guard_retries_refused_total") == 0

    run_virtually(main)


def test_stragglers_of_one_outage_are_no_outages_of_their_own() -> None:
    async def main(clock: VirtualClock) -> None:
        delays = iter(0.01 * number for number in range(1, 9))
        bench = await Bench(clock, lambda now: now + next(delays, 1.0), limiter="fixed").start()
        bench.server.fails = lambda: GuardUnavailableError("cut off") if clock.seconds < 0.1 else None
        assert set(await bench.ask(8)) == {ANSWER}
        assert bench.availability.outages == 1

    run_virtually(main)


def test_a_guard_that_falls_over_at_every_piece_of_work_is_given_longer_and_longer_pauses() -> None:
    async def main(clock: VirtualClock) -> None:
        bench = await Bench(clock, max_in_flight=1, attempts=20, probe_interval_s=0.5).start()
        bench.server.fails = lambda: GuardUnavailableError("down again") if bench.server.asked < 12 else None
        assert await bench.ask(1) == [ANSWER]
        times = bench.server.probe_times
        pauses = [later - earlier for earlier, later in pairwise(times[1:])]
        assert all(0.25 * 2**n <= pause < 0.5 * 2**n + 2.1 for n, pause in enumerate(pauses[:6]))
        assert all(15.0 <= pause < 32.1 for pause in pauses[6:])
        bench.server.fails = lambda: GuardUnavailableError("once") if bench.server.asked == 14 else None
        before = clock.seconds
        assert set(await bench.ask(4)) == {ANSWER}
        assert clock.seconds - before < 2.2, "an answer has come in between: the next outage is probed at once"

    run_virtually(main)
