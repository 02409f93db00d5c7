"""Outcomes whose turn has come, written in batches with the commits that belong to them."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

import structlog

from stream.clock import Clock
from stream.errors import DeliveryError
from stream.worker.partitions import Commits, OwnedPartition
from stream.worker.records import Outcome

_log = structlog.get_logger(__name__)

_LONGEST_PAUSE_S = 5.0
"""Seconds between aborts at most: 20 of them then outlast an assignment that waits for a dead owner's transaction."""


class WriteAbortedError(Exception):
    """Nothing of the batch is visible and nothing was committed: it may be written again."""


class Sink(Protocol):
    """Where outcomes go. `stream.worker.sinks` has the two real ones, the simulation a third."""

    parallel: int
    """How many batches may be under way at a time. A transaction is alone."""
    transactional: bool
    """Whether `write` commits as well. Where it does not, it is given no commits: making them costs as much as an outcome."""

    async def write(self, outcomes: Sequence[Outcome], commits: Commits, membership: object) -> None:
        """Return when every record is safe in Kafka (and, in a transaction, the commits with them).

        `membership` is this process's place in the group, not newer than the books that `commits` were made from: a newer one
        would let a partition be committed that was given away in between.

        Raises `WriteAbortedError` when nothing happened, `DeliveryError` when this process must stop.
        """
        ...


class _Ready(NamedTuple):
    partition: OwnedPartition
    outcome: Outcome

    @property
    def key(self) -> tuple[OwnedPartition, bytes | None]:
        return self.partition, self.outcome.record.key


