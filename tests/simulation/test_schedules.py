"""Thousands of schedules of the worker's own classes: whatever happens in them, the promises hold.

`SIMULATION_SCHEDULES` sets how many; a schedule that fails prints the command that replays it.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.simulation.schedule import Report, simulate

SCHEDULES = int(os.environ.get("SIMULATION_SCHEDULES", "1200"))


@settings(
    max_examples=SCHEDULES,
    deadline=None,
    database=None,
    # The same schedules each time, so that a change of the worker is what makes this fail; another number gives others.
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(seed=st.integers(min_value=0, max_value=2**32 - 1))
def test_no_schedule_loses_repeats_reorders_or_stalls(seed: int) -> None:
    simulate(seed)


def test_a_seed_gives_the_same_schedule_each_time() -> None:
    def told(report: Report) -> tuple[int, ...]:
        return report.steps, report.records, report.commits, report.generations, report.notes

    for seed in range(5):
        assert told(simulate(seed)) == told(simulate(seed))


def test_the_schedules_reach_what_they_are_for() -> None:
    """Rebalances, commits that remember offsets beyond a gap, and repeats where delivery is at least once."""
    reports = [simulate(seed) for seed in range(60)]
    assert sum(report.generations for report in reports) > 60
    assert sum(report.remembering for report in reports) > 60
    assert any(report.repeated for report in reports)
