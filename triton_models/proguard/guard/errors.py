"""What goes wrong in the real guard.

    GuardModelError
    ├── BadTensorError      a tensor is missing, empty, of the wrong shape or not UTF-8
    ├── BadImageError       the bytes are not an image that may be decoded
    ├── TooLongError        the prompt and its answer do not fit into the model's context
    ├── OverloadedError     as many requests wait as may, or memory ran out; the same one may succeed later
    ├── EngineDiedError     the engine is gone; nothing succeeds until the model is loaded again
    └── LoadError           the model cannot be loaded: the message says what to do
        └── ManifestError   its manifest is missing, or is not the one of these files

Messages go back to the client or into the server's log, so they describe the fault and never repeat content.
"""

from __future__ import annotations


class GuardModelError(Exception):
    """The root of the tree."""


class BadTensorError(GuardModelError):
    """A tensor is missing, empty, of the wrong shape, or not UTF-8 where it must be."""


class BadImageError(GuardModelError):
    """An entry of IMAGES is not a PNG, JPEG or WebP image within the limits."""


class TooLongError(GuardModelError):
    """The prompt and the tokens asked for are more than the model's context."""


class OverloadedError(GuardModelError):
    """No place or no memory just now. Nothing is wrong with this request."""


class EngineDiedError(GuardModelError):
    """The engine has ended; its server should be replaced or the model loaded again."""


class LoadError(GuardModelError):
    """The model cannot be loaded as it is configured."""


class ManifestError(LoadError):
    """The manifest beside the weights is missing, unreadable, or another one's."""
