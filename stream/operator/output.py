"""What the commands print: results on standard output, as JSON or for people, and everything else on standard error."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from stream.operator.rendering import clean

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else on standard output.")]

_MAX_CELL = 200
_PIPE_WIDTH = 240


def cell(text: str, style: str = "") -> Text:
    """`text` for a table: clean, bounded, and never read as markup."""
    return Text(clean(text, _MAX_CELL), style=style)


def emit_json(document: object) -> None:
    """One JSON document on standard output. Only ASCII leaves, so it is safe on a terminal too."""
    typer.echo(json.dumps(document, indent=2))


def emit_json_line(document: object) -> None:
    """One document as one line, written out at once."""
    typer.echo(json.dumps(document, separators=(",", ":")))


def out() -> Console:
    """For people, on standard output. Made anew each time, because tests and pipes exchange the stream.

    Into a pipe the lines may be long: what reads them cuts by itself.
    """
    return Console(highlight=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH)


def err() -> Console:
    """For people, on standard error."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def complain(message: str) -> None:
    """An error in red on standard error. Its lines stay lines; everything else in it is made visible."""
    _say(message, "red")


def note(message: str) -> None:
    """A remark on standard error that is no result."""
    _say(message, "yellow")


def _say(message: str, style: str) -> None:
    err().print(Text("\n".join(clean(line) for line in message.split("\n")), style=style))
