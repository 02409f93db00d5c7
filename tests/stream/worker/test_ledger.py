from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.worker.ledger import PartitionLedger


@st.composite
def schedules(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    """Offsets as a partition delivers them (rising, with gaps), and an order in which some of them complete."""
    gaps = draw(st.lists(st.integers(1, 5), min_size=1, max_size=40))
    offsets = []
    offset = draw(st.integers(0, 1000))
    for gap in gaps:
        offsets.append(offset)
        offset += gap
    order = draw(st.permutations(offsets))
    return offsets, order[: draw(st.integers(0, len(order)))]


@given(schedules())
def test_the_position_never_passes_an_unfinished_offset(schedule: tuple[list[int], list[int]]) -> None:
    offsets, completed = schedule
    ledger = PartitionLedger()
    for offset in offsets:
        ledger.begin(offset)
    done: set[int] = set()
    for offset in completed:
        before = ledger.position
        moved = ledger.complete(offset)
        done.add(offset)
        unfinished = [o for o in offsets if o not in done]
        finished_prefix = [o for o in offsets if not unfinished or o < unfinished[0]]
        assert ledger.position == (finished_prefix[-1] + 1 if finished_prefix else None)
        assert moved == (ledger.position != before)
        assert ledger.unfinished == len(unfinished)
        assert ledger.held == len(offsets) - len(finished_prefix)


@given(schedules())
def test_completing_everything_leaves_nothing_held(schedule: tuple[list[int], list[int]]) -> None:
    offsets, _ = schedule
    ledger = PartitionLedger()
    for offset in offsets:
        ledger.begin(offset)
    for offset in reversed(offsets):
        ledger.complete(offset)
    assert (ledger.position, ledger.held, ledger.unfinished) == (offsets[-1] + 1, 0, 0)


def test_an_offset_completes_once() -> None:
    ledger = PartitionLedger()
    ledger.begin(5)
    ledger.begin(6)
    ledger.complete(6)
    with pytest.raises(ValueError, match="not in flight"):
        ledger.complete(6)
    with pytest.raises(ValueError, match="not in flight"):
        ledger.complete(7)


@pytest.mark.parametrize("late", [3, 4])
def test_an_offset_that_does_not_rise_is_refused(late: int) -> None:
    ledger = PartitionLedger()
    ledger.begin(4)
    with pytest.raises(ValueError, match="came after"):
        ledger.begin(late)
    ledger.complete(4)
    with pytest.raises(ValueError, match="came after"):
        ledger.begin(late)
