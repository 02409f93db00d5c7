"""The two ways of writing to Kafka.

`TransactionalSink`: verdicts, OOD events, dead letters and the commits of their offsets are one transaction; a reader with
`read_committed` sees all of it or nothing. `PlainSink`: records are acknowledged by all in-sync replicas, commits follow
later; a crash in between repeats records under the same ids.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import structlog
from confluent_kafka import KafkaError, KafkaException, Message, Producer, TopicPartition

from schemas.topics import Topics
from stream.errors import DeliveryError, StuckClientError
from stream.worker.outputs import OutputRecord, output_records
from stream.worker.partitions import Commits
from stream.worker.records import Outcome
from stream.worker.writer import WriteAbortedError

_log = structlog.get_logger(__name__)

_SERVE_S = 0.002
"""Seconds between looks at the producer's delivery reports, while some are outstanding."""

_CALL_S = 5.0
"""Seconds that one transactional call may block before it is tried again; librdkafka makes the transaction's timeout of it."""

_STUCK_S = 75.0
"""Seconds after which a transactional call counts as one that will not return. It should give up after `_CALL_S`, 60 s for the
first one; librdkafka (2.16) was seen to wait for ever in `send_offsets_to_transaction` after its coordinator had been killed twice."""

_LOOK_S = 5.0
"""Seconds between looks at a call under way."""

_RETRY_S = 0.05
"""Seconds between two tries: some of them say no at once."""

_REFUSED_FOR_GOOD = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.TOPIC_AUTHORIZATION_FAILED})
"""Why a transaction fails that would fail again: the topic does not take one of its records."""


class PlainSink:
    """At least once. The producer is idempotent, so its own retries neither reorder nor repeat.

    Delivery reports are served by the event loop itself, every few milliseconds while some are outstanding: a thread for them
    would fight the loop for the interpreter's lock once a record.
    """

    parallel = 8
    transactional = False

    def __init__(self, producer: Producer, topics: Topics, ce_source: str) -> None:
        self._producer = producer
        self._topics = topics
        self._source = ce_source
        self._loop = asyncio.get_running_loop()
        self._order = asyncio.Lock()
        self._outstanding = 0
        self._serving: asyncio.TimerHandle | None = None

    async def write(self, outcomes: Sequence[Outcome], commits: Commits, membership: object) -> None:  # noqa: ARG002
        records = [record for outcome in outcomes for record in output_records(outcome, self._topics, self._source)]
        waiting = _Acknowledgements(self._loop, len(records))
        self._outstanding += 1
        try:
            async with self._order:
                for record in records:
                    await self._produce(record, waiting)
            self._serve()
            await waiting.all
        finally:
            self._outstanding -= 1
            waiting.forget()

    async def _produce(self, record: OutputRecord, waiting: _Acknowledgements) -> None:
        try:
            await _produce(self._producer, record, waiting.acknowledged)
        except KafkaException as error:
            raise DeliveryError(record.topic, error.args[0].str()) from error

    def close(self) -> None:
        """Serve no more delivery reports."""
        if self._serving is not None:
            self._serving.cancel()

    def _serve(self) -> None:
        self._producer.poll(0)
        if self._serving is not None:
            self._serving.cancel()
        self._serving = self._loop.call_later(_SERVE_S, self._serve) if self._outstanding else None


async def _produce(
    producer: Producer, record: OutputRecord, on_delivery: Callable[[KafkaError | None, Message], None] | None
) -> None:
    """Hand one record to the producer; waits while its local queue is full. Raises `KafkaException` when it does not take it."""
    while True:
        try:
            producer.produce(record.topic, record.value, record.key, headers=record.headers, on_delivery=on_delivery)
        except BufferError:
            producer.poll(0)
            await asyncio.sleep(_SERVE_S)
        else:
            return


