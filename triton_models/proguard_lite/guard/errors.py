"""What goes wrong for one request, and only for that one.

    GuardRequestError
    ├── BadPromptError    the rendered messages are not the ones this guard reads
    ├── BadImageError     the bytes are not an image that may be decoded
    ├── BadTensorError    a tensor is missing, empty, of the wrong shape or not UTF-8
    └── OverloadedError   too many requests wait; the same one may succeed later

Messages go back to the client, so they describe the fault and never repeat content.
"""

from __future__ import annotations


class GuardRequestError(Exception):
    """One request cannot be answered. Its neighbours in the batch are."""


class BadPromptError(GuardRequestError):
    """SYSTEM or USER lacks the blocks that the guard reads."""


class BadImageError(GuardRequestError):
    """An entry of IMAGES is not a PNG, JPEG or WebP image within the limits."""


class BadTensorError(GuardRequestError):
    """A tensor is missing, empty, of the wrong shape, or not UTF-8 where it must be."""


class OverloadedError(GuardRequestError):
    """As many requests wait as may. Nothing is wrong with this one."""
