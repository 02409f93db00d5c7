from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from stream.telemetry.metrics import WorkerMetrics
from stream.worker.backlog import Backlog
from stream.worker.coordinator import Coordinator, OffsetsWentBackError
from stream.worker.records import InputRecord, Outcome
from tests.stream.worker.parts import TOPIC, failed, judged, record, unreadable
from tests.support.clock import ManualClock

P0, P1, P2 = (TOPIC, 0), (TOPIC, 1), (TOPIC, 2)
Place = tuple[int, int]


def place(of: InputRecord) -> Place:
    return of.partition, of.offset


class Judge:
    """A pipeline whose events finish when a test says so."""

    def __init__(self) -> None:
        self.open: dict[Place, asyncio.Future[Outcome]] = {}
        self.cancelled: list[Place] = []

    async def process(self, of: InputRecord) -> Outcome:
        self.open[place(of)] = asyncio.get_running_loop().create_future()
        try:
            return await self.open[place(of)]
        except asyncio.CancelledError:
            self.cancelled.append(place(of))
            raise

    def finish(self, of: InputRecord, outcome: Outcome | None = None) -> None:
        self.open[place(of)].set_result(outcome or unreadable(of))


class Outbox:
    """A delivery that acknowledges when a test says so."""

    def __init__(self) -> None:
        self.written: list[Outcome] = []
        self.waiting: dict[Place, Callable[[], None]] = {}
        self.raises: Exception | None = None

    def write(self, outcome: Outcome, done: Callable[[Outcome], None]) -> None:
        if self.raises is not None:
            raise self.raises
        self.written.append(outcome)
        self.waiting[place(outcome.record)] = lambda: done(outcome)

    async def flush(self, timeout: float) -> bool:
        return not self.waiting

    def acknowledge(self, *records: InputRecord) -> None:
        for of in records:
            self.waiting.pop(place(of))()

    def places(self) -> list[Place]:
        return [place(outcome.record) for outcome in self.written]


class Desk:
    """A coordinator with everything around it."""

    def __init__(self, *owned: tuple[str, int]) -> None:
        self.judge, self.outbox, self.clock = Judge(), Outbox(), ManualClock()
        self.backlog, self.metrics = Backlog(1000), WorkerMetrics()
        self.faults: list[BaseException] = []
        self.books = Coordinator(
            pipeline=self.judge,  # type: ignore[arg-type]
            delivery=self.outbox,
            backlog=self.backlog,
            clock=self.clock,
            metrics=self.metrics,
            on_fault=self.faults.append,
        )
        self.books.assign(owned)

    async def accept(self, *records: InputRecord) -> None:
        self.backlog.take(len(records))
        self.books.accept(records)
        await settle()

    async def finish(self, *records: InputRecord) -> None:
        for of in records:
            self.judge.finish(of)
        await settle()

    async def complete(self, *records: InputRecord) -> None:
        await self.finish(*records)
        self.outbox.acknowledge(*records)

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)


