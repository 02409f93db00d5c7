from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st

from stream.worker.backlog import Backlog


@given(st.integers(1, 50), st.lists(st.integers(0, 20)))
def test_the_count_is_what_was_taken_less_what_was_given_back_and_room_is_never_negative(
    limit: int, takes: list[int]
) -> None:
    backlog = Backlog(limit)
    for events in takes:
        backlog.take(events)
        assert backlog.room == max(0, limit - backlog.count)
    assert backlog.count == sum(takes)
    for events in takes:
        backlog.give_back(events)
    assert (backlog.count, backlog.room) == (0, limit)


def test_what_was_read_is_counted_even_beyond_the_limit() -> None:
    backlog = Backlog(2)
    backlog.take(5)
    assert (backlog.count, backlog.room) == (5, 0)


def test_waiting_for_room_that_is_there_does_not_block() -> None:
    assert Backlog(1).wait_for_room(0)


def test_waiting_for_room_ends_without_any_after_its_time() -> None:
    backlog = Backlog(1)
    backlog.take(1)
    assert not backlog.wait_for_room(0.01)


def test_a_thread_that_waits_for_room_is_woken_only_below_the_limit() -> None:
    backlog = Backlog(2)
    backlog.take(3)
    found: list[bool] = []
    waiter = threading.Thread(target=lambda: found.append(backlog.wait_for_room(20)))
    waiter.start()
    backlog.give_back(1)
    waiter.join(0.05)
    assert waiter.is_alive(), "it is still at the limit"
    backlog.give_back(1)
    waiter.join(10)
    assert found == [True]


def test_takes_and_returns_of_many_threads_add_up() -> None:
    backlog = Backlog(10)

    def work() -> None:
        for _ in range(2000):
            backlog.take(1)
            backlog.give_back(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert backlog.count == 0
