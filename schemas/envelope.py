"""CloudEvents 1.0 on Kafka (cloudevents/spec, bindings/kafka-protocol-binding.md).

Outputs use binary mode: the value is the data, the attributes are `ce_` headers. Inputs may use either mode, and a
record without any `ce_` header is read as the current version, so that a plain producer can start without CloudEvents.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple

Headers = list[tuple[str, bytes]]

_STRUCTURED = b"application/cloudevents+json"
_JSON = "application/json"


class UnsupportedEnvelopeError(Exception):
    """The record says that it is something this release does not read."""


class BrokenEnvelopeError(Exception):
    """A structured CloudEvent that is not one."""


class Envelope(NamedTuple):
    """The data of a record and what its envelope says of it."""

    data: bytes
    type: str | None
    traceparent: str | None


def open_envelope(value: bytes, headers: Sequence[tuple[str, bytes | None]], expected_type: str) -> Envelope:
    """The data inside a record.

    Raises `UnsupportedEnvelopeError` for another spec version, type or content type, `BrokenEnvelopeError` when the structured form is
    not JSON with `data`. Reads headers leniently otherwise: they are somebody else's.
    """
    if not headers:
        return Envelope(value, None, None)
    found = {name.lower(): raw for name, raw in headers if raw is not None}
    trace = _text(found.get("traceparent"))
    content_type = found.get("content-type", b"").split(b";")[0].strip().lower()
    if content_type == _STRUCTURED:
        return _open_structured(value, expected_type, trace)
    if content_type and content_type != _JSON.encode():
        raise UnsupportedEnvelopeError("content-type is not application/json")
    _check(_text(found.get("ce_specversion")), _text(found.get("ce_type")), expected_type)
    return Envelope(value, _text(found.get("ce_type")), trace)


def _open_structured(value: bytes, expected_type: str, trace: str | None) -> Envelope:
    try:
        document = json.loads(value)
    except (ValueError, RecursionError) as error:
        raise BrokenEnvelopeError("the structured CloudEvent is not JSON") from error
    if not isinstance(document, dict) or not isinstance(document.get("data"), dict):
        raise BrokenEnvelopeError("the structured CloudEvent has no data object")
    kind = document.get("type")
    _check(document.get("specversion"), kind, expected_type)
    parent = document.get("traceparent")
    return Envelope(json.dumps(document["data"]).encode(), kind, parent if isinstance(parent, str) else trace)


def _check(spec: object, kind: object, expected_type: str) -> None:
    if spec is not None and spec != "1.0":
        raise UnsupportedEnvelopeError("CloudEvents spec version is not 1.0")
    if kind is not None and kind != expected_type:
        raise UnsupportedEnvelopeError(f"the type is not {expected_type}")


def _text(raw: bytes | None) -> str | None:
    return None if raw is None else raw.decode("utf-8", "replace")


def seal(*, id: str, type: str, source: str, time: datetime, traceparent: str | None = None) -> Headers:
    """Binary-mode headers of an output record."""
    headers: Headers = [
        *_same_headers(type, source),
        ("ce_id", id.encode()),
        ("ce_time", time.isoformat().encode()),
    ]
    if traceparent is not None:
        headers.append(("traceparent", traceparent.encode()))
    return headers


@lru_cache(maxsize=64)
def _same_headers(type: str, source: str) -> tuple[tuple[str, bytes], ...]:
    """What all records of a type and a source have in common."""
    return (
        ("ce_specversion", b"1.0"),
        ("ce_type", type.encode()),
        ("ce_source", source.encode()),
        ("content-type", _JSON.encode()),
    )
