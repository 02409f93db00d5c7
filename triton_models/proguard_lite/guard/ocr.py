"""The writing inside an image. Nothing else of the picture is seen.

Decoding happens here, under limits of its own: the worker sends canonical images, but whoever can reach the server can
send anything.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections import OrderedDict
from typing import Any, Protocol

import numpy as np
from PIL import Image, ImageOps

from .errors import BadImageError

MAX_BYTES = 20 * 1024 * 1024
MAX_PIXELS = 50_000_000
MAX_IMAGES = 16
FORMATS = ("PNG", "JPEG", "WEBP")
# An image full of tiny marks would otherwise be recognised line by line for many seconds.
MAX_LINES = 200
# Larger images are made smaller first, which bounds the time that one of them takes.
MAX_SIDE = 1280
# A picture that goes round comes many times.
REMEMBERED = 512


class TextReader(Protocol):
    """The seam between the guard and its OCR."""

    def read(self, image: bytes) -> str:
        """The text in an encoded image, lines in reading order; empty when there is none. Raises `BadImageError`."""
        ...


class RapidReader:
    """PP-OCR's small models on ONNX Runtime: tenths of a second an image, more the more lines it has.

    One thread at a time may use an instance. It reads Latin and Chinese writing; other scripts come out as noise or not at all.
    """

    def __init__(self, *, threads: int = 1) -> None:
        from rapidocr_onnxruntime import RapidOCR

        # The library's defaults enlarge every image until its short side has 736 pixels: ten times slower, no better.
        self._engine: Any = RapidOCR(
            intra_op_num_threads=threads,
            inter_op_num_threads=1,
            det_limit_type="max",
            det_limit_side_len=960,
            det_max_candidates=MAX_LINES,
            max_side_len=MAX_SIDE,
        )
        self._recent: OrderedDict[bytes, str] = OrderedDict()

    def read(self, image: bytes) -> str:
        """See `TextReader.read`. Blocks for the recognition, unless the same bytes were read a short while ago."""
        key = hashlib.sha256(image).digest()
        text = self._recent.pop(key, None)
        if text is None:
            lines, _ = self._engine(decode(image))
            text = "\n".join(str(line[1]).strip() for line in lines or [])
        self._recent[key] = text
        if len(self._recent) > REMEMBERED:
            self._recent.popitem(last=False)
        return text


def decode(image: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The pixels as (height, width, 3) in blue-green-red order, upright, on white. Raises `BadImageError`.

    The size is refused from the header, before any pixel is decoded.
    """
    if not image:
        raise BadImageError("an image is empty")
    if len(image) > MAX_BYTES:
        raise BadImageError(f"an image has {len(image)} bytes, more than {MAX_BYTES}")
    try:
        with warnings.catch_warnings():
            # Pillow warns of a decompression bomb at a size of its own; the limit here is the one below.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(image), formats=FORMATS) as opened:
                width, height = opened.size
                if width * height > MAX_PIXELS:
                    raise BadImageError(f"an image has {width} x {height} pixels, more than {MAX_PIXELS} in all")
                upright = ImageOps.exif_transpose(opened)
                flat = Image.new("RGB", upright.size, "white")
                rgba = upright.convert("RGBA")
                flat.paste(rgba, mask=rgba.getchannel("A"))
    except BadImageError:
        raise
    # Pillow's decoders raise OSError, ValueError, SyntaxError, EOFError, struct.error and more on broken files.
    except Exception as error:
        raise BadImageError(f"an image cannot be decoded ({type(error).__name__})") from error
    return np.ascontiguousarray(np.asarray(flat)[:, :, ::-1])
