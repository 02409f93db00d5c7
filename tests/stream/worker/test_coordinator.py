from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from stream.errors import DeliveryError, ProGuardStreamError
from stream.worker.ledger import Commit, encode
from stream.worker.partitions import OffsetsWentBackError
from stream.worker.records import InputRecord, Outcome
from stream.worker.writer import WriteAbortedError
from tests.stream.worker.coordinating import P0, P1, P2, desk, known, settle
from tests.stream.worker.parts import failed, judged, record, unreadable


async def test_an_outcome_counts_only_once_kafka_has_it() -> None:
    async with desk(P0) as at:
        one = record(7)
        await at.accept(one)
        await at.finish(one)
        assert (at.sink.places(), at.known(), at.backlog.count) == ([(0, 7)], {P0: (7, set())}, 1)
        assert (at.written, at.value("proguard_dead_letters_total", reason="malformed")) == ([], None)
        await at.acknowledge(one)
        assert (at.known(), at.backlog.count, at.books.held()) == ({P0: (8, set())}, 0, 0)
        assert (at.written, at.value("proguard_dead_letters_total", reason="malformed")) == ([(0, 7)], 1)


async def test_what_was_acknowledged_is_counted_by_what_it_was() -> None:
    async with desk(P0) as at:
        records = [record(n, key=None) for n in range(3)]
        await at.accept(*records)
        at.judge.finish(records[0], judged(records[0]))
        at.judge.finish(records[1], judged(records[1], risk_name="A New Risk"))
        at.judge.finish(records[2], failed(records[2]))
        await settle()
        await at.acknowledge(*records)
        assert at.value("proguard_events_total") == 3
        assert at.value("proguard_verdicts_total", status="decided", action="allow") == 1
        assert at.value("proguard_verdicts_total", status="indeterminate", action="review") == 1
        assert at.value("proguard_ood_events_total") == 1
        assert at.value("proguard_dead_letters_total", reason="guard_refused") == 1
        assert at.value("proguard_event_seconds_count") == 3


async def test_records_of_a_partition_that_is_not_ours_are_dropped_and_given_back() -> None:
    async with desk(P0) as at:
        await at.accept(record(0, partition=1), record(0), record(1, partition=1))
        assert (list(at.judge.open), at.backlog.count) == ([(0, 0)], 1)


async def test_writes_of_one_key_keep_the_order_of_their_records() -> None:
    async with desk(P0) as at:
        a1, b1, a2, a3 = record(0, key=b"a"), record(1, key=b"b"), record(2, key=b"a"), record(3, key=b"a")
        await at.accept(a1, b1, a2, a3)
        await at.finish(a3, b1, a2)
        assert at.sink.places() == [(0, 1)]
        await at.finish(a1)
        for of, places in ((a1, [(0, 1), (0, 0)]), (a2, [(0, 1), (0, 0), (0, 2)])):
            assert at.sink.places() == places
            await at.acknowledge(of)
        assert at.sink.places() == [(0, 1), (0, 0), (0, 2), (0, 3)]


async def test_what_is_complete_behind_a_gap_is_remembered() -> None:
    async with desk(P0) as at:
        slow, *quick = [record(n, key=None) for n in range(4, 9)]
        await at.accept(slow, *quick)
        await at.complete(*quick)
        assert (at.known(), at.books.held(), at.backlog.count) == ({P0: (4, {5, 6, 7, 8})}, 4, 1)
        await at.complete(slow)
        assert (at.known(), at.books.held(), at.backlog.count) == ({P0: (9, set())}, 0, 0)


async def test_a_partition_starts_with_what_was_committed_and_judges_only_the_gaps() -> None:
    left = Commit(10, encode(0b10110))
    async with desk(committed={P0: left}) as at:
        records = [record(n, key=None) for n in range(10, 17)]
        await at.accept(*records)
        assert list(at.judge.open) == [(0, 10), (0, 13), (0, 15), (0, 16)]
        assert (at.backlog.count, at.known()) == (4, {P0: (10, {11, 12, 14})})
        await at.complete(*(records[n] for n in (0, 3, 5, 6)))
        assert (at.backlog.count, at.known(), at.faults) == (0, {P0: (17, set())}, [])


