from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stream.worker.lanes import KeyLanes

KEYS = st.sampled_from([None, b"a", b"b", b"", b"c"])


@given(st.lists(KEYS, max_size=40), st.randoms(use_true_random=False))
def test_outcomes_of_one_key_leave_in_the_order_of_their_records(keys: list[bytes | None], random: object) -> None:
    lanes: KeyLanes[int] = KeyLanes()
    slots = [(number, lanes.enter(key)) for number, key in enumerate(keys)]
    order = list(slots)
    random.shuffle(order)  # type: ignore[attr-defined]
    left: list[int] = []
    for number, slot in order:
        left.extend(lanes.settle(slot, number))
    assert sorted(left) == list(range(len(keys)))
    for key in {k for k in keys if k is not None}:
        of_key = [number for number in left if keys[number] == key]
        assert of_key == sorted(of_key)


def test_an_outcome_waits_only_for_its_own_key() -> None:
    lanes: KeyLanes[str] = KeyLanes()
    slow, behind, other = lanes.enter(b"a"), lanes.enter(b"a"), lanes.enter(b"b")
    assert lanes.settle(behind, "second") == []
    assert lanes.settle(other, "other") == ["other"]
    assert lanes.settle(slow, "first") == ["first", "second"]


def test_records_without_a_key_do_not_wait_for_each_other() -> None:
    lanes: KeyLanes[int] = KeyLanes()
    first, second = lanes.enter(None), lanes.enter(None)
    assert lanes.settle(second, 2) == [2]
    assert lanes.settle(first, 1) == [1]


def test_a_lane_with_nothing_in_flight_is_forgotten() -> None:
    lanes: KeyLanes[int] = KeyLanes()
    for number in range(1000):
        lanes.settle(lanes.enter(str(number).encode()), number)
    assert not lanes._lanes
