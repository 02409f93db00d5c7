"""Image URIs: read strictly, matched exactly, refused before any I/O.

A URI comes from whoever wrote the content, so it is an attack until it matches. Nothing is decoded or normalised on
the way: what two programs can read in two ways (percent-encoding, `..`, backslashes, queries, look-alike hosts) is refused
instead of interpreted, and the endpoint that is talked to is only ever taken from settings.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Container
from dataclasses import dataclass

from schemas.deadletters import Reason
from stream.errors import EventError

MAX_URI_LENGTH = 1024
"""Longest URI in characters; S3 and Google Cloud Storage allow keys of 1,024 bytes."""

_REFUSED_CHARACTERS = frozenset('%\\?#"<>|^`{}*')
# Control, format (bidirectional overrides, zero width), surrogate, line and paragraph separators.
_REFUSED_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


@dataclass(frozen=True, slots=True)
class Location:
    """An allowed object: the `scheme://bucket` of settings and the key inside it, relative, without dot segments."""

    prefix: str
    key: str


def locate(uri: str, allowed: Container[str]) -> Location:
    """Where `uri` points, if its `scheme://bucket` is in `allowed`, byte for byte.

    Pure: no I/O, no state. Raises EventError(IMAGE_FORBIDDEN) for everything else; the detail says which rule was broken
    and never repeats the URI, because keys can hold names of people.
    """
    if len(uri) > MAX_URI_LENGTH:
        raise _forbidden("the URI is too long")
    scheme, separator, rest = uri.partition("://")
    bucket, slash, key = rest.partition("/")
    prefix = f"{scheme}://{bucket}"
    if not (separator and slash and prefix in allowed):
        raise _forbidden("the scheme and bucket are not in the allow-list")
    _check_key(key, prefix)
    return Location(prefix, key)


def _check_key(key: str, prefix: str) -> None:
    for character in key:
        if character in _REFUSED_CHARACTERS or unicodedata.category(character) in _REFUSED_CATEGORIES:
            raise _forbidden(f"the key in {prefix} holds a character that is not accepted")
    # The second reading catches characters that some store or file system folds into dots and slashes.
    for reading in (key, unicodedata.normalize("NFKC", key)):
        for segment in reading.split("/"):
            # Only dots and spaces: empty, `.`, `..`, and what some file systems trim to them.
            if not segment.strip(". "):
                raise _forbidden(f"the key in {prefix} is empty or not a plain relative path")
    if "\\" in unicodedata.normalize("NFKC", key):
        raise _forbidden(f"the key in {prefix} holds a character that is not accepted")


def _forbidden(detail: str) -> EventError:
    return EventError(Reason.IMAGE_FORBIDDEN, detail)
