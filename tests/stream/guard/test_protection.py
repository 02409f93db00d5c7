from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest

from schemas.prompt import RenderedPrompt
from stream.clock import Deadline
from stream.guard.backend import Completion
from stream.guard.errors import GuardError, GuardRefusedError, GuardTimeoutError, GuardUnavailableError
from stream.guard.protection import Availability, ProtectedGuard
from stream.guard.settings import GuardSettings
from tests.support.clock import ManualClock

PROMPT = RenderedPrompt("system", "user", "0" * 64)
ANSWER = Completion("text", "stop", 0.1, None, 1, 1, "m", "1", "manifest")
DOWN, LATE, NO = GuardUnavailableError("down"), GuardTimeoutError("late"), GuardRefusedError("no")


class Script:
    """A guard that does what the test says, request by request; out of lines, it answers."""

    def __init__(self, *lines: GuardError | None, probes: Sequence[GuardError | None] = ()) -> None:
        self.lines = list(lines)
        self.probes = list(probes)
        self.asked = 0
        self.probed = 0
        self.running = 0
        self.most = 0
        self.gate: asyncio.Event | None = None

    async def complete(
        self, prompt: RenderedPrompt, images: Sequence[bytes], *, timeout: float, traceparent: str | None = None
    ) -> Completion:
        self.asked += 1
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await (self.gate.wait() if self.gate else asyncio.sleep(0))
        finally:
            self.running -= 1
        failure = self.lines.pop(0) if self.lines else None
        if failure is not None:
            raise failure
        return ANSWER

    async def probe(self, *, timeout: float) -> None:
        self.probed += 1
        failure = self.probes.pop(0) if self.probes else None
        if failure is not None:
            raise failure

    async def aclose(self) -> None:
        return


class Bench:
    def __init__(self, guard: Script, on_change: Callable[[bool], None] | None = None, **settings: object) -> None:
        self.changes: list[bool] = []
        self.clock = ManualClock()
        options = GuardSettings.model_validate({"probe_interval_s": 0.001, "attempts": 3, **settings})
        self.availability = Availability(guard, options, self.clock, on_change or self.changes.append)
        self.guard = ProtectedGuard(guard, self.availability, options)

    async def start(self) -> Bench:
        self.availability.start()
        await self.availability.wait()
        return self

    def ask(self, seconds: float = 30.0) -> asyncio.Task[Completion]:
        return asyncio.create_task(self.guard.complete(PROMPT, [], Deadline(self.clock, seconds)))


async def test_no_event_is_judged_before_a_guard_has_answered() -> None:
    guard = Script(probes=[DOWN, DOWN])
    bench = Bench(guard)
    asked = bench.ask()
    bench.availability.start()
    assert await asked is ANSWER
    assert (guard.probed, bench.changes) == (3, [True])


async def test_an_outage_is_waited_out_and_does_not_count_against_the_deadline() -> None:
    guard = Script(DOWN)
    bench = await Bench(guard).start()
    guard.probes = [DOWN] * 20
    original = guard.probe

    async def probe(*, timeout: float) -> None:
        bench.clock.advance(10.0)
        await original(timeout=timeout)

    guard.probe = probe  # type: ignore[method-assign]
    assert await bench.ask(seconds=5.0) is ANSWER
    assert bench.changes == [True, False, True]


async def test_an_outage_in_the_queue_does_not_count_either() -> None:
    guard = Script(DOWN)
    bench = await Bench(guard, max_in_flight=1).start()
    original = guard.probe

    async def probe(*, timeout: float) -> None:
        bench.clock.advance(60.0)
        await original(timeout=timeout)

    guard.probe = probe  # type: ignore[method-assign]
    assert await asyncio.gather(*(bench.ask(seconds=5.0) for _ in range(8))) == [ANSWER] * 8


async def test_a_request_that_fails_every_server_is_given_up() -> None:
    guard = Script(DOWN, DOWN, DOWN)
    bench = await Bench(guard).start()
    with pytest.raises(GuardUnavailableError):
        await bench.ask()
    assert guard.asked == 3


