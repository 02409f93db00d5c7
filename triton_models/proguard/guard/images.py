"""From the bytes of an image to pixels, under limits."""

from __future__ import annotations

import io
import warnings

from PIL import Image

from .errors import BadImageError

FORMATS = ("PNG", "JPEG", "WEBP")
"""What the worker's canonical images may be. PIL is asked for nothing else: its other readers are attack surface."""
MAX_PIXELS = 64_000_000
"""More is refused before it is decoded: the worker sends at most a few megapixels, so this is the wall behind it."""
MAX_RATIO = 200
"""Qwen2-VL's image processor refuses longer strips (`smart_resize` in transformers' image_processing_qwen2_vl.py)."""


def decode(data: bytes, number: int) -> Image.Image:
    """The RGB image in `data`, entry `number` (from 0) of IMAGES. Raises `BadImageError`; takes milliseconds per megapixel."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # Our own limit is checked just below.
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise BadImageError(f"image {number} has {width} x {height} pixels, more than {MAX_PIXELS}")
        if max(width, height) > MAX_RATIO * min(width, height):
            raise BadImageError(f"image {number} is {width} x {height}: one side is over {MAX_RATIO} times the other")
        return image.convert("RGB")
    except BadImageError:
        raise
    except Exception as error:  # PIL's readers raise almost anything on broken files: OSError, SyntaxError, struct.error.
        raise BadImageError(f"image {number} cannot be decoded ({type(error).__name__})") from error
