"""Images: what is read, and what is refused before it costs anything."""

from __future__ import annotations

import io
import struct
import zlib

import pytest
from PIL import Image

from tests.triton_models.pictures import blank_picture, picture_of
from triton_models.proguard_lite.guard import ocr
from triton_models.proguard_lite.guard.errors import BadImageError
from triton_models.proguard_lite.guard.ocr import RapidReader, decode


@pytest.fixture(scope="module")
def reader() -> RapidReader:
    return RapidReader()


def encoded(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def test_writing_is_read_in_order(reader: RapidReader) -> None:
    text = reader.read(picture_of("The first line is here\nand the second follows"))
    assert text.split("\n") == ["The first line is here", "and the second follows"]


def test_the_same_bytes_read_the_same_again(reader: RapidReader) -> None:
    picture = picture_of("Read me twice")
    assert reader.read(picture) == reader.read(picture) == "Read me twice"


def test_an_image_without_writing_reads_as_empty(reader: RapidReader) -> None:
    assert reader.read(blank_picture()) == ""


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("mode", ["RGB", "L", "1", "RGBA", "P", "CMYK", "LA"])
def test_every_mode_becomes_three_channels(kind: str, mode: str) -> None:
    image = Image.new("RGB", (40, 30), "white").convert(mode)
    try:
        data = encoded(image, kind)
    except (OSError, KeyError):
        data = encoded(image.convert("RGB"), kind)
    assert decode(data).shape == (30, 40, 3)


def test_transparency_lies_on_white() -> None:
    assert decode(encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 0)), "PNG")).min() == 255


def test_a_bomb_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 100_000))
        + chunk(b"IEND", b"")
    )
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("pixels were decoded"))
    with pytest.raises(BadImageError, match=r"60000 x 60000|DecompressionBomb"):
        decode(bomb)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not an image",
        picture_of("cut off")[:200],
        picture_of("cut off")[:-400],
        b"GIF89a" + b"\0" * 100,
        encoded(Image.new("RGB", (8, 8)), "BMP"),
        b"%PDF-1.7",
    ],
)
def test_broken_and_foreign_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(BadImageError):
        decode(data)


def test_too_many_bytes_are_refused_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ocr, "MAX_BYTES", 100)
    with pytest.raises(BadImageError, match="bytes"):
        decode(b"x" * 101)
