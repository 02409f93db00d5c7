from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.guard.limiter import AdaptiveLimit, FixedLimit, limit_from
from stream.guard.settings import GuardSettings
from tests.stream.guard.load import Server, batching, boundless, contended, drive, lognormal, pool, tail
from tests.support.clock import ManualClock

LEAST, MOST = 8, 64


def rng() -> random.Random:
    return random.Random(7)


def adaptive(clock: ManualClock, most: int = MOST) -> AdaptiveLimit:
    return AdaptiveLimit(clock, least=LEAST, most=most, tolerance=2.0)


def started(clock: ManualClock, server: Server) -> AdaptiveLimit:
    """A limit that knows the quiet guard and has grown."""
    limit = adaptive(clock)
    drive(limit, server, 500, clock)
    return limit


HEALTHY: dict[str, Callable[[], Server]] = {
    "steady": lambda: boundless(lambda: 0.02),
    "1 in 100 takes 3 s": lambda: boundless(tail(0.02, 3.0, 0.01, rng())),
    "1 in 10 takes 3 s": lambda: boundless(tail(0.02, 3.0, 0.1, rng())),
    "lognormal, sigma 0.8": lambda: boundless(lognormal(0.02, 0.8, rng())),
    "lognormal, sigma 1.2": lambda: boundless(lognormal(0.02, 1.2, rng())),
    "answers in no time": lambda: boundless(lambda: 1e-7),
    "an accelerator that batches, at 64 twice as slow": lambda: batching(1.0, 2.0, rng()),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_a_guard_with_a_healthy_median_keeps_nearly_the_whole_limit(name: str) -> None:
    clock = ManualClock()
    limits = drive(adaptive(clock), HEALTHY[name](), 20_000, clock).settled()
    assert sum(limits) / len(limits) > 0.95 * MOST


SATURATED: dict[str, tuple[Callable[[], Server], int]] = {
    "4 places": (lambda: pool(4, lambda: 0.02), 32),
    "16 places": (lambda: pool(16, lambda: 0.02), 50),
    "16 places, exponential": (lambda: pool(16, partial(rng().expovariate, 50)), 50),
    "24 places, lognormal": (lambda: pool(24, lognormal(0.02, 0.5, rng())), 60),
    "throughput falls beyond 16 at a time": (lambda: contended(0.02, 16, rng()), 32),
}


@pytest.mark.parametrize("name", SATURATED)
def test_a_saturated_guard_gets_less_and_keeps_nine_tenths_of_its_best_throughput(name: str) -> None:
    new_server, at_most = SATURATED[name]
    best = max(drive(FixedLimit(n), new_server(), 5000, ManualClock()).rate for n in (4, 8, 12, 16, 24, 32, 48, 64))
    clock = ManualClock()
    run = drive(adaptive(clock), new_server(), 40_000, clock)
    assert run.rate > 0.9 * best
    assert sum(run.settled()) / len(run.settled()) < at_most


def test_an_accelerator_that_slows_down_as_it_batches_keeps_its_throughput() -> None:
    best = max(drive(FixedLimit(n), batching(1.0, 3.0, rng()), 5000, ManualClock()).rate for n in (8, 32, 64))
    clock = ManualClock()
    assert drive(adaptive(clock), batching(1.0, 3.0, rng()), 20_000, clock).rate > 0.9 * best


def test_a_guard_that_loses_most_of_its_places_gets_less_until_it_has_them_again() -> None:
    clock = ManualClock()
    healthy = boundless(lambda: 0.02)
    limit = started(clock, healthy)
    assert limit.limit == MOST
    drive(limit, pool(4, lambda: 0.02), 2000, clock)
    assert limit.limit <= 32
    drive(limit, healthy, 2000, clock)
    assert limit.limit == MOST


def test_content_that_has_become_slower_to_judge_is_no_queue_for_ever() -> None:
    clock = ManualClock()
    limit = started(clock, boundless(lambda: 0.02))
    run = drive(limit, boundless(lambda: 0.2), 40_000, clock)
    assert min(run.limits) < MOST
    assert set(run.limits[-1000:]) == {MOST}


def test_pictures_and_texts_are_not_compared_with_one_another() -> None:
    clock = ManualClock()
    limit = started(clock, boundless(lambda: 0.02))
    clock.advance(31.0)
    drive(limit, boundless(lambda: 0.4), 500, clock, kind="image")
    drive(limit, boundless(lambda: 0.02), 100, clock, kind="text", demand=4)
    assert set(drive(limit, boundless(lambda: 0.4), 500, clock, kind="image").limits) == {MOST}


def test_measuring_the_quiet_guard_costs_little_even_when_answers_take_seconds() -> None:
    clock = ManualClock()
    run = drive(adaptive(clock), pool(4, lambda: 5.0), 4000, clock)
    assert run.rate > 0.98 * 4 / 5.0
    assert run.limits.count(LEAST) < 0.1 * len(run.limits)


def test_a_few_timeouts_throttle_nobody_and_many_throttle_all() -> None:
    clock = ManualClock()
    limit = started(clock, boundless(lambda: 0.02))
    for _ in range(200):
        drive(limit, boundless(lambda: 0.02), 20, clock)
        limit.dropped()
    assert limit.limit == MOST
    for _ in range(200):
        drive(limit, boundless(lambda: 0.02), 4, clock)
        limit.dropped()
    assert limit.limit == LEAST


def test_one_outage_that_drops_everything_in_flight_halves_nothing() -> None:
    clock = ManualClock()
    limit = started(clock, boundless(lambda: 0.02))
    for _ in range(MOST):
        limit.dropped()
    assert limit.limit == 48
    drive(limit, boundless(lambda: 0.02), 500, clock)
    assert limit.limit == MOST


def test_a_limit_that_is_not_used_does_not_grow() -> None:
    clock = ManualClock()
    limit = started(clock, boundless(lambda: 0.02))
    drive(limit, pool(4, lambda: 0.02), 2000, clock)
    shrunk = limit.limit
    drive(limit, boundless(lambda: 0.02), 2000, clock, demand=shrunk // 2 - 2)
    assert limit.limit == shrunk < MOST


@given(
    st.integers(1, 40),
    st.integers(0, 40),
    st.lists(
        st.tuples(st.sampled_from(["text", "image", "drop"]), st.floats(0, 100), st.integers(1, 80), st.floats(0, 50)),
        max_size=300,
    ),
)
@settings(max_examples=200)
def test_whatever_is_told_the_limit_stays_within_its_bounds(
    least: int, more: int, told: list[tuple[str, float, int, float]]
) -> None:
    clock = ManualClock()
    limit = AdaptiveLimit(clock, least=least, most=least + more, tolerance=2.0)
    for kind, seconds, in_flight, pause in told:
        clock.advance(pause)
        if kind == "drop":
            limit.dropped()
        else:
            limit.answered(kind, seconds, in_flight)
        assert least <= limit.limit <= least + more


def test_answers_that_take_no_time_at_all_leave_the_limit_alone() -> None:
    limit = adaptive(ManualClock())
    for _ in range(1000):
        limit.answered("text", 0.0, limit.limit)
    assert limit.limit == MOST


@pytest.mark.parametrize(("least", "most", "tolerance"), [(0, 4, 2.0), (5, 4, 2.0), (1, 4, 1.0)])
def test_bounds_that_make_no_sense_are_refused(least: int, most: int, tolerance: float) -> None:
    with pytest.raises(ValueError):
        AdaptiveLimit(ManualClock(), least=least, most=most, tolerance=tolerance)


def test_the_settings_choose_the_limit() -> None:
    clock = ManualClock()
    assert limit_from(GuardSettings(limiter="fixed", max_in_flight=64), clock).limit == 64
    assert limit_from(GuardSettings(max_in_flight=4, min_in_flight=8), clock).limit == 4
    assert isinstance(limit_from(GuardSettings(), clock), AdaptiveLimit)
