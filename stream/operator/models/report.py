"""What a promotion came to, for people and for scripts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from stream.operator.output import cell, out

if TYPE_CHECKING:
    from stream.operator.models.promotion import Promotion

MOST_DIFFERENCES = 10
"""Differences that a person is shown; `--json` has all."""

_STYLES = {"promoted": "green", "rejected": "yellow", "rolled back": "bold red"}


def promotion_as_json(result: Promotion) -> dict[str, object]:
    return {
        "outcome": result.outcome,
        "why": result.why,
        "old": {"version": result.old, "manifest": result.old_manifest},
        "new": {"version": result.new, "manifest": result.new_manifest},
        "comparison": None if result.comparison is None else result.comparison.as_json(),
        "watched": result.watched,
    }


def show_promotion(result: Promotion, min_format_valid: float, min_agreement: float) -> None:
    """The figures beside their limits, the first differences, and the outcome in the last line."""
    console = out()
    found = result.comparison
    if found is not None:
        table = Table("", f"version {result.old}", f"version {result.new}", "limit", box=None, header_style="dim")
        old_share, new_share = found.old_valid / found.samples, found.format_valid
        table.add_row("readable", f"{old_share:.1%}", f"{new_share:.1%}", f"{min_format_valid:.1%}")
        table.add_row("same labels", "", f"{found.agreement:.1%} of {found.compared}", f"{min_agreement:.1%}")
        same = f"{found.same_category / found.compared:.1%}" if found.compared else "–"
        table.add_row("same category", "", same, "–")
        console.print(table)
        if found.differences:
            table = Table("event", f"version {result.old}", f"version {result.new}", box=None, header_style="dim")
            for difference in found.differences[:MOST_DIFFERENCES]:
                table.add_row(cell(difference.event_id), cell(difference.old), cell(difference.new))
            console.print(table)
            if len(found.differences) > MOST_DIFFERENCES:
                console.print(cell(f"… and {len(found.differences) - MOST_DIFFERENCES} more", "dim"))
    why = f": {result.why}" if result.why else ""
    console.print(cell(f"version {result.new} {result.outcome}{why}", _STYLES[result.outcome]))
