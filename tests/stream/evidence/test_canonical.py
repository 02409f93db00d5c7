"""Honest images keep what people see, and nothing else."""

from __future__ import annotations

import hashlib
import io
import struct
import tracemalloc
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image, ImageCms, PngImagePlugin

from stream.evidence.canonical import PixelLimits, canonicalise
from tests.stream.evidence.files import (
    LIMITS,
    SECRET,
    corners,
    decode,
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

UPRIGHT = ["red", "green", "white", "blue"]

HONEST = {
    "jpeg": encode(scene(), "JPEG"),
    "jpeg_progressive": encode(scene(), "JPEG", progressive=True),
    "jpeg_cmyk": encode(scene().convert("CMYK"), "JPEG"),
    "jpeg_with_restart_markers": encode(scene(), "JPEG", restart_marker_blocks=1),
    "png": encode(scene(), "PNG"),
    "png_alpha": encode(scene().convert("RGBA"), "PNG"),
    "png_palette": encode(scene().convert("P"), "PNG"),
    "gif": encode(scene(), "GIF"),
    "webp": encode(scene(), "WEBP"),
    "webp_lossless": encode(scene(), "WEBP", lossless=True),
    "webp_alpha": encode(scene().convert("RGBA"), "WEBP"),
}


@pytest.mark.parametrize("kind", HONEST)
def test_an_honest_image_becomes_the_same_picture_in_rgb(kind: str) -> None:
    data = HONEST[kind]
    image = canonicalise(data, LIMITS)
    picture = decode(image.data)
    assert picture.mode == "RGB"
    assert corners(picture) == UPRIGHT
    assert picture.size == (image.width, image.height) == (120, 80)
    assert image.media_type == ("image/png" if kind.startswith(("png", "gif")) else "image/jpeg")
    assert picture.get_format_mimetype() == image.media_type  # type: ignore[attr-defined]
    assert image.sha256 == hashlib.sha256(image.data).hexdigest()
    assert image.source_sha256 == hashlib.sha256(data).hexdigest()
    assert image.source_size == len(data)


@pytest.mark.parametrize("kind", HONEST)
def test_the_same_input_gives_the_same_bytes_in_any_thread(kind: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        images = list(pool.map(lambda _: canonicalise(HONEST[kind], LIMITS), range(8)))
    assert len({image.sha256 for image in images}) == 1


@pytest.mark.parametrize("kind", HONEST)
def test_a_canonical_image_is_canonical_in_size_and_shape(kind: str) -> None:
    first = canonicalise(HONEST[kind], LIMITS)
    second = canonicalise(first.data, LIMITS)
    assert (second.width, second.height, second.media_type) == (first.width, first.height, first.media_type)
    if first.media_type == "image/png":
        assert second.data == first.data


ORIENTED = {
    1: ["red", "green", "white", "blue"],
    2: ["green", "red", "blue", "white"],
    3: ["white", "blue", "red", "green"],
    4: ["blue", "white", "green", "red"],
    5: ["red", "blue", "white", "green"],
    6: ["blue", "red", "green", "white"],
    7: ["white", "green", "red", "blue"],
    8: ["green", "white", "blue", "red"],
}


@pytest.mark.parametrize("order", ["<", ">"], ids=["little_endian", "big_endian"])
@pytest.mark.parametrize(("value", "seen"), ORIENTED.items())
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_the_picture_is_shown_upright(kind: str, value: int, seen: list[str], order: str) -> None:
    image = canonicalise(encode(scene(), kind, exif=exif(value, order=order)), LIMITS)
    picture = decode(image.data)
    assert corners(picture) == seen
    assert picture.size == ((80, 120) if value >= 5 else (120, 80))
    assert dict(picture.getexif()) == {}


def _png_with_everything() -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", SECRET.decode())
    info.add_text("Compressed", SECRET.decode(), zip=True)
    info.add_itxt("XML:com.adobe.xmp", f"<x:xmpmeta>{SECRET.decode()}</x:xmpmeta>")
    data = encode(scene(), "PNG", pnginfo=info, exif=exif(1, SECRET), dpi=(72, 72))
    return with_png_chunks(data, [png_chunk(b"prVt", SECRET)]) + SECRET


def _profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


CARRIERS = {
    "jpeg_exif": encode(scene(), "JPEG", exif=exif(1, SECRET)),
    "jpeg_comment": encode(scene(), "JPEG", comment=SECRET),
    "jpeg_xmp": with_jpeg_segments(
        encode(scene(), "JPEG"), jpeg_segment(0xE1, b"http://ns.adobe.com/xap/1.0/\x00" + SECRET)
    ),
    "jpeg_icc": encode(scene(), "JPEG", icc_profile=SECRET * 10),
    "jpeg_iptc": with_jpeg_segments(encode(scene(), "JPEG"), jpeg_segment(0xED, b"Photoshop 3.0\x00" + SECRET)),
    "jpeg_jfif_thumbnail": with_jpeg_segments(encode(scene(), "JPEG"), jpeg_segment(0xE0, b"JFXX\x00" + SECRET)),
    "jpeg_tail": encode(scene(), "JPEG") + SECRET,
    "jpeg_junk_between_segments": with_jpeg_segments(encode(scene(), "JPEG"), jpeg_segment(0xFE, b"") + SECRET),
    "jpeg_segment_between_scans": encode(scene(), "JPEG", progressive=True).replace(
        b"\xff\xda", jpeg_segment(0xFE, SECRET + b"\xff\xd9\xff\xda") + b"\xff\xda"
    ),
    "png_everything": _png_with_everything(),
    "png_icc": encode(scene(), "PNG", icc_profile=SECRET * 10),
    "gif_comment": encode(scene(), "GIF", comment=SECRET),
    "gif_tail": encode(scene(), "GIF") + SECRET,
    "webp_exif": encode(scene(), "WEBP", exif=exif(1, SECRET)),
    "webp_xmp": encode(scene(), "WEBP", xmp=SECRET),
    "webp_icc": encode(scene(), "WEBP", icc_profile=SECRET * 10),
    "webp_tail": encode(scene(), "WEBP") + SECRET,
}


@pytest.mark.parametrize("data", CARRIERS.values(), ids=CARRIERS.keys())
def test_metadata_and_hidden_payloads_are_gone(data: bytes) -> None:
    image = canonicalise(data, LIMITS)
    picture = decode(image.data)
    assert corners(picture) == UPRIGHT
    assert SECRET not in image.data
    assert set(picture.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
    assert image.source_sha256 == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_real_colour_profile_is_dropped(kind: str) -> None:
    image = canonicalise(encode(scene(), kind, icc_profile=_profile()), LIMITS)
    assert "icc_profile" not in decode(image.data).info


def _zip() -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("evil.sh", SECRET)
    return sink.getvalue()


POLYGLOTS = {
    "png_and_zip": encode(scene(), "PNG") + _zip(),
    "jpeg_and_zip": encode(scene(), "JPEG") + _zip(),
    "gif_and_zip": encode(scene(), "GIF") + _zip(),
    "gif_and_javascript": encode(scene(), "GIF", comment=b"*/=1;alert('" + SECRET + b"')//"),
    "jpeg_and_html": encode(scene(), "JPEG", comment=b"<script>alert('" + SECRET + b"')</script>"),
    "png_and_php": with_png_chunks(
        encode(scene(), "PNG"), [png_chunk(b"tEXt", b"c\x00<?php system($_GET[0]); ?>" + SECRET)]
    ),
    "jpeg_and_a_second_jpeg": encode(scene(), "JPEG") + encode(Image.new("RGB", (500, 500), "black"), "JPEG"),
    "jpeg_and_a_video": encode(scene(), "JPEG") + b"\x00\x00\x00\x18ftypmp42" + b"\xff\xda" * 1000,
    "multi_picture_jpeg": encode(scene(), "MPO", save_all=True, append_images=[Image.new("RGB", (120, 80), "black")]),
}


@pytest.mark.parametrize("data", POLYGLOTS.values(), ids=POLYGLOTS.keys())
def test_of_two_files_in_one_only_the_picture_that_people_see_remains(data: bytes) -> None:
    image = canonicalise(data, LIMITS)
    assert corners(decode(image.data)) == UPRIGHT
    assert not any(mark in image.data for mark in (SECRET, b"PK\x03\x04", b"<script", b"<?php", b"ftyp"))


def test_transparency_is_laid_on_white() -> None:
    layer = Image.new("RGBA", (120, 80), (0, 0, 0, 0))
    layer.paste((255, 0, 0, 255), (0, 0, 60, 40))
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True, "exact": True})):
        assert corners(decode(canonicalise(encode(layer, kind, **options), LIMITS).data)) == [
            "red",
            "white",
            "white",
            "white",
        ]


