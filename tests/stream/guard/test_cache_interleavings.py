"""Single flight, whatever comes between: everybody gets one ending, its own, in time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from stream.clock import Deadline
from stream.guard.cache import Judged
from stream.guard.errors import GuardTimeoutError
from tests.stream.guard.asking import Cache, judged, question
from tests.stream.guard.virtual_time import VirtualClock, run_virtually


class OwnFailureError(Exception):
    """The failure of one judging, which only who asked for it may see."""


@dataclass
class Asker:
    """One event that wants an answer to `number`, and what became of it."""

    number: int
    began: float
    seconds: float
    outage_before: float
    judging: asyncio.Future[Judged] | None = None
    judgings: int = 0
    failure: OwnFailureError | None = None
    cancelled: bool = False
    ended: float = 0.0
    outage_after: float = 0.0
    task: asyncio.Task[tuple[Judged, bool]] | None = None


@dataclass
class Play:
    clock: VirtualClock
    cache: Cache
    askers: list[Asker] = field(default_factory=list)
    failed: set[int] = field(default_factory=set)

    def ask(self, number: int, seconds: float) -> Asker:
        asker = Asker(number, self.clock.seconds, seconds, self.cache.weather.outage_seconds())
        asker.task = asyncio.create_task(self._ask(asker))
        self.askers.append(asker)
        return asker

    async def _ask(self, asker: Asker) -> tuple[Judged, bool]:
        async def judge() -> Judged:
            asker.judgings += 1
            alone = not any(other.judging is not None for other in self.askers if other.number == asker.number)
            assert alone or asker.number in self.failed, "asked twice at the same time"
            asker.judging = asyncio.get_running_loop().create_future()
            try:
                return await asker.judging
            finally:
                asker.judging = None

        try:
            return await self.cache.judged(question(asker.number), Deadline(self.clock, asker.seconds), judge)
        finally:
            asker.ended, asker.outage_after = self.clock.seconds, self.cache.weather.outage_seconds()

    def judging(self) -> list[Asker]:
        return [asker for asker in self.askers if asker.judging is not None and not asker.judging.done()]

    def end(self, asker: Asker, *, fails: bool) -> None:
        assert asker.judging is not None
        if fails:
            self.failed.add(asker.number)
            asker.failure = OwnFailureError()
            asker.judging.set_exception(asker.failure)
        else:
            asker.judging.set_result(judged(asker.number))

    def cancel(self, asker: Asker) -> None:
        assert asker.task is not None
        asker.cancelled |= asker.task.cancel()

    def check(self, asker: Asker) -> None:
        assert asker.task is not None
        assert asker.task.done(), "somebody waits for ever"
        assert asker.judgings <= 1
        if asker.task.cancelled():
            assert asker.cancelled
            return
        error = asker.task.exception()
        own_time = (asker.ended - asker.began) - (asker.outage_after - asker.outage_before)
        if error is None:
            answer, cached = asker.task.result()
            assert answer == judged(asker.number)
            assert cached == (asker.judgings == 0)
            if cached:
                assert own_time <= asker.seconds + 0.26, "answered long after its deadline"
        elif isinstance(error, GuardTimeoutError):
            assert asker.judgings == 0
            assert own_time >= asker.seconds - 1e-6, "given up before its deadline"
            assert own_time <= asker.seconds + 0.26
        else:
            assert error is asker.failure


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.integers(0, 2), st.sampled_from([0.5, 2.0, 30.0])),
        st.tuples(st.just("answer"), st.integers(0, 20), st.just(0.0)),
        st.tuples(st.just("fail"), st.integers(0, 20), st.just(0.0)),
        st.tuples(st.just("cancel"), st.integers(0, 20), st.just(0.0)),
        st.tuples(st.just("wait"), st.just(0), st.sampled_from([0.0, 0.0, 0.0, 0.1, 1.0, 5.0])),
        st.tuples(st.sampled_from(["falls", "rises"]), st.just(0), st.just(0.0)),
    ),
    max_size=60,
)


async def perform(play: Play, action: str, number: int, seconds: float) -> None:
    weather = play.cache.weather
    if action == "ask":
        play.ask(number, seconds)
    elif action == "wait":
        await asyncio.sleep(seconds)
    elif action == "falls" and weather.up:
        weather.falls()
    elif action == "rises" and not weather.up:
        weather.rises()
    elif action == "cancel" and play.askers:
        play.cancel(play.askers[number % len(play.askers)])
    elif action in ("answer", "fail") and (judging := play.judging()):
        play.end(judging[number % len(judging)], fails=action == "fail")


@given(ACTIONS)
@settings(max_examples=250)
def test_everybody_gets_one_ending_of_its_own_in_time(actions: list[tuple[str, int, float]]) -> None:
    async def main(clock: VirtualClock) -> None:
        play = Play(clock, Cache(clock, ttl_s=3.0))
        for action in actions:
            await perform(play, *action)
        if not play.cache.weather.up:
            play.cache.weather.rises()
        while pending := [asker.task for asker in play.askers if asker.task is not None and not asker.task.done()]:
            for asker in play.judging():
                play.end(asker, fails=False)
            await asyncio.wait(pending, timeout=0.01)
            assert clock.seconds < 1000, "somebody waits for ever"
        for asker in play.askers:
            play.check(asker)
        for number in range(3):  # nothing is left behind that could hold up the next one
            last = play.ask(number, 5.0)
            await asyncio.sleep(0.01)
            if last.judging is not None:
                play.end(last, fails=False)
            assert last.task is not None
            assert (await last.task)[0] == judged(number)

    run_virtually(main)


def play_with(clock: VirtualClock, askers: int, seconds: float = 30.0) -> tuple[Play, list[Asker]]:
    play = Play(clock, Cache(clock))
    return play, [play.ask(1, seconds) for _ in range(askers)]


def test_a_hundred_at_the_same_time_are_judged_once() -> None:
    async def main(clock: VirtualClock) -> None:
        play, askers = play_with(clock, 100)
        await asyncio.sleep(1)
        play.end(askers[0], fails=False)
        await asyncio.wait([asker.task for asker in askers if asker.task])
        assert sum(asker.judgings for asker in askers) == 1
        assert (play.cache.lookups("miss"), play.cache.lookups("joined")) == (1, 99)

    run_virtually(main)


def test_when_the_one_that_asks_is_cancelled_just_one_other_asks_in_its_place() -> None:
    async def main(clock: VirtualClock) -> None:
        play, askers = play_with(clock, 10)
        for n in range(3):
            await asyncio.sleep(1)
            assert [asker for asker in askers if asker.judging] == [askers[n]]
            play.cancel(askers[n])
        await asyncio.sleep(1)
        play.end(askers[3], fails=False)
        results = await asyncio.gather(*(asker.task for asker in askers[3:] if asker.task))
        assert [cached for _, cached in results] == [False] + [True] * 6

    run_virtually(main)


def test_a_failure_is_its_own_and_the_others_ask_for_themselves_at_once() -> None:
    async def main(clock: VirtualClock) -> None:
        play, askers = play_with(clock, 5)
        await asyncio.sleep(1)
        play.end(askers[0], fails=True)
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)
        assert play.judging() == askers[1:]
        for asker in askers[1:]:
            play.end(asker, fails=False)
        await asyncio.wait([asker.task for asker in askers if asker.task])
        for asker in askers:
            play.check(asker)
        assert play.cache.lookups("miss") == 5
        assert len(play.cache) == 1

    run_virtually(main)


def test_a_deadline_shorter_than_that_of_the_one_that_asks_is_kept() -> None:
    async def main(clock: VirtualClock) -> None:
        play = Play(clock, Cache(clock))
        leader, follower = play.ask(1, 30.0), play.ask(1, 2.0)
        await asyncio.sleep(10)
        play.end(leader, fails=False)
        assert leader.task is not None
        assert (await leader.task)[0] == judged(1)
        assert follower.ended == 2.0
        play.check(follower)

    run_virtually(main)


def test_an_outage_while_somebody_asks_is_nobodys_time() -> None:
    async def main(clock: VirtualClock) -> None:
        play = Play(clock, Cache(clock))
        leader, *followers = [play.ask(1, 30.0), play.ask(1, 2.0), play.ask(1, 2.0)]
        await asyncio.sleep(1)
        play.cache.weather.falls()
        await asyncio.sleep(600)
        assert not any(follower.ended for follower in followers)
        play.cache.weather.rises()
        await asyncio.sleep(0.5)
        play.end(leader, fails=False)
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)
        for asker in (leader, *followers):
            play.check(asker)
            assert asker.task is not None
            assert asker.task.exception() is None

    run_virtually(main)
