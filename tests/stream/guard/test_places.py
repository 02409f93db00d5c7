from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from stream.guard.limiter import FixedLimit
from stream.guard.places import Places


class Visitor:
    """Takes a place, and keeps it until told to go."""

    def __init__(self, places: Places, log: list[int], number: int) -> None:
        self.leave = asyncio.Event()
        self.inside = False
        self.task = asyncio.create_task(self._visit(places, log, number))

    async def _visit(self, places: Places, log: list[int], number: int) -> None:
        async with places:
            self.inside = True
            log.append(number)
            try:
                await self.leave.wait()
            finally:
                self.inside = False


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_who_comes_first_is_served_first_and_nobody_overtakes() -> None:
    places, log = Places(FixedLimit(1)), list[int]()
    visitors = [Visitor(places, log, number) for number in range(3)]
    await turns()
    assert (places.taken, places.waiting) == (1, 2)
    visitors[0].leave.set()
    late = Visitor(places, log, 3)  # comes in the very turn in which a place is free
    for visitor in visitors[1:]:
        await turns()
        visitor.leave.set()
    await turns()
    late.leave.set()
    await asyncio.gather(*(visitor.task for visitor in [*visitors, late]))
    assert log == [0, 1, 2, 3]
    assert (places.taken, places.waiting) == (0, 0)


async def test_a_limit_that_shrinks_takes_no_place_away_and_gives_none_until_enough_came_back() -> None:
    limit = FixedLimit(3)
    places, log = Places(limit), list[int]()
    visitors = [Visitor(places, log, number) for number in range(6)]
    await turns()
    limit.limit = 1
    visitors[0].leave.set()
    visitors[1].leave.set()
    await turns()
    assert (places.taken, places.waiting) == (1, 3)
    visitors[2].leave.set()
    await turns()
    assert (places.taken, places.waiting, log[-1]) == (1, 2, 3)
    for visitor in visitors[3:]:
        visitor.leave.set()
    await asyncio.gather(*(visitor.task for visitor in visitors))


async def test_a_limit_that_has_grown_lets_several_in_when_one_leaves() -> None:
    limit = FixedLimit(1)
    places, log = Places(limit), list[int]()
    visitors = [Visitor(places, log, number) for number in range(5)]
    await turns()
    limit.limit = 3
    visitors[0].leave.set()
    await turns()
    assert log == [0, 1, 2, 3]
    for visitor in visitors:
        visitor.leave.set()
    await asyncio.gather(*(visitor.task for visitor in visitors))


async def test_a_place_that_came_in_the_turn_of_a_cancellation_goes_on_to_the_next() -> None:
    places, log = Places(FixedLimit(1)), list[int]()
    first, second, third = (Visitor(places, log, number) for number in range(3))
    await turns()
    first.leave.set()
    await asyncio.sleep(0)  # `first` leaves in this turn: the place is the second one's, who has not run yet
    second.task.cancel()
    await turns()
    assert log == [0, 2]
    third.leave.set()
    await asyncio.gather(first.task, third.task)
    assert places.taken == 0


ACTIONS = st.lists(
    st.tuples(st.sampled_from(["come", "leave", "cancel", "turn", "limit"]), st.integers(0, 100)), max_size=60
)


@given(ACTIONS)
@settings(max_examples=200)
def test_whoever_comes_goes_or_is_cancelled_places_are_never_lost_nor_doubled(actions: list[tuple[str, int]]) -> None:
    async def run() -> None:
        limit = FixedLimit(2)
        places, log, visitors = Places(limit), list[int](), list[Visitor]()
        for action, number in actions:
            if action == "come":
                visitors.append(Visitor(places, log, len(visitors)))
            elif action == "turn":
                await asyncio.sleep(0)
            elif action == "limit":
                limit.limit = 1 + number % 4
            elif visitors:
                chosen = visitors[number % len(visitors)]
                chosen.leave.set() if action == "leave" else chosen.task.cancel()
            assert places.taken <= 4
        for visitor in visitors:
            visitor.leave.set()
        async with asyncio.timeout(5):
            await asyncio.gather(*(visitor.task for visitor in visitors), return_exceptions=True)
        assert (places.taken, places.waiting) == (0, 0)
        async with asyncio.timeout(5), places:
            assert places.taken == 1

    asyncio.run(run())
