"""What every contract shares.

Producers write exactly the fields of a contract; consumers accept more. So models are validated openly (an unknown
field is ignored: a newer producer may have added it) and the *producer* JSON Schema is published closed
(`schemas.publish`).
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

Identifier = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f]+$")]
"""An opaque id: 1 to 256 characters, no control characters."""

ShortText = Annotated[str, StringConstraints(max_length=512)]

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""A SHA-256 digest in lower-case hexadecimal."""


def _no_bare_number(value: object) -> object:
    """Refuses a number, in quotes or without: pydantic would guess whether it counts seconds or milliseconds."""
    if isinstance(value, datetime) or (isinstance(value, str) and "-" in value[1:]):
        return value
    raise ValueError("a time is an RFC 3339 text with an offset")


Instant = Annotated[AwareDatetime, BeforeValidator(_no_bare_number)]
"""A point in time: RFC 3339 with an offset on the wire, an aware `datetime` inside."""


class Contract(BaseModel):
    """Base of everything that crosses a boundary: immutable, unknown fields ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_bytes="base64", val_json_bytes="base64")


class Source(Contract):
    """Where a record was read: enough to find it again."""

    topic: str
    partition: Annotated[int, Field(ge=0)]
    offset: Annotated[int, Field(ge=0)]
