"""The threads between Triton and the guard."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from triton_models.proguard_lite.guard.batching import MAX_BATCH, Stage


def unexpected(item: int, error: Exception) -> None:
    raise AssertionError(f"{item} failed: {error}")


def test_what_gathers_while_a_batch_is_worked_on_becomes_the_next() -> None:
    gate, started = threading.Event(), threading.Event()
    batches: list[list[int]] = []

    def work(items: Sequence[int]) -> None:
        batches.append(list(items))
        started.set()
        gate.wait(10)

    stage: Stage[int] = Stage("test", work, unexpected)
    stage.put(0)
    assert started.wait(10)
    for item in range(1, 50):
        stage.put(item)
    gate.set()
    assert stage.close(10)
    assert batches == [[0], list(range(1, MAX_BATCH + 1)), list(range(MAX_BATCH + 1, 50))]


def test_closing_finishes_what_waits_and_ends_the_thread() -> None:
    done: list[int] = []
    before = threading.active_count()
    stage: Stage[int] = Stage("test", done.extend, unexpected)
    for item in range(100):
        stage.put(item)
    assert stage.close(10)
    assert done == list(range(100))
    assert threading.active_count() == before


def test_a_batch_that_raises_fails_its_items_and_the_next_one_is_worked_on() -> None:
    failed: list[tuple[int, str]] = []
    done: list[int] = []

    def work(items: Sequence[int]) -> None:
        if 1 in items:
            raise ValueError("broken")
        done.extend(items)

    def fail(item: int, error: Exception) -> None:
        failed.append((item, str(error)))
        raise RuntimeError("even the report fails")

    stage: Stage[int] = Stage("test", work, fail, largest=1)
    for item in range(3):
        stage.put(item)
    assert stage.close(10)
    assert (done, failed) == ([0, 2], [(1, "broken")])


def test_more_than_may_wait_is_not_taken() -> None:
    gate, started = threading.Event(), threading.Event()
    done: list[int] = []

    def work(items: Sequence[int]) -> None:
        started.set()
        gate.wait(10)
        done.extend(items)

    stage: Stage[int] = Stage("test", work, unexpected, waiting=2)
    assert stage.put(0)
    assert started.wait(10)
    assert [stage.put(item) for item in range(1, 5)] == [True, True, False, False]
    gate.set()
    assert stage.close(10)
    assert done == [0, 1, 2]
