"""The data folder that both commands read, and the sentences written for this project."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

Split = Literal["train", "test"]

# This source's requests are the numbers of questions that it does not hold, so only its responses mean anything.
NUMBERED_REQUESTS = "gptfuzz_responses"


@dataclass(frozen=True, slots=True)
class Row:
    """One labelled request, with or without a response. `request` is empty where the source does not hold its text."""

    source: str
    request: str
    response: str | None
    request_unsafe: bool
    response_unsafe: bool | None
    category: str | None


@dataclass(frozen=True, slots=True)
class Dataset:
    """The rows of one split. `digest` is the SHA-256 over the data files' bytes, in the order of their names."""

    rows: tuple[Row, ...]
    digest: str
    files: tuple[str, ...]


def read_dataset(folder: Path, split: Split) -> Dataset:
    """The rows of `split` in `folder`/text/*.jsonl.gz. Raises `FileNotFoundError` when there is none."""
    files = sorted((folder / "text").glob("*.jsonl.gz"))
    if not files:
        raise FileNotFoundError(f"{folder} has no text/*.jsonl.gz")
    digest = hashlib.sha256()
    rows: list[Row] = []
    for file in files:
        digest.update(file.read_bytes())
        rows += [_row(raw) for raw in _lines(file) if raw["split"] == split]
    return Dataset(tuple(rows), digest.hexdigest(), tuple(file.name for file in files))


def benign(name: Literal["train", "heldout"]) -> tuple[str, ...]:
    """Ordinary harmless sentences of our own: `train` to fit on, `heldout` for the figure of false positives."""
    return tuple(_own(f"benign_{name}.txt").splitlines())


def own_unsafe(name: Literal["train", "heldout"]) -> list[tuple[str | None, str]]:
    """(id of the default policy or None, text): unsafe requests and posts of our own, over many more risks than the sources."""
    pairs = (line.split("\t") for line in _own(f"unsafe_{name}.tsv").splitlines())
    return [(None if category == "-" else category, text) for category, text in pairs]


def own_responses(name: Literal["train", "heldout"]) -> list[tuple[bool, str]]:
    """(unsafe, text): responses of our own, refusals and warnings among the safe ones."""
    pairs = (line.split("\t") for line in _own(f"responses_{name}.tsv").splitlines())
    return [(label == "unsafe", text) for label, text in pairs]


def category_map() -> dict[str, dict[str, str | None]]:
    """From a source's category to an id of the default policy, where that is unambiguous; None where no category fits."""
    mapping: dict[str, dict[str, str | None]] = json.loads(_own("category_map.json"))
    return mapping


def mapped(row: Row, mapping: dict[str, dict[str, str | None]]) -> bool:
    """Whether `row`'s category has an entry in `mapping`."""
    return row.request_unsafe and row.category in mapping.get(row.source, {})


def _own(name: str) -> str:
    return resources.files("training.lite").joinpath(name).read_text(encoding="utf-8")


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def _row(raw: dict[str, Any]) -> Row:
    labelled = raw["response_label"] is not None
    return Row(
        source=raw["source"],
        request="" if raw["source"] == NUMBERED_REQUESTS else raw["request"],
        response=raw["response"],
        request_unsafe=raw["request_label"] == "unsafe",
        response_unsafe=raw["response_label"] == "unsafe" if labelled else None,
        category=raw["category"],
    )
