"""The dead letter: what is kept of an event that could not be read or not be judged."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from schemas.base import Contract, Instant, ShortText, Source


class Reason(StrEnum):
    """Why an event was dead-lettered. The list is closed: dashboards, alerts and redrive filters rely on it.

    The first group cannot be read, so the dead letter takes the verdict's place. The second was read, so an
    `indeterminate` verdict was issued too, and the dead letter is there to redrive the event.
    """

    MALFORMED = "malformed"
    """Not JSON, not UTF-8, or not a ContentEvent."""
    UNSUPPORTED_VERSION = "unsupported_version"
    """A CloudEvents type or spec version that this release does not know."""
    OVERSIZED = "oversized"
    """The record is larger than the limit in settings."""

    TEXT_TOO_LONG = "text_too_long"
    """The texts exceed the limit in settings; judging a part of them would be a way around the guard."""
    IMAGE_FORBIDDEN = "image_forbidden"
    """The URI's scheme, bucket or path is outside the allow-list."""
    IMAGE_MISSING = "image_missing"
    """The store has no such object, or refuses it."""
    IMAGE_TOO_LARGE = "image_too_large"
    """More bytes, pixels or images than the limits allow."""
    IMAGE_INVALID = "image_invalid"
    """Not an image, truncated, or of a type that is not accepted."""
    IMAGE_MISMATCH = "image_mismatch"
    """The bytes do not have the SHA-256 that the event declared."""
    IMAGE_UNAVAILABLE = "image_unavailable"
    """The store did not answer in time or failed."""
    GUARD_UNPARSABLE = "guard_unparsable"
    """The guard's answer does not follow the grammar, or names an id that the policy does not have."""
    GUARD_TRUNCATED = "guard_truncated"
    """The guard's answer was cut off before its end."""
    GUARD_REFUSED = "guard_refused"
    """The guard server refused the request for good."""
    GUARD_UNAVAILABLE = "guard_unavailable"
    """The guard server failed at every attempt while it held this request."""
    DEADLINE_EXCEEDED = "deadline_exceeded"
    """No answer within the event's deadline."""
    INTERNAL = "internal"
    """A fault of this service; the log has the traceback under the event's id."""


REPLACES_VERDICT = frozenset({Reason.MALFORMED, Reason.UNSUPPORTED_VERSION, Reason.OVERSIZED})
"""The reasons for which no verdict exists."""


class Header(Contract):
    """One Kafka header of the original record; a null value stays null."""

    name: str
    value: bytes | None


class DeadLetter(Contract):
    """The original record, byte for byte, with the reason why it is here.

    `verdict_id` is null exactly when no verdict was issued (`REPLACES_VERDICT`). `attempt` counts from 1 and grows with each redrive.
    """

    id: Annotated[
        str, Field(description="UUIDv5 of the source coordinates and the attempt: the same event gives the same id.")
    ]
    reason: Reason
    detail: Annotated[ShortText, Field(description="For operators. Never holds content.")]
    attempt: Annotated[int, Field(ge=1)]
    event_id: str | None
    tenant: str | None
    verdict_id: str | None
    source: Source
    key: bytes | None
    headers: list[Header]
    value: bytes | None
    failed_at: Instant
