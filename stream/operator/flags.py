"""Every setting as a flag: made from `WorkerSettings`, so a setting cannot be without its flag, description and default."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from pydantic_settings import CliSettingsSource, SettingsError

from stream.errors import ConfigurationError
from stream.settings import WorkerSettings

_DESCRIPTION = """\
Judge content events until SIGTERM or SIGINT.

Every setting has a flag, an environment variable and a place in a file:

  flag      --kafka.group-id NAME
  variable  PROGUARD_KAFKA__GROUP_ID=NAME      PROGUARD_, then each level in capitals, two underscores between levels
  file      kafka: {group_id: NAME}            YAML or JSON, named by --config FILE or PROGUARD_CONFIG

A flag wins over a variable, a variable over the file, the file over the default. A name that is no setting is refused, wherever it
stands. A mapping is given as JSON: --evidence.stores '{"s3://bucket": {"kind": "s3", "region": "eu-central-1"}}'.
Secrets belong into variables or the file: the flags of a process can be seen by everybody on its machine.
"""

_EPILOG = """\
Exit status: 0 after a signal, 1 when it failed while running, 2 when it could not start (settings, policy, port)."""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, where argparse would print the usage of all settings first."""

    def error(self, message: str) -> NoReturn:
        raise ConfigurationError(f"{message} (see `{self.prog} --help`)")


def parse_flags(arguments: Sequence[str], program: str) -> CliSettingsSource[Any]:
    """What these arguments set. Raises `ConfigurationError` for an unknown flag; ends the process after `--help`."""
    parser = _Parser(
        prog=program,
        usage=f"{program} [--config FILE] [--SETTING VALUE ...]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=_Wide,
        allow_abbrev=False,
    )
    # `--config` is taken before these flags are read; it is here for the help alone.
    parser.add_argument("--config", metavar="FILE", help="Settings file, in the place of PROGUARD_CONFIG.")
    source: CliSettingsSource[Any] = CliSettingsSource(
        WorkerSettings, root_parser=parser, cli_show_env_vars=True, cli_exit_on_error=False
    )
    try:
        return source(args=list(arguments))
    except SettingsError as error:
        raise ConfigurationError(str(error)) from None


class _Wide(argparse.RawDescriptionHelpFormatter):
    """Room for the long names of nested settings."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=36, width=120)
