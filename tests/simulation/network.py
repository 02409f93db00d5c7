"""What lies between clients and brokers: delays, lost requests, lost answers, and errors as clients see them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, TypeVar

from confluent_kafka import KafkaError, KafkaException

from tests.simulation.loop import SimLoop, SimProcess

T = TypeVar("T")


class LostError(Exception):
    """No answer came. Whether the request arrived is not known."""


@dataclass(slots=True)
class Weather:
    """How the network and the brokers behave; changed while a schedule runs."""

    latency_s: float = 0.002
    spike: float = 0.0
    """Chance that a message takes up to `spike_s` longer."""
    spike_s: float = 1.0
    loss: float = 0.0
    """Chance that a request, or its answer, is lost."""
    patience_s: float = 1.0
    """Seconds after which a client takes a request or its answer for lost."""
    slow: float = 1.0
    """Factor on every delay but the spikes."""
    strays: float = 0.0
    """Chance that a consumer loses its place in a partition when it should give a record of it."""

    def heal(self) -> None:
        self.spike = self.loss = self.strays = 0.0
        self.slow = 1.0


class Trace:
    """What happened when, in words; kept only for a replay. A digest of it is kept always, to compare two runs."""

    def __init__(self, loop: SimLoop, keep: bool) -> None:
        self._loop = loop
        self._keep = keep
        self.lines: list[str] = []
        self.events = 0

    def __call__(self, who: str, what: str, *arguments: object) -> None:
        self.events += 1
        if self._keep:
            self.lines.append(f"{self._loop.time() - 1000:9.4f}  {who:<14} {what % arguments if arguments else what}")


class Network:
    """Carries requests to the brokers' process. A request that is on its way outlives the client that sent it."""

    def __init__(self, loop: SimLoop, random: Random, weather: Weather, trace: Trace) -> None:
        self.loop = loop
        self.random = random
        self.weather = weather
        self.trace = trace
        self.brokers = SimProcess(loop, "brokers")

    async def request(self, effect: Callable[[], Any], *, may_be_lost: bool = False) -> Any:
        """The answer to `effect`, which runs at the brokers; a future that it returns is waited for.

        Raises what it raises, and `LostError` after a while where `may_be_lost`.
        """
        weather, answer = self.weather, self.loop.create_future()
        lost = may_be_lost and weather.loss > 0 and self.random.random() < weather.loss
        if lost:
            self.brokers.main.call_later(weather.patience_s, self._arrive, answer, None, LostError())
            if self.random.random() < 0.5:
                return await answer
        self.brokers.main.call_later(self.delay(), self._serve, effect, None if lost else answer)
        return await answer

    def delay(self) -> float:
        weather = self.weather
        seconds = weather.latency_s * weather.slow * (0.2 + self.random.random())
        if weather.spike and self.random.random() < weather.spike:
            seconds += weather.spike_s * self.random.random()
        return seconds

    def _serve(self, effect: Callable[[], Any], answer: asyncio.Future[Any] | None) -> None:
        try:
            result = effect()
        except KafkaException as error:
            self._reply(answer, None, error)
            return
        if isinstance(result, asyncio.Future):
            result.add_done_callback(lambda done: self._reply(answer, *_result(done)))
        else:
            self._reply(answer, result, None)

    def _reply(self, answer: asyncio.Future[Any] | None, result: object, error: BaseException | None) -> None:
        if answer is not None:
            self.brokers.main.call_later(self.delay(), self._arrive, answer, result, error)

    @staticmethod
    def _arrive(answer: asyncio.Future[Any], result: object, error: BaseException | None) -> None:
        if answer.done():
            return
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(result)


def _result(done: asyncio.Future[Any]) -> tuple[object, BaseException | None]:
    error = done.exception()
    return (None, error) if error is not None else (done.result(), None)


def refusal(code: int, *, fatal: bool = False, retriable: bool = False, abort: bool = False) -> KafkaException:
    """A client's error with the flags that librdkafka puts on it."""
    return KafkaException(KafkaError(code, None, fatal, retriable, abort))


def code_of(error: KafkaException) -> int:
    return int(error.args[0].code())
