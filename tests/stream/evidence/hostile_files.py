"""Files that must be refused, each with its trick and its reason."""

from __future__ import annotations

import struct
from collections.abc import Callable

from PIL import Image

from schemas.deadletters import Reason
from tests.stream.evidence.files import (
    encode,
    exif,
    gif,
    gif_frame,
    jpeg_segment,
    png,
    png_chunk,
    scene,
    webp_canvas,
    webp_chunks,
    with_jpeg_segments,
    with_png_chunks,
)

INVALID, LARGE = Reason.IMAGE_INVALID, Reason.IMAGE_TOO_LARGE


def _frames() -> tuple[Image.Image, list[Image.Image]]:
    return scene(), [Image.new("RGB", (120, 80), colour) for colour in ("black", "orange")]


def _animated(kind: str) -> bytes:
    first, others = _frames()
    return encode(first, kind, save_all=True, append_images=others, duration=50)


def _jpeg_of_scans(count: int) -> bytes:
    """A progressive JPEG with `count` copies of its last scan: no more bytes than a thumbnail, any amount of work."""
    data = encode(scene(), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * (count - data.count(b"\xff\xda")) + b"\xff\xd9"


def _jpeg_declaring(width: int, height: int) -> bytes:
    data = encode(scene(), "JPEG")
    at = data.index(b"\xff\xc0")
    return data[: at + 5] + struct.pack(">HH", height, width) + data[at + 9 :]


def _second_png_header() -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0))
    return with_png_chunks(encode(scene(), "PNG"), [header])


def _two_palettes() -> bytes:
    palettes = [png_chunk(b"PLTE", bytes(6)), png_chunk(b"PLTE", b"\xff" * 6)]
    return png(32, 32, 8, 3, bytes(33 * 32), *palettes)


def _late_palette() -> bytes:
    return png(32, 32, 8, 3, bytes(33 * 32))[:-12] + png_chunk(b"PLTE", bytes(6)) + png_chunk(b"IEND")


def _split_pixels() -> bytes:
    data = encode(scene(), "PNG")
    at = data.index(b"IDAT") - 4
    pixels = data[at + 8 : -16]
    parts = [png_chunk(b"IDAT", pixels[:50]), png_chunk(b"tEXt", b"a\x00b"), png_chunk(b"IDAT", pixels[50:])]
    return data[:at] + b"".join(parts) + png_chunk(b"IEND")


def _sixteen_bit_with_a_transparent_grey() -> bytes:
    rows = b"".join(b"\x00" + struct.pack(">HH", 0x8000, 0x8001) * 16 for _ in range(32))
    return png(32, 32, 16, 0, rows, png_chunk(b"tRNS", b"\x80\x00"))


def _sixteen_bit_with_a_transparent_colour() -> bytes:
    rows = b"".join(b"\x00" + struct.pack(">HHH", 0x8000, 0x8000, 0x8001) * 32 for _ in range(32))
    return png(32, 32, 16, 2, rows, png_chunk(b"tRNS", struct.pack(">HHH", 0x8000, 0x8000, 0x8000)))


