"""A file that is not an honest image is refused, quickly, for the right reason, and tells nothing about itself."""

from __future__ import annotations

import contextlib
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from schemas.deadletters import Reason
from stream.errors import EventError
from stream.evidence.canonical import PixelLimits, canonicalise
from tests.stream.evidence.files import LIMITS, encode, png, scene, webp_canvas, webp_chunks
from tests.stream.evidence.hostile_files import HOSTILE_FILES

WHOLE = {
    "jpeg": encode(scene(), "JPEG"),
    "jpeg_progressive": encode(scene(), "JPEG", progressive=True),
    "jpeg_grey": encode(scene().convert("L"), "JPEG"),
    "png": encode(scene(), "PNG"),
    "png_palette": encode(scene().convert("P"), "PNG"),
    "gif": encode(scene(), "GIF"),
    "webp": encode(scene(), "WEBP"),
    "webp_lossless": encode(scene(), "WEBP", lossless=True),
}


@pytest.mark.parametrize(("build", "reason"), HOSTILE_FILES.values(), ids=HOSTILE_FILES.keys())
def test_a_hostile_file_is_refused(build: Callable[[], bytes], reason: Reason) -> None:
    with pytest.raises(EventError) as caught:
        canonicalise(build(), LIMITS)
    assert caught.value.reason is reason
    assert len(caught.value.detail) < 120


@pytest.mark.parametrize("whole", WHOLE.values(), ids=WHOLE.keys())
def test_a_file_cut_at_any_tenth_byte_is_refused(whole: bytes) -> None:
    # The last byte of a GIF only says that nothing follows.
    end = len(whole) - 1 if whole.startswith(b"GIF") else len(whole)
    for length in (*range(0, end, 10), end - 1):
        with pytest.raises(EventError) as caught:
            canonicalise(whole[:length], LIMITS)
        assert caught.value.reason is Reason.IMAGE_INVALID, length


@pytest.mark.parametrize("whole", WHOLE.values(), ids=WHOLE.keys())
@given(data=st.data())
def test_a_damaged_file_is_a_picture_or_a_refusal(whole: bytes, data: st.DataObject) -> None:
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(EventError):
        image = canonicalise(bytes(damaged), LIMITS)
        assert image.width * image.height <= LIMITS.guard_max_pixels


@pytest.mark.parametrize(
    "bomb",
    [
        png(16_000, 16_000, 8, 6, bytes(64_001) * 200),
        webp_chunks(webp_canvas(16_000, 16_000), (b"VP8L", b"\x2f" + bytes(64))),
        encode(Image.new("L", (8000, 8000)), "JPEG"),
        encode(Image.new("P", (8000, 8000)), "GIF"),
    ],
    ids=["png", "webp", "jpeg", "gif"],
)
def test_a_bomb_is_refused_before_it_is_decoded(bomb: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(*_: object) -> None:
        raise AssertionError("a decoder saw the bomb")

    for decoder in ("JpegImageFile", "PngImageFile", "GifImageFile", "WebPImageFile"):
        monkeypatch.setattr(f"PIL.{decoder[:-9]}ImagePlugin.{decoder}.__init__", opened)
    tracemalloc.start()
    try:
        with pytest.raises(EventError) as caught:
            canonicalise(bomb, LIMITS)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.reason is Reason.IMAGE_TOO_LARGE
    assert peak < 3 * len(bomb) + 100_000


def test_a_gif_without_its_trailer_is_the_same_picture() -> None:
    assert canonicalise(WHOLE["gif"][:-1], LIMITS).data == canonicalise(WHOLE["gif"], LIMITS).data


def test_an_image_of_exactly_the_limit_is_accepted() -> None:
    limits = PixelLimits(max_pixels=120 * 80, guard_max_pixels=160_000)
    assert canonicalise(WHOLE["png"], limits).width == 120
    with pytest.raises(EventError):
        canonicalise(WHOLE["png"], PixelLimits(max_pixels=120 * 80 - 1, guard_max_pixels=160_000))


def test_a_jpeg_of_as_many_scans_as_encoders_write_is_accepted() -> None:
    assert canonicalise(WHOLE["jpeg_progressive"], LIMITS).media_type == "image/jpeg"
