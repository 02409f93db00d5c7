"""Too many dead letters stop the worker, with the reason; a normal stream never does."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.deadletters import Reason
from stream.telemetry.metrics import WorkerMetrics
from stream.worker.breaker import DeadLetterBreaker, DeadLetterLimitError, DeadLetterSettings
from stream.worker.reading import ATTEMPT_HEADER
from stream.worker.records import Outcome
from tests.stream.worker.parts import failed, judged, record, unreadable

GOOD, BAD, UNREADABLE = judged(record(0)), failed(record(1)), unreadable(record(2))
REDRIVEN = failed(record(3, headers=((ATTEMPT_HEADER, b"2"),)))
DEFAULTS = DeadLetterSettings()


class Watched:
    """A breaker, and what it said."""

    def __init__(self, settings: DeadLetterSettings) -> None:
        self.said: list[BaseException] = []
        self.metrics = WorkerMetrics()
        self.breaker = DeadLetterBreaker(settings, self.metrics, self.said.append)

    def after(self, outcomes: Iterable[Outcome]) -> list[BaseException]:
        for outcome in outcomes:
            self.breaker.observe([outcome])
        return self.said

    def metric(self, name: str) -> float:
        value = self.metrics.registry.get_sample_value(name)
        assert value is not None
        return value


def settings(**changes: object) -> DeadLetterSettings:
    return DeadLetterSettings.model_validate({"max_ratio": 0, "max_run": 0, **changes})


def test_a_run_of_dead_letters_stops_the_worker_with_what_they_were() -> None:
    watched = Watched(settings(max_run=10))
    assert watched.after([BAD] * 9) == []
    (said,) = watched.after([UNREADABLE])
    assert isinstance(said, DeadLetterLimitError)
    assert said.reasons == {Reason.GUARD_REFUSED: 9, Reason.MALFORMED: 1}
    assert "10 dead letters one after another" in str(said)
    assert "guard_refused 9, malformed 1" in str(said)


def test_one_good_outcome_ends_a_run() -> None:
    assert Watched(settings(max_run=10)).after(([BAD] * 9 + [GOOD]) * 50) == []


def test_a_share_of_dead_letters_stops_the_worker_once_enough_was_seen() -> None:
    watched = Watched(settings(max_ratio=0.5, window=100, min_outcomes=40))
    assert watched.after([BAD, GOOD] * 19 + [BAD]) == []
    (said,) = watched.after([BAD])
    assert "21 of the last 40 outcomes are dead letters, the limit is 50%" in str(said)


def test_the_share_is_of_the_latest_outcomes_only() -> None:
    long_good = [GOOD] * 10_000
    watched = Watched(settings(max_ratio=0.5, window=100, min_outcomes=40))
    assert watched.after([*long_good, *[BAD] * 50]) == []
    assert len(watched.after([BAD])) == 1
    forgotten = Watched(settings(max_ratio=0.5, window=100, min_outcomes=100))
    assert forgotten.after([BAD] * 50 + [GOOD] * 100 + [BAD] * 50) == []


def test_it_trips_once() -> None:
    assert len(Watched(settings(max_run=5, max_ratio=0.1, window=10, min_outcomes=5)).after([BAD] * 1000)) == 1


@pytest.mark.parametrize("off", [{"enabled": False}, {"max_ratio": 0, "max_run": 0}])
def test_it_can_be_switched_off_and_still_measures(off: dict[str, object]) -> None:
    watched = Watched(DeadLetterSettings.model_validate(off))
    assert watched.after([BAD] * 2000) == []
    assert watched.metric("proguard_dead_letter_ratio") == 1
    assert watched.metric("proguard_dead_letter_run") == 2000


def test_redriven_events_stop_nobody() -> None:
    watched = Watched(DEFAULTS)
    assert watched.after([GOOD, *[REDRIVEN] * 5000]) == []
    assert watched.metric("proguard_dead_letter_ratio") == 0


def test_a_stream_with_a_third_of_dead_letters_and_short_bursts_goes_on_by_default() -> None:
    assert Watched(DEFAULTS).after(([BAD] * 100 + [GOOD] * 200) * 50) == []


@given(st.lists(st.booleans(), max_size=300), st.integers(1, 30), st.integers(0, 8), st.floats(0, 1))
def test_it_trips_exactly_when_a_limit_is_passed(bad: list[bool], window: int, max_run: int, ratio: float) -> None:
    chosen = settings(window=window, min_outcomes=window, max_run=max_run, max_ratio=ratio)
    watched = Watched(chosen)
    run, due = 0, False
    for number, is_bad in enumerate(bad, start=1):
        run = run + 1 if is_bad else 0
        latest = bad[max(0, number - window) : number]
        share = sum(latest) / len(latest)
        too_many = bool(ratio) and len(latest) == window and share > ratio
        due = due or (is_bad and ((bool(max_run) and run >= max_run) or too_many))
        assert bool(watched.after([BAD if is_bad else GOOD])) == due
        assert watched.metric("proguard_dead_letter_ratio") == pytest.approx(share)


@pytest.mark.parametrize("wrong", [{"window": 10, "min_outcomes": 11}, {"max_ratio": 1.1}, {"window": 0}])
def test_limits_that_could_never_be_reached_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        DeadLetterSettings.model_validate(wrong)
