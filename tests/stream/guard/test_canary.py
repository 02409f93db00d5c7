"""The canary: who is asked, what an event gets, and when it is over."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.events import ContentEvent
from schemas.policy import default_policy
from schemas.prompt import RenderedPrompt, SystemPrompt
from stream.guard.backend import Completion
from stream.guard.canary import CANARY_ROUTE, CanaryGuard, Window
from stream.guard.errors import GuardError, GuardRefusedError, GuardTimeoutError, GuardUnavailableError
from stream.guard.settings import CanarySettings, GuardSettings
from stream.settings import WorkerSettings
from stream.telemetry.metrics import WorkerMetrics
from tests.stream.worker.parts import answer_text, completion
from tests.support.clock import ManualClock

SAFE = answer_text("safe", "safe", "None")
UNSAFE = answer_text("unsafe", "safe", "C1S1")
GARBAGE = "I would rather talk about the weather."
FAILURES = [GuardUnavailableError("gone"), GuardTimeoutError("late"), GuardRefusedError("no")]

_TEXT = SystemPrompt(
    default_policy(), ContentEvent(id="e", user_text="t", occurred_at=datetime(2026, 1, 1, tzinfo=UTC)).modality
)


def prompt(number: int) -> RenderedPrompt:
    event = ContentEvent(
        id="e", user_text=f"text {number}", agent_text="fine", occurred_at=datetime(2026, 1, 1, tzinfo=UTC)
    )
    return _TEXT.join(event)


class Scripted:
    """Says what it is told, or raises it; notes what it was asked and for how long."""

    def __init__(self, version: str, says: str | GuardError = SAFE) -> None:
        self.version = version
        self.says = says
        self.asked: list[str] = []
        self.timeouts: list[float] = []
        self.takes_s = 0.0
        self.clock: ManualClock | None = None
        self.probes = 0
        self.closed = False

    async def complete(
        self, prompt: RenderedPrompt, images: Sequence[bytes], *, timeout: float, traceparent: str | None = None
    ) -> Completion:
        self.asked.append(prompt.digest)
        self.timeouts.append(timeout)
        if self.clock is not None:
            self.clock.advance(self.takes_s)
        if isinstance(self.says, GuardError):
            raise self.says
        return completion(self.says, version=self.version, manifest=f"manifest-{self.version}")

    async def probe(self, *, timeout: float) -> None:
        self.probes += 1
        if isinstance(self.says, GuardError):
            raise self.says

    async def aclose(self) -> None:
        self.closed = True


class Pair:
    """A canary over two scripted guards."""

    def __init__(self, **settings: object) -> None:
        self.stable, self.canary = Scripted("1"), Scripted("2")
        self.clock, self.metrics, self.offs = ManualClock(), WorkerMetrics(), 0
        self.guard = CanaryGuard(
            self.stable,
            self.canary,
            CanarySettings.model_validate({"share": 1.0, "compare_share": 0.0, **settings}),
            self.clock,
            self.metrics,
            on_off=self._off,
        )

    def _off(self) -> None:
        self.offs += 1

    async def ask(self, number: int = 0, *, timeout: float = 10.0) -> Completion:
        answer = await self.guard.complete(prompt(number), [], timeout=timeout)
        for _ in range(5):  # the comparison comes after the answer
            await asyncio.sleep(0)
        return answer

    def sample(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"proguard_canary_{name}", labels)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
async def test_the_share_is_kept_and_the_same_content_goes_the_same_way(share: float) -> None:
    pair, again = Pair(share=share), Pair(share=share)
    routes = [(await pair.guard.complete(prompt(n), [], timeout=1)).route for n in range(2000)]
    assert routes == [(await again.guard.complete(prompt(n), [], timeout=1)).route for n in range(2000)]
    # 4 standard deviations of a binomial with 2,000 draws.
    assert abs(routes.count(CANARY_ROUTE) / 2000 - share) <= 4 * (share * (1 - share) / 2000) ** 0.5


async def test_images_without_text_do_not_all_go_one_way() -> None:
    pair = Pair(share=0.5)
    image = prompt(0)
    routes = {(await pair.guard.complete(image, [bytes([n])], timeout=1)).route for n in range(64)}
    assert routes == {"", CANARY_ROUTE}


async def test_an_answer_says_who_gave_it() -> None:
    pair = Pair(share=0.5)
    for number in range(50):
        answer = await pair.ask(number)
        assert (answer.version, answer.manifest) == (("2", "manifest-2") if answer.route else ("1", "manifest-1"))


@pytest.mark.parametrize("says", [*FAILURES, GARBAGE, answer_text("unsafe", "safe", "C99S9"), ""])
async def test_a_canary_never_costs_an_event_its_verdict(says: str | GuardError) -> None:
    pair = Pair()
    pair.canary.says = says
    answers = [await pair.ask(number) for number in range(300)]
    assert {(answer.version, answer.text, answer.route) for answer in answers} == {("1", SAFE, "")}
    assert not pair.guard.on


async def test_an_answer_that_was_cut_off_is_not_readable() -> None:
    pair = Pair()

    async def cut(*_: object, **__: object) -> Completion:
        return completion(SAFE, finish_reason="length", version="2")

    pair.canary.complete = cut  # type: ignore[method-assign]
    assert (await pair.ask()).version == "1"


@pytest.mark.parametrize(
    ("says", "why", "settings"),
    [
        (GARBAGE, "format", {}),
        (GuardRefusedError("no"), "failures", {}),
        (UNSAFE, "agreement", {"compare_share": 1.0}),
    ],
)
async def test_a_canary_that_breaks_a_limit_is_off_for_good(
    says: str | GuardError, why: str, settings: dict[str, object]
) -> None:
    pair = Pair(**settings)
    for number in range(100):
        await pair.ask(number)
    assert pair.guard.on
    assert pair.sample("on") == 1
    pair.canary.says = says
    for number in range(100, 200):
        await pair.ask(number)
    assert not pair.guard.on
    assert (pair.offs, pair.sample("on"), pair.sample("off_total", why=why)) == (1, 0, 1)
    asked = len(pair.canary.asked)
    assert asked < 115, "it goes on asking a canary that has failed"
    pair.canary.says = SAFE
    for number in range(200, 300):
        assert (await pair.ask(number)).version == "1"
    assert len(pair.canary.asked) == asked


async def test_one_bad_answer_at_the_beginning_is_forgiven() -> None:
    pair = Pair()
    pair.canary.says = GARBAGE
    await pair.ask(0)
    pair.canary.says = SAFE
    for number in range(1, 500):
        await pair.ask(number)
    assert pair.guard.on


@pytest.mark.parametrize("error", FAILURES)
async def test_an_outage_of_both_is_nobodys_fault_and_shows_the_stable_guards_own_error(error: GuardError) -> None:
    pair = Pair()
    pair.canary.says, pair.stable.says = GuardUnavailableError("canary"), error
    for number in range(300):
        with pytest.raises(type(error)) as caught:
            await pair.ask(number)
        assert caught.value is error
    assert pair.guard.on


async def test_the_stable_guard_has_at_least_half_of_the_time() -> None:
    pair = Pair(timeout_s=5.0)
    pair.canary.clock, pair.canary.says, pair.canary.takes_s = pair.clock, GuardTimeoutError("late"), 4.0
    await pair.ask(timeout=8.0)
    assert (pair.canary.timeouts, pair.stable.timeouts) == ([4.0], [4.0])
    pair.canary.takes_s = 5.0
    await pair.ask(timeout=60.0)
    assert (pair.canary.timeouts[-1], pair.stable.timeouts[-1]) == (5.0, 55.0)


async def test_the_share_to_compare_is_asked_twice_and_nothing_else_is() -> None:
    pair = Pair(compare_share=0.25)
    for number in range(1000):
        await pair.ask(number)
    assert len(pair.canary.asked) == 1000
    assert 180 < len(pair.stable.asked) < 320
    assert pair.sample("compared_total", result="agreed") == len(pair.stable.asked)


async def test_a_trusted_answer_that_cannot_be_read_proves_nothing_against_the_canary() -> None:
    pair = Pair(compare_share=1.0)
    for pair.stable.says in (GARBAGE, GuardTimeoutError("late")):
        for number in range(200):
            await pair.ask(number)
    assert pair.guard.on
    assert pair.sample("compared_total", result="skipped") == 400


async def test_a_probe_asks_the_stable_guard_alone() -> None:
    pair = Pair()
    pair.canary.says = GuardUnavailableError("gone")
    await pair.guard.probe(timeout=1)
    assert (pair.stable.probes, pair.canary.probes) == (1, 0)
    pair.stable.says = GuardUnavailableError("gone")
    with pytest.raises(GuardUnavailableError):
        await pair.guard.probe(timeout=1)


async def test_closing_ends_comparisons_and_both_guards() -> None:
    pair = Pair(compare_share=1.0)
    started = asyncio.Event()

    async def never(*_: object, **__: object) -> Completion:
        started.set()
        await asyncio.Event().wait()
        raise AssertionError

    pair.stable.complete = never  # type: ignore[method-assign]
    for number in range(20):
        await pair.guard.complete(prompt(number), [], timeout=1)
    await started.wait()
    assert pair.sample("compared_total", result="skipped") == 12, "more than 8 comparisons at a time"
    await pair.guard.aclose()
    assert pair.stable.closed
    assert pair.canary.closed
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "canary-comparison"]


@given(
    results=st.lists(st.booleans(), max_size=120),
    size=st.integers(1, 40),
    least=st.integers(1, 60),
    allowed=st.sampled_from([0.0, 0.02, 0.05, 0.5, 1.0]),
)
def test_a_window_counts_the_bad_ones_among_the_latest(
    results: list[bool], size: int, least: int, allowed: float
) -> None:
    window = Window(size, least, allowed)
    for end, result in enumerate(results, start=1):
        holds = window.add(result)
        latest = results[max(0, end - size) : end]
        assert window.bad == latest.count(False)
        assert len(window) == len(latest)
        assert holds == (latest.count(False) <= allowed * max(len(latest), min(size, least)) + 1e-9)


@pytest.mark.parametrize(
    ("settings", "fine"),
    [
        ({"version": "1", "canary": {"share": 0.1, "version": "2"}}, True),
        ({"canary": {"share": 0.1, "version": "2"}}, False),
        ({"version": "1", "canary": {"share": 0.1}}, False),
        ({"version": "1", "canary": {"share": 0.1, "version": "1"}}, False),
        ({"canary": {"share": 0.1, "model": "other"}}, True),
        ({"canary": {"share": 0.1, "url": "other:8001"}}, True),
        ({"canary": {"share": 0.0, "version": "2"}}, True),
    ],
)
def test_a_canary_that_would_be_the_stable_guard_is_refused(settings: dict[str, object], fine: bool) -> None:
    if fine:
        GuardSettings.model_validate(settings)
    else:
        with pytest.raises(ValueError, match=r"guard\.canary\.version"):
            GuardSettings.model_validate(settings)


def test_the_canary_is_asked_as_the_stable_guard_is() -> None:
    settings = WorkerSettings.model_validate(
        {"guard": {"url": "a:1", "version": "1", "max_tokens": 99, "canary": {"share": 0.1, "version": "2"}}}
    ).guard
    canary = settings.canary_guard()
    assert canary is not None
    assert (canary.url, canary.model, canary.version, canary.max_tokens) == ("a:1", "proguard", "2", 99)
    assert canary.canary_guard() is None
