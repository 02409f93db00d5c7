from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.clock import SystemClock
from stream.errors import DeliveryError
from stream.worker.partitions import Commits, OwnedPartition
from stream.worker.records import Outcome
from stream.worker.writer import WriteAbortedError, Writer
from tests.stream.worker.parts import record, unreadable


class Sink:
    """Keeps what is committed. `plan` says what becomes of each write: None is success."""

    transactional = True

    def __init__(self, *plan: BaseException | None, parallel: int = 1) -> None:
        self.parallel = parallel
        self.plan = list(plan)
        self.written: list[list[int]] = []
        self.commits: list[Commits] = []
        self.memberships: list[object] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.running = self.most = 0

    async def write(self, outcomes: Sequence[Outcome], commits: Commits, membership: object) -> None:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.gate.wait()
            await asyncio.sleep(0)
        finally:
            self.running -= 1
        failure = self.plan.pop(0) if self.plan else None
        if failure is not None:
            raise failure
        self.written.append([outcome.record.offset for outcome in outcomes])
        self.commits.append(commits)
        self.memberships.append(membership)

    @property
    def offsets(self) -> list[int]:
        return [offset for batch in self.written for offset in batch]


class Bench:
    def __init__(self, sink: Sink, *, interval_s: float = 0.0, max_batch: int = 100, max_aborts: int = 20) -> None:
        self.sink = sink
        self.done: list[int] = []
        self.failures: list[BaseException] = []
        self.failed = asyncio.Event()
        self.partition = OwnedPartition(("content", 0), None)
        self.writer = Writer(
            sink,
            SystemClock(),
            interval_s=interval_s,
            max_batch=max_batch,
            on_written=lambda outcomes: self.done.extend(outcome.record.offset for outcome in outcomes),
            on_failure=self._fail,
            max_aborts=max_aborts,
            abort_pause_s=0.0,
        )
        self.writer.start()

    def _fail(self, error: BaseException) -> None:
        self.failures.append(error)
        self.failed.set()

    def add(self, *offsets: int, key: bytes | None = b"k") -> None:
        for offset in offsets:
            self.partition.ledger.begin(offset)
            self.partition.drained.clear()
        for offset in offsets:
            self.writer.add(self.partition, unreadable(record(offset, key=key)))

    async def drained(self) -> None:
        async with asyncio.timeout(5):
            await self.partition.drained.wait()
        await self.writer.aclose()


async def test_outcomes_are_written_in_order_with_the_commit_that_covers_them() -> None:
    bench = Bench(Sink())
    bench.add(*range(10))
    await bench.drained()
    assert bench.sink.offsets == bench.done == list(range(10))
    assert bench.sink.commits[-1]["content", 0].position == 10


async def test_while_a_batch_is_written_the_next_one_gathers() -> None:
    bench = Bench(Sink())
    bench.sink.gate.clear()
    bench.add(0)
    while not bench.sink.running:
        await asyncio.sleep(0)
    bench.add(1, 2, 3)
    bench.sink.gate.set()
    await bench.drained()
    assert bench.sink.written == [[0], [1, 2, 3]]
    assert bench.sink.most == 1


async def test_a_batch_closes_at_its_count_before_its_time() -> None:
    bench = Bench(Sink(), interval_s=3600.0, max_batch=5)
    bench.add(0)
    while not bench.sink.written:
        await asyncio.sleep(0)
    bench.add(*range(1, 6))
    await bench.drained()
    assert bench.sink.written == [[0], [1, 2, 3, 4, 5]]


async def test_an_aborted_batch_is_written_again_in_order() -> None:
    bench = Bench(Sink(WriteAbortedError("once"), WriteAbortedError("twice")))
    bench.add(0, 1, 2)
    await bench.drained()
    assert bench.sink.offsets == bench.done == [0, 1, 2]


async def test_what_belongs_to_a_partition_that_was_given_up_is_not_written_again() -> None:
    bench = Bench(Sink(WriteAbortedError("rebalance")))
    bench.sink.gate.clear()
    bench.add(0, 1)
    while not bench.sink.running:
        await asyncio.sleep(0)
    other = OwnedPartition(("content", 1), None)
    other.ledger.begin(7)
    other.drained.clear()
    bench.writer.add(other, unreadable(record(7, partition=1)))
    bench.partition.closed = True
    bench.sink.gate.set()
    async with asyncio.timeout(5):
        await other.drained.wait()
    await bench.writer.aclose()
    assert bench.sink.offsets == bench.done == [7]
    assert list(bench.sink.commits[0]) == [("content", 1)]


