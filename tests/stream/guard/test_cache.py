from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.events import Modality
from stream.clock import Deadline
from stream.guard.cache import Judged, Question
from tests.stream.guard.asking import Cache, judged, question
from tests.support.clock import ManualClock


class Asked:
    """Counts how often the guard was asked."""

    def __init__(self) -> None:
        self.times = 0

    def gives(self, answer: Judged | Exception) -> Callable[[], Awaitable[Judged]]:
        async def judge() -> Judged:
            self.times += 1
            if isinstance(answer, Exception):
                raise answer
            return answer

        return judge


async def ask(cache: Cache, asked: Asked, about: Question, answer: Judged | Exception | None = None) -> Judged:
    deadline = Deadline(ManualClock(), 30.0)
    return (await cache.judged(about, deadline, asked.gives(answer or judged(int(about.prompt_digest)))))[0]


async def test_the_same_question_is_asked_once() -> None:
    cache, asked = Cache(ManualClock()), Asked()
    first = await cache.judged(question(1), Deadline(ManualClock(), 30.0), asked.gives(judged(1)))
    again = await cache.judged(question(1), Deadline(ManualClock(), 30.0), asked.gives(judged(2)))
    assert first == (judged(1), False)
    assert again == (judged(1), True)
    assert (asked.times, cache.lookups("miss"), cache.lookups("hit")) == (1, 1, 1)


OTHERS = [
    question()._replace(tenant="another"),
    question()._replace(policy_digest="q" * 64),
    question()._replace(modality=Modality.TEXT_IMAGE),
    question()._replace(prompt_digest="9" * 64),
    question()._replace(images=("a" * 64,)),
    question()._replace(images=("a" * 64, "b" * 64)),
    question()._replace(images=("b" * 64, "a" * 64)),
    question()._replace(has_agent=True),
]


async def test_questions_that_differ_in_anything_are_different_questions() -> None:
    cache, asked = Cache(ManualClock()), Asked()
    for number, about in enumerate([question(), *OTHERS], 1):
        await cache.judged(about, Deadline(ManualClock(), 30.0), asked.gives(judged()))
        assert asked.times == number


async def test_tenants_share_answers_only_when_the_settings_say_so() -> None:
    apart, together = Cache(ManualClock()), Cache(ManualClock(), share_between_tenants=True)
    for cache, expected in ((apart, 2), (together, 1)):
        asked = Asked()
        await ask(cache, asked, question(tenant="one"))
        await ask(cache, asked, question(tenant="other"))
        assert asked.times == expected


async def test_a_failure_is_never_kept() -> None:
    cache, asked = Cache(ManualClock()), Asked()
    for _ in range(2):
        with pytest.raises(ValueError):
            await ask(cache, asked, question(), ValueError("no"))
    assert await ask(cache, asked, question()) == judged()
    assert (asked.times, len(cache)) == (3, 1)


async def test_the_answer_not_used_for_longest_goes_first() -> None:
    cache, asked = Cache(ManualClock(), max_entries=3), Asked()
    for number in (0, 1, 2, 0, 3):
        await ask(cache, asked, question(number))
    assert len(cache) == 3
    asked.times = 0
    for number in (0, 2, 3):
        await ask(cache, asked, question(number))
    assert asked.times == 0
    await ask(cache, asked, question(1))
    assert asked.times == 1


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 40_000)), max_size=60), st.integers(1, 20))
def test_neither_entries_nor_bytes_ever_pass_their_bounds(asks: list[tuple[int, int]], max_entries: int) -> None:
    async def run() -> None:
        cache = Cache(ManualClock(), max_entries=max_entries, max_bytes=65_536)
        for number, length in asks:
            answer = await ask(cache, Asked(), question(number), judged(number, rationale="x" * length))
            assert answer.completion.text.startswith(f"answer to {number}:")
            assert len(cache) <= max_entries
            assert cache.bytes <= 65_536
            assert (cache.bytes == 0) == (len(cache) == 0)

    asyncio.run(run())


async def test_an_answer_larger_than_the_whole_cache_drops_nothing_else() -> None:
    cache, asked = Cache(ManualClock(), max_bytes=65_536), Asked()
    await ask(cache, asked, question(1))
    await ask(cache, asked, question(2), judged(2, rationale="x" * 70_000))
    assert len(cache) == 1
    await ask(cache, asked, question(1))
    assert asked.times == 2


async def test_an_answer_is_kept_for_its_time_and_no_longer() -> None:
    clock = ManualClock()
    cache, asked = Cache(clock, ttl_s=60.0), Asked()
    await ask(cache, asked, question())
    clock.advance(59.9)
    await ask(cache, asked, question())
    assert asked.times == 1
    clock.advance(0.1)
    await ask(cache, asked, question())
    assert asked.times == 2


async def test_without_a_time_an_answer_is_kept_for_ever() -> None:
    clock = ManualClock()
    cache, asked = Cache(clock, ttl_s=None), Asked()
    await ask(cache, asked, question())
    clock.advance(1e9)
    await ask(cache, asked, question())
    assert asked.times == 1


async def test_an_answer_of_another_model_drops_what_was_kept_of_the_one_before() -> None:
    cache, asked = Cache(ManualClock()), Asked()
    for number in range(5):
        await ask(cache, asked, question(number))
    await ask(cache, asked, question(9), judged(9, manifest="new"))
    assert len(cache) == 1
    assert (await ask(cache, asked, question(0), judged(0, manifest="new"))).completion.manifest == "new"
    assert asked.times == 7


async def test_the_bytes_counted_are_about_the_memory_taken() -> None:
    cache, asked = Cache(ManualClock(), max_entries=100_000, ttl_s=3600.0), Asked()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(2000):
            about = question(number, images=(f"{number:064x}", f"{number + 1:064x}"))
            await ask(cache, asked, about, judged(number, rationale=str(number) * 100, manifest=f"{7:064d}"))
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert 0.5 * cache.bytes < taken < 1.1 * cache.bytes


async def test_two_guards_that_answer_by_turns_drop_nothing() -> None:
    cache, asked = Cache(ManualClock()), Asked()
    for number in range(10):
        route = "canary" if number % 2 else ""
        await ask(cache, asked, question(number), judged(number, manifest=f"of-{route}", route=route))
    assert len(cache) == 10
    await ask(cache, asked, question(10), judged(10, manifest="of-another", route="canary"))
    assert len(cache) == 1, "a new model on one route is a new model"


async def test_a_route_that_is_forgotten_is_neither_given_nor_kept_any_more() -> None:
    cache, asked = Cache(ManualClock()), Asked()
    for number in range(10):
        await ask(cache, asked, question(number), judged(number, route="canary" if number % 2 else ""))
    before = cache.bytes
    cache.forget("canary")
    assert len(cache) == 5
    assert cache.bytes == before / 2
    late = await ask(cache, asked, question(11), judged(11, route="canary"))
    assert late.completion.route == "canary", "it was under way: whoever asked gets it"
    assert len(cache) == 5
    assert (await ask(cache, asked, question(1), judged(1))).completion.route == ""
    assert len(cache) == 6
