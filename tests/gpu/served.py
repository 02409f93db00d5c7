"""The same measurement of speed through a real tritonserver, with the transformers engine."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tritonclient.grpc import aio as grpc

from schemas import tensors
from stream.devkit.triton import TritonServer
from tests.gpu.acceptance import Rate, quantile
from tests.gpu.prompts import Prompt, load
from tests.triton_models.contract_suite import answers
from tests.triton_models.proguard.serving import ENVIRONMENT, MODEL, copy_model, environment

START_SECONDS = 1200.0
"""For the hashes and the weights of 16 GB from a slow disk."""


def served_rates(
    checkpoint: Path, *, device: str, concurrent: Sequence[int], number: dict[int, int], max_tokens: int
) -> list[Rate]:
    """Start the server, measure, stop it. `number` says how many answers for each number in flight. Blocks throughout."""
    with tempfile.TemporaryDirectory(prefix="gpu-check-triton-") as temporary:
        folder = Path(temporary)
        server = TritonServer(
            copy_model(folder),
            ENVIRONMENT,
            folder,
            models=[MODEL],
            ready=lambda url: answers(url, MODEL),
            start_timeout=START_SECONDS,
        )
        settings = {"CHECKPOINT": str(checkpoint), "DEVICE": device, "MAX_BATCH": str(max(concurrent))}
        with environment(**settings), server:
            return asyncio.run(_measure(server.grpc_url, concurrent, number, max_tokens))


async def _measure(url: str, concurrent: Sequence[int], number: dict[int, int], max_tokens: int) -> list[Rate]:
    client = grpc.InferenceServerClient(url)
    alone: dict[str, str] = {}
    try:
        return [await _rate(client, places, number[places], max_tokens, alone) for places in concurrent]
    finally:
        await client.close()


async def _rate(
    client: grpc.InferenceServerClient, concurrent: int, number: int, max_tokens: int, alone: dict[str, str]
) -> Rate:
    places = asyncio.Semaphore(concurrent)
    seconds: list[float] = []
    tokens = 0
    same: list[bool] = []

    async def one(asked: Prompt) -> None:
        nonlocal tokens
        async with places:
            begun = time.perf_counter()
            result = await client.infer(MODEL, _inputs(asked, max_tokens))
            seconds.append(time.perf_counter() - begun)
        text = result.as_numpy(tensors.TEXT)[0].decode()
        tokens += int(result.as_numpy(tensors.USAGE)[1])
        same.append(alone.setdefault(asked.name, text) == text)

    begun = time.perf_counter()
    await asyncio.gather(*map(one, load(number)))
    elapsed = time.perf_counter() - begun
    return Rate(
        concurrent=concurrent,
        answers=number,
        answers_per_s=number / elapsed,
        tokens_per_s=tokens / elapsed,
        p50_s=statistics.median(seconds),
        p95_s=quantile(seconds, 0.95),
        first_token_p50_s=float("nan"),  # The server does not say; it is in its own metrics.
        same_as_alone=sum(same) / len(same),
    )


def _inputs(asked: Prompt, max_tokens: int) -> list[Any]:
    inputs = []
    for name, text in ((tensors.SYSTEM, asked.system), (tensors.USER, asked.user)):
        tensor = grpc.InferInput(name, [1], "BYTES")
        tensor.set_data_from_numpy(np.array([text.encode()], dtype=np.object_))
        inputs.append(tensor)
    limit = grpc.InferInput(tensors.MAX_TOKENS, [1], "INT32")
    limit.set_data_from_numpy(np.array([max_tokens], dtype=np.int32))
    return [*inputs, limit]
