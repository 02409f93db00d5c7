"""Scores that a guard gave to labelled events, a JSON object a line. No content: only where it came from, labels and scores."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

Label = Literal["request", "response"]


@dataclass(frozen=True, slots=True)
class Scored:
    """One event. A label that the source does not have, and a score that the guard did not give, is None."""

    id: int
    """The row's number in its split, the same at every run over the same data."""
    source: str
    request_unsafe: bool | None
    response_unsafe: bool | None
    request_score: float | None
    response_score: float | None
    manifest: str
    """The digest that the guard answered with."""

    def pair(self, label: Label) -> tuple[bool, float] | None:
        """(unsafe, score) of a label; None without one of the two."""
        unsafe = self.request_unsafe if label == "request" else self.response_unsafe
        score = self.request_score if label == "request" else self.response_score
        return None if unsafe is None or score is None else (unsafe, score)


def write_scored(path: Path, rows: Iterable[Scored]) -> None:
    """Write all rows, in order."""
    lines = (json.dumps(asdict(row)) + "\n" for row in sorted(rows, key=lambda row: row.id))
    path.write_text("".join(lines), encoding="utf-8")


def read_scored(path: Path) -> list[Scored]:
    """Raises `ValueError` for a line that is no such object, and `OSError`."""
    rows: list[Scored] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            raw: dict[str, Any] = json.loads(line)
            rows.append(Scored(**raw))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path.name}, line {number}: not a scored event ({type(error).__name__})") from error
    return rows
