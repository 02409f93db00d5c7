"""`proguard-stream model`: what the guard's server has loaded, and how it gets another version."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.table import Table

from stream.errors import ConfigurationError
from stream.operator.kafka import ConfigOption
from stream.operator.models.report import promotion_as_json, show_promotion
from stream.operator.output import JsonFlag, cell, emit_json, note, out
from stream.settings import load_settings

if TYPE_CHECKING:
    from stream.operator.models.control import ModelControl
    from stream.operator.models.promotion import Promotion
    from stream.operator.models.repository import ModelRepository

app = typer.Typer(no_args_is_help=True, help="Look at, load, promote and roll back the guard's versions on Triton.")

T = TypeVar("T")

UrlOption = Annotated[
    str | None, typer.Option("--url", help="Triton's gRPC address, in the place of PROGUARD_GUARD__URL.")
]
ModelOption = Annotated[str | None, typer.Option("--model", help="The model, in the place of PROGUARD_GUARD__MODEL.")]
RepositoryOption = Annotated[
    Path | None,
    typer.Option(
        "--repository",
        metavar="FOLDER",
        help="Triton's model repository as seen from here: what is loaded is written into config.pbtxt, so it holds after a restart.",
    ),
]
TimeoutOption = Annotated[float, typer.Option("--timeout", min=1, help="Seconds for a load or an unload.")]
VersionArgument = Annotated[int, typer.Argument(min=1, help="A version: the name of its folder.")]

LOAD_S = 600.0
_STYLES = {"READY": "green", "LOADING": "cyan", "UNLOADING": "cyan", "UNAVAILABLE": "yellow"}


def with_control(
    work: Callable[[ModelControl, ModelRepository | None], Awaitable[T]],
    *,
    config: Path | None,
    url: str | None,
    model: str | None,
    repository: Path | None = None,
    timeout: float = LOAD_S,
) -> T:
    """Runs `work` with the server that the settings and flags name. Blocks until it is done."""
    # tritonclient costs half a second that no other command should pay.
    from stream.operator.models.control import ModelControl
    from stream.operator.models.repository import ModelRepository
    from stream.policies.source import DEFAULT_TENANT, load_policies

    settings = load_settings(config=config)
    changes = {name: value for name, value in (("url", url), ("model", model)) if value is not None}
    guard = settings.guard.model_copy(update=changes)
    folder = None if repository is None else ModelRepository(repository, guard.model)
    policy = load_policies(settings.policy_path).for_tenant(DEFAULT_TENANT).policy

    async def run() -> T:
        control = ModelControl(guard, policy, repository=folder, load_timeout_s=timeout)
        try:
            return await work(control, folder)
        finally:
            await control.aclose()

    return asyncio.run(run())


@app.command("list")
def list_models(
    config: ConfigOption = None, url: UrlOption = None, model: ModelOption = None, as_json: JsonFlag = False
) -> None:
    """List every version with its state, and the manifest with which each one answers. `*` is what unpinned requests get.

    Exit status 1 when the guard that the settings name does not answer.
    """

    async def look(control: ModelControl, _: ModelRepository | None) -> tuple[str, list[dict[str, Any]]]:
        from stream.operator.models.listing import listing

        return control.model, await listing(control)

    guard, rows = with_control(look, config=config, url=url, model=model)
    if as_json:
        emit_json({"models": rows})
    else:
        table = Table(
            "", "model", "version", "state", "manifest", "reason", box=None, pad_edge=False, header_style="dim"
        )
        for row in rows:
            table.add_row(
                "*" if row["unpinned"] else "",
                cell(row["model"]),
                "–" if row["version"] is None else str(row["version"]),
                cell(row["state"], _STYLES.get(row["state"], "")),
                cell(row["manifest"] or "–"),
                cell(row["reason"]),
            )
        out().print(table)
    if not any(row["model"] == guard and row["unpinned"] for row in rows):
        raise typer.Exit(1)


@app.command("load")
def load(
    version: Annotated[
        int | None, typer.Argument(min=1, help="A version; what config.pbtxt says if not given.")
    ] = None,
    only: Annotated[bool, typer.Option("--only", help="The others go when it has answered.")] = False,
    config: ConfigOption = None,
    url: UrlOption = None,
    model: ModelOption = None,
    repository: RepositoryOption = None,
    timeout: TimeoutOption = LOAD_S,
    as_json: JsonFlag = False,
) -> None:
    """Load a version beside what runs, and wait until it has answered. No check: that is what `promote` is for.

    Requests without a pin go to the highest version that is loaded. Exit status 2 when it refuses to load: what ran goes on.
    """

    async def work(control: ModelControl, _: ModelRepository | None) -> list[int]:
        if version is None:
            return await control.load_as_configured()
        wanted = sorted({version, *([] if only else await control.loaded())})
        await control.load_only(wanted)
        return wanted

    loaded = with_control(work, config=config, url=url, model=model, repository=repository, timeout=timeout)
    _tell(loaded, as_json)
    if version is not None and repository is None:
        _forgetful()


@app.command("unload")
def unload(
    version: Annotated[int | None, typer.Argument(min=1, help="A version; all of them if not given.")] = None,
    config: ConfigOption = None,
    url: UrlOption = None,
    model: ModelOption = None,
    repository: RepositoryOption = None,
    timeout: TimeoutOption = LOAD_S,
    as_json: JsonFlag = False,
) -> None:
    """Unload a version, and wait until it has gone. Requests under way are answered before."""

    async def work(control: ModelControl, _: ModelRepository | None) -> list[int]:
        from stream.operator.models.errors import ModelControlError

        loaded = await control.loaded()
        if version is not None and version not in loaded:
            raise ModelControlError(f"{control.model} {version} is not loaded")
        left = [other for other in loaded if version is not None and other != version]
        if left:
            await control.load_only(left)
        else:
            await control.unload()
        return left

    left = with_control(work, config=config, url=url, model=model, repository=repository, timeout=timeout)
    _tell(left, as_json)
    if left and repository is None:
        _forgetful()


@app.command("promote")
def promote(
    version: VersionArgument,
    events: Annotated[
        Path | None,
        typer.Option(
            "--events", metavar="FILE", help="Questions, one event a line; the packaged samples if not given."
        ),
    ] = None,
    min_format_valid: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the answers that must be readable.")
    ] = 0.98,
    min_agreement: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the labels that must be the old version's.")
    ] = 0.95,
    watch: Annotated[float, typer.Option(min=0, help="Seconds to go on asking after the switch.")] = 60.0,
    patience: Annotated[float, typer.Option(min=0, help="Seconds to wait for a server that is away.")] = 30.0,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the old version loaded: workers may pin it.")] = False,
    exposed: Annotated[
        bool, typer.Option("--exposed", help="Without --repository: unpinned requests may meet the version on trial.")
    ] = False,
    config: ConfigOption = None,
    url: UrlOption = None,
    model: ModelOption = None,
    repository: RepositoryOption = None,
    timeout: TimeoutOption = LOAD_S,
    as_json: JsonFlag = False,
) -> None:
    """Try a version beside the one that serves, switch to it if it passes, watch it, and roll back if it fails.

    With --repository no request meets it before it has passed. Two copies are in memory for a while. Exit status 1 when it was
    rejected or rolled back: the old version serves as before.
    """
    if repository is None and not exposed:
        raise ConfigurationError(
            "without --repository FOLDER, requests that pin no version meet the new one while it is on trial: give the folder, or"
            " say --exposed"
        )

    async def work(control: ModelControl, folder: ModelRepository | None) -> Promotion:
        from stream.operator.models.comparison import Limits
        from stream.operator.models.golden import read_golden
        from stream.operator.models.promotion import Plan, Promoter
        from stream.policies.source import DEFAULT_TENANT, load_policies

        settings = load_settings(config=config)
        policy = load_policies(settings.policy_path).for_tenant(DEFAULT_TENANT).policy
        golden = await read_golden(events, policy, settings.evidence, settings.limits.max_text_chars)
        if golden.left_out:
            note(f"{golden.left_out} lines are no questions (unreadable, too long, or without their images)")
        limits = Limits(min_format_valid, min_agreement)
        plan = Plan(limits, watch, keep=keep, timeout_s=settings.guard.timeout_s, patience_s=patience)
        promoter = Promoter(control, golden.samples, plan, repository=folder, tell=note)
        return await promoter.promote(version)

    result = with_control(work, config=config, url=url, model=model, repository=repository, timeout=timeout)
    if as_json:
        emit_json(promotion_as_json(result))
    else:
        show_promotion(result, min_format_valid, min_agreement)
    if result.outcome != "promoted":
        raise typer.Exit(1)
    if repository is None:
        _forgetful()


@app.command("rollback")
def rollback(
    version: Annotated[int | None, typer.Argument(min=1, help="A version; what served before if not given.")] = None,
    config: ConfigOption = None,
    url: UrlOption = None,
    model: ModelOption = None,
    repository: RepositoryOption = None,
    timeout: TimeoutOption = LOAD_S,
    as_json: JsonFlag = False,
) -> None:
    """Back to the version that served before, without a trial. A second rollback goes forward again."""

    async def work(control: ModelControl, folder: ModelRepository | None) -> tuple[int, int]:
        from stream.operator.models.promotion import roll_back

        return await roll_back(control, folder, version)

    was, serves = with_control(work, config=config, url=url, model=model, repository=repository, timeout=timeout)
    if as_json:
        emit_json({"was": was, "serves": serves})
    else:
        out().print(cell(f"version {serves} serves, in the place of version {was}"))
    if repository is None:
        _forgetful()


def _tell(loaded: list[int], as_json: bool) -> None:
    if as_json:
        emit_json({"loaded": loaded})
    else:
        out().print(cell(f"loaded: {', '.join(map(str, loaded)) or 'nothing'}"))


def _forgetful() -> None:
    note(
        "the server forgets this when it restarts: give --repository, or write the version_policy into the model's config.pbtxt"
    )
