"""`proguard-stream policy`: look at a policy before the workers do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.text import Text
from rich.tree import Tree

from schemas.policy import Category, Policy, SubCategory, Threshold, default_policy
from stream.errors import ConfigurationError
from stream.operator.output import JsonFlag, cell, complain, emit_json, out
from stream.policies.source import read_policy

app = typer.Typer(no_args_is_help=True, help="Show, validate or identify a policy.")

MAX_FILE_BYTES = 16 * 1024 * 1024

PolicyFile = Annotated[Path | None, typer.Argument(metavar="[FILE]", help="The packaged policy if not given.")]


def faults_of(file: Path | None) -> list[tuple[str, str]]:
    """Every wrong field with what is wrong; empty for a valid policy. Raises `ConfigurationError` when there is nothing to read."""
    if file is None:
        return []
    try:
        with file.open("rb") as opened:
            raw = opened.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"cannot read the policy {file}: {error.strerror}") from error
    if len(raw) > MAX_FILE_BYTES:
        return [("policy", f"more than {MAX_FILE_BYTES} bytes")]
    try:
        Policy.model_validate_json(raw)
    except ValidationError as error:
        return [
            (".".join(map(str, fault["loc"])) or "policy", fault["msg"].removeprefix("Value error, "))
            for fault in error.errors(include_input=False, include_url=False)
        ]
    return []


@app.command("show")
def show(file: PolicyFile = None, as_json: JsonFlag = False) -> None:
    """Show the categories, their thresholds and the rules."""
    policy = _policy(file)
    if as_json:
        emit_json({"digest": policy.digest, "policy": policy.model_dump(mode="json")})
    else:
        out().print(tree(policy))


@app.command("validate")
def validate(file: PolicyFile = None, as_json: JsonFlag = False) -> None:
    """Say whether a policy is valid, and name every field that is not. Exit status 1 when it is not."""
    faults = faults_of(file)
    if as_json:
        digest = None if faults else _policy(file).digest
        told = [{"field": field, "message": message} for field, message in faults]
        emit_json({"valid": not faults, "digest": digest, "faults": told})
    elif faults:
        for field, message in faults:
            complain(f"{field}: {message}")
    else:
        policy = _policy(file)
        console = out()
        console.print(cell(f"{policy.name} {policy.version} is valid: {_counted(policy)}"))
    if faults:
        raise typer.Exit(1)


@app.command("digest")
def digest(file: PolicyFile = None, as_json: JsonFlag = False) -> None:
    """Print the digest that verdicts carry."""
    policy = _policy(file)
    if as_json:
        emit_json({"digest": policy.digest})
    else:
        typer.echo(policy.digest)


def tree(policy: Policy) -> Tree:
    """The policy for a person: rules first, then the categories, each with the thresholds that hold for it."""
    root = Tree(cell(f"{policy.name} {policy.version} — {_counted(policy)}", "bold"), guide_style="dim")
    root.add(cell(f"digest {policy.digest}", "dim"))
    rules = root.add(Text("rules", style="bold"))
    for situation, action in (
        ("safe", policy.rules.safe),
        ("unsafe", policy.rules.unsafe),
        ("a new risk", policy.rules.out_of_distribution),
        ("no usable answer", policy.rules.indeterminate),
    ):
        rules.add(cell(f"{situation}: {action}"))
    for situation, thresholds in (("unsafe", policy.rules.thresholds), ("labelled safe", policy.rules.suspect)):
        if thresholds:
            rules.add(cell(f"{situation}, score {_thresholds(thresholds)}"))
    for category in policy.categories:
        branch = root.add(_entry(category, policy.rules.thresholds))
        for child in category.subcategories:
            inherited = policy.rules.thresholds if category.thresholds is None else category.thresholds
            branch.add(_entry(child, inherited))
    return root


def _entry(entry: Category | SubCategory, inherited: list[Threshold]) -> Text:
    own = entry.thresholds is not None
    text = cell(f"{entry.id}  {entry.name}", "bold" if isinstance(entry, Category) else "")
    thresholds = entry.thresholds if entry.thresholds is not None else inherited
    if thresholds and (own or isinstance(entry, Category)):
        text.append(f"  {_thresholds(thresholds)}", style="cyan" if own else "dim")
    return text


def _thresholds(thresholds: list[Threshold]) -> str:
    ordered = sorted(thresholds, key=lambda threshold: threshold.at_least)
    return ", ".join(f"≥ {threshold.at_least:g} {threshold.action}" for threshold in ordered)


def _counted(policy: Policy) -> str:
    return f"{len(policy.categories)} categories, {sum(len(c.subcategories) for c in policy.categories)} sub-categories"


def _policy(file: Path | None) -> Policy:
    return default_policy() if file is None else read_policy(file)
