from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.deadletters import REPLACES_VERDICT, Reason
from schemas.events import EVENT_TYPE
from stream.errors import EventError
from stream.worker.reading import ATTEMPT_HEADER, attempt_of, read
from stream.worker.records import InputRecord

LIMIT = 4096
GOOD = {"id": "e1", "user_text": "hello", "occurred_at": "2026-01-01T00:00:00Z"}


def record(value: bytes | None, *headers: tuple[str, bytes | None]) -> InputRecord:
    return InputRecord("content.events", 0, 7, b"k", value, headers, -1)


def refused(value: bytes | None, *headers: tuple[str, bytes | None]) -> EventError:
    with pytest.raises(EventError) as caught:
        read(record(value, *headers), LIMIT)
    return caught.value


def encoded(**changes: object) -> bytes:
    return json.dumps({**GOOD, **changes}).encode()


def test_an_event_of_a_newer_producer_with_unknown_fields_is_read() -> None:
    assert read(record(encoded(invented_later=1)), LIMIT).event.id == "e1"


def test_trace_context_is_taken_from_the_headers() -> None:
    assert read(record(encoded(), ("traceparent", b"00-ab-cd-01")), LIMIT).traceparent == "00-ab-cd-01"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, Reason.MALFORMED),
        (b"", Reason.MALFORMED),
        (b"not json", Reason.MALFORMED),
        (b"\xff\xfe{}", Reason.MALFORMED),
        (b"[1, 2]", Reason.MALFORMED),
        (b'{"id": "e"}', Reason.MALFORMED),
        (encoded(user_text=""), Reason.MALFORMED),
        (encoded(user_text=5), Reason.MALFORMED),
        (encoded(occurred_at="yesterday"), Reason.MALFORMED),
        (encoded(id=""), Reason.MALFORMED),
        (encoded(id="a\x00b"), Reason.MALFORMED),
        (b'{"id":"e","user_text":"\\ud800","occurred_at":"2026-01-01T00:00:00Z"}', Reason.MALFORMED),
        (b"[" * 3000, Reason.MALFORMED),
        (encoded(user_text="x" * LIMIT), Reason.OVERSIZED),
    ],
)
def test_what_is_no_event_gets_the_reason_that_replaces_its_verdict(value: bytes | None, reason: Reason) -> None:
    error = refused(value)
    assert error.reason is reason
    assert reason in REPLACES_VERDICT


@pytest.mark.parametrize(
    "headers",
    [
        [("ce_type", b"stream.proguard.content.submitted.v9")],
        [("ce_specversion", b"2.0"), ("ce_type", EVENT_TYPE.encode())],
        [("content-type", b"application/avro")],
    ],
)
def test_another_version_is_not_guessed_at(headers: list[tuple[str, bytes]]) -> None:
    assert refused(encoded(), *headers).reason is Reason.UNSUPPORTED_VERSION


@given(st.binary(max_size=300))
def test_any_bytes_are_an_event_or_a_reason(value: bytes) -> None:
    assert refused(value).reason in REPLACES_VERDICT


def test_the_detail_never_quotes_the_content() -> None:
    secret = "a-very-private-sentence"
    error = refused(json.dumps({"id": "e", "user_text": [secret], secret: 1, "images": {secret: secret}}).encode())
    assert secret not in error.detail
    assert "user_text" in error.detail


@pytest.mark.parametrize(
    ("header", "attempt"), [(b"2", 2), (b"0", 1), (b"-3", 1), (b"x", 1), (b"9" * 30, 1), (None, 1), (b"12", 12)]
)
def test_the_attempt_comes_from_a_header_that_may_be_anything(header: bytes | None, attempt: int) -> None:
    assert attempt_of(record(b"{}", (ATTEMPT_HEADER, header))) == attempt