async def settle() -> None:
    """Let every task take the turns that it can."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_an_outcome_counts_only_once_kafka_has_it() -> None:
    desk, one = Desk(P0), record(7)
    await desk.accept(one)
    await desk.finish(one)
    assert (desk.outbox.places(), desk.books.positions(), desk.backlog.count) == ([(0, 7)], {}, 1)
    assert desk.value("proguard_dead_letters_total", reason="malformed") is None
    desk.outbox.acknowledge(one)
    assert (desk.books.positions(), desk.backlog.count, desk.books.held()) == ({P0: 8}, 0, 0)
    assert desk.value("proguard_dead_letters_total", reason="malformed") == 1


async def test_what_was_acknowledged_is_counted_by_what_it_was() -> None:
    desk = Desk(P0)
    records = [record(n, key=None) for n in range(3)]
    await desk.accept(*records)
    desk.judge.finish(records[0], judged(records[0]))
    desk.judge.finish(records[1], judged(records[1], risk_name="A New Risk"))
    desk.judge.finish(records[2], failed(records[2]))
    await settle()
    desk.outbox.acknowledge(*records)
    assert desk.value("proguard_events_total") == 3
    assert desk.value("proguard_verdicts_total", status="decided", action="allow") == 1
    assert desk.value("proguard_verdicts_total", status="indeterminate", action="review") == 1
    assert desk.value("proguard_ood_events_total") == 1
    assert desk.value("proguard_dead_letters_total", reason="guard_refused") == 1
    assert desk.value("proguard_event_seconds_count") == 3


async def test_records_of_a_partition_that_is_not_ours_are_dropped_and_given_back() -> None:
    desk = Desk(P0)
    await desk.accept(record(0, partition=1), record(0), record(1, partition=1))
    assert (list(desk.judge.open), desk.backlog.count) == ([(0, 0)], 1)


async def test_writes_of_one_key_keep_the_order_of_their_records() -> None:
    desk = Desk(P0)
    a1, b1, a2, a3 = record(0, key=b"a"), record(1, key=b"b"), record(2, key=b"a"), record(3, key=b"a")
    await desk.accept(a1, b1, a2, a3)
    await desk.finish(a3, b1, a2)
    assert desk.outbox.places() == [(0, 1)]
    await desk.finish(a1)
    assert desk.outbox.places() == [(0, 1), (0, 0), (0, 2), (0, 3)]


async def test_outcomes_of_a_partition_that_was_given_up_are_neither_written_nor_counted() -> None:
    desk, judging, written = Desk(P0, P1), record(0, key=b"a"), record(1, key=b"b")
    await desk.accept(judging, written)
    await desk.finish(written)
    desk.books.release([P0])
    assert (desk.backlog.count, desk.books.owned()) == (0, [P1])
    await settle()
    assert desk.judge.cancelled == [(0, 0)]
    desk.outbox.acknowledge(written)
    assert (desk.books.positions(), desk.backlog.count) == ({}, 0)
    assert desk.outbox.places() == [(0, 1)]
    assert desk.value("proguard_dead_letters_total", reason="malformed") is None
    assert desk.faults == []


async def test_what_was_completed_beyond_the_watermark_is_given_back_once() -> None:
    desk, slow, quick = Desk(P0), record(0, key=b"a"), record(1, key=b"b")
    await desk.accept(slow, quick)
    await desk.complete(quick)
    assert (desk.books.positions(), desk.books.held(), desk.backlog.count) == ({}, 2, 1)
    desk.books.release([P0])
    assert (desk.books.held(), desk.backlog.count) == (0, 0)


async def test_an_event_that_finishes_in_spite_of_its_cancellation_is_not_written() -> None:
    desk = Desk(P0)

    class Stubborn:
        async def process(self, of: InputRecord) -> Outcome:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                return unreadable(of)
            raise AssertionError

    desk.books._pipeline = Stubborn()  # type: ignore[assignment]
    await desk.accept(record(0))
    desk.books.release([P0])
    await settle()
    assert desk.outbox.written == []


async def test_a_partition_that_comes_back_begins_with_empty_books() -> None:
    desk, early, late = Desk(P0), record(0), record(5)
    await desk.accept(early, late)
    await desk.complete(early)
    desk.books.release([P0])
    desk.books.assign([P0])
    assert desk.books.positions() == {}
    again = record(1)
    await desk.accept(again)
    await desk.complete(again)
    assert (desk.books.positions(), desk.backlog.count, desk.faults) == ({P0: 2}, 0, [])


async def test_an_acknowledgement_from_before_is_not_counted_for_the_partition_that_came_back() -> None:
    desk, old = Desk(P0), record(3)
    await desk.accept(old)
    await desk.finish(old)
    desk.books.assign([P0])
    await desk.accept(record(3))
    desk.outbox.acknowledge(old)
    assert (desk.books.positions(), desk.backlog.count) == ({}, 1)


async def test_draining_ends_when_everything_is_acknowledged() -> None:
    desk, one, other = Desk(P0, P1), record(0), record(0, partition=1)
    await desk.accept(one, other)
    drained = asyncio.create_task(desk.books.drain([P0, P1, P2], 20))
    await desk.complete(one)
    await desk.finish(other)
    assert not drained.done()
    desk.outbox.acknowledge(other)
    assert await drained


async def test_draining_gives_up_in_time_and_takes_nothing_away() -> None:
    desk, one = Desk(P0), record(0)
    await desk.accept(one)
    assert not await desk.books.drain([P0], 0.01)
    await desk.complete(one)
    assert desk.books.positions() == {P0: 1}


async def test_draining_what_is_already_drained_needs_no_time() -> None:
    desk, one = Desk(P0, P1), record(0)
    await desk.accept(one)
    await desk.complete(one)
    assert await desk.books.drain([P0, P1], 0)


async def test_draining_waits_only_for_the_partitions_it_was_asked_about() -> None:
    desk = Desk(P0, P1)
    await desk.accept(record(0, partition=1))
    assert await desk.books.drain([P0], 0)


@pytest.mark.parametrize("back_to", [0, 4, 5])
async def test_offsets_that_go_back_stop_the_worker_and_nothing_is_skipped(back_to: int) -> None:
    desk, one = Desk(P0, P1), record(5)
    await desk.accept(one)
    await desk.accept(record(back_to), record(6), record(0, partition=1))
    assert [(type(fault), fault.offset) for fault in desk.faults] == [(OffsetsWentBackError, back_to)]  # type: ignore[attr-defined]
    assert set(desk.judge.open) == {(0, 5), (1, 0)}
    await desk.complete(one)
    assert (desk.books.positions(), desk.backlog.count) == ({P0: 6}, 1)


@pytest.mark.parametrize("where", ["judging", "writing"])
async def test_a_fault_stops_the_worker_and_its_log_line_holds_no_content(where: str) -> None:
    desk, one, behind = Desk(P0), record(0), record(1)
    await desk.accept(one, behind)
    fault = RuntimeError("the secret words")
    with capture_logs() as lines:
        if where == "judging":
            desk.judge.open[0, 0].set_exception(fault)
        else:
            desk.outbox.raises = fault
            desk.judge.finish(one)
        await settle()
    assert desk.faults == [fault]
    assert [line["event"] for line in lines] == ["coordinator.fault"]
    assert "secret" not in str(lines)
    desk.outbox.raises = None
    await desk.finish(behind)
    assert desk.books.positions() == {}
    desk.books.release([P0])
    assert desk.backlog.count == 0


async def test_an_event_that_is_cancelled_by_nobody_here_stops_the_worker() -> None:
    desk = Desk(P0)
    await desk.accept(record(0))
    desk.judge.open[0, 0].cancel()
    await settle()
    assert len(desk.faults) == 1
    desk.books.release([P0])
    assert (len(desk.faults), desk.backlog.count) == (1, 0)


Step = tuple[str, int]


@st.composite
def stories(draw: st.DrawFn) -> tuple[list[tuple[int, bytes | None]], list[Step]]:
    """Records (partition, key), and an order in which they are accepted, judged, acknowledged, and partitions given up."""
    records = draw(st.lists(st.tuples(st.integers(0, 2), st.sampled_from([None, b"a", b"b"])), min_size=1, max_size=25))
    finishes = draw(st.permutations(range(len(records))))
    steps: list[Step] = [("accept", n) for n in range(len(records))]
    for n in finishes:
        steps.insert(draw(st.integers(steps.index(("accept", n)) + 1, len(steps))), ("finish", n))
    for _ in range(draw(st.integers(0, 4))):
        steps.insert(draw(st.integers(0, len(steps))), ("acknowledge", draw(st.integers(1, 6))))
    if draw(st.booleans()):
        steps.insert(draw(st.integers(0, len(steps))), ("release", draw(st.integers(0, 2))))
    return records, steps


@given(stories(), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=150)
def test_positions_never_pass_an_unfinished_offset_and_keys_keep_their_order(
    story: tuple[list[tuple[int, bytes | None]], list[Step]], random: Any
) -> None:
    asyncio.run(_tell(*story, random))


async def _tell(shape: Sequence[tuple[int, bytes | None]], steps: Sequence[Step], random: Any) -> None:
    desk = Desk(P0, P1, P2)
    records = [record(n, partition=partition, key=key) for n, (partition, key) in enumerate(shape)]
    acknowledged: set[Place] = set()
    accepted: list[InputRecord] = []
    released: set[int] = set()

    def acknowledge(count: int) -> None:
        for at in random.sample(sorted(desk.outbox.waiting), min(count, len(desk.outbox.waiting))):
            desk.outbox.waiting.pop(at)()
            acknowledged.add(at)

    for step, number in steps:
        if step == "accept":
            accepted.append(records[number])
            await desk.accept(records[number])
        elif step == "finish" and place(records[number]) in desk.judge.open:
            future = desk.judge.open[place(records[number])]
            if not future.done():
                await desk.finish(records[number])
        elif step == "acknowledge":
            acknowledge(number)
        elif step == "release":
            released.add(number)
            desk.books.release([(TOPIC, number)])
            await settle()
        _check(desk, accepted, acknowledged, released)
    acknowledge(len(records))
    _check(desk, accepted, acknowledged, released)
    assert (desk.backlog.count, desk.faults) == (0, [])
    assert await desk.books.drain([P0, P1, P2], 0)


def _check(desk: Desk, accepted: list[InputRecord], acknowledged: set[Place], released: set[int]) -> None:
    for (_, partition), position in desk.books.positions().items():
        assert partition not in released
        below = [of for of in accepted if of.partition == partition and of.offset < position]
        assert all(place(of) in acknowledged for of in below)
    lanes: defaultdict[tuple[int, bytes], list[int]] = defaultdict(list)
    for outcome in desk.outbox.written:
        if outcome.record.key is not None:
            lanes[outcome.record.partition, outcome.record.key].append(outcome.record.offset)
    assert all(offsets == sorted(offsets) for offsets in lanes.values())
    places = desk.outbox.places()
    assert len(set(places)) == len(places)
