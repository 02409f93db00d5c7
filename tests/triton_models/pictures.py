"""Images for the guard's tests, drawn as they are needed."""

from __future__ import annotations

import io

from PIL import Image, ImageDraw, ImageFont


def picture_of(text: str, *, size: int = 30, width: int = 800) -> bytes:
    """A PNG with `text` in black on white, a line break where the text has one."""
    lines = text.split("\n")
    image = Image.new("RGB", (width, 2 * size * len(lines) + 20), "white")
    draw = ImageDraw.Draw(image)
    for row, line in enumerate(lines):
        draw.text((20, 15 + 2 * size * row), line, fill="black", font=ImageFont.load_default(size))
    return _png(image)


def blank_picture() -> bytes:
    """A PNG without any writing."""
    return _png(Image.new("RGB", (320, 200), "lightblue"))


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
