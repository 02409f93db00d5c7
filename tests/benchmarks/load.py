"""The content that the benchmarks send: about 500 bytes, every event its own."""

from __future__ import annotations

import json

FILLER = "An ordinary sentence about nothing in particular, of the length that people write in a comment. "


def content(number: int, order: str) -> bytes:
    """One event of about 500 bytes; `order` is what the scripted guard shall do (tests/guards)."""
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
