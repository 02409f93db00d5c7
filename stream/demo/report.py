"""The demo's tables, from what was read back from the topics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from rich.columns import Columns
from rich.console import Console, RenderableType
from rich.table import Table

from schemas.verdicts import Label, Verdict
from stream.demo.audit import AuditReport
from stream.operator.rendering import printable


def show(report: AuditReport, console: Console) -> None:
    """Verdicts by modality, label, category and action, the risks outside the policy, and dead letters by reason."""
    verdicts = report.verdicts
    console.rule("What the topics hold")
    console.print(
        Columns(
            [
                _counts("Modality", (verdict.modality.value for verdict in verdicts)),
                _counts("Label", map(_label, verdicts)),
                _counts("Action", (verdict.action for verdict in verdicts)),
                _counts("Dead letter", (letter.reason.value for letter in report.dead_letters)),
            ],
            padding=(0, 3),
        )
    )
    console.print(_categories(verdicts))
    console.print(_counts("Risk outside the policy, as the guard named it", (event.name for event in report.ood)))
    for fault in report.faults:
        console.print(f"[bold red]fault[/] {printable(fault)}")


def _label(verdict: Verdict) -> str:
    if verdict.request is None:
        return "indeterminate"
    labels = [verdict.request, verdict.response]
    if verdict.response is None:
        return f"{verdict.request.value}"
    return " / ".join(label.value for label in labels if label is not None)


def _counts(title: str, values: Iterable[str]) -> Table:
    table = Table(title_justify="left", show_edge=False, pad_edge=False)
    table.add_column(title, overflow="fold")
    table.add_column("n", justify="right")
    for value, count in Counter(values).most_common():
        table.add_row(printable(value), str(count))
    return table


def _categories(verdicts: Iterable[Verdict]) -> RenderableType:
    table = Table(show_edge=False, pad_edge=False)
    table.add_column("Category")
    table.add_column("Path")
    table.add_column("n", justify="right")
    found = [v.category for v in verdicts if v.category is not None and v.category.in_taxonomy and _unsafe(v)]
    counts = Counter((category.id or "", " › ".join(category.path)) for category in found)
    for (category_id, path), count in sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])):
        table.add_row(category_id, printable(path), str(count))
    return table


def _unsafe(verdict: Verdict) -> bool:
    return Label.UNSAFE in (verdict.request, verdict.response)
