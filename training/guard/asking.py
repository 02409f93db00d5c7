"""Asks a guard on Triton, many requests at a time."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tritonclient.grpc import aio as grpc

from schemas import tensors


@dataclass(frozen=True, slots=True)
class Scores:
    """What a guard said to one prompt; a score that it did not give is None."""

    request: float | None
    response: float | None
    manifest: str


Ask = Callable[[str, str], Awaitable[Scores]]
"""From the system and the user message."""


async def ask_all(
    url: str, model: str, prompts: Sequence[tuple[str, str]], *, concurrent: int, timeout_s: float
) -> list[Scores]:
    """The scores of all (system, user) pairs, in order, with at most `concurrent` in flight.

    Raises `tritonclient.utils.InferenceServerException` for the first request that fails.
    """
    places = asyncio.Semaphore(concurrent)
    client = grpc.InferenceServerClient(url)

    async def one(system: str, user: str) -> Scores:
        async with places:
            inputs = [_text(tensors.SYSTEM, system), _text(tensors.USER, user)]
            outputs = [grpc.InferRequestedOutput(name) for name in (tensors.SCORES, tensors.MANIFEST)]
            result = await client.infer(model, inputs, outputs=outputs, client_timeout=timeout_s)
        request, response = (float(score) for score in result.as_numpy(tensors.SCORES))
        manifest = result.as_numpy(tensors.MANIFEST)[0].decode()
        return Scores(_known(request), _known(response), manifest)

    try:
        return list(await asyncio.gather(*(one(system, user) for system, user in prompts)))
    finally:
        await client.close()


def _text(name: str, text: str) -> Any:
    tensor = grpc.InferInput(name, [1], "BYTES")
    tensor.set_data_from_numpy(np.array([text.encode()], dtype=np.object_))
    return tensor


def _known(score: float) -> float | None:
    return None if math.isnan(score) else score