async def test_a_completed_offset_that_the_position_has_passed_by_the_time_it_comes_is_skipped() -> None:
    async with desk(committed={P0: Commit(10, encode(0b110))}) as at:
        gap, done, done_too, new = (record(n, key=None) for n in range(10, 14))
        await at.accept(gap)
        await at.complete(gap)
        await at.accept(done, done_too, new)
        assert (list(at.judge.open), at.faults) == ([(0, 10), (0, 13)], [])
        await at.complete(new)
        assert (at.known(), at.backlog.count) == ({P0: (14, set())}, 0)


async def test_what_the_group_has_committed_is_what_may_be_committed_before_anything_came() -> None:
    left = Commit(10, encode(0b10))
    async with desk(P1, committed={P0: left}) as at:
        assert at.books.commits() == {P0: left}


async def test_commits_that_cannot_be_read_stop_the_worker_before_it_judges_twice() -> None:
    async with desk(P1, committed={P0: Commit(10, "somebody else's")}) as at:
        (fault,) = at.faults
        assert isinstance(fault, ProGuardStreamError)
        assert "content [0]" in str(fault)
        await at.accept(record(10), record(0, partition=1))
        assert (list(at.judge.open), at.books.owned(), at.backlog.count) == ([(1, 0)], [P1], 1)


async def test_a_batch_goes_with_the_commits_that_cover_it_and_the_membership_of_the_moment() -> None:
    async with desk(P0, P1, parallel=1, max_batch=100) as at:
        at.books.joined("generation 1")
        first, behind, other = record(0, key=None), record(5, key=None), record(2, partition=1, key=None)
        await at.accept(first, behind, other, record(1, partition=1, key=None))
        assert len(at.faults) == 1  # the last one went back
        await at.finish(behind)
        at.books.joined("generation 2")
        await at.finish(first, other)
        await at.acknowledge(behind)
        assert [batch.places() for batch in at.sink.begun] == [[(0, 5)], [(0, 0), (1, 2)]]
        assert [known(batch.commits) for batch in at.sink.begun] == [
            {P0: (0, {1, 2, 3, 4, 5})},
            {P0: (6, set()), P1: (3, set())},
        ]
        assert [batch.membership for batch in at.sink.begun] == ["generation 1", "generation 2"]


async def test_an_aborted_batch_moves_nothing_and_is_written_again() -> None:
    async with desk(P0, parallel=1) as at:
        one = record(0)
        await at.accept(one)
        await at.finish(one)
        at.sink.open[0].answer.set_exception(WriteAbortedError("rebalance"))
        await settle()
        assert (at.known(), at.backlog.count, at.written) == ({P0: (0, set())}, 1, [])
        async with asyncio.timeout(5):
            while not at.sink.open:
                await asyncio.sleep(0.01)
        await at.acknowledge(one)
        assert (at.known(), at.backlog.count, at.written, at.faults) == ({P0: (1, set())}, 0, [(0, 0)], [])


async def test_a_full_window_is_announced_and_withdrawn_when_its_gap_closes() -> None:
    async with desk(P0, P1, window=10) as at:
        slow, *quick = [record(n, key=None) for n in range(10)]
        await at.accept(slow, *quick[:8])
        await at.complete(*quick[:8])
        assert at.full == []
        await at.accept(quick[8])
        assert (at.full, at.value("proguard_ledger_full_partitions")) == ([frozenset({P0})], 1)
        await at.complete(quick[8])
        assert at.full == [frozenset({P0})]
        await at.complete(slow)
        assert (at.full, at.value("proguard_ledger_full_partitions")) == ([frozenset({P0}), frozenset()], 0)