def test_half_transparency_is_mixed_with_white() -> None:
    layer = Image.new("RGBA", (32, 32), (255, 0, 0, 128))
    assert decode(canonicalise(encode(layer, "PNG"), LIMITS).data).getpixel((5, 5)) == (255, 127, 127)


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_transparent_palette_entry_is_white(kind: str) -> None:
    picture = Image.new("P", (120, 80), 0)
    picture.putpalette([0, 0, 0, 255, 0, 0])
    picture.paste(1, (0, 0, 60, 40))
    image = canonicalise(encode(picture, kind, transparency=0), LIMITS)
    assert corners(decode(image.data)) == ["red", "white", "white", "white"]


def test_a_transparent_grey_and_a_transparent_colour_are_white() -> None:
    grey = png(32, 32, 8, 0, (b"\x00" + b"\x00" * 32) * 32, png_chunk(b"tRNS", b"\x00\x00"))
    colour = png(32, 32, 8, 2, (b"\x00" + b"\x01\x02\x03" * 32) * 32, png_chunk(b"tRNS", b"\x00\x01\x00\x02\x00\x03"))
    for data in (grey, colour):
        assert decode(canonicalise(data, LIMITS).data).getpixel((9, 9)) == (255, 255, 255)


def test_sixteen_bit_greys_are_scaled_not_cut_off() -> None:
    rows = b"".join(b"\x00" + b"".join(struct.pack(">H", column * 2048) for column in range(32)) for _ in range(32))
    picture = decode(canonicalise(png(32, 32, 16, 0, rows), LIMITS).data)
    assert [picture.getpixel((column, 0)) for column in range(32)] == [(column * 8,) * 3 for column in range(32)]


