"""From the guard's own probabilities to calibrated ones: one temperature a label.

Temperature scaling (Guo et al. 2017, arXiv 1706.04599) on the log-odds: `calibrated = σ(logit(p) / T)`. T above 1 makes a guard
less sure of itself, T below 1 surer; one half stays one half, so no decision at one half ever changes. The temperatures live in the
weights' manifest, under `calibration`, and are written there by `python -m training.guard.calibrate`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import ManifestError

METHOD = "temperature"
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.01, 100.0
# The nearest that a score may come to 0 and 1 before its log-odds are taken. Float32 scores round to 1 above 1 - 2**-25.
_EDGE = 2.0**-25


@dataclass(frozen=True, slots=True)
class Calibration:
    """Temperatures of the two labels. The default changes nothing."""

    request: float = 1.0
    response: float = 1.0

    @staticmethod
    def of_manifest(entry: Mapping[str, Any] | None) -> Calibration:
        """From a manifest's `calibration`: None is the identity. Raises `ManifestError` for anything that is not understood."""
        if entry is None:
            return Calibration()
        if entry.get("method") != METHOD:
            raise ManifestError(f"the manifest's calibration has a method other than {METHOD!r}")
        return Calibration(_temperature(entry, "request"), _temperature(entry, "response"))

    def to_manifest(self) -> dict[str, Any]:
        """The entry that `of_manifest` reads; whoever fitted it may add where it comes from."""
        return {"method": METHOD, "request": self.request, "response": self.response}

    def apply(self, request: float, response: float) -> tuple[float, float]:
        """Calibrated probabilities of unsafe; NaN stays NaN."""
        return scaled(request, self.request), scaled(response, self.response)


def scaled(probability: float, temperature: float) -> float:
    """`σ(logit(probability) / temperature)`. Strictly increasing but for the last 2**-25 at both ends."""
    if math.isnan(probability) or temperature == 1.0:
        return probability
    inside = min(max(probability, _EDGE), 1.0 - _EDGE)
    logit = math.log(inside) - math.log1p(-inside)
    return 1.0 / (1.0 + math.exp(-logit / temperature)) if logit > -700 * temperature else 0.0


def _temperature(entry: Mapping[str, Any], label: str) -> float:
    value = entry.get(label)
    if isinstance(value, bool) or not isinstance(value, int | float) or not MIN_TEMPERATURE <= value <= MAX_TEMPERATURE:
        raise ManifestError(
            f"the manifest's calibration.{label} must be a temperature from {MIN_TEMPERATURE} to {MAX_TEMPERATURE}"
        )
    return float(value)
