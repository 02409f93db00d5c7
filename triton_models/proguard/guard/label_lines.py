"""Where in a text that is being written a label may come next."""

from __future__ import annotations

_LINES = tuple(f"{name}:{label}".encode() for name in ("Request", "Response") for label in ("unsafe", "safe"))


class LineTail:
    """The line that a text is in, as far as it could still be a label's line."""

    __slots__ = ("_line",)

    def __init__(self) -> None:
        self._line: bytes | None = b""

    def write(self, piece: bytes) -> None:
        """The text goes on with `piece`."""
        _, newline, after = piece.rpartition(b"\n")
        line = after if newline else None if self._line is None else self._line + piece
        self._line = line if line is not None and _may_be_label(line) else None

    @property
    def may_write_label(self) -> bool:
        """Whether the next token could hold some of `Request:…` or `Response:…`: the line is empty or a beginning of one."""
        return self._line is not None


def _may_be_label(line: bytes) -> bool:
    return any(full.startswith(line) for full in _LINES)
