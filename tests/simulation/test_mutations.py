"""The simulation is worth its name only if it finds bugs: each of these is put in on purpose, and must be found."""

from __future__ import annotations

from itertools import chain

import pytest

from tests.simulation.mutations import MUTATIONS
from tests.simulation.replay import main as replay
from tests.simulation.schedule import FoundError, simulate
from tests.simulation.worker import Parts

KNOWN = {
    "token-overtakes-books": (519,),
    "window-counts-remembered": (650, 764),
    "ignores-full-windows": (238, 917, 15),
    "stale-token-on-revoke": (165,),
    "gives-up-too-late": (1271, 2322),
    "overtakes-what-is-refused": (298447090,),
}
"""Schedules that found a rare one before: looked at first. When the worker has changed, others may be the ones."""

SCHEDULES = 2500


def look(parts: Parts, name: str) -> None:
    """Raises `FoundError` at the first schedule that breaks a promise."""
    for seed in chain(KNOWN.get(name, ()), range(SCHEDULES)):
        simulate(seed, parts)


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_bug_that_was_put_in_is_found(name: str) -> None:
    with MUTATIONS[name].applied() as parts, pytest.raises(FoundError) as found:
        look(parts, name)
    assert f"python -m tests.simulation.replay {found.value.seed}" in str(found.value)


def test_a_schedule_that_failed_is_replayed_by_its_seed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "commits-past-gaps"
    with MUTATIONS[name].applied() as parts, pytest.raises(FoundError) as found:
        look(parts, name)
    monkeypatch.setattr("sys.argv", ["replay", str(found.value.seed), "--mutation", name])
    assert replay() == 1
    assert str(found.value).splitlines()[0] in capsys.readouterr().out
