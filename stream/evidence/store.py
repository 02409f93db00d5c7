"""The seam between the resolver and the places where images are kept."""

from __future__ import annotations

from typing import Protocol

from stream.errors import ProGuardStreamError


class StoreError(ProGuardStreamError):
    """One attempt to read one object failed. Messages hold neither the key nor content.

    StoreError
    ├── ObjectMissingError      there is no such object, or the store does not let us see it
    ├── ObjectTooLargeError     it has more bytes than were asked for
    ├── ObjectForbiddenError    the key leads out of the store
    └── StoreUnavailableError   anything else; another attempt may succeed
    """


class ObjectMissingError(StoreError):
    """No such object. A refusal counts as missing too: S3 answers 403 for a missing key to who may not list the bucket."""


class ObjectTooLargeError(StoreError):
    """The object has more bytes than the caller takes."""


class ObjectForbiddenError(StoreError):
    """The key leads out of the store, or to something that is not an object."""


class StoreUnavailableError(StoreError):
    """The store failed or did not answer; worth another attempt."""


class Store(Protocol):
    """One bucket, container or folder."""

    async def read(self, key: str, max_bytes: int) -> bytes:
        """The object's bytes, all of them, at most `max_bytes`.

        One attempt, without a time limit of its own: the caller sets one and may cancel at any time. Memory never exceeds
        `max_bytes` by more than one chunk, whatever size the store declares. Raises a StoreError.
        """
        ...