HOSTILE_FILES: dict[str, tuple[Callable[[], bytes], Reason]] = {
    # Not images
    "nothing": (lambda: b"", INVALID),
    "one_byte": (lambda: b"\x89", INVALID),
    "zeros": (lambda: bytes(4096), INVALID),
    "text": (lambda: b"hello, moderator", INVALID),
    "html": (lambda: b"<!doctype html><script>alert(1)</script>", INVALID),
    "svg": (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>", INVALID),
    "xml_entities": (
        lambda: b"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><a>&b;</a>",
        INVALID,
    ),
    "pdf": (lambda: b"%PDF-1.7\n1 0 obj<</Type/Catalog>>endobj", INVALID),
    "postscript": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(/etc/passwd) (r) file", INVALID),
    "elf_executable": (lambda: b"\x7fELF\x02\x01\x01" + bytes(64), INVALID),
    "windows_executable": (lambda: b"MZ\x90\x00" + bytes(128), INVALID),
    "zip": (lambda: b"PK\x03\x04" + bytes(64), INVALID),
    "gzip": (lambda: b"\x1f\x8b\x08\x00" + bytes(64), INVALID),
    "mp4": (lambda: b"\x00\x00\x00\x18ftypmp42" + bytes(64), INVALID),
    # Images of kinds that are not accepted
    "bmp": (lambda: encode(scene(), "BMP"), INVALID),
    "tiff": (lambda: encode(scene(), "TIFF"), INVALID),
    "ico": (lambda: encode(scene(64, 64), "ICO"), INVALID),
    "ppm": (lambda: encode(scene(), "PPM"), INVALID),
    "jpeg_2000": (lambda: encode(scene(), "JPEG2000"), INVALID),
    "avif": (lambda: encode(scene(), "AVIF"), INVALID),
    "wav": (lambda: b"RIFF\x24\x00\x00\x00WAVEfmt " + bytes(32), INVALID),
    # Signatures and little else
    "jpeg_signature": (lambda: b"\xff\xd8\xff", INVALID),
    "jpeg_without_pixels": (lambda: b"\xff\xd8\xff\xe0\x00\x04ab\xff\xd9", INVALID),
    "png_signature": (lambda: b"\x89PNG\r\n\x1a\n", INVALID),
    "png_without_pixels": (lambda: png(32, 32, 8, 2, None), INVALID),
    "gif_signature": (lambda: b"GIF89a", INVALID),
    "gif_without_pixels": (lambda: gif(32, 32), INVALID),
    "webp_signature": (lambda: b"RIFF\x04\x00\x00\x00WEBP", INVALID),
    "webp_without_pixels": (lambda: webp_chunks(webp_canvas(32, 32)), INVALID),
    "html_behind_a_gif_signature": (lambda: b"GIF89a<script>alert(1)</script>", INVALID),
    "html_behind_a_png_signature": (lambda: b"\x89PNG\r\n\x1a\n<script>alert(1)</script>", INVALID),
    # Declared sizes
    "png_of_no_width": (lambda: png(0, 32, 8, 2, b""), INVALID),
    "jpeg_of_no_height": (lambda: _jpeg_declaring(120, 0), INVALID),
    "png_declares_the_largest_size": (lambda: png(2**31 - 1, 2**31 - 1, 8, 2, b"\x00"), LARGE),
    "png_declares_a_negative_size": (lambda: png(2**32 - 1, 2**32 - 1, 8, 2, b"\x00"), LARGE),
    "png_bomb": (lambda: encode(Image.new("1", (20_000, 20_000)), "PNG"), LARGE),
    "png_bomb_just_beyond": (lambda: encode(Image.new("1", (2000, 1001)), "PNG"), LARGE),
    "jpeg_declares_the_largest_size": (lambda: _jpeg_declaring(65_535, 65_535), LARGE),
    "gif_declares_the_largest_size": (lambda: gif(65_535, 65_535, gif_frame(0, 0, 1, 1)), LARGE),
    "gif_frame_beyond_its_canvas": (lambda: gif(8, 8, gif_frame(60_000, 60_000, 5_000, 5_000)), LARGE),
    "webp_declares_the_largest_canvas": (lambda: webp_chunks(webp_canvas(16_384, 16_384)), LARGE),
    "webp_lossless_declares_the_largest_size": (
        lambda: webp_chunks((b"VP8L", b"\x2f" + struct.pack("<I", 0x3FFF | 0x3FFF << 14) + bytes(8))),
        LARGE,
    ),
    "webp_lossy_declares_the_largest_size": (
        lambda: webp_chunks((b"VP8 ", b"\x30\x01\x00\x9d\x01\x2a\xff\x3f\xff\x3f" + bytes(8))),
        LARGE,
    ),
    "png_with_a_second_header": (_second_png_header, INVALID),
    "jpeg_with_a_second_frame": (lambda: with_jpeg_segments(_jpeg_declaring(120, 80), _jpeg_frame()), INVALID),
    "one_pixel_high_and_30000_wide": (lambda: encode(Image.new("RGB", (30_000, 1)), "PNG"), INVALID),
    "one_pixel_wide_and_30000_high": (lambda: encode(Image.new("RGB", (1, 30_000)), "JPEG"), INVALID),
    "just_beyond_200_to_1": (lambda: encode(Image.new("RGB", (402, 2)), "PNG"), INVALID),
    # More pictures than one
    "animated_gif": (lambda: _animated("GIF"), INVALID),
    "animated_png": (lambda: _animated("PNG"), INVALID),
    "animated_webp": (lambda: _animated("WEBP"), INVALID),
    "png_that_says_it_is_animated_after_its_pixels": (
        lambda: encode(scene(), "PNG")[:-12] + png_chunk(b"acTL", struct.pack(">II", 2, 0)) + png_chunk(b"IEND"),
        INVALID,
    ),
    # Work and memory without pixels
    "jpeg_of_a_thousand_scans": (lambda: _jpeg_of_scans(1000), LARGE),
    "jpeg_of_a_million_segments": (
        lambda: with_jpeg_segments(encode(scene(), "JPEG"), jpeg_segment(0xFE, b"") * 1_000_000),
        LARGE,
    ),
    "png_of_a_hundred_thousand_chunks": (
        lambda: with_png_chunks(encode(scene(), "PNG"), [png_chunk(b"prVt")] * 100_000),
        LARGE,
    ),
    "gif_of_a_million_comments": (
        lambda: gif(8, 8, b"!\xfe" + b"\x01a" * 1_000_000 + b"\x00", gif_frame(0, 0, 8, 8)),
        LARGE,
    ),
    "gif_of_a_hundred_thousand_extensions": (lambda: gif(8, 8, b"!\xfe\x00" * 100_000, gif_frame(0, 0, 8, 8)), LARGE),
    # Two readings of one file
    "png_with_two_palettes": (_two_palettes, INVALID),
    "png_with_a_palette_after_its_pixels": (_late_palette, INVALID),
    "png_with_pixels_in_two_places": (_split_pixels, INVALID),
    # Damage
    "png_with_a_wrong_checksum": (lambda: _flipped(encode(scene(), "PNG"), 30), INVALID),
    "png_with_damaged_pixels": (lambda: png(32, 32, 8, 2, None, png_chunk(b"IDAT", b"not zlib at all")), INVALID),
    "png_of_an_unknown_colour_type": (lambda: png(32, 32, 8, 5, bytes(33 * 32)), INVALID),
    "png_with_palette_pixels_and_no_palette_data": (lambda: png(32, 32, 8, 3, bytes(5)), INVALID),
    "jpeg_of_12_bits": (
        lambda: encode(scene(), "JPEG").replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc0\x00\x11\x0c"),
        INVALID,
    ),
    "gif_with_damaged_pixels": (
        lambda: gif(32, 32, b"," + struct.pack("<HHHHB", 0, 0, 32, 32, 0) + b"\x02\x04\xff\xff\xff\xff\x00"),
        INVALID,
    ),
    "jpeg_with_exif_and_nothing_else": (lambda: b"\xff\xd8" + jpeg_segment(0xE1, exif(6)) + b"\xff\xd9", INVALID),
    # What people see could not be told
    "png_of_16_bits_with_a_transparent_grey": (_sixteen_bit_with_a_transparent_grey, INVALID),
    "png_of_16_bits_with_a_transparent_colour": (_sixteen_bit_with_a_transparent_colour, INVALID),
}


def _jpeg_frame() -> bytes:
    data = encode(scene(), "JPEG")
    at = data.index(b"\xff\xc0")
    return data[at : at + 19]


def _flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes((data[at] ^ 0x01,)) + data[at + 1 :]