async def test_what_an_earlier_owner_completed_far_out_does_not_fill_the_window() -> None:
    """To wait because of it would be to wait for ever: the gaps before it have yet to be read."""
    async with desk(P1, committed={P0: Commit(0, encode(1 << 20))}, window=10) as at:
        assert at.full == []
        await at.accept(*(record(n, key=None) for n in range(10)))
        assert at.full == [frozenset({P0})]


@pytest.mark.parametrize("how", ["release", "give_up"])
async def test_a_full_window_that_is_given_up_is_withdrawn(how: str) -> None:
    async with desk(P0, window=10) as at:
        records = [record(n, key=None) for n in range(10)]
        await at.accept(*records)
        if how == "release":
            at.books.release([P0])
        else:
            await at.books.give_up([P0], 0.01)
        assert (at.full, at.value("proguard_ledger_full_partitions")) == ([frozenset({P0}), frozenset()], 0)


async def test_outcomes_of_a_partition_that_was_given_up_are_neither_written_nor_counted() -> None:
    async with desk(P0, P1) as at:
        judging, written = record(0, key=b"a"), record(1, key=b"b")
        await at.accept(judging, written)
        await at.finish(written)
        at.books.release([P0])
        assert (at.backlog.count, at.books.owned()) == (0, [P1])
        await settle()
        assert at.judge.cancelled == [(0, 0)]
        await at.acknowledge(written)
        assert (at.known(), at.backlog.count) == ({}, 0)
        assert (at.sink.places(), at.written) == ([(0, 1)], [])
        assert at.value("proguard_dead_letters_total", reason="malformed") is None
        assert at.faults == []


async def test_what_was_completed_beyond_the_position_is_given_back_once() -> None:
    async with desk(P0) as at:
        slow, quick = record(0, key=b"a"), record(1, key=b"b")
        await at.accept(slow, quick)
        await at.complete(quick)
        assert (at.books.held(), at.backlog.count) == (1, 1)
        at.books.release([P0])
        assert (at.books.held(), at.backlog.count) == (0, 0)


async def test_an_event_that_finishes_in_spite_of_its_cancellation_is_not_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def stubborn(of: InputRecord) -> Outcome:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return unreadable(of)
        raise AssertionError

    async with desk(P0) as at:
        monkeypatch.setattr(at.judge, "process", stubborn)
        await at.accept(record(0))
        at.books.release([P0])
        await settle()
        assert (at.sink.begun, at.faults) == ([], [])


async def test_a_partition_that_comes_back_begins_with_the_books_of_the_group() -> None:
    async with desk(P0) as at:
        early, late = record(0), record(5)
        await at.accept(early, late)
        await at.complete(early)
        at.books.release([P0])
        at.books.assign({P0: Commit(1, "")})
        assert at.known() == {P0: (1, set())}
        again = record(1)
        await at.accept(again)
        await at.complete(again)
        assert (at.known(), at.backlog.count, at.faults) == ({P0: (2, set())}, 0, [])


async def test_an_acknowledgement_from_before_is_not_counted_for_the_partition_that_came_back() -> None:
    async with desk(P0) as at:
        old = record(3)
        await at.accept(old)
        await at.finish(old)
        at.books.assign({P0: None})
        await at.accept(record(3))
        await at.acknowledge(old)
        assert (at.known(), at.backlog.count, at.written) == ({P0: (3, set())}, 1, [])


async def test_draining_ends_when_everything_is_acknowledged() -> None:
    async with desk(P0, P1) as at:
        one, other = record(0), record(0, partition=1)
        await at.accept(one, other)
        drained = asyncio.create_task(at.books.drain([P0, P1, P2], 20))
        await at.complete(one)
        await at.finish(other)
        assert not drained.done()
        await at.acknowledge(other)
        assert await drained


async def test_draining_gives_up_in_time_and_takes_nothing_away() -> None:
    async with desk(P0) as at:
        one = record(0)
        await at.accept(one)
        assert not await at.books.drain([P0], 0.01)
        await at.complete(one)
        assert at.known() == {P0: (1, set())}


