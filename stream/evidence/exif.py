"""The one thing that is read from EXIF: which way up the picture is.

Pillow's own reader is not used on content: it decodes every tag, warns with texts that the sender chooses (and Python
remembers each one), and falls back to XMP, which browsers ignore.
"""

from __future__ import annotations

import struct

_ORIENTATION = 0x0112
_SHORT = 3


def orientation(exif: bytes) -> int:
    """EXIF's orientation, 1 to 8; 1 (as stored) where there is none or the block is damaged, as browsers do.

    Reads only the first directory, and never raises.
    """
    tiff = exif.removeprefix(b"Exif\x00\x00")
    order = {b"II*\x00": "<", b"MM\x00*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        (directory,) = struct.unpack_from(order + "I", tiff, 4)
        (entries,) = struct.unpack_from(order + "H", tiff, directory)
        for index in range(entries):
            tag, kind, count, value = struct.unpack_from(order + "HHIH", tiff, directory + 2 + 12 * index)
            if tag == _ORIENTATION:
                return value if kind == _SHORT and count == 1 and 1 <= value <= 8 else 1
    except struct.error:
        return 1
    return 1
