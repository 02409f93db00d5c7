"""`python -m training.lite.evaluate --data DIR --out FILE.md`: measure the embedded guard on the test split."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from schemas.policy import default_policy
from training.lite import measuring
from training.lite.dataset import Dataset, benign, own_responses, own_unsafe, read_dataset
from training.lite.metrics import Binary, calibration_error
from training.lite.samples import OWN, Risk, risks
from triton_models.proguard_lite.guard.assembly import WEIGHTS, Parts, open_parts
from triton_models.proguard_lite.guard.ocr import RapidReader

_SPEED_TEXTS = 512


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write the table. Exit status 2 when the data folder cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m training.lite.evaluate", description=__doc__)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with text/*.jsonl.gz, and images/ if it has any"
    )
    parser.add_argument("--out", type=Path, required=True, help="Markdown file to write")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="folder with heads.safetensors and manifest.json")
    options = parser.parse_args(arguments)
    try:
        dataset = read_dataset(options.data, "test")
    except (OSError, ValueError, KeyError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    report = evaluate(dataset, open_parts(weights=options.weights), options.data / "images")
    options.out.write_text(report, encoding="utf-8")
    return 0


def evaluate(dataset: Dataset, parts: Parts, images: Path) -> str:
    """The whole report as Markdown. Takes some minutes for thousands of rows."""
    policy = default_policy()
    lines = _head(dataset, parts)
    _progress("requests")
    scored = measuring.requests(parts, dataset.rows, policy)
    lines += _table("Requests: safe or unsafe", scored)
    _progress("responses")
    lines += _table("Responses: safe or unsafe", measuring.responses(parts, dataset.rows, policy))
    _progress("our own held-out sentences")
    lines += _own(parts)
    _progress("categories and removals")
    lines += _placement(parts, dataset)
    _progress("images and speed")
    lines += _images(parts, images)
    lines += _speed(parts, [row.request for row in dataset.rows if row.request])
    return "\n".join(lines) + "\n"


def _head(dataset: Dataset, parts: Parts) -> list[str]:
    return [
        "# The embedded guard on the test split",
        "",
        f"Written on {datetime.now(UTC).date().isoformat()} by `python -m training.lite.evaluate --data DIR --out FILE.md`.",
        "",
        f"Weights: manifest `{parts.heads.digest[:16]}…`. Data: the test split, `{dataset.digest[:16]}…` over"
        f" {len(dataset.files)} files. Decisions at probability 0.5. F1 of the positive class (unsafe, outside) and"
        " support-weighted F1 are different figures: compare like with like.",
        "",
    ]


def _table(title: str, scored: Sequence[measuring.Scored]) -> list[str]:
    lines = [
        f"## {title}",
        "",
        "| source | events | unsafe | F1 (unsafe) | F1 (support-weighted) | recall | false positives |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [_row(group.source, group.binary) for group in scored]
    labels = [label for group in scored for label in group.labels]
    scores = [score for group in scored for score in group.scores]
    lines.append(_row("**all**", Binary.of(labels, [score >= 0.5 for score in scores])) if labels else "| none |")
    if labels:
        lines += ["", f"Expected calibration error over all events: {calibration_error(labels, scores):.3f}."]
    return [*lines, ""]


def _row(name: str, binary: Binary) -> str:
    cells = [binary.f1, binary.weighted_f1, binary.recall, binary.false_positive_rate]
    return f"| {name} | {binary.total} | {binary.positives} | " + " | ".join(_figure(cell) for cell in cells) + " |"


def _own(parts: Parts) -> list[str]:
    policy = default_policy()
    harmless = [(text, None) for text in benign("heldout")]
    harmful = [(text, None) for _, text in own_unsafe("heldout")]
    replies = own_responses("heldout")
    false = [answer.request >= 0.5 for answer in measuring.answers(parts, harmless, policy)]
    found = [answer.request >= 0.5 for answer in measuring.answers(parts, harmful, policy)]
    after = [answer.response >= 0.5 for answer in measuring.answers(parts, [("", text) for _, text in replies], policy)]
    right = [unsafe == label for unsafe, (label, _) in zip(after, replies, strict=True)]
    return [
        "## Ordinary text of our own (held out)",
        "",
        f"- False positives on {len(false)} benign sentences of many domains and languages: {_share(false)}.",
        f"- Found of {len(found)} unsafe requests and posts over many kinds of risk: {_share(found)}.",
        f"- Right of {len(right)} responses: {_share(right)}.",
        "",
    ]


def _placement(parts: Parts, dataset: Dataset) -> list[str]:
    policy = default_policy()
    own = [Risk(OWN, text, category) for category, text in own_unsafe("heldout")]
    lines = [
        "## Category, and outside the policy",
        "",
        "Risks whose category is known (`training/lite/category_map.json`; our own held-out sentences apart). Half of the top"
        f" categories are removed at random, {len(measuring.REMOVAL_SEEDS)} times; what belonged to them is then outside.",
        "",
        "| risks | category (top) | sub-category | F1 (outside) | F1 (support-weighted) | recall | false positives"
        " | name nearest to what was removed |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    tested = risks(dataset.rows, own=False)
    known = [risk for risk in tested if risk.category]
    groups = (
        ("test split, a category each", known),
        ("the same, and risks that never fit one", tested),
        ("our own, both kinds", own),
    )
    for name, found in groups:
        if not any(risk.category for risk in found):
            continue
        placed = measuring.categories(parts, found, policy)
        removed = measuring.removals(parts, found, policy)
        outside = removed.outside
        lines.append(
            f"| {name} ({len(found)}) | {placed.accuracy:.3f} of {placed.events} | {placed.accuracy_sub:.3f} of"
            f" {placed.events_sub} | {_figure(outside.f1)} | {_figure(outside.weighted_f1)} | {_figure(outside.recall)} |"
            f" {_figure(outside.false_positive_rate)} | {removed.named_right:.3f} |"
        )
    return [*lines, ""]


def _images(parts: Parts, folder: Path) -> list[str]:
    if not (folder / "figstep_tiny.jsonl").is_file():
        return []
    seen = measuring.pictures(parts, RapidReader(), folder, default_policy(), time.perf_counter)
    return [
        "## Writing inside images (FigStep, typographic)",
        "",
        f"- {seen.images} images, likeness of the text read to the text written: {seen.likeness:.3f}.",
        f"- Called unsafe: {seen.unsafe:.3f} (all are labelled unsafe; the half that asks for advice on law, money or"
        " health is harmless in its words alone).",
        f"- OCR on one thread: {seen.seconds * 1000:.0f} ms an image.",
        "",
    ]


def _speed(parts: Parts, texts: Sequence[str]) -> list[str]:
    chosen = [text for text in sorted(set(texts), key=lambda text: (len(text), text)) if len(text) <= 400]
    step = max(1, len(chosen) // _SPEED_TEXTS)
    sample = chosen[::step][:_SPEED_TEXTS]
    rates = {
        batch: measuring.rate(parts, sample, default_policy(), time.perf_counter, batch=batch) for batch in (1, 32)
    }
    return [
        "## Speed",
        "",
        f"In one process on the machine that wrote this, {len(sample)} texts of at most 400 characters:"
        f" {rates[1]:.0f} requests/s one at a time, {rates[32]:.0f} requests/s in batches of 32. It varies with the machine"
        " and its load; the other figures do not.",
    ]


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _share(outcomes: Sequence[bool]) -> str:
    return f"{sum(outcomes)} ({sum(outcomes) / len(outcomes):.3f})"


def _progress(section: str) -> None:
    sys.stderr.write(f"measuring {section}\n")


if __name__ == "__main__":
    sys.exit(main())