async def test_draining_what_is_already_drained_needs_no_time() -> None:
    async with desk(P0, P1) as at:
        one = record(0)
        await at.accept(one)
        await at.complete(one)
        assert await at.books.drain([P0, P1], 0)


async def test_draining_waits_only_for_the_partitions_it_was_asked_about() -> None:
    async with desk(P0, P1) as at:
        await at.accept(record(0, partition=1))
        assert await at.books.drain([P0], 0)


async def test_giving_up_waits_for_what_is_in_flight_and_returns_what_is_complete() -> None:
    async with desk(P0, P1) as at:
        mine, other = record(3), record(0, partition=1)
        await at.accept(mine, other)
        given_up = asyncio.create_task(at.books.give_up([P0, P2], 20))
        await at.finish(mine)
        assert not given_up.done()
        await at.acknowledge(mine)
        assert known(await given_up) == {P0: (4, set())}
        assert (at.books.owned(), at.backlog.count) == ([P1], 1)


async def test_giving_up_in_vain_returns_only_what_is_complete_and_cancels_the_rest() -> None:
    async with desk(P0) as at:
        slow, quick, unwritten = (record(n, key=None) for n in range(3))
        await at.accept(slow, quick, unwritten)
        await at.complete(quick)
        await at.finish(unwritten)
        assert known(await at.books.give_up([P0], 0.01)) == {P0: (0, {1})}
        await settle()
        assert (at.judge.cancelled, at.books.owned(), at.backlog.count) == ([(0, 0)], [], 0)
        await at.acknowledge(unwritten)
        assert (at.written, at.backlog.count, at.faults) == ([(0, 1)], 0, [])


@pytest.mark.parametrize("back_to", [0, 4, 5])
async def test_offsets_that_go_back_stop_the_worker_and_nothing_is_skipped(back_to: int) -> None:
    async with desk(P0, P1) as at:
        one = record(5)
        await at.accept(one)
        await at.accept(record(back_to), record(6), record(0, partition=1))
        (fault,) = at.faults
        assert isinstance(fault, OffsetsWentBackError)
        assert fault.offset == back_to
        assert set(at.judge.open) == {(0, 5), (1, 0)}
        await at.complete(one)
        assert (at.known(), at.backlog.count) == ({P0: (6, set()), P1: (0, set())}, 1)


async def test_a_fault_in_judging_stops_the_worker_and_its_log_line_holds_no_content() -> None:
    async with desk(P0) as at:
        one, behind = record(0), record(1)
        await at.accept(one, behind)
        fault = RuntimeError("the secret words")
        with capture_logs() as lines:
            at.judge.open[0, 0].set_exception(fault)
            await settle()
        assert at.faults == [fault]
        assert [line["event"] for line in lines] == ["coordinator.fault"]
        assert "secret" not in str(lines)
        await at.finish(behind)
        assert (at.known(), at.sink.begun) == ({P0: (0, set())}, [])
        at.books.release([P0])
        assert at.backlog.count == 0


async def test_a_refusal_in_writing_stops_the_worker_and_moves_nothing() -> None:
    async with desk(P0) as at:
        one, behind = record(0), record(1)
        await at.accept(one, behind)
        await at.finish(one, behind)
        fault = DeliveryError("verdicts", "no")
        at.sink.open[0].answer.set_exception(fault)
        await settle()
        await at.acknowledge(behind)
        assert (at.faults, at.known(), at.written) == ([fault], {P0: (0, set())}, [])
        at.books.release([P0])
        assert at.backlog.count == 0


async def test_an_event_that_is_cancelled_by_nobody_here_stops_the_worker() -> None:
    async with desk(P0) as at:
        await at.accept(record(0))
        at.judge.open[0, 0].cancel()
        await settle()
        assert len(at.faults) == 1
        at.books.release([P0])
        assert (len(at.faults), at.backlog.count) == (1, 0)
