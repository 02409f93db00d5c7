"""The orientation is read from any bytes at all, and never fails."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.evidence.exif import orientation
from tests.stream.evidence.files import exif


@given(st.binary(max_size=200))
def test_any_bytes_give_an_orientation(block: bytes) -> None:
    assert 1 <= orientation(block) <= 8
    assert 1 <= orientation(b"Exif\x00\x00II*\x00" + block) <= 8


@pytest.mark.parametrize("order", ["<", ">"])
@given(value=st.integers(0, 65_535), cut=st.integers(0, 60))
def test_a_whole_block_is_read_and_a_cut_one_ignored(order: str, value: int, cut: int) -> None:
    block = exif(value, b"a description", order)
    assert orientation(block) == orientation(block.removeprefix(b"Exif\x00\x00")) == (value if 1 <= value <= 8 else 1)
    assert orientation(block[:cut]) in (1, value)