class Writer:
    """Takes what is ready in order, a batch at a time, and keeps the ledgers.

    A batch closes after `interval_s` or at `max_batch` outcomes, whichever is first; with no interval, at once. While one is
    written, the next one gathers. An aborted batch goes back to the front, less what belongs to partitions that were given
    up; after `max_aborts` in a row, with pauses that double from `abort_pause_s`, the writer gives up too. `on_written` is
    called with each batch that is safe, in order, `on_aborted` after each that is not, `on_failure` once, with what made the
    writer stop: after that nothing is begun, and nothing counts as written. A later outcome of a key would otherwise be committed
    before the earlier one that failed.

    Where several batches may be under way, an outcome waits until the one before it of its key is safe: should Kafka refuse that
    one for good, nothing of the key has overtaken it.
    """

    def __init__(
        self,
        sink: Sink,
        clock: Clock,
        *,
        interval_s: float,
        max_batch: int,
        on_written: Callable[[Sequence[Outcome]], None],
        on_failure: Callable[[BaseException], None],
        on_aborted: Callable[[], None] = lambda: None,
        max_aborts: int = 20,
        abort_pause_s: float = 0.1,
    ) -> None:
        self._sink = sink
        self._clock = clock
        self._interval_s = interval_s
        self._max_batch = max_batch
        self._on_written = on_written
        self._on_failure = on_failure
        self._on_aborted = on_aborted
        self._max_aborts = max_aborts
        self._abort_pause_s = abort_pause_s
        self._ready: deque[_Ready] = deque()
        self._behind: dict[tuple[OwnedPartition, bytes | None], deque[_Ready]] = {}
        """For each key that has an outcome in `_ready` or under way, those that wait for it. Unused for transactions: a batch that is
        alone is safe as a whole or not at all."""
        self._some = asyncio.Event()
        self._enough = asyncio.Event()
        self._slots = asyncio.Semaphore(sink.parallel)
        self._writing: set[asyncio.Task[None]] = set()
        self._aborts = 0
        self._failed = False
        self.membership: object = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to write. Needs the running loop."""
        self._task = asyncio.create_task(self._run(), name="writer")

    def add(self, partition: OwnedPartition, outcome: Outcome) -> None:
        """Queue an outcome behind all before it."""
        ready = _Ready(partition, outcome)
        if self._sink.parallel > 1 and outcome.record.key is not None:
            waiting = self._behind.get(ready.key)
            if waiting is not None:
                waiting.append(ready)
                return
            self._behind[ready.key] = deque()
        self._queue(ready)

    def _queue(self, ready: _Ready) -> None:
        self._ready.append(ready)
        self._some.set()
        if len(self._ready) >= self._max_batch:
            self._enough.set()

    async def aclose(self) -> None:
        """Stop, in the middle of a batch if need be: what is not written stays uncommitted."""
        tasks = [task for task in (self._task, *self._writing) if task is not None]
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _run(self) -> None:
        next_start = self._clock.monotonic()
        try:
            while not self._failed:
                await self._some.wait()
                await self._gather(next_start - self._clock.monotonic())
                await self._slots.acquire()
                next_start = self._clock.monotonic() + self._interval_s
                task = asyncio.create_task(self._write())
                self._writing.add(task)
                task.add_done_callback(self._writing.discard)
                if self._sink.parallel == 1:
                    await task
                else:
                    await asyncio.sleep(0)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            self._fail(error)

    async def _gather(self, seconds: float) -> None:
        if seconds > 0 and not self._enough.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._enough.wait()

    async def _write(self) -> None:
        taken: list[_Ready] = []
        try:
            taken = self._take()
            if not taken:
                return
            commits = self._commits(taken) if self._sink.transactional else {}
            await self._sink.write([ready.outcome for ready in taken], commits, self.membership)
        except WriteAbortedError as error:
            await self._put_back(taken, error)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            self._fail(error)
        else:
            self._aborts = 0
            if not self._failed:
                self._settle(taken)
        finally:
            self._slots.release()

    def _take(self) -> list[_Ready]:
        taken: list[_Ready] = []
        while not self._failed and self._ready and len(taken) < self._max_batch:
            ready = self._ready.popleft()
            if not ready.partition.closed:
                taken.append(ready)
            else:
                self._behind.pop(ready.key, None)
        self._signal()
        return taken

    def _commits(self, taken: Sequence[_Ready]) -> Commits:
        """What to commit once `taken` are safe."""
        commits: Commits = {}
        for partition, offsets in _by_partition(taken):
            commit = partition.ledger.commit(offsets)
            assert commit is not None
            commits[partition.name] = commit
        return commits

    def _settle(self, taken: Sequence[_Ready]) -> None:
        owned = [ready for ready in taken if not ready.partition.closed]
        for partition, offsets in _by_partition(owned):
            partition.ledger.complete(offsets)
            if partition.ledger.unfinished == 0:
                partition.drained.set()
        self._on_written([ready.outcome for ready in owned])
        if self._behind:
            self._let_next_come(taken)

    def _let_next_come(self, written: Sequence[_Ready]) -> None:
        for ready in written:
            waiting = self._behind.get(ready.key)
            if waiting is None:  # it has no key
                continue
            if waiting and not ready.partition.closed:
                self._queue(waiting.popleft())
            else:
                del self._behind[ready.key]

    async def _put_back(self, taken: list[_Ready], error: WriteAbortedError) -> None:
        self._aborts += 1
        self._on_aborted()
        _log.warning("writer.aborted", cause=str(error), in_a_row=self._aborts)
        if self._aborts > self._max_aborts:
            self._fail(DeliveryError("the output topics", f"{self._aborts} batches in a row were aborted: {error}"))
            return
        await asyncio.sleep(min(_LONGEST_PAUSE_S, self._abort_pause_s * 2 ** (self._aborts - 1)))
        self._ready.extendleft(ready for ready in reversed(taken) if not ready.partition.closed)
        self._signal()

    def _fail(self, error: BaseException) -> None:
        if not self._failed:
            self._failed = True
            self._on_failure(error)

    def _signal(self) -> None:
        if not self._ready:
            self._some.clear()
        else:
            self._some.set()
        if len(self._ready) < self._max_batch:
            self._enough.clear()


def _by_partition(some: Iterable[_Ready]) -> Iterable[tuple[OwnedPartition, list[int]]]:
    """The offsets in `some`, for each partition."""
    offsets: dict[OwnedPartition, list[int]] = {}
    for partition, outcome in some:
        offsets.setdefault(partition, []).append(outcome.record.offset)
    return offsets.items()
