"""The thread that owns the Kafka consumer. Nothing else ever touches it: librdkafka calls back into the polling thread."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import structlog
from confluent_kafka import Consumer, KafkaException, Message
from confluent_kafka import TopicPartition as KafkaPartition

from stream.clock import Clock
from stream.errors import ProGuardStreamError
from stream.telemetry.metrics import WorkerMetrics
from stream.worker.backlog import Backlog
from stream.worker.books import Books
from stream.worker.client_errors import NOT_OURS_ANY_MORE, PASSING, lost_its_place
from stream.worker.ledger import Commit
from stream.worker.messages import record_of
from stream.worker.partitions import Commits, OffsetsWentBackError, TopicPartition

_log = structlog.get_logger(__name__)

T = TypeVar("T")

_MAX_BATCH = 256
_POLL_S = 0.1
_GRACE_BEFORE_PAUSE_S = 0.5
"""A pause throws away what librdkafka has fetched ahead, so a short wait for room comes first."""

_PATIENCE_S = 5.0
"""Seconds beyond the drain that the loop has to answer in."""

_ASK_S = 0.05
"""Seconds between questions about this member's place in the group: each costs two threads a turn, 0.1 ms in all. After a rebalance
it is asked for at once; an older answer at worst aborts a transaction, which is then written again."""

_COMMITTED_S = 60.0
"""Seconds to wait for the group's commits, or for a partition's first offset; longer than a dead owner's transaction may stay open."""

_RETRY_S = 0.2