@pytest.mark.parametrize(("colour", "pixel"), [(2, (0x40, 0x80, 0xC0)), (6, (0x40, 0x80, 0xC0)), (4, (0x40,) * 3)])
def test_sixteen_bit_colours_become_eight(colour: int, pixel: tuple[int, int, int]) -> None:
    sample = {2: b"\x40\x00\x80\x00\xc0\x00", 6: b"\x40\x00\x80\x00\xc0\x00\xff\xff", 4: b"\x40\x00\xff\xff"}[colour]
    data = png(32, 32, 16, colour, (b"\x00" + sample * 32) * 32)
    assert decode(canonicalise(data, LIMITS).data).getpixel((5, 5)) == pixel


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_every_mode_of_png_becomes_rgb(mode: str) -> None:
    source = scene().convert("L").convert("I;16") if mode == "I;16" else scene().convert(mode)
    assert decode(canonicalise(encode(source, "PNG"), LIMITS).data).mode == "RGB"


def test_an_interlaced_png_is_read() -> None:
    # One pixel is one pass of the seven; the others are empty.
    data = png(1, 1, 8, 2, b"\x00\xff\x00\x00", interlace=1)
    assert decode(canonicalise(data, LIMITS).data).getpixel((14, 14)) == (255, 0, 0)


def test_large_images_are_scaled_down_and_keep_their_shape() -> None:
    for kind in ("JPEG", "PNG", "WEBP"):
        image = canonicalise(encode(scene(1500, 1000), kind), LIMITS)
        assert image.width * image.height <= LIMITS.guard_max_pixels
        assert image.width / image.height == pytest.approx(1.5, rel=0.01)
        assert corners(decode(image.data)) == UPRIGHT


def test_scaling_down_leaves_no_place_for_a_picture_in_every_third_pixel() -> None:
    # The scaling attack: a nearest-neighbour reduction would show a black image; people see a light one.
    rows = b"".join(
        b"\x00" + bytes((0 if row % 3 == 1 and column % 3 == 1 else 255) for column in range(1200))
        for row in range(1200)
    )
    picture = decode(canonicalise(png(1200, 1200, 8, 0, rows), PixelLimits(2_000_000, 160_000)).data).convert("L")
    assert sum(picture.histogram()[:180]) == 0


