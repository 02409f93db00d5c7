from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.worker.ledger import (
    MAX_SPAN,
    METADATA_LIMIT,
    Commit,
    LedgerStateError,
    PartitionLedger,
    decode,
    encode,
)


@st.composite
def schedules(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    """Offsets as a partition delivers them (rising, with gaps), and an order in which some of them complete."""
    gaps = draw(st.lists(st.integers(1, 5), min_size=1, max_size=40))
    offset = draw(st.integers(0, 1000))
    offsets = []
    for gap in gaps:
        offsets.append(offset)
        offset += gap
    order = draw(st.permutations(offsets))
    return offsets, order[: draw(st.integers(0, len(order)))]


def begun(offsets: list[int], committed: Commit | None = None) -> PartitionLedger:
    ledger = PartitionLedger(committed)
    for offset in offsets:
        ledger.begin(offset)
    return ledger


@given(schedules())
def test_the_position_never_passes_an_unfinished_offset(schedule: tuple[list[int], list[int]]) -> None:
    offsets, completed = schedule
    ledger = begun(offsets)
    done: set[int] = set()
    for offset in completed:
        ledger.complete([offset])
        done.add(offset)
        unfinished = [o for o in offsets if o not in done]
        assert ledger.position == (unfinished[0] if unfinished else offsets[-1] + 1)
        assert ledger.unfinished == len(unfinished)


@given(schedules(), st.integers(0, 40))
def test_the_next_owner_judges_exactly_the_gaps(schedule: tuple[list[int], list[int]], more: int) -> None:
    offsets, completed = schedule
    ledger = begun(offsets)
    for offset in completed:
        ledger.complete([offset])
    commit = ledger.commit()
    assert commit is not None
    later = list(range(offsets[-1] + 1, offsets[-1] + 1 + more))
    heir = PartitionLedger(commit)
    judged = [offset for offset in [*offsets, *later] if offset >= commit.position and heir.begin(offset)]
    assert judged == [offset for offset in offsets if offset not in set(completed)] + later


@given(schedules())
def test_a_commit_made_for_a_transaction_is_the_one_after_it(schedule: tuple[list[int], list[int]]) -> None:
    offsets, completed = schedule
    ledger = begun(offsets)
    for start in range(0, len(completed), 3):
        batch = completed[start : start + 3]
        before = ledger.commit()
        promised = ledger.commit(adding=batch)
        assert ledger.commit() == before  # an abort leaves the books as they were
        ledger.complete(batch)
        assert ledger.commit() == promised


@given(schedules())
def test_completing_everything_leaves_an_empty_set(schedule: tuple[list[int], list[int]]) -> None:
    offsets, _ = schedule
    ledger = begun(offsets)
    ledger.complete(reversed(offsets))
    assert ledger.commit() == Commit(offsets[-1] + 1, "")
    assert (ledger.span, ledger.remembered, ledger.unfinished) == (0, 0, 0)


def test_nothing_is_committed_before_anything_began() -> None:
    assert PartitionLedger().commit() is None


@pytest.mark.parametrize("offset", [4, 6, 8, 9])
def test_an_offset_completes_once_and_only_in_flight(offset: int) -> None:
    ledger = begun([5, 6, 7])
    ledger.complete([6])
    with pytest.raises(LedgerStateError):
        ledger.complete([offset])
    with pytest.raises(LedgerStateError):
        ledger.commit(adding=[5, 5])


@pytest.mark.parametrize("late", [3, 4])
def test_an_offset_that_does_not_rise_is_refused(late: int) -> None:
    ledger = begun([4])
    with pytest.raises(LedgerStateError, match="came after"):
        ledger.begin(late)


def test_the_span_grows_with_an_old_event_and_falls_when_it_ends() -> None:
    ledger = begun(list(range(100)))
    ledger.complete(range(1, 100))
    assert (ledger.span, ledger.remembered, ledger.unfinished) == (100, 99, 1)
    ledger.complete([0])
    assert ledger.span == 0


@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.5, 0.9, 0.99, 1.0])
def test_the_set_of_a_whole_window_fits_the_metadata_whatever_it_looks_like(share: float) -> None:
    chance = random.Random(share)
    bits = sum(1 << n for n in range(1, MAX_SPAN) if chance.random() < share) | 1 << (MAX_SPAN - 1)
    metadata = encode(bits)
    assert len(metadata.encode()) <= METADATA_LIMIT
    assert decode(metadata) == bits


@given(st.integers(0, 2**400))
def test_metadata_reads_back_what_was_written(bits: int) -> None:
    assert decode(encode(bits)) == bits


@given(st.text(min_size=1, max_size=200) | st.text(max_size=60).map(lambda text: f"pgs1:z{text}"))
def test_metadata_of_somebody_else_is_refused_or_a_set_but_never_an_accident(metadata: str) -> None:
    try:
        assert decode(metadata) >= 0
        assert metadata.startswith("pgs1:")
    except LedgerStateError:
        pass


def test_metadata_that_unpacks_without_end_is_refused() -> None:
    with pytest.raises(LedgerStateError):
        decode(encode(1 << 80_000_000))


def test_a_gap_in_the_log_counts_as_complete() -> None:
    ledger = begun([10, 5_000_000])
    ledger.complete([10])
    assert ledger.position == 5_000_000
    assert ledger.begin(5_000_001)


@given(st.integers(1, 1 << 500), st.text(max_size=20))
def test_what_a_client_reads_behind_the_end_of_the_metadata_does_not_count(bits: int, rubbish: str) -> None:
    assert decode(encode(bits) + rubbish) == bits
