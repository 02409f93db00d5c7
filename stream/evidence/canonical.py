"""From untrusted bytes to the picture that the guard sees.

The guard's process never opens a file that a user made: it gets a picture that this module has decoded and written anew.
Whatever else the file carried (metadata, a second file at its end, an exploit for another decoder) is gone.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from typing import Literal

from PIL import Image, ImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from schemas.deadletters import Reason
from stream.errors import EventError
from stream.evidence.containers import Container, Format, inspect
from stream.evidence.exif import orientation
from stream.evidence.scaling import MAX_RATIO, guard_size

_DECODERS: dict[Format, type[ImageFile.ImageFile]] = {
    Format.JPEG: JpegImageFile,
    Format.PNG: PngImageFile,
    Format.GIF: GifImageFile,
    Format.WEBP: WebPImageFile,
}

_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# 92 is where a second compression stops being visible in text inside photographs, at half the bytes of 98.
_JPEG_QUALITY = 92
# Level 3 of zlib-ng is within 3 % of level 6 on photographs and 15 % on screenshots, in a third of its time.
_PNG_LEVEL = 3
# Where a PNG file says how many bits a sample has.
_PNG_BIT_DEPTH = 24


@dataclass(frozen=True, slots=True)
class PixelLimits:
    """`max_pixels`: width x height that a file may declare; `guard_max_pixels`: width x height that is shown."""

    max_pixels: int
    guard_max_pixels: int


@dataclass(frozen=True, slots=True)
class CanonicalImage:
    """A picture as the guard sees it: 8-bit RGB, upright, without metadata, within the guard's sizes.

    `sha256` is of `data`; `source_sha256` and `source_size` (bytes) are of the file that was fetched; `width` and `height` are of
    `data`, in pixels. All digests are lower-case hexadecimal.
    """

    data: bytes
    media_type: Literal["image/png", "image/jpeg"]
    sha256: str
    source_sha256: str
    source_size: int
    width: int
    height: int


def canonicalise(data: bytes, limits: PixelLimits) -> CanonicalImage:
    """Decode `data` under `limits`, and write the picture anew.

    - JPEG, PNG, WebP and GIF are accepted, by content. Animations are refused (`stream.evidence.containers`).
    - The declared size is checked before a pixel is decoded.
    - EXIF's orientation is applied; EXIF, ICC profiles, gamma, XMP, comments and texts are dropped, compressed
      ones without being unpacked. Colours are therefore not
      managed: the guard sees the stored values, as in its training.
    - Transparency is laid on white, palettes, greys, CMYK and 16-bit samples become 8-bit RGB.
    - Sizes follow `guard_size`: large images are scaled down, small ones up.
    - PNG and GIF, which hold drawings and screenshots, become PNG, so that small text keeps its edges; JPEG and WebP, which
      hold photographs, become JPEG without chroma subsampling.

    The same input gives the same bytes, for one version of Pillow and its codecs. Pure and thread-safe; it blocks for
    milliseconds (seconds for 24 megapixels), mostly without the interpreter's lock, and takes up to sixteen bytes a pixel.

    Raises EventError with IMAGE_TOO_LARGE (pixels, or parts and scans without end) or
    IMAGE_INVALID (anything else that is wrong with the file). Details hold nothing of the file.
    """
    source_sha256 = hashlib.sha256(data).hexdigest()
    container = inspect(data)
    _check_size(container.width, container.height, limits)
    try:
        picture = _decoded(container, limits)
    except EventError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise EventError(Reason.IMAGE_TOO_LARGE, "the file holds more pixels than it declares") from None
    except MemoryError:
        raise EventError(Reason.IMAGE_TOO_LARGE, "the file does not fit into memory") from None
    except Exception as error:
        # Decoders fail in every way there is on a file made to break them; none of it is worth more than a refusal.
        raise EventError(Reason.IMAGE_INVALID, f"the file cannot be decoded ({type(error).__name__})") from None
    encoded, media_type = _encoded(picture, container.format)
    return CanonicalImage(
        data=encoded,
        media_type=media_type,
        sha256=hashlib.sha256(encoded).hexdigest(),
        source_sha256=source_sha256,
        source_size=len(data),
        width=picture.width,
        height=picture.height,
    )


def _check_size(width: int, height: int, limits: PixelLimits) -> None:
    short, long = sorted((width, height))
    if short < 1:
        raise EventError(Reason.IMAGE_INVALID, "the image is empty")
    if short * long > limits.max_pixels:
        raise EventError(Reason.IMAGE_TOO_LARGE, f"the image declares more than {limits.max_pixels} pixels")
    if long > MAX_RATIO * short:
        raise EventError(Reason.IMAGE_INVALID, f"the image is more than {MAX_RATIO} times as long as wide")


def _decoded(container: Container, limits: PixelLimits) -> Image.Image:
    # The plugin's class instead of Image.open: no plugin that was not chosen here can be reached, whatever else the
    # process has registered, and none of Image.open's process-wide limits and warnings applies.
    with _DECODERS[container.format](io.BytesIO(container.data)) as image:
        if image.size != (container.width, container.height):
            raise EventError(Reason.IMAGE_INVALID, "the file declares two sizes")
        if getattr(image, "is_animated", False):
            raise EventError(Reason.IMAGE_INVALID, "animations are not accepted")
        target = guard_size(*image.size, limits.guard_max_pixels)
        # A JPEG can be decoded at a half, a quarter or an eighth; twice the target leaves enough for a good filter.
        image.draft(None, (2 * target[0], 2 * target[1]))
        image.load()
        exif = image.info.get("exif", b"") if container.format is Format.WEBP else container.exif
        picture = _as_rgb(image, container)
        # Each copy of a large picture counts, so none is made where the next step makes one anyway.
        if picture.size != target:
            picture = picture.resize(target, Image.Resampling.LANCZOS, reducing_gap=3.0)
        elif picture is image:
            picture = image.copy()
    turn = _TRANSPOSITIONS.get(orientation(exif))
    if turn is not None:
        picture = picture.transpose(turn)
    # Pillow writes what it finds here (ICC profile, comment, resolution) into the new file.
    picture.info = {}
    return picture


def _as_rgb(image: ImageFile.ImageFile, container: Container) -> Image.Image:
    """The picture as 8-bit RGB, transparency laid on white; `image` itself where it is that already."""
    if container.format is Format.PNG and container.data[_PNG_BIT_DEPTH] == 16 and "transparency" in image.info:
        # The transparent colour has 16 bits, the decoded pixels 8: what people see could not be told.
        raise EventError(Reason.IMAGE_INVALID, "16-bit images with a transparent colour are not accepted")
    if image.mode == "I;16":
        # Pillow's own conversion cuts off at 255 instead of scaling: every picture would be white.
        return image.convert("I").point(lambda value: value * (1 / 256)).convert("L").convert("RGB")
    if image.has_transparency_data:
        layer = image if image.mode == "RGBA" else image.convert("RGBA")
        paper = Image.new("RGB", layer.size, "white")
        paper.paste(layer, mask=layer)
        return paper
    return image if image.mode == "RGB" else image.convert("RGB")


def _encoded(picture: Image.Image, source: Format) -> tuple[bytes, Literal["image/png", "image/jpeg"]]:
    sink = io.BytesIO()
    if source in (Format.PNG, Format.GIF):
        picture.save(sink, "PNG", compress_level=_PNG_LEVEL)
        return sink.getvalue(), "image/png"
    picture.save(sink, "JPEG", quality=_JPEG_QUALITY, subsampling="4:4:4")
    return sink.getvalue(), "image/jpeg"
