"""The content that the benchmarks send: about 500 bytes, every event its own."""

from __future__ import annotations

import json

SLOW, INSTANT, TAIL = "[[delay=20]]", "[[delay=0]]", "tail"
"""What the scripted guard (tests/guards) is told: 20 ms, no delay; and `TAIL`, of which `order_of` makes one of two orders."""

FILLER = "An ordinary sentence about nothing in particular, of the length that people write in a comment. "


def order_of(load: str, number: int) -> str:
    """What the guard shall do with request `number`: with `TAIL`, 1 answer in 100 takes 3 s and the rest 20 ms."""
    if load != TAIL:
        return load
    return "[[delay=3000]]" if number % 100 == 0 else SLOW


def content(number: int, order: str) -> bytes:
    """One event of about 500 bytes; `order` is what the scripted guard shall do."""
    return json.dumps(
        {
            "id": f"event-{number:09d}",
            "tenant": "default",
            "kind": "post",
            "user_text": f"{order} {number} {FILLER * 3}",
            "author": f"author-{number % 997}",
            "occurred_at": "2026-01-01T00:00:00Z",
        }
    ).encode()
