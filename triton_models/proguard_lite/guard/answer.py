"""The completion in ProGuard's grammar."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Answer:
    """One completion and what travels beside it.

    `request` and `response` are probabilities of unsafe; `response` is NaN where there is no agent turn. `usage` counts word
    pieces read and written.
    """

    text: str
    finish_reason: str
    request: float
    response: float
    usage: tuple[int, int]


def write(*, think: str, request: bool, response: bool | None, category: str | None) -> str:
    """The completion. `request` and `response` say whether the turn is unsafe; `response` None leaves its line out.

    `category` is an id or a name exactly when a turn is unsafe. `think` must not hold an angle bracket.
    """
    if (category is not None) != (request or bool(response)):
        raise ValueError("a category belongs to an unsafe turn, and to nothing else")
    if "<" in think or ">" in think:
        raise ValueError("the reasoning must not hold markup")
    lines = [f"<think>{think}</think>", "<answer>", f"Request:{_label(request)}"]
    if response is not None:
        lines.append(f"Response:{_label(response)}")
    lines += [f"Category:{category or 'None'}", "</answer>"]
    return "\n".join(lines)


def _label(unsafe: bool) -> str:
    return "unsafe" if unsafe else "safe"
