"""The floor: `tritonclient.grpc.aio` alone, no Kafka, 64 requests in flight. Prints requests a second and CPU ms each."""

from __future__ import annotations

import asyncio
import json
import sys
import time

import numpy as np
import uvloop
from tritonclient.grpc import InferInput
from tritonclient.grpc.aio import InferenceServerClient

from schemas import tensors
from schemas.events import ContentEvent
from schemas.policy import default_policy
from schemas.prompt import SystemPrompt
from tests.benchmarks.load import content

IN_FLIGHT = 64


def text_tensor(name: str, text: str) -> InferInput:
    tensor = InferInput(name, [1], "BYTES")
    tensor.set_data_from_numpy(np.array([text.encode()], dtype=object))
    return tensor


async def drive(url: str, requests: int, order: str) -> dict[str, float]:
    """`requests` calls, `IN_FLIGHT` at a time; the rate is over all but the first and last tenth."""
    client = InferenceServerClient(url)
    event = ContentEvent.model_validate_json(content(0, order))
    prompt = SystemPrompt(default_policy(), event.modality).join(event)
    system = text_tensor(tensors.SYSTEM, prompt.system)  # as good as a loop can be: what is constant is made once
    finished: list[float] = []
    left = iter(range(requests))

    async def lane() -> None:
        for _ in left:
            user = text_tensor(tensors.USER, prompt.user)
            result = await client.infer("scripted_guard", [system, user], client_timeout=30)
            assert result.as_numpy(tensors.TEXT) is not None
            finished.append(time.monotonic())

    cpu = time.process_time()
    await asyncio.gather(*(lane() for _ in range(IN_FLIGHT)))
    cpu = time.process_time() - cpu
    await client.close()
    finished.sort()
    low, high = requests // 10, requests - requests // 10 - 1
    return {"rate": (high - low) / (finished[high] - finished[low]), "cpu_ms": cpu * 1000 / requests}


if __name__ == "__main__":
    url, requests, order = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    sys.stdout.write(json.dumps(uvloop.run(drive(url, requests, order))) + "\n")
