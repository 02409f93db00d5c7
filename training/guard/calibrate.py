"""`python -m training.guard.calibrate --data scored.jsonl --report FOLDER [--manifest CHECKPOINT]`: fit the scores' temperatures.

Half of the events are fitted on, the other half measured; a temperature that does not lower the log-loss there is not kept. With `--manifest` the temperatures are written into the checkpoint's
manifest, which changes its digest: verdicts from then on name the new one, and caches keyed by it start anew.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from training.guard.fitting import Quality, fit_temperature, quality
from training.guard.reliability import Panel, draw
from training.guard.scored import Label, Scored, read_scored
from triton_models.proguard.guard import manifest
from triton_models.proguard.guard.calibration import MAX_TEMPERATURE, MIN_TEMPERATURE, Calibration
from triton_models.proguard.guard.errors import ManifestError

MINIMUM = 50
"""Fewest events of a label to fit on; with fewer its temperature stays as it is."""
DIAGRAM = "reliability.svg"
REPORT = "calibration.md"


@dataclass(frozen=True, slots=True)
class Fit:
    """One label's outcome. `temperature` is relative to the scores as they were written."""

    label: Label
    temperature: float
    fitted_on: int
    before: Quality
    after: Quality
    held_out: Panel

    @property
    def kept(self) -> bool:
        """Whether it helps on events that it was not fitted on."""
        return self.after.log_loss < self.before.log_loss


def main(arguments: Sequence[str] | None = None) -> int:
    """Fit, draw and write. Exit status 2 when the data or the manifest cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m training.guard.calibrate", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="what training.guard.score wrote")
    parser.add_argument("--report", type=Path, required=True, help="folder for the report and its diagram")
    parser.add_argument("--manifest", type=Path, help="the checkpoint's folder; without it only the report is written")
    options = parser.parse_args(arguments)
    try:
        rows = read_scored(options.data)
        digests = sorted({row.manifest for row in rows})
        if len(digests) != 1:
            raise ValueError(f"{options.data.name} holds scores of {len(digests)} manifests; fit one guard at a time")
        sealed = None if options.manifest is None else manifest.read(options.manifest)
        if sealed is not None and sealed.digest != digests[0]:
            raise ValueError(
                f"the scores are of manifest {digests[0][:16]}, and this one is {sealed.digest[:16]}: score again"
            )
        fits = [found for label in get_args(Label) if (found := fit(rows, label)) is not None]
        if not fits:
            raise ValueError(f"no label has {MINIMUM} events with a score in each half")
        options.report.mkdir(parents=True, exist_ok=True)
        draw({found.label: found.held_out for found in fits}, options.report / DIAGRAM)
        written = None
        if sealed is not None and any(found.kept for found in fits):
            written = _write(options.manifest, sealed, fits)
    except (OSError, ValueError, ManifestError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    report = _report(fits, digests[0], written)
    (options.report / REPORT).write_text(report, encoding="utf-8")
    sys.stdout.write(report)
    return 0


def fit(rows: Sequence[Scored], label: Label) -> Fit | None:
    """Fit `label` on the rows with even numbers and measure on the odd ones; None with too few events."""
    halves: tuple[list[tuple[bool, float]], list[tuple[bool, float]]] = ([], [])
    for row in rows:
        pair = row.pair(label)
        if pair is not None:
            halves[row.id % 2].append(pair)
    if min(map(len, halves)) < MINIMUM:
        return None
    (labels, scores), (held_labels, held_scores) = ([list(part) for part in zip(*half, strict=True)] for half in halves)
    temperature = fit_temperature(labels, scores)
    return Fit(
        label=label,
        temperature=temperature,
        fitted_on=len(labels),
        before=quality(held_labels, held_scores),
        after=quality(held_labels, held_scores, temperature),
        held_out=Panel(held_labels, held_scores, temperature),
    )


def _write(folder: Path, sealed: manifest.Manifest, fits: Sequence[Fit]) -> str:
    """The new digest. Scores were calibrated by the present entry already, so its temperatures are multiplied."""
    present = Calibration.of_manifest(sealed.calibration)
    temperatures = {"request": present.request, "response": present.response}
    for found in fits:
        if not found.kept:
            continue
        product = temperatures[found.label] * found.temperature
        temperatures[found.label] = round(min(max(product, MIN_TEMPERATURE), MAX_TEMPERATURE), 4)
    entry = Calibration(**temperatures).to_manifest() | {
        "fitted": {
            found.label: {"events": found.fitted_on, "held_out": found.after.events, "ece": round(found.after.ece, 4)}
            for found in fits
            if found.kept
        }
    }
    return manifest.write(folder, {**sealed.document, "calibration": entry}).digest


def _report(fits: Sequence[Fit], digest: str, written: str | None) -> str:
    lines = [
        "# Calibration of the scores",
        "",
        "Written by `python -m training.guard.calibrate`: one temperature a label, fitted on half of the events by log-loss and measured"
        f" on the other half. Scores of manifest `{digest[:16]}…`.",
        "",
        "| label | T | kept | fitted on | measured on | unsafe | ECE before | after | Brier before | after | log-loss before | after |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {found.label} | {found.temperature:.3f} | {'yes' if found.kept else 'no'} | {found.fitted_on} | {found.after.events} | {found.after.unsafe} |"
        f" {found.before.ece:.4f} | {found.after.ece:.4f} | {found.before.brier:.4f} | {found.after.brier:.4f} |"
        f" {found.before.log_loss:.4f} | {found.after.log_loss:.4f} |"
        for found in fits
    ]
    lines += ["", f"![reliability diagram of the events that were measured on]({DIAGRAM})", ""]
    if written is None:
        lines.append("No manifest was changed.")
    else:
        lines.append(
            f"The temperatures are in the manifest now. **Its digest changed** from `{digest[:16]}…` to `{written[:16]}…`: load the"
            " model again, and expect verdicts to name the new one."
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
