"""The reliability diagram: how often events with a score are unsafe, beside how often they should be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from triton_models.proguard.guard.calibration import scaled

BINS = 10


@dataclass(frozen=True, slots=True)
class Panel:
    """One label's scores with the temperature that was fitted for them."""

    labels: Sequence[bool]
    scores: Sequence[float]
    temperature: float


def draw(panels: Mapping[str, Panel], path: Path) -> None:
    """Write a diagram with one panel for each entry; the format is the file's ending. The same data give the same SVG."""
    with rc_context({"svg.hashsalt": "proguard", "svg.fonttype": "none"}):
        figure = Figure(figsize=(5.2 * len(panels), 4.6), layout="constrained")
        for place, (name, panel) in enumerate(panels.items(), 1):
            axes = figure.add_subplot(1, len(panels), place)
            axes.plot([0, 1], [0, 1], color="0.7", linestyle="--", label="honest")
            before = list(panel.scores)
            after = [scaled(score, panel.temperature) for score in before]
            for title, scores, colour in (
                ("as written", before, "tab:red"),
                (f"T = {panel.temperature:.3f}", after, "tab:blue"),
            ):
                points = bins(panel.labels, scores)
                axes.plot([x for x, _, _ in points], [y for _, y, _ in points], marker="o", color=colour, label=title)
            counts = axes.twinx()
            counts.hist(after, bins=BINS, range=(0, 1), color="tab:blue", alpha=0.15)
            counts.set_ylabel("events")
            axes.set(
                title=f"{name} ({len(before)} events)", xlabel="score", ylabel="share unsafe", xlim=(0, 1), ylim=(0, 1)
            )
            axes.legend(loc="upper left")
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def bins(labels: Sequence[bool], scores: Sequence[float]) -> list[tuple[float, float, int]]:
    """(mean score, share unsafe, events) of each of ten equal bins of the score that holds any."""
    points = []
    for index in range(BINS):
        inside = [at for at, score in enumerate(scores) if min(int(score * BINS), BINS - 1) == index]
        if inside:
            share = sum(labels[at] for at in inside) / len(inside)
            points.append((sum(scores[at] for at in inside) / len(inside), share, len(inside)))
    return points
