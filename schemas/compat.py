"""Does a new schema still fit everything that was published?

    python -m schemas.compat [--published FOLDER]

compares the models with every published version, prints what would break, and exits 1 when anything does:

- Events and policies come from others: whatever a published producer schema allowed must still be accepted.
- Verdicts, OOD events and dead letters are read by others: whatever this release writes must be accepted by every
  published consumer schema. Their topics also hold records of older releases, so this release's own reader must accept
  whatever a published producer schema allowed.

FOLDER is for a release pipeline that compares with the folder of its last release instead of the committed one.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path

from schemas.containment import Breaking, Schema, uncovered
from schemas.jsonschemas import CONTRACTS, Role, reader_schema, schema_of

PUBLISHED = Path(__file__).parent / "published"


class Direction(StrEnum):
    """Which way records travel between the releases."""

    INPUT = "input"
    """Old producers write, the new release reads."""
    OUTPUT = "output"
    """The new release writes, old consumers read."""


def breaking_changes(old: Schema, new: Schema, direction: Direction) -> list[Breaking]:
    """What breaks when `old` becomes `new`; empty when nothing does.

    Sound, not complete: with no finding, every instance that the writing side's schema allows is valid under the
    reading side's schema. What cannot be decided by comparing keywords (other patterns, keywords this module does not
    know) is reported. A removed field is reported in both directions, even where the reading side is open and would
    drop it silently, and for inputs a changed default too: what was left out would mean something else.
    """
    if direction is Direction.INPUT:
        return uncovered(writer=old, reader=new, losses=True)
    return uncovered(writer=new, reader=old, losses=False)


def check_models(published: Path = PUBLISHED) -> list[str]:
    """Everything in the models that breaks a published version, one readable line each.

    Raises `FileNotFoundError` when nothing is published there: a check against nothing proves nothing.
    """
    versions = sorted(folder for folder in published.glob("v*") if folder.is_dir())
    if not any(version.glob("*.json") for version in versions):
        raise FileNotFoundError(f"no schema is published in {published.name}: run python -m schemas.publish")
    return [line for version in versions for line in _check_version(version)]


def _check_version(version: Path) -> list[str]:
    lines: list[str] = []
    known = {contract.name: contract for contract in CONTRACTS}
    for file in sorted(version.glob("*.json")):
        name, role = file.name.split(".")[:2]
        contract = known.get(name)
        if contract is None:
            lines.append(f"{version.name}/{file.name}: the contract {name} does not exist any more")
            continue
        old = json.loads(file.read_bytes())
        if role == Role.PRODUCER:
            found = breaking_changes(old, reader_schema(contract), Direction.INPUT)
        elif contract.written_here:
            found = breaking_changes(old, schema_of(contract, Role.PRODUCER), Direction.OUTPUT)
        else:
            found = []  # how open a reader of events and policies is concerns nobody who writes them
        lines.extend(f"{version.name}/{file.name}: {breaking}" for breaking in found)
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m schemas.compat", description="Compare the models with what was published."
    )
    parser.add_argument("--published", type=Path, default=PUBLISHED, metavar="FOLDER", help="folder of v1, v2, …")
    try:
        lines = check_models(parser.parse_args(arguments).published)
    except FileNotFoundError as error:
        lines = [str(error)]
    for line in lines:
        sys.stdout.write(f"{line}\n")
    if lines:
        sys.stdout.write(
            f"{len(lines)} breaking: keep the old form readable, or publish a new version beside this one\n"
        )
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
