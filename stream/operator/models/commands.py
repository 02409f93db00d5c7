"""`proguard-stream model`: what the guard's server has loaded, and how it gets another version."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.table import Table

from stream.operator.kafka import ConfigOption
from stream.operator.output import JsonFlag, cell, emit_json, note, out
from stream.settings import load_settings

if TYPE_CHECKING:
    from stream.operator.models.control import ModelControl
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


def _tell(loaded: list[int], as_json: bool) -> None:
    if as_json:
        emit_json({"loaded": loaded})
    else:
        out().print(cell(f"loaded: {', '.join(map(str, loaded)) or 'nothing'}"))


def _forgetful() -> None:
    note(
        "the server forgets this when it restarts: give --repository, or write the version_policy into the model's config.pbtxt"
    )