class _Acknowledgements:
    """Counts a batch's delivery reports; `all` is done with the last one, or with the first refusal.

    At once, because what follows the refused record in its partition may be acknowledged a moment later: whoever writes in order
    must hear of the refusal before that.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, expected: int) -> None:
        self.all: asyncio.Future[None] = loop.create_future()
        self._missing = expected

    def acknowledged(self, error: KafkaError | None, message: Message) -> None:
        self._missing -= 1
        if self.all.done():
            return
        if error is not None:
            self.all.set_exception(DeliveryError(message.topic() or "", error.str()))
        elif not self._missing:
            self.all.set_result(None)

    def forget(self) -> None:
        """Nobody waits any more."""
        if not self.all.cancel() and not self.all.cancelled():
            self.all.exception()  # seen: asyncio would complain about one that nobody has asked for


class TransactionalSink:
    """Exactly once, fenced by the consumer group's metadata (KIP-447).

    Records are produced by the event loop, which does not block; the calls that do (offsets, commit, abort) by a thread.
    `init` must succeed first.
    """

    parallel = 1
    transactional = True

    def __init__(self, producer: Producer, topics: Topics, ce_source: str) -> None:
        self._producer = producer
        self._topics = topics
        self._source = ce_source
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="transactions")
        self._closing = threading.Event()
        self._calls = 0
        self._stuck = False

    async def init(self, timeout: float = 60.0) -> None:
        """Register the transactional id; an older holder of it is fenced. Raises `DeliveryError`."""
        try:
            await self._call(self._init, timeout)
        except KafkaException as error:
            raise DeliveryError("the output topics", f"cannot start transactions: {error.args[0].str()}") from error

    async def write(self, outcomes: Sequence[Outcome], commits: Commits, membership: object) -> None:
        records = [record for outcome in outcomes for record in output_records(outcome, self._topics, self._source)]
        try:
            self._producer.begin_transaction()
            for record in records:
                await self._produce(record)
            self._producer.poll(0)
            await self._call(self._commit, commits, membership)
        except KafkaException as error:
            await self._call(self._abort, error.args[0])

    def close(self) -> None:
        """Wait for the call under way, for the transaction's timeout at most, and end the thread, unless it is stuck. An open
        transaction is aborted by the brokers in time."""
        self._closing.set()
        self._thread.shutdown(wait=not self._stuck, cancel_futures=True)

    async def _produce(self, record: OutputRecord) -> None:
        try:
            await _produce(self._producer, record, None)
        except KafkaException as error:
            # In a transaction that has failed behind our back the producer takes nothing: that is for `_abort` to tell.
            if error.args[0].code() != KafkaError.MSG_SIZE_TOO_LARGE:
                raise
            await self._call(self._abort, error.args[0], record.topic)

    async def _call(self, function: Callable[..., object], *arguments: object) -> object:
        """`function` in the thread. Raises `StuckClientError` when the client has not come back for `_STUCK_S`."""
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(self._thread, function, *arguments)
        calls, since = self._calls, loop.time()
        while not work.done():
            try:
                await asyncio.wait((work,), timeout=_LOOK_S)
            except asyncio.CancelledError:
                work.cancel()
                raise
            if self._calls != calls:
                calls, since = self._calls, loop.time()
            elif not work.done() and loop.time() - since > _STUCK_S:
                self._stuck = True
                raise StuckClientError("the output topics", f"the Kafka client has not come back for {_STUCK_S:g} s")
        return work.result()

    def _init(self, timeout: float) -> None:
        self._calls += 1
        self._producer.init_transactions(timeout)

    def _commit(self, commits: Commits, membership: object) -> None:
        offsets = [
            TopicPartition(topic, number, commit.position, metadata=commit.metadata)
            for (topic, number), commit in commits.items()
        ]
        self._patiently(lambda: self._producer.send_offsets_to_transaction(offsets, membership, _CALL_S))
        self._patiently(lambda: self._producer.commit_transaction(_CALL_S))

    def _patiently(self, call: Callable[[], object]) -> None:
        """A transactional call that may be retried must be, with the same arguments, until it says yes or no.

        Raises the last `KafkaException` once this sink is closing.
        """
        while True:
            self._calls += 1
            try:
                call()
            except KafkaException as error:
                if not error.args[0].retriable() or self._closing.wait(_RETRY_S):
                    raise
                _log.info("transaction.retry", code=error.args[0].name())
            else:
                return

    def _abort(self, cause: KafkaError, topic: str = "the output topics") -> None:
        """Undo what the transaction has written. Raises, always: `WriteAbortedError`, or `DeliveryError` for the end."""
        if cause.fatal() or cause.code() == KafkaError._FATAL:
            raise DeliveryError("the output topics", f"fatal: {cause.str()}")
        try:
            self._patiently(lambda: self._producer.abort_transaction(_CALL_S))
        except KafkaException as error:
            raise DeliveryError("the output topics", f"cannot abort: {error.args[0].str()}") from error
        if cause.code() in _REFUSED_FOR_GOOD:
            raise DeliveryError(topic, cause.str())
        raise WriteAbortedError(f"{cause.name()}: {cause.str()}")
