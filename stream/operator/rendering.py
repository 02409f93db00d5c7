"""How a person sees what is on the topics: one line an outcome, safe on any terminal.

Ids, names and error texts come from whoever writes to Kafka. On a terminal they must neither move the cursor nor recolour or
reverse what follows, and `rich` must not read them as markup.
"""

from __future__ import annotations

import unicodedata

from rich.markup import escape
from rich.text import Text

from schemas.deadletters import DeadLetter
from schemas.verdicts import Label, Status, Verdict

_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_LABELS = {Label.SAFE: "green", Label.UNSAFE: "bold red", None: "dim"}
_ACTIONS = {"allow": "green", "block": "bold red"}
_NOT_DECIDED = "yellow"


def clean(text: str, limit: int | None = None) -> str:
    """`text` as a terminal may see it: one line, every character visible.

    Control, format, surrogate, private and unassigned characters and line separators become their escapes (`\\x1b`, `\\u202e`).
    What is longer than `limit` characters is cut first, and ends in an ellipsis.
    """
    if limit is not None and len(text) > limit:
        text = text[: limit - 1] + "…"
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character.encode("unicode_escape").decode() if unicodedata.category(character) in _HIDDEN else character
        for character in text
    )


def printable(text: str) -> str:
    """`clean`, and escaped for a place where `rich` reads markup."""
    return escape(clean(text))


def milliseconds(verdict: Verdict) -> float:
    """How long the event took in the worker. `prepare` includes the time for its images."""
    stages = verdict.timings
    return sum(ms for stage, ms in stages.items() if stage != "evidence" or "prepare" not in stages)


def verdict_row(verdict: Verdict) -> Text:
    """One line: time, tenant, event id, modality, request and response, action, milliseconds, and the category or the reason."""
    row = _begin(verdict.issued_at.strftime("%H:%M:%S"), verdict.tenant, verdict.event_id)
    row.append(f"{verdict.modality.value:<10} ")
    for label in (verdict.request, verdict.response):
        row.append(f"{label.value if label else '–':<6} ", style=_LABELS[label])
    action_style = _NOT_DECIDED if verdict.status is Status.INDETERMINATE else _ACTIONS.get(verdict.action, "yellow")
    row.append(f"{clean(verdict.action):<7} ", style=action_style)
    row.append(f"{milliseconds(verdict):>6.0f} ms  ", style="dim")
    if verdict.status is Status.INDETERMINATE:
        row.append(f"indeterminate: {verdict.reason.value if verdict.reason else 'no reason'}", style=_NOT_DECIDED)
    elif verdict.category is not None:
        known = verdict.category.in_taxonomy
        text = " / ".join(verdict.category.path) if known else f"new risk: {verdict.category.name}"
        row.append(clean(f"{verdict.category.id} {text}" if known else text, 90), style="" if known else "bold magenta")
    return row


def dead_letter_row(letter: DeadLetter) -> Text:
    """One line in the same columns: an event that was not judged, why, and where its record is."""
    row = _begin(letter.failed_at.strftime("%H:%M:%S"), letter.tenant or "–", letter.event_id or "–")
    row.append(f"dead letter: {letter.reason.value}", style=_NOT_DECIDED)
    source = letter.source
    row.append(f"  {clean(source.topic, 60)}[{source.partition}]@{source.offset}", style="dim")
    row.append(f"  {clean(letter.detail, 120)}" if letter.detail else "", style="dim")
    return row


def _begin(time: str, tenant: str, event_id: str) -> Text:
    row = Text().append(f"{time} ", style="dim")
    return row.append(f"{clean(tenant, 12):<12} {clean(event_id, 24):<24} ")
