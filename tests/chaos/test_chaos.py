"""The short run of `make chaos`: forty faults on real Kafka and a real Triton, and then the books."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.run import run

SEED, FAULTS = 20_261, 40


@pytest.mark.timeout(480)
def test_whatever_breaks_nothing_is_lost_repeated_or_reordered(tmp_path: Path) -> None:
    result = run(tmp_path, seed=SEED, faults=FAULTS, mode="exactly_once")
    assert result.ok, (result.line(), result.problems, result.report and result.report.faults, str(tmp_path))
    assert result.line().startswith(f"faults={FAULTS} ")
    assert result.line().endswith(" lost=0 duplicated=0 reordered=0")
