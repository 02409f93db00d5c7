"""Whatever comes in, the guard's image processor takes what comes out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.evidence.scaling import MAX_RATIO, MIN_SIDE, guard_size

LOWEST = MIN_SIDE * MIN_SIDE * MAX_RATIO


@given(st.integers(1, 65_535), st.integers(1, 65_535), st.integers(LOWEST, 10_000_000))
def test_every_size_fits_the_processor_and_keeps_its_shape(width: int, height: int, limit: int) -> None:
    if max(width, height) > MAX_RATIO * min(width, height):
        with pytest.raises(ValueError, match="200:1"):
            guard_size(width, height, limit)
        return
    new_width, new_height = guard_size(width, height, limit)
    assert min(new_width, new_height) >= MIN_SIDE
    assert new_width * new_height <= limit
    assert max(new_width, new_height) <= MAX_RATIO * min(new_width, new_height)
    # One pixel of rounding on the short side, which is at least 28.
    assert new_width / new_height == pytest.approx(width / height, rel=1.5 / MIN_SIDE)


@pytest.mark.parametrize(
    ("given_size", "shown"),
    [
        ((1280, 800), (1280, 800)),
        ((28, 28), (28, 28)),
        ((1, 1), (28, 28)),
        ((2, 400), (28, 5600)),
        ((27, 54), (28, 56)),
        ((2048, 784), (2048, 784)),
        ((6000, 4000), (1551, 1034)),
    ],
)
def test_an_image_that_fits_is_left_alone(given_size: tuple[int, int], shown: tuple[int, int]) -> None:
    assert guard_size(*given_size, 2048 * 28 * 28) == shown


def test_limits_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot hold"):
        guard_size(100, 100, LOWEST - 1)
