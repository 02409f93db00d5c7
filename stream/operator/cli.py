"""The `proguard-stream` command: what an operator can do, each part in a module of its own.

Exit status: 0 all is well, 1 the command did its work and the answer is bad, 2 it could not do its work. An error is a red line
on standard error, never a traceback.
"""

from __future__ import annotations

import os
import sys
from importlib import metadata
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from stream.errors import ProGuardStreamError
from stream.operator import events, policies, topics, verdicts
from stream.operator.doctor import doctor
from stream.operator.models import commands as models
from stream.operator.output import complain
from stream.operator.redrive import redrive
from stream.operator.worker_command import worker

DISTRIBUTION = "proguard-stream"
DEMO = "demo"

PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}
"""The flags of settings are made from the settings, so Typer does not know them: it hands them on."""


class _Root(TyperGroup):
    """Turns errors that are somebody's to fix into one line and exit status 2, and loads the demo when it is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), DEMO]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name == DEMO:
            # It brings the development kit and the guard's client along: no worker should carry them in memory.
            from stream.demo.command import demo

            part = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
            part.command(DEMO)(demo)
            return typer.main.get_command(part)
        return super().get_command(ctx, cmd_name)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ProGuardStreamError as error:
            complain(str(error))
        except BrokenPipeError:
            # What reads our output has gone, e.g. `| head`. Python would complain once more at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except OSError as error:
            complain(f"{error.filename or 'input or output'}: {error.strerror or type(error).__name__}")
        raise typer.Exit(2)


app = typer.Typer(
    cls=_Root,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Moderate event streams with the ProGuard guard: Kafka in, verdicts and named new risks out.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        try:
            typer.echo(f"proguard-stream {metadata.version(DISTRIBUTION)}")
        except metadata.PackageNotFoundError:
            typer.echo("proguard-stream (from a source tree that is not installed)")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and end.")
    ] = False,
) -> None:
    """What holds for all commands."""


app.command("worker", context_settings={**PASS_ON, "help_option_names": []})(worker)
app.command("doctor", context_settings=PASS_ON)(doctor)
app.add_typer(topics.app, name="topics")
app.add_typer(events.app, name="events")
app.add_typer(verdicts.app, name="verdicts")
app.command("redrive")(redrive)
app.add_typer(policies.app, name="policy")
app.add_typer(models.app, name="model")


def main() -> None:
    """The entry point. Ends the process."""
    app(prog_name=DISTRIBUTION)


if __name__ == "__main__":
    main()