async def test_the_event_that_kills_the_guard_fails_alone() -> None:
    class Fragile(Script):
        """Falls over while a request for `killer` is on it, and takes every other request along."""

        async def complete(
            self, prompt: RenderedPrompt, images: Sequence[bytes], *, timeout: float, traceparent: str | None = None
        ) -> Completion:
            self.deadly += prompt.user == "killer"
            try:
                await asyncio.sleep(0.001)
                if self.deadly:
                    raise DOWN
                return ANSWER
            finally:
                self.deadly -= prompt.user == "killer"

        deadly = 0

    bench = await Bench(Fragile(), attempts=2).start()
    prompts = [RenderedPrompt("system", "killer" if n == 3 else "user", "0" * 64) for n in range(20)]
    tasks = [bench.guard.complete(prompt, [], Deadline(bench.clock, 30.0)) for prompt in prompts]
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [n for n, result in enumerate(results) if result is not ANSWER] == [3]


async def test_a_refusal_is_not_tried_again() -> None:
    guard = Script(NO)
    bench = await Bench(guard).start()
    with pytest.raises(GuardRefusedError):
        await bench.ask()
    assert guard.asked == 1
    assert bench.availability.up


async def test_timeouts_in_a_row_mean_that_the_guard_is_down() -> None:
    guard = Script(LATE, LATE, LATE, LATE)
    bench = await Bench(guard, down_after_timeouts=4, attempts=2).start()
    answers = await asyncio.gather(*(bench.ask() for _ in range(4)))
    assert answers == [ANSWER] * 4
    assert bench.changes == [True, False, True]


async def test_an_answer_in_between_starts_the_count_of_timeouts_again() -> None:
    guard = Script(LATE, None, LATE, None, LATE, None)
    bench = await Bench(guard, down_after_timeouts=2).start()
    for _ in range(3):
        await bench.ask()
    assert bench.changes == [True]


async def test_a_deadline_that_has_passed_is_not_spent_on_the_guard() -> None:
    guard = Script()
    bench = await Bench(guard).start()
    deadline = Deadline(bench.clock, 1.0)
    bench.clock.advance(2.0)
    with pytest.raises(GuardTimeoutError):
        await bench.guard.complete(PROMPT, [], deadline)
    assert guard.asked == 0


async def test_never_more_requests_than_the_limit_are_on_the_server() -> None:
    guard = Script()
    guard.gate = asyncio.Event()
    bench = await Bench(guard, max_in_flight=4).start()
    tasks = [bench.ask() for _ in range(20)]
    while guard.running < 4:
        await asyncio.sleep(0)
    assert bench.guard.in_flight == 4
    guard.gate.set()
    await asyncio.gather(*tasks)
    assert (guard.most, guard.asked, bench.guard.in_flight) == (4, 20, 0)


async def test_a_cancelled_event_gives_its_place_back() -> None:
    guard = Script()
    guard.gate = asyncio.Event()
    bench = await Bench(guard, max_in_flight=1).start()
    first, second = bench.ask(), bench.ask()
    while not guard.running:
        await asyncio.sleep(0)
    first.cancel()
    guard.gate.set()
    assert await second is ANSWER
    assert bench.guard.in_flight == 0


async def test_a_probe_that_fails_in_an_unforeseen_way_is_made_again() -> None:
    guard = Script(probes=[DOWN])
    bench = Bench(guard)
    original = guard.probe

    async def probe(*, timeout: float) -> None:
        await original(timeout=timeout)
        if guard.probed < 4:
            raise ValueError("the answer is nonsense")

    guard.probe = probe  # type: ignore[method-assign]
    await bench.start()
    assert (guard.probed, bench.changes) == (4, [True])


async def test_closing_ends_a_probe_that_never_succeeds() -> None:
    guard = Script(probes=[DOWN] * 10_000)
    bench = Bench(guard)
    bench.availability.start()
    while guard.probed < 3:
        await asyncio.sleep(0)
    await bench.availability.aclose()
    probed = guard.probed
    await asyncio.sleep(0.01)
    assert guard.probed == probed