class ConsumerThread:
    """Polls, hands records to the loop, answers rebalances, and commits where no transaction does.

    It polls even when it takes nothing, so a paused worker keeps its place in the group. On assignment it reads what the group
    has committed, the set of completed offsets included. On revoke it blocks the poll for at most `drain_s` while the loop
    finishes what is in flight, then commits what is complete and gives up the rest. With `commits` off, the commits are part of
    somebody's transactions, and this thread makes none. Where a partition is read on is this thread's to say: the client, which would move
    by itself at times, is told not to (`auto.offset.reset`), and is put back.
    `on_failure` is called in the loop when the thread ends by an error.
    """

    def __init__(
        self,
        consumer: Consumer,
        topic: str,
        *,
        books: Books,
        backlog: Backlog,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        metrics: WorkerMetrics,
        commits: bool,
        commit_interval_s: float,
        drain_s: float,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self._consumer = consumer
        self._topic = topic
        self._books = books
        self._backlog = backlog
        self._wanted_room = max(1, backlog.limit // 4)
        self._loop = loop
        self._clock = clock
        self._metrics = metrics
        self._commits = commits
        self._commit_interval_s = commit_interval_s
        self._drain_s = drain_s
        self._on_failure = on_failure
        self._holds: frozenset[str] = frozenset()
        self._paused = False
        self._full_since: float | None = None
        self._assigned: set[TopicPartition] = set()
        self._next: dict[TopicPartition, int] = {}
        """The offset that each partition is read on from."""
        self._full: frozenset[TopicPartition] = frozenset()
        self._full_paused: frozenset[TopicPartition] = frozenset()
        self._committed: Commits = {}
        self._next_commit = 0.0
        self._next_question = 0.0
        self._finish = threading.Event()
        self._thread = threading.Thread(target=self._run, name="consumer", daemon=True)
        self.last_poll = clock.monotonic()
        self.joined_group = False
        """Whether the group has this member. It may own no partition: a worker more than there are partitions stands by."""

    def start(self) -> None:
        self._thread.start()

    def hold(self, why: str) -> None:
        """Take no more records until `unhold(why)`. From the loop; takes effect at the next poll."""
        self._holds |= {why}

    def unhold(self, why: str) -> None:
        self._holds -= {why}

    def set_full(self, partitions: frozenset[TopicPartition]) -> None:
        """Take no more records of just these partitions. From the loop; takes effect at the next poll."""
        self._full = partitions

    async def finish(self, timeout: float, *, drain_s: float | None = None) -> bool:
        """Commit, leave the group and end the thread. False when it did not end in time.

        `drain_s` replaces the constructor's: 0 when it was waited for in vain already, or nothing can finish any more.
        """
        if drain_s is not None:
            self._drain_s = drain_s
        self._finish.set()
        await asyncio.to_thread(self._thread.join, timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        # Whatever ends this thread is told, also what Python cannot catch (see `_on_assign`).
        failure: Exception | None = ProGuardStreamError("the consumer's thread ended and does not know why")
        try:
            self._consumer.subscribe(
                [self._topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
            )
            while not self._finish.is_set():
                self._step()
            self._commit_what_is_complete()
            failure = None
        except Exception as error:
            failure = error
        finally:
            if failure is not None:
                with contextlib.suppress(RuntimeError):  # the loop is closed: there is nobody left to be told
                    self._loop.call_soon_threadsafe(self._on_failure, failure)
            self._consumer.close()

    def _step(self) -> None:
        now = self.last_poll = self._clock.monotonic()
        if now >= self._next_question:
            self._next_question = now + _ASK_S
            self.joined_group = bool(self._consumer.memberid())
            self._tell_membership()
        if self._commits and now >= self._next_commit:
            self._commit_what_is_complete()
            self._next_commit = now + self._commit_interval_s
        if self._must_wait(now):
            return
        if self._paused:
            self._consumer.resume(self._consumer.assignment())
            self._full_paused = frozenset()
            self._set_paused(False)
        self._pause_full_partitions()
        first = self._consumer.poll(_POLL_S)
        if first is not None:
            more = min(self._backlog.room, _MAX_BATCH) - 1
            self._hand_over([first, *(self._consumer.consume(more, 0) if more > 0 else [])])

    def _tell_membership(self) -> None:
        """The token of this generation, for transactions.

        It reaches the loop behind every assignment and revocation before it, so a batch is never committed with a token that
        is newer than the books it was made from. Asked for by this thread: from another one the call may hang beside a poll
        (confluent-kafka 2.16.1).
        """
        if not self._commits and self._assigned:
            self._loop.call_soon_threadsafe(self._books.joined, self._consumer.consumer_group_metadata())

    def _must_wait(self, now: float) -> bool:
        """True after a step in which nothing could be taken."""
        if self._holds or (self._paused and self._backlog.room < self._backlog.limit // 2):
            self._serve_paused()
            return True
        if self._backlog.room >= self._wanted_room:
            self._full_since = None
            return False
        if self._full_since is None:
            self._full_since = now
        if now - self._full_since < _GRACE_BEFORE_PAUSE_S:
            self._backlog.wait_for_room(_POLL_S, self._wanted_room)
        else:
            self._serve_paused()
        return True

    def _serve_paused(self) -> None:
        if not self._paused:
            self._consumer.pause(self._consumer.assignment())
        self._set_paused(True)
        message = self._consumer.poll(_POLL_S)
        if message is not None:
            self._hand_over([message])

    def _pause_full_partitions(self) -> None:
        full = self._full & self._assigned
        if full == self._full_paused:
            return
        opened, closed = self._full_paused & self._assigned - full, full - self._full_paused
        if closed:
            self._consumer.pause([KafkaPartition(*name) for name in closed])
        if opened:
            self._consumer.resume([KafkaPartition(*name) for name in opened])
        self._full_paused = full

    def _set_paused(self, paused: bool) -> None:
        self._paused = paused
        for why in ("guard", "stopping", "backlog"):
            active = paused and (why in self._holds or (why == "backlog" and not self._holds))
            self._metrics.paused.labels(why).set(1 if active else 0)

    def _hand_over(self, messages: list[Message]) -> None:
        records = [record for message in messages if (record := record_of(message)) is not None]
        if records:
            self._next.update(((record.topic, record.partition), record.offset + 1) for record in records)
            self._backlog.take(len(records))
            self._loop.call_soon_threadsafe(self._books.accept, records)
        if len(records) < len(messages):
            for name in {name for message in messages if (name := lost_its_place(message)) is not None}:
                self._put_back(name)

    def _put_back(self, name: TopicPartition) -> None:
        """Read a partition on from where this thread is in it. May block for a minute; raises `KafkaException`."""
        if name not in self._assigned:
            return
        low, high = self._range(self._consumer, name)
        if self._next[name] > high:
            raise OffsetsWentBackError(*name, high)
        if self._next[name] < low:
            self._metrics.deleted_unread.inc(low - self._next[name])
            _log.error("consumer.deleted_unread", partition=name[1], offsets=[self._next[name], low])
            self._next[name] = low
        _log.warning("consumer.put_back", partition=name[1], offset=self._next[name])
        self._consumer.incremental_unassign([KafkaPartition(*name)])
        self._consumer.incremental_assign([KafkaPartition(*name, self._next[name])])
        if self._paused or name in self._full_paused:
            # librdkafka (2.16) remembers some pauses over an assignment and not others.
            self._consumer.pause([KafkaPartition(*name)])

    def _commit_what_is_complete(self) -> None:
        if not self._commits:
            return

        async def complete() -> Commits:
            return self._books.commits()

        commits = self._in_loop(complete(), _PATIENCE_S)
        if commits is not None:
            self._commit(commits)

    def _commit(self, commits: Commits) -> None:
        # The books hear of a lost partition a moment later than this thread: what is not assigned is somebody else's to commit.
        due = {
            name: commit
            for name, commit in commits.items()
            if name in self._assigned and self._committed.get(name) != commit
        }
        if not due:
            return
        try:
            answers = self._consumer.commit(
                offsets=[
                    KafkaPartition(topic, number, commit.position, metadata=commit.metadata)
                    for (topic, number), commit in due.items()
                ],
                asynchronous=False,
            )
        except KafkaException as failure:
            error = failure.args[0]
            self._metrics.commits.labels("failed").inc()
            _log.warning("consumer.commit_failed", code=error.name(), detail=error.str())
            # Either the partitions went to somebody else, who starts at the last commit, or the next try will do it.
            if error.fatal() and error.code() not in NOT_OURS_ANY_MORE:
                raise
            return
        refused = [answer for answer in answers or () if answer.error is not None]
        for answer in refused:
            _log.warning("consumer.commit_failed", code=answer.error.name(), partition=answer.partition)
            due.pop((answer.topic, answer.partition), None)
        self._committed.update(due)
        self._metrics.commits.labels("failed" if refused else "ok").inc()

    def _on_assign(self, consumer: Consumer, partitions: list[KafkaPartition]) -> None:
        try:
            self._take_over(consumer, partitions)
        except KafkaException:
            # Caught and raised again, because only then it is an exception for good: what the client (2.16) raises in C and finds
            # unhandled behind a callback comes out of `poll` as its bare KafkaError, which no `except` clause matches.
            raise

    def _take_over(self, consumer: Consumer, partitions: list[KafkaPartition]) -> None:
        # The next generation is in force already, and the answer may take as long as a dead owner's transaction: with the token of
        # the one before, whatever the other partitions write meanwhile would be refused.
        self._tell_membership()
        committed = self._what_is_committed(consumer, partitions)
        _log.info("consumer.assigned", partitions=[partition.partition for partition in partitions])
        self._assigned.update(committed)
        for name in committed:
            self._committed.pop(name, None)
        self._loop.call_soon_threadsafe(self._books.assign, committed)
        self._tell_membership()
        for name, commit in committed.items():
            # Given as a number where there is no commit: librdkafka (2.16) has been seen to deliver from the start twice when a pause
            # met its own search for it.
            self._next[name] = self._range(consumer, name)[0] if commit is None else commit.position
        consumer.incremental_assign([KafkaPartition(*name, self._next[name]) for name in committed])
        # A partition that was paused when it went comes back paused: librdkafka remembers it.
        if self._paused:
            consumer.pause(partitions)
        else:
            consumer.resume(partitions)
        self._full_paused = self._full_paused - committed.keys()

    def _what_is_committed(
        self, consumer: Consumer, partitions: list[KafkaPartition]
    ) -> dict[TopicPartition, Commit | None]:
        """What the last owner left. With `read_committed` the broker makes this wait for a transaction that is under way.

        Raises `KafkaException`: without an answer the worker must not start, or it would judge events again.
        """
        if not partitions:
            return {}
        found: dict[TopicPartition, Commit | None] = {}
        for answer in self._patiently(lambda: consumer.committed(partitions, timeout=_COMMITTED_S)):
            if answer.error is not None:
                raise KafkaException(answer.error)
            commit = Commit(answer.offset, answer.metadata or "") if answer.offset >= 0 else None
            found[answer.topic, answer.partition] = commit
        return found

    def _range(self, consumer: Consumer, name: TopicPartition) -> tuple[int, int]:
        """A partition's first offset, and the one after its last. May block for a minute; raises `KafkaException`."""
        low, high = self._patiently(lambda: consumer.get_watermark_offsets(KafkaPartition(*name), timeout=_COMMITTED_S))
        return int(low), int(high)

    def _patiently(self, call: Callable[[], T]) -> T:
        """The answer to a question that a broker which is just restarting may leave without one, for `_COMMITTED_S` seconds."""
        give_up = self._clock.monotonic() + _COMMITTED_S
        while True:
            try:
                return call()
            except KafkaException as failure:
                error = failure.args[0]
                passing = error.retriable() or error.code() in PASSING
                if not passing or self._clock.monotonic() >= give_up or self._finish.wait(_RETRY_S):
                    raise
                _log.info("consumer.asks_again", code=error.name())

    def _on_revoke(self, _consumer: Consumer, partitions: list[KafkaPartition]) -> None:
        names = _names(partitions)
        # The group's next generation is in force already, and these partitions are ours in it until this returns. With the
        # token of the one before, every transaction of the drain would be refused.
        self._tell_membership()
        complete = self._in_loop(self._books.give_up(names, self._drain_s), self._drain_s + _PATIENCE_S)
        if complete is None:
            # The loop is stuck. When it goes on, what it still has of these partitions must be gone before they are assigned anew.
            self._loop.call_soon_threadsafe(self._books.release, names)
        _log.info("consumer.revoked", partitions=[number for _, number in names], drained=complete is not None)
        if complete is not None and self._commits:
            self._commit(complete)
        self._assigned.difference_update(names)

    def _on_lost(self, _consumer: Consumer, partitions: list[KafkaPartition]) -> None:
        names = _names(partitions)
        _log.warning("consumer.lost", partitions=[number for _, number in names])
        self._assigned.difference_update(names)
        self._loop.call_soon_threadsafe(self._books.release, names)

    def _in_loop(self, work: Coroutine[Any, Any, Commits], timeout: float) -> Commits | None:
        """The answer of the loop to `work`; None when it does not come in time, and then `work` is not begun any more."""
        too_late = threading.Event()

        async def in_time() -> Commits:
            if too_late.is_set():
                # What it would give up may have been assigned anew.
                work.close()
                return {}
            return await work

        future = asyncio.run_coroutine_threadsafe(in_time(), self._loop)
        try:
            return future.result(timeout)
        except (concurrent.futures.TimeoutError, concurrent.futures.CancelledError):
            too_late.set()
            future.cancel()
            return None


def _names(partitions: list[KafkaPartition]) -> list[TopicPartition]:
    return [(partition.topic, partition.partition) for partition in partitions]
