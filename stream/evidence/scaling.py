"""The size at which the guard is shown an image.

The numbers are the image processor's of Qwen2.5-VL, ProGuard's base: patches of 28 pixels, and a refusal of images
that are more than 200 times as long as wide.
"""

from __future__ import annotations

import math

MIN_SIDE = 28
"""Shortest side in pixels: one patch."""

MAX_RATIO = 200
"""Longest side divided by shortest side; beyond it the processor refuses the image."""


def guard_size(width: int, height: int, max_pixels: int) -> tuple[int, int]:
    """The width and height to show a `width x height` image at; the same pair when it already fits.

    The result has sides of at least `MIN_SIDE`, at most `max_pixels` pixels, and a ratio of at most `MAX_RATIO`; the
    aspect ratio is kept up to rounding. Needs an image of at most `MAX_RATIO`, and `max_pixels` of at least
    `MIN_SIDE * MIN_SIDE * MAX_RATIO`, so that the limits cannot contradict each other; ValueError otherwise.
    """
    short, long = sorted((width, height))
    if short < 1 or long > MAX_RATIO * short:
        raise ValueError(f"{width}x{height} is empty or more than {MAX_RATIO}:1")
    if max_pixels < MIN_SIDE * MIN_SIDE * MAX_RATIO:
        raise ValueError(f"max_pixels {max_pixels} cannot hold a {MAX_RATIO}:1 image")
    factor = 1.0
    if short < MIN_SIDE:
        factor = MIN_SIDE / short
    if short * long * factor * factor > max_pixels:
        factor = math.sqrt(max_pixels / (short * long))
    new_short = max(MIN_SIDE, math.floor(short * factor))
    new_long = max(new_short, min(math.floor(long * factor), MAX_RATIO * new_short, max_pixels // new_short))
    return (new_short, new_long) if width <= height else (new_long, new_short)
