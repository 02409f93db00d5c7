"""The floor: `tritonclient.grpc.aio` alone, no Kafka: `python -m tests.benchmarks.bare_loop URL REQUESTS ORDER [RATE]`.

Prints one JSON document. With 64 requests in flight: requests a second, and CPU ms each. At a given rate: each request's seconds.
"""

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
from tests.benchmarks.latency import WARM_UP_S
from tests.benchmarks.load import SLOW, content, order_of

IN_FLIGHT = 64


def text_tensor(name: str, text: str) -> InferInput:
    tensor = InferInput(name, [1], "BYTES")
    tensor.set_data_from_numpy(np.array([text.encode()], dtype=object))
    return tensor


class Asker:
    """Asks as well as the plain client can: what is constant is made once."""

    def __init__(self, url: str, order: str) -> None:
        self.client = InferenceServerClient(url)
        self._order = order
        self._users: dict[str, str] = {}
        event = ContentEvent.model_validate_json(content(0, SLOW))
        self._prompt = SystemPrompt(default_policy(), event.modality)
        self._system = text_tensor(tensors.SYSTEM, self._prompt.join(event).system)

    async def ask(self, number: int) -> None:
        user = text_tensor(tensors.USER, self._user(order_of(self._order, number)))
        result = await self.client.infer("scripted_guard", [self._system, user], client_timeout=30)
        assert result.as_numpy(tensors.TEXT) is not None

    def _user(self, order: str) -> str:
        if order not in self._users:
            event = ContentEvent.model_validate_json(content(0, order))
            self._users[order] = self._prompt.join(event).user
        return self._users[order]


async def pace(url: str, requests: int, order: str, rate: float) -> list[float]:
    """`requests` calls, `rate` a second, however long each takes: the seconds of those after the first second."""
    asker, began = Asker(url, order), time.monotonic()

    async def one(number: int) -> float:
        await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
        sent = time.monotonic()
        await asker.ask(number)
        return time.monotonic() - sent

    took = await asyncio.gather(*(one(number) for number in range(requests)))
    await asker.client.close()
    return took[int(rate * WARM_UP_S) :]


async def drive(url: str, requests: int, order: str) -> dict[str, float]:
    """`requests` calls, `IN_FLIGHT` at a time; the rate is over all but the first and last tenth."""
    asker = Asker(url, order)
    finished: list[float] = []
    left = iter(range(requests))

    async def lane() -> None:
        for number in left:
            await asker.ask(number)
            finished.append(time.monotonic())

    cpu = time.process_time()
    await asyncio.gather(*(lane() for _ in range(IN_FLIGHT)))
    cpu = time.process_time() - cpu
    await asker.client.close()
    finished.sort()
    low, high = requests // 10, requests - requests // 10 - 1
    return {"rate": (high - low) / (finished[high] - finished[low]), "cpu_ms": cpu * 1000 / requests}


if __name__ == "__main__":
    url, requests, order, rates = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4:]
    found = uvloop.run(pace(url, requests, order, float(rates[0])) if rates else drive(url, requests, order))
    sys.stdout.write(json.dumps(found) + "\n")
