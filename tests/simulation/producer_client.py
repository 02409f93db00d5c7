"""A Kafka producer of the simulation: what librdkafka does behind `confluent_kafka.Producer`."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka import TopicPartition as KafkaPartition

from stream.worker.ledger import Commit
from tests.simulation.brokers import Sent, SimBrokers
from tests.simulation.group import Token
from tests.simulation.loop import current_thread
from tests.simulation.network import LostError, refusal

Report = Callable[[KafkaError | None, "Sent"], None]

_BATCH = 8
"""Records in one request at most."""


@dataclass(slots=True)
class Mishaps:
    """Chances of what goes wrong in a producer, for each request."""

    refused: float = 0.0
    """A batch does not arrive in its transaction's time: the transaction must be aborted."""
    broken: float = 0.0
    """Outside of transactions: a record is refused for good, and nothing after it is written."""
    unfit: float = 0.0
    """`produce` refuses a record at once, for no reason that a retry would change."""


@dataclass(slots=True)
class _Queued:
    sent: Sent
    report: Report | None


class Delivered:
    """What a delivery report is called with."""

    def __init__(self, sent: Sent) -> None:
        self._sent = sent

    def topic(self) -> str:
        return self._sent.topic


class SimProducer:
    """One producer. Records are sent by a thread of its own; `poll` serves the reports about them."""

    def __init__(
        self,
        brokers: SimBrokers,
        *,
        transactional_id: str | None = None,
        timeout_s: float = 15.0,
        queue: int = 100_000,
        mishaps: Mishaps | None = None,
    ) -> None:
        self._brokers = brokers
        self._network = brokers.network
        self._loop = brokers.network.loop
        self._id = transactional_id
        self._number = brokers.new_producer()
        self._timeout_s = timeout_s
        self._limit = queue
        self._mishaps = mishaps or Mishaps()
        self._epoch = -1
        self._state = "ready" if transactional_id is None else "new"
        self._queue: deque[_Queued] = deque()
        self._reports: deque[tuple[Report, KafkaError | None, Sent]] = deque()
        self._sequence = 0
        self._transaction = 0
        self._busy = False
        self._changed: asyncio.Future[None] | None = None
        self._fatal: KafkaException | None = None
        self._abortable: KafkaException | None = None
        self._who = current_thread().process.name
        self._background = current_thread().process.thread("rdkafka-producer")

    # What never blocks.

    def begin_transaction(self) -> None:
        self._check()
        if self._state != "ready":
            raise refusal(KafkaError._STATE)
        self._state = "transaction"
        self._transaction += 1

    def produce(
        self,
        topic: str,
        value: bytes | None = None,
        key: bytes | None = None,
        *,
        headers: object = None,
        on_delivery: Callable[..., None] | None = None,
    ) -> None:
        self._check()
        if self._abortable is not None or (self._id is not None and self._state != "transaction"):
            raise refusal(KafkaError._STATE)
        if len(self._queue) >= self._limit:
            raise BufferError
        if self._mishaps.unfit and self._network.random.random() < self._mishaps.unfit:
            raise refusal(KafkaError.MSG_SIZE_TOO_LARGE)
        self._queue.append(_Queued(Sent(topic, key, value or b""), on_delivery))
        if not self._busy:
            self._busy = True
            self._background.spawn(self._send())

    def poll(self, timeout: float) -> int:
        """Serve what reports there are."""
        assert timeout == 0
        served = 0
        while self._reports:
            report, error, sent = self._reports.popleft()
            report(error, Delivered(sent))
            served += 1
        return served

    # What blocks.

    async def init_transactions(self, timeout: float) -> None:
        assert self._id is not None
        name = self._id
        self._epoch = await self._call(timeout, lambda: self._brokers.init_producer(name, self._timeout_s))
        self._state = "ready"

    async def send_offsets_to_transaction(
        self, offsets: Sequence[KafkaPartition], token: Token, timeout: float
    ) -> None:
        self._in_transaction()
        commits = {(part.topic, part.partition): Commit(part.offset, part.metadata or "") for part in offsets}
        name, number = self._id or "", self._transaction
        await self._call(timeout, lambda: self._brokers.add_offsets(name, self._epoch, number, token, commits))

    async def commit_transaction(self, timeout: float) -> None:
        self._in_transaction(also="committing")
        self._state = "committing"
        await self._flushed(timeout)
        self._in_transaction(also="committing")
        await self._end(timeout, commit=True)
        self._state = "ready"

    async def abort_transaction(self, timeout: float) -> None:
        self._check()
        self._state = "aborting"
        self._queue.clear()
        await self._flushed(timeout)
        await self._end(timeout, commit=False)
        self._abortable = None
        self._state = "ready"

    async def _end(self, timeout: float, *, commit: bool) -> None:
        name, number = self._id or "", self._transaction
        await self._call(timeout, lambda: self._brokers.end_transaction(name, self._epoch, number, commit=commit))

    def _check(self) -> None:
        if self._fatal is not None:
            raise self._fatal

    def _in_transaction(self, also: str = "transaction") -> None:
        self._check()
        if self._abortable is not None:
            raise self._abortable
        if self._state not in ("transaction", also):
            raise refusal(KafkaError._STATE)

    async def _call(self, timeout: float, effect: Callable[[], Any]) -> Any:
        """A request, sent again when it or its answer is lost, as librdkafka does; but only so long."""
        until = self._loop.time() + timeout
        while True:
            try:
                return await self._network.request(effect, may_be_lost=True)
            except LostError:
                if self._loop.time() >= until or self._network.random.random() < 0.5:
                    raise refusal(KafkaError._TIMED_OUT, retriable=True) from None
            except KafkaException as error:
                self._note(error)
                raise

    def _note(self, error: KafkaException) -> None:
        if error.args[0].fatal():
            self._fatal = error
            self._network.trace(self._who, "producer: fatal %s", error.args[0].name())
        elif error.args[0].txn_requires_abort():
            self._abortable = error

    async def _flushed(self, timeout: float) -> None:
        until = self._loop.time() + timeout
        while (self._queue or self._busy) and self._fatal is None and self._abortable is None:
            left = until - self._loop.time()
            if left <= 0:
                raise refusal(KafkaError._TIMED_OUT, retriable=True)
            self._changed = self._loop.create_future()
            await asyncio.wait([self._changed], timeout=left)
        if self._state == "aborting":
            while self._busy:
                self._changed = self._loop.create_future()
                await asyncio.wait([self._changed], timeout=1.0)

    async def _send(self) -> None:
        """The background thread: batches in order, one request at a time, each until it is answered."""
        try:
            while self._queue:
                await asyncio.sleep(self._network.delay())
                count = min(len(self._queue), 1 + int(self._network.random.random() * _BATCH))
                batch = [self._queue.popleft() for _ in range(count)]
                if not batch:
                    break
                error = await self._deliver([queued.sent for queued in batch])
                if error is not None:
                    batch += self._queue
                    self._queue.clear()
                self._reports.extend(
                    (queued.report, error, queued.sent) for queued in batch if queued.report is not None
                )
                if self._changed is not None and not self._changed.done():
                    self._changed.set_result(None)
        finally:
            self._busy = False
            if self._changed is not None and not self._changed.done():
                self._changed.set_result(None)

    async def _deliver(self, records: list[Sent]) -> KafkaError | None:
        if self._fatal is not None:
            return self._error(self._fatal)
        if mishap := self._mishap():
            self._note(mishap)
            return self._error(mishap)
        self._sequence += 1
        sequence, number, name = self._sequence, self._transaction, self._id

        def effect() -> object:
            if name is None:
                return self._brokers.append(self._number, sequence, records)
            return self._brokers.append_in_transaction(name, self._epoch, number, sequence, records)

        while True:
            try:
                await self._network.request(effect, may_be_lost=True)
            except LostError:
                continue
            except KafkaException as error:
                self._note(error)
                return self._error(error)
            return None

    def _mishap(self) -> KafkaException | None:
        chance = self._network.random.random()
        if self._id is not None and chance < self._mishaps.refused:
            return refusal(KafkaError._MSG_TIMED_OUT, abort=True)
        if self._id is None and chance < self._mishaps.broken:
            return refusal(KafkaError.TOPIC_AUTHORIZATION_FAILED, fatal=True)
        return None

    @staticmethod
    def _error(error: KafkaException) -> KafkaError:
        found: KafkaError = error.args[0]
        return found
