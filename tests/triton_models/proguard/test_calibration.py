"""Temperatures: what they may change, and what a manifest may say."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triton_models.proguard.guard.calibration import MAX_TEMPERATURE, MIN_TEMPERATURE, Calibration, scaled
from triton_models.proguard.guard.errors import ManifestError

PROBABILITIES = st.floats(0.0, 1.0)
TEMPERATURES = st.floats(MIN_TEMPERATURE, MAX_TEMPERATURE)


@given(PROBABILITIES, TEMPERATURES)
def test_a_temperature_gives_a_probability_and_moves_no_decision_at_one_half(p: float, temperature: float) -> None:
    calibrated = scaled(p, temperature)
    assert 0.0 <= calibrated <= 1.0
    assert (calibrated > 0.5) == (p > 0.5) or abs(p - 0.5) < 1e-9


@given(PROBABILITIES, PROBABILITIES, TEMPERATURES)
def test_a_temperature_keeps_the_order(p: float, q: float, temperature: float) -> None:
    low, high = min(p, q), max(p, q)
    assert scaled(low, temperature) <= scaled(high, temperature)


@given(st.floats(1e-6, 1 - 1e-6), st.floats(0.2, 5.0))
def test_the_inverse_temperature_undoes_it(p: float, temperature: float) -> None:
    there = scaled(p, temperature)
    if 1e-6 < there < 1 - 1e-6:
        assert scaled(there, 1 / temperature) == pytest.approx(p, rel=1e-5)


def test_no_score_stays_no_score() -> None:
    assert all(math.isnan(score) for score in Calibration(2.0, 3.0).apply(math.nan, math.nan))


@given(TEMPERATURES, TEMPERATURES)
def test_a_manifest_keeps_the_temperatures(request: float, response: float) -> None:
    calibration = Calibration(request, response)
    entry = json.loads(json.dumps({**calibration.to_manifest(), "events": 12}))
    assert Calibration.of_manifest(entry) == calibration


def test_no_calibration_is_the_identity() -> None:
    assert Calibration.of_manifest(None).apply(0.25, 0.75) == (0.25, 0.75)


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"method": "isotonic", "request": 1.0, "response": 1.0},
        {"method": "temperature", "request": 1.0},
        {"method": "temperature", "request": 0.0, "response": 1.0},
        {"method": "temperature", "request": math.nan, "response": 1.0},
        {"method": "temperature", "request": True, "response": 1.0},
        {"method": "temperature", "request": "1", "response": 1.0},
    ],
)
def test_what_is_not_understood_is_refused(entry: dict[str, Any]) -> None:
    with pytest.raises(ManifestError):
        Calibration.of_manifest(entry)
