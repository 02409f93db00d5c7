"""What every `Guard` promises, whichever it is: one suite over all of them, on a real Triton."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import NamedTuple

import pytest

from schemas.events import ContentEvent
from schemas.policy import default_policy
from schemas.prompt import RenderedPrompt, render
from stream.clock import SystemClock
from stream.devkit.process import free_port
from stream.devkit.triton import TritonServer
from stream.guard.backend import Guard
from stream.guard.canary import CanaryGuard
from stream.guard.errors import GuardRefusedError, GuardTimeoutError, GuardUnavailableError
from stream.guard.settings import CanarySettings, GuardSettings
from stream.guard.triton import triton_guard
from stream.telemetry.metrics import WorkerMetrics


class Make(NamedTuple):
    """How a guard is made, and which of a server's addresses it takes."""

    guard: Callable[[str], Guard]
    http: bool = True

    def on(self, server: TritonServer) -> Guard:
        return self.guard(server.http_url if self.http else server.grpc_url)

    def on_nobody(self) -> Guard:
        return self.guard(f"{'http' if self.http else 'grpc'}://127.0.0.1:{free_port()}")


def triton(url: str) -> Guard:
    return triton_guard(GuardSettings(url=url, model="scripted_guard"), default_policy())


def canary(share: float, canary_url: str | None = None) -> Callable[[str], Guard]:
    def make(url: str) -> Guard:
        settings = CanarySettings(share=share, compare_share=1.0)
        return CanaryGuard(triton(url), triton(canary_url or url), settings, SystemClock(), WorkerMetrics())

    return make


GUARDS: dict[str, Make] = {
    "triton over http": Make(triton),
    "triton over grpc": Make(triton, http=False),
    "all by the canary": Make(canary(1.0)),
    "none by the canary": Make(canary(0.0), http=False),
    "a canary that is not there": Make(canary(1.0, f"127.0.0.1:{free_port()}")),
}


def prompt(text: str) -> RenderedPrompt:
    event = ContentEvent(
        id="e", user_text=text, agent_text="As you wish.", occurred_at=datetime(2026, 1, 1, tzinfo=UTC)
    )
    return render(default_policy(), event)


@pytest.fixture(params=GUARDS)
def make(request: pytest.FixtureRequest) -> Make:
    return GUARDS[request.param]


@pytest.fixture
async def guard(make: Make, scripted_guard: TritonServer) -> AsyncIterator[Guard]:
    guard = make.on(scripted_guard)
    yield guard
    await guard.aclose()


async def test_it_completes_and_says_who_answered(guard: Guard) -> None:
    completion = await guard.complete(prompt("[[say=unsafe]]"), [b"image"], timeout=5)
    assert completion.text.endswith("Category:C1S1\n</answer>")
    assert (completion.model, completion.version, completion.manifest) == ("scripted_guard", "1", "scripted")


@pytest.mark.parametrize("say", ["garbage", "cut_off", "empty", "contradiction", "unknown_id"])
async def test_an_answer_that_cannot_be_read_is_handed_on(guard: Guard, say: str) -> None:
    completion = await guard.complete(prompt(f"[[say={say}]]"), [], timeout=5)
    assert completion.manifest == "scripted"


async def test_a_late_answer_is_a_timeout_within_the_timeout(guard: Guard) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(GuardTimeoutError):
        await guard.complete(prompt("[[delay=5000]]"), [], timeout=0.4)
    assert loop.time() - began < 2


async def test_an_error_of_the_model_is_a_refusal(guard: Guard) -> None:
    with pytest.raises(GuardRefusedError):
        await guard.complete(prompt("[[error]]"), [], timeout=5)


async def test_sixty_four_at_a_time_are_each_answered_with_their_own(guard: Guard) -> None:
    orders = ["safe", "unsafe", "ood", "tolerant"] * 16
    answers = await asyncio.gather(*(guard.complete(prompt(f"[[say={order}]]"), [], timeout=20) for order in orders))
    alone = {order: (await guard.complete(prompt(f"[[say={order}]]"), [], timeout=20)).text for order in set(orders)}
    assert [answer.text for answer in answers] == [alone[order] for order in orders]


async def test_an_answer_that_comes_too_late_is_nobodys(guard: Guard) -> None:
    late = [guard.complete(prompt("[[delay=300]] [[say=unsafe]]"), [], timeout=0.15) for _ in range(8)]
    assert all(isinstance(end, GuardTimeoutError) for end in await asyncio.gather(*late, return_exceptions=True))
    calls = (guard.complete(prompt("[[delay=300]] [[say=ood]]"), [], timeout=20) for _ in range(8))
    assert all("Ballot" in answer.text for answer in await asyncio.gather(*calls))


async def test_a_cancelled_call_ends_at_once(guard: Guard) -> None:
    call = asyncio.ensure_future(guard.complete(prompt("[[delay=5000]]"), [], timeout=20))
    await asyncio.sleep(0)
    call.cancel()
    async with asyncio.timeout(2):
        with pytest.raises(asyncio.CancelledError):
            await call


async def test_a_probe_returns_when_it_answers(guard: Guard) -> None:
    await guard.probe(timeout=5)


async def test_nobody_there_is_unavailable(make: Make) -> None:
    guard = make.on_nobody()
    try:
        with pytest.raises(GuardUnavailableError):
            await guard.probe(timeout=5)
        with pytest.raises(GuardUnavailableError):
            await guard.complete(prompt("hello"), [], timeout=5)
    finally:
        await guard.aclose()