async def test_a_completed_write_of_a_partition_given_up_meanwhile_is_not_counted() -> None:
    bench = Bench(Sink())
    bench.sink.gate.clear()
    bench.add(0)
    while not bench.sink.running:
        await asyncio.sleep(0)
    bench.partition.closed = True
    bench.sink.gate.set()
    while not bench.sink.written:
        await asyncio.sleep(0)
    await bench.writer.aclose()
    assert bench.done == []
    assert bench.partition.ledger.unfinished == 1


async def test_a_sink_that_aborts_for_ever_stops_the_writer() -> None:
    bench = Bench(Sink(*[WriteAbortedError("no")] * 10), max_aborts=3)
    bench.add(0)
    async with asyncio.timeout(5):
        await bench.failed.wait()
    await bench.writer.aclose()
    assert isinstance(bench.failures[0], DeliveryError)
    assert not bench.done


async def test_a_refusal_for_good_stops_the_writer_and_completes_nothing() -> None:
    bench = Bench(Sink(DeliveryError("verdicts", "no")))
    bench.add(0, 1)
    async with asyncio.timeout(5):
        await bench.failed.wait()
    await bench.writer.aclose()
    assert not bench.done
    assert bench.partition.ledger.unfinished == 2


@pytest.mark.parametrize("parallel", [1, 4])
async def test_after_a_refusal_nothing_later_is_begun_or_counts(parallel: int) -> None:
    bench = Bench(
        Sink(DeliveryError("verdicts", "no"), DeliveryError("verdicts", "again"), parallel=parallel), max_batch=1
    )
    bench.sink.gate.clear()
    bench.add(*range(10), key=None)
    while bench.sink.running < parallel:
        await asyncio.sleep(0)
    bench.sink.gate.set()
    async with asyncio.timeout(5):
        await bench.failed.wait()
    bench.add(10, key=None)
    while bench.sink.running:
        await asyncio.sleep(0)
    await bench.writer.aclose()
    assert [str(failure) for failure in bench.failures] == ["could not write to verdicts: no"]
    assert (bench.done, bench.partition.ledger.unfinished) == ([], 11)
    assert len(bench.sink.offsets) == max(0, parallel - 2)


async def test_the_membership_of_the_moment_goes_with_the_batch() -> None:
    bench = Bench(Sink())
    bench.writer.membership = "generation 7"
    bench.add(0)
    await bench.drained()
    assert bench.sink.memberships == ["generation 7"]


@pytest.mark.parametrize("parallel", [1, 4])
@given(
    plan=st.lists(st.sampled_from([None, WriteAbortedError("x")]), max_size=12),
    sizes=st.lists(st.integers(1, 6), max_size=8),
)
@settings(max_examples=40)
def test_every_outcome_is_written_once_and_completed_once(
    parallel: int, plan: list[BaseException | None], sizes: list[int]
) -> None:
    async def play() -> Bench:
        bench = Bench(Sink(*(plan if parallel == 1 else []), parallel=parallel), max_batch=4)
        start = 0
        for size in sizes:
            bench.add(*range(start, start + size))
            start += size
            await asyncio.sleep(0)
        await bench.drained()
        return bench

    bench = asyncio.run(play())
    assert sorted(bench.done) == list(range(sum(sizes)))
    assert bench.sink.offsets == list(range(sum(sizes)))
    assert bench.partition.ledger.unfinished == 0


@pytest.mark.parametrize("parallel", [1, 8])
async def test_where_batches_overlap_a_key_has_one_outcome_under_way_and_the_others_pass(parallel: int) -> None:
    bench = Bench(Sink(parallel=parallel))
    bench.add(0, 1, 2, key=b"one")
    bench.add(3, key=b"another")
    bench.add(4, 5, key=None)
    await bench.drained()
    first = [0, 3, 4, 5] if parallel > 1 else [0, 1, 2, 3, 4, 5]
    assert bench.sink.written[0] == first
    assert [offset for offset in bench.sink.offsets if offset < 3] == [0, 1, 2]
    assert bench.writer._behind == {}


async def test_nothing_of_a_key_is_written_behind_an_outcome_that_was_refused_for_good() -> None:
    bench = Bench(Sink(DeliveryError("verdicts", "no"), parallel=8))
    bench.add(0, 1, 2)
    await bench.failed.wait()
    await bench.writer.aclose()
    assert bench.sink.offsets == []


async def test_what_waits_behind_a_key_goes_with_its_partition() -> None:
    bench = Bench(Sink(parallel=8))
    bench.sink.gate.clear()
    bench.add(0, 1, 2)
    while not bench.sink.running:
        await asyncio.sleep(0)
    bench.partition.closed = True
    bench.sink.gate.set()
    while bench.writer._behind:
        await asyncio.sleep(0)
    await bench.writer.aclose()
    assert bench.sink.offsets == [0]
    assert bench.done == []
