"""What a file says about itself, read before any decoder sees it.

Four formats, told apart by their first bytes and nothing else: neither the name nor the stored content type counts. The
walk over a file's parts is bounded, because Pillow walks them in Python under the interpreter's lock and ten
megabytes of empty parts would hold up every event in flight.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from enum import StrEnum

from schemas.deadletters import Reason
from stream.errors import EventError

MAX_PARTS = 65_536
"""Chunks, blocks or segments of one file. Ten megabytes in the 255-byte blocks of GIF are 41,000."""

MAX_SCANS = 64
"""Scans of one JPEG. Encoders write about 10; each costs a pass over all pixels, whatever it holds, so thousands of
tiny ones are a bomb that no pixel limit sees."""

# 0xFF before 0x00 is a coded 0xFF, before 0xD0 to 0xD7 a restart inside the pixels, before 0xFF a fill byte.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_TEM, _EOI, _SOS, _COM = 0x01, 0xD9, 0xDA, 0xFE
# APP0 is JFIF and APP14 Adobe, which says how the colours are coded. All other APPn and the comments are metadata.
_APP0, _APP1, _APP14, _APP15 = 0xE0, 0xE1, 0xEE, 0xEF
_PNG_PALETTE = 3
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


class Format(StrEnum):
    """The formats that are accepted."""

    JPEG = "jpeg"
    PNG = "png"
    GIF = "gif"
    WEBP = "webp"


@dataclass(frozen=True, slots=True)
class Container:
    """A file that is whole as far as its structure tells.

    `data` is what the decoder may see: JPEG and PNG without metadata and without what follows their end (a second
    picture, a video, an archive), GIF and WebP as they are.
    `width` and `height` are as declared, in pixels, before orientation. `exif` is empty for WebP, whose
    decoder reports it.
    """

    format: Format
    data: bytes
    width: int
    height: int
    exif: bytes = b""


def inspect(data: bytes) -> Container:
    """Read the structure of `data`, without decoding a pixel.

    Raises EventError: IMAGE_INVALID for other formats, cut-off files and animations, IMAGE_TOO_LARGE for a file of too many
    parts. An animation is refused rather than judged by its first frame: the others would be seen by people only.
    """
    try:
        if data.startswith(b"\xff\xd8\xff"):
            return _jpeg(data)
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            return _png(data)
        if data.startswith((b"GIF87a", b"GIF89a")):
            return _gif(data)
        if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            return _webp(data)
    except (struct.error, IndexError):
        raise _invalid("the file is cut off") from None
    raise _invalid("not a JPEG, PNG, GIF or WebP file")


def _jpeg(data: bytes) -> Container:
    kept = [data[:2]]
    exif = b""
    size: tuple[int, int] | None = None
    scans = 0
    position = 2
    for _ in range(MAX_PARTS):
        found = _JPEG_MARKER.search(data, position)
        if found is None:
            raise _invalid("the file is cut off")
        if scans:
            kept.append(data[position : found.start()])
        marker = data[found.end() - 1]
        position = found.end()
        if marker == _TEM:
            continue
        if marker == _EOI:
            if size is None or not scans:
                raise _invalid("the file has no pixels")
            kept.append(b"\xff\xd9")
            return Container(Format.JPEG, b"".join(kept), *size, exif)
        (length,) = struct.unpack_from(">H", data, position)
        segment = data[position : position + length]
        if length < 2 or len(segment) < length:
            raise _invalid("the file is cut off")
        position += length
        if marker in _JPEG_FRAMES:
            if size is not None:
                raise _invalid("the file has two frames")
            height, width = struct.unpack_from(">HH", segment, 3)
            size = width, height
        if marker == _SOS:
            scans += 1
            if scans > MAX_SCANS:
                raise EventError(Reason.IMAGE_TOO_LARGE, f"the file has more than {MAX_SCANS} scans")
        if marker == _APP1 and segment[2:8] == b"Exif\x00\x00":
            exif = exif or segment[2:]
        if not (_APP0 <= marker <= _APP15 or marker == _COM) or marker in (_APP0, _APP14):
            kept.append(b"\xff" + bytes((marker,)) + segment)
    raise _too_many_parts()


def _png(data: bytes) -> Container:
    """Keeps what makes the pixels, under libpng's rules about order and repetition: they are what browsers go by.

    The rest must not reach Pillow: it stores a text chunk named `interlace` or `exif` where it looks for the real thing, so
    that a text would turn or scramble the picture that the guard sees, and it unpacks compressed texts.
    """
    if data[12:16] != b"IHDR":
        raise _invalid("the file does not begin with its header")
    width, height, _, colour = struct.unpack_from(">IIBB", data, 16)
    kept = [data[:8]]
    seen: set[bytes] = set()
    previous = exif = b""
    position = 8
    for _ in range(MAX_PARTS):
        length, name = struct.unpack_from(">I4s", data, position)
        chunk = data[position : position + 12 + length]
        if len(chunk) < 12 + length:
            raise _invalid("the file is cut off")
        position += len(chunk)
        if name == b"acTL":
            raise _animated()
        if name in seen and (name in (b"IHDR", b"PLTE") or (name == b"IDAT" and previous != name)):
            raise _invalid(f"the file has {name.decode()} twice")
        if name == b"PLTE" and b"IDAT" in seen:
            raise _invalid("the file has its palette after its pixels")
        # A transparency that comes too early, too late or again is ignored.
        misplaced = name in seen or b"IDAT" in seen or (colour == _PNG_PALETTE and b"PLTE" not in seen)
        if name in (b"IHDR", b"PLTE", b"IDAT", b"IEND") or (name == b"tRNS" and not misplaced):
            kept.append(chunk)
        if name == b"IEND":
            return Container(Format.PNG, b"".join(kept), width, height, exif)
        if name == b"eXIf":
            exif = exif or chunk[8:-4]
        seen.add(name)
        previous = name
    raise _too_many_parts()


def _gif(data: bytes) -> Container:
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    position = 13 + _gif_palette_length(flags)
    frames = 0
    parts = 0
    # Some writers leave the trailer out; the pixels are whole by then.
    while not (frames and position == len(data)) and (kind := data[position]) != 0x3B:
        if kind == 0x2C:
            frames += 1
            if frames > 1:
                raise _animated()
            left, top, frame_width, frame_height, flags = struct.unpack_from("<HHHHB", data, position + 1)
            # Pillow widens the canvas to hold a frame that stands out of it.
            width, height = max(width, left + frame_width), max(height, top + frame_height)
            position += 11 + _gif_palette_length(flags)
        elif kind == 0x21:
            position += 2
        else:
            raise _invalid("the file has a block of an unknown kind")
        while block_length := data[position]:
            position += 1 + block_length
            parts += 1
            if parts > MAX_PARTS:
                raise _too_many_parts()
        position += 1
        parts += 1
        if parts > MAX_PARTS:
            raise _too_many_parts()
    if not frames:
        raise _invalid("the file has no pixels")
    return Container(Format.GIF, data, width, height)


def _gif_palette_length(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _webp(data: bytes) -> Container:
    (length,) = struct.unpack_from("<I", data, 4)
    if 8 + length > len(data):
        raise _invalid("the file is cut off")
    name = data[12:16]
    if name == b"VP8X":
        if data[20] & 0x02:
            raise _animated()
        width = 1 + int.from_bytes(data[24:27], "little")
        height = 1 + int.from_bytes(data[27:30], "little")
    elif name == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif name == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    else:
        raise _invalid("the file does not begin with its header")
    return Container(Format.WEBP, data, width, height)


def _invalid(detail: str) -> EventError:
    return EventError(Reason.IMAGE_INVALID, detail)


def _animated() -> EventError:
    return _invalid("animations are not accepted: only their first frame would be judged")


def _too_many_parts() -> EventError:
    return EventError(Reason.IMAGE_TOO_LARGE, f"the file has more than {MAX_PARTS} parts")