@pytest.mark.parametrize(("size", "shown"), [((1, 1), (28, 28)), ((1, 200), (28, 5600)), ((10, 20), (28, 56))])
def test_tiny_images_are_scaled_up_to_what_the_processor_needs(size: tuple[int, int], shown: tuple[int, int]) -> None:
    image = canonicalise(encode(Image.new("RGB", size, "blue"), "PNG"), LIMITS)
    assert (image.width, image.height) == shown
    assert decode(image.data).getpixel((3, 3)) == (0, 0, 255)


def test_an_orientation_that_no_one_understands_is_ignored() -> None:
    for block in (exif(0), exif(9), b"Exif\x00\x00", b"Exif\x00\x00II*\x00\xff\xff\xff\xff", exif(6)[:20]):
        image = canonicalise(encode(scene(), "JPEG", exif=block), LIMITS)
        assert corners(decode(image.data)) == UPRIGHT


def test_an_extended_webp_of_one_frame_is_read() -> None:
    lossy = HONEST["webp"]
    data = webp_chunks(webp_canvas(120, 80), (b"VP8 ", lossy[20:]))
    assert corners(decode(canonicalise(data, LIMITS).data)) == UPRIGHT


def test_a_gif_of_one_frame_is_not_an_animation() -> None:
    looped = gif(4, 4, b"!\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00", gif_frame(0, 0, 1, 1))
    assert canonicalise(looped, LIMITS).width == 28


def _packed(size: int) -> bytes:
    return zlib.compress(bytes(size), 9)


TEXT_BOMBS = {
    "text": [png_chunk(b"zTXt", b"k\x00\x00" + _packed(50_000_000))],
    "international_text": [png_chunk(b"iTXt", b"k\x00\x01\x00\x00\x00" + _packed(50_000_000))],
    "profile": [png_chunk(b"iCCP", b"k\x00\x00" + _packed(50_000_000))],
    "many_texts": [png_chunk(b"zTXt", b"k\x00\x00" + _packed(1_000_000))] * 100,
}


@pytest.mark.parametrize("chunks", TEXT_BOMBS.values(), ids=TEXT_BOMBS.keys())
def test_a_bomb_in_a_text_is_dropped_without_being_unpacked(chunks: list[bytes]) -> None:
    data = with_png_chunks(HONEST["png"], chunks)
    tracemalloc.start()
    try:
        image = canonicalise(data, LIMITS)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert image.data == canonicalise(HONEST["png"], LIMITS).data
    assert peak < 3 * len(data) + 500_000


@pytest.mark.parametrize("name", [b"interlace", b"exif", b"transparency", b"bbox", b"default_image", b"icc_profile"])
@pytest.mark.parametrize("kind", [b"tEXt", b"iTXt", b"zTXt"])
def test_no_text_changes_the_picture(kind: bytes, name: bytes) -> None:
    text = {
        b"tEXt": b"\x00" + exif(6),
        b"iTXt": b"\x00\x00\x00\x00\x00x",
        b"zTXt": b"\x00\x00" + zlib.compress(exif(6)),
    }[kind]
    data = with_png_chunks(HONEST["png"], [png_chunk(kind, name + text)])
    assert canonicalise(data, LIMITS).data == canonicalise(HONEST["png"], LIMITS).data


def test_a_transparency_out_of_its_place_is_ignored_as_in_browsers() -> None:
    palette, first, second = (
        png_chunk(b"PLTE", b"\xff\x00\x00" * 2),
        png_chunk(b"tRNS", b"\xff"),
        png_chunk(b"tRNS", b"\x00"),
    )
    rows = bytes(33 * 32)
    red = png(32, 32, 8, 3, rows, palette)
    early, again = png(32, 32, 8, 3, rows, second, palette), png(32, 32, 8, 3, rows, palette, first, second)
    late = red[:-12] + second + png_chunk(b"IEND")
    for data in (red, early, again, late):
        assert decode(canonicalise(data, LIMITS).data).getpixel((5, 5)) == (255, 0, 0)
    proper = png(32, 32, 8, 3, rows, palette, second)
    assert decode(canonicalise(proper, LIMITS).data).getpixel((5, 5)) == (255, 255, 255)
