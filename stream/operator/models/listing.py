"""What is loaded, and with which manifest it answers."""

from __future__ import annotations

import asyncio
from typing import Any

from stream.guard.errors import GuardError
from stream.operator.models.control import LoadedVersion, ModelControl


async def listing(control: ModelControl) -> list[dict[str, Any]]:
    """One row a version of every model on the server. Each that is ready is asked a real request under its pin.

    `manifest` is None where none was given: the version is not ready, or is no guard, and `reason` says which. `unpinned` marks the
    version that answered a request without a pin.
    """
    entries = await control.index()
    unpinned = {model: await _unpinned(control, model) for model in {entry.model for entry in entries if entry.ready}}
    return list(await asyncio.gather(*(_row(control, entry, unpinned.get(entry.model)) for entry in entries)))


async def _unpinned(control: ModelControl, model: str) -> str | None:
    try:
        return (await control.answering(model)).version
    except GuardError:
        return None


async def _row(control: ModelControl, entry: LoadedVersion, unpinned: str | None) -> dict[str, Any]:
    manifest, reason = None, entry.reason
    if entry.ready and entry.version is not None:
        try:
            manifest = (await control.answering(entry.model, entry.version)).manifest
        except GuardError as error:
            reason = f"does not answer as a guard: {error}"
    return {
        "model": entry.model,
        "version": entry.version,
        "state": entry.state,
        "reason": reason,
        "manifest": manifest,
        "unpinned": unpinned is not None and str(entry.version) == unpinned,
    }
