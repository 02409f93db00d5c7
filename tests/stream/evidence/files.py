"""Image files for the tests, honest and hostile, written byte by byte where no encoder would."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterable
from typing import Any

from PIL import Image, ImageDraw

from stream.evidence.canonical import PixelLimits

LIMITS = PixelLimits(max_pixels=2_000_000, guard_max_pixels=160_000)
SECRET = b"SECRET-PAYLOAD-7f3a"
"""What must never be found in an output."""


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def decode(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def scene(width: int = 120, height: int = 80) -> Image.Image:
    """A picture whose four quarters are red, green, blue and white: any turn or flip can be told."""
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, width // 2 - 1, height // 2 - 1), fill="red")
    draw.rectangle((width // 2, 0, width, height // 2 - 1), fill="green")
    draw.rectangle((0, height // 2, width // 2 - 1, height), fill="blue")
    return image


def corners(image: Image.Image) -> list[str]:
    """The colours of the four quarters, clockwise from the top left."""
    names: dict[tuple[int, ...], str] = {
        (1, 0, 0): "red",
        (0, 0, 1): "blue",
        (1, 1, 1): "white",
        (0, 0, 0): "black",
        (0, 1, 0): "green",
    }
    width, height = image.size
    points = [
        (width // 4, height // 4),
        (3 * width // 4, height // 4),
        (3 * width // 4, 3 * height // 4),
        (width // 4, 3 * height // 4),
    ]
    found = []
    for point in points:
        pixel = image.convert("RGB").getpixel(point)
        assert isinstance(pixel, tuple)
        found.append(names.get(tuple(int(value > 90) for value in pixel), str(pixel)))
    return found


def exif(orientation: int, comment: bytes = b"", order: str = "<") -> bytes:
    """An EXIF block with an orientation and, for the metadata tests, a description."""
    entries = [struct.pack(order + "HHIHH", 0x0112, 3, 1, orientation, 0)]
    if comment:
        entries.insert(0, struct.pack(order + "HHII", 0x010E, 2, len(comment), 8 + 2 + 24 + 4))
    head = (b"II*\x00" if order == "<" else b"MM\x00*") + struct.pack(order + "IH", 8, len(entries))
    return b"Exif\x00\x00" + head + b"".join(entries) + bytes(4) + comment


def jpeg_segment(marker: int, payload: bytes) -> bytes:
    return b"\xff" + bytes((marker,)) + struct.pack(">H", len(payload) + 2) + payload


def with_jpeg_segments(data: bytes, *segments: bytes) -> bytes:
    return data[:2] + b"".join(segments) + data[2:]


def png_chunk(name: bytes, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload)) + name + payload + struct.pack(">I", zlib.crc32(name + payload))


def png(
    width: int, height: int, depth: int, colour: int, rows: bytes | None, *chunks: bytes, interlace: int = 0
) -> bytes:
    """A PNG file; `rows` are unpacked, with a filter byte each, and None leaves the pixels out."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace))
    pixels = b"" if rows is None else png_chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + pixels + png_chunk(b"IEND")


def with_png_chunks(data: bytes, chunks: Iterable[bytes]) -> bytes:
    """Chunks after the header, before everything else."""
    return data[:33] + b"".join(chunks) + data[33:]


def webp_chunks(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"WEBP" + b"".join(
        name + struct.pack("<I", len(payload)) + payload + bytes(len(payload) % 2) for name, payload in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def webp_canvas(width: int, height: int, flags: int = 0) -> tuple[bytes, bytes]:
    return b"VP8X", bytes((flags, 0, 0, 0)) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")


def gif(width: int, height: int, *blocks: bytes) -> bytes:
    return (
        b"GIF89a"
        + struct.pack("<HHBBB", width, height, 0x80, 0, 0)
        + b"\x00\x00\x00\xff\xff\xff"
        + b"".join(blocks)
        + b";"
    )


def gif_frame(left: int, top: int, width: int, height: int) -> bytes:
    """A frame whose pixels are one clear code and an end: enough for structure, not for a picture."""
    return b"," + struct.pack("<HHHHB", left, top, width, height, 0) + b"\x02\x02\x4c\x01\x00"
