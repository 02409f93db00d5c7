"""From the bytes of a record to a ContentEvent, or to the reason why there is none."""

from __future__ import annotations

from typing import NamedTuple

from pydantic import ValidationError

from schemas.deadletters import Reason
from schemas.envelope import BrokenEnvelopeError, UnsupportedEnvelopeError, open_envelope
from schemas.events import EVENT_TYPE, ContentEvent
from stream.errors import EventError
from stream.worker.records import InputRecord

ATTEMPT_HEADER = "proguard-attempt"
"""Header of a redriven record: which attempt this one is, from 2 up."""

REDRIVE_OF_HEADER = "proguard-redrive-of"
"""Header of a redriven record: the id of the dead letter that it comes from."""


class ReadEvent(NamedTuple):
    """An event and the trace context that came with it."""

    event: ContentEvent
    traceparent: str | None


def read(record: InputRecord, max_bytes: int) -> ReadEvent:
    """The event in `record`. Raises `EventError` with a reason that replaces the verdict; its detail holds no content."""
    if record.value is None:
        raise EventError(Reason.MALFORMED, "the record has no value")
    if len(record.value) > max_bytes:
        raise EventError(Reason.OVERSIZED, f"{len(record.value)} bytes; the limit is {max_bytes}")
    if record.headers_lost:
        # They may have said that this is no event of ours: without them nothing can be known.
        raise EventError(Reason.MALFORMED, "the name of a header is not UTF-8")
    try:
        envelope = open_envelope(record.value, record.headers, EVENT_TYPE)
    except UnsupportedEnvelopeError as error:
        raise EventError(Reason.UNSUPPORTED_VERSION, str(error)) from None
    except BrokenEnvelopeError as error:
        raise EventError(Reason.MALFORMED, str(error)) from None
    try:
        event = ContentEvent.model_validate_json(envelope.data)
    except ValidationError as error:
        raise EventError(Reason.MALFORMED, _faults(error)) from None
    return ReadEvent(event, envelope.traceparent)


def attempt_of(record: InputRecord) -> int:
    """Which attempt at this event the record is: 1 unless a redrive said otherwise."""
    for name, value in record.headers:
        if name == ATTEMPT_HEADER and value is not None and value.isdigit() and len(value) < 7:
            return max(1, int(value))
    return 1


def _faults(error: ValidationError) -> str:
    """Which fields are wrong and how, without the values: those are content."""
    known = ContentEvent.model_fields
    faults = []
    for fault in error.errors(include_input=False, include_url=False, include_context=False):
        field = str(fault["loc"][0]) if fault["loc"] else "event"
        faults.append(f"{field if field in known else 'event'}: {fault['type']}")
    return ", ".join(sorted(set(faults)))[:500]
