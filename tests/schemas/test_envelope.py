"""CloudEvents on Kafka: what is read, what is refused, and that nobody's headers can do more than that."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.envelope import BrokenEnvelopeError, Envelope, UnsupportedEnvelopeError, open_envelope, seal
from schemas.events import EVENT_TYPE

DATA = {"id": "e1", "text": "ça va"}
RAW = json.dumps(DATA).encode()
BINARY = [("ce_specversion", b"1.0"), ("ce_type", EVENT_TYPE.encode()), ("content-type", b"application/json")]
STRUCTURED = [("content-type", b"application/cloudevents+json; charset=utf-8")]
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def wrapped(**changes: Any) -> bytes:
    return json.dumps(
        {"specversion": "1.0", "type": EVENT_TYPE, "id": "1", "source": "/s", "data": DATA, **changes}
    ).encode()


def test_a_plain_record_is_read_as_the_current_version() -> None:
    assert open_envelope(RAW, [], EVENT_TYPE) == Envelope(RAW, None, None)
    assert open_envelope(RAW, [("content-type", b"application/json; charset=utf-8")], EVENT_TYPE).data == RAW


def test_binary_mode_leaves_the_value_untouched() -> None:
    headers = [*BINARY, ("traceparent", PARENT.encode())]
    assert open_envelope(RAW, headers, EVENT_TYPE) == Envelope(RAW, EVENT_TYPE, PARENT)


def test_header_names_are_read_in_any_case() -> None:
    headers = [(name.upper(), value) for name, value in BINARY]
    assert open_envelope(RAW, headers, EVENT_TYPE).type == EVENT_TYPE


def test_structured_mode_gives_the_data_and_prefers_its_own_trace() -> None:
    opened = open_envelope(wrapped(traceparent=PARENT), [*STRUCTURED, ("traceparent", b"other")], EVENT_TYPE)
    assert (json.loads(opened.data), opened.type, opened.traceparent) == (DATA, EVENT_TYPE, PARENT)
    assert open_envelope(wrapped(), [*STRUCTURED, ("traceparent", b"other")], EVENT_TYPE).traceparent == "other"


@pytest.mark.parametrize(
    "headers",
    [
        [("ce_specversion", b"0.3")],
        [("ce_specversion", b"")],
        [("ce_specversion", b"\xff")],
        [("ce_type", b"stream.proguard.content.submitted.v2")],
        [("ce_type", b"")],
        [("content-type", b"application/avro")],
        [("content-type", b"application/cloudevents-batch+json")],
        [("content-type", b"text/plain")],
        [("ce_type", EVENT_TYPE.encode()), ("ce_type", b"stream.proguard.content.submitted.v2")],
    ],
)
def test_what_says_that_it_is_something_else_is_refused_not_guessed(headers: list[tuple[str, bytes]]) -> None:
    with pytest.raises(UnsupportedEnvelopeError):
        open_envelope(RAW, headers, EVENT_TYPE)


@pytest.mark.parametrize(
    "changes", [{"specversion": "2.0"}, {"specversion": 1.0}, {"type": "other"}, {"type": 5}, {"type": ["x"]}]
)
def test_a_structured_event_of_another_version_or_type_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedEnvelopeError):
        open_envelope(wrapped(**changes), STRUCTURED, EVENT_TYPE)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"specversion":"1.0"}',
        wrapped(data=None),
        wrapped(data="text"),
        wrapped(data=[DATA]),
        json.dumps({"specversion": "1.0", "type": EVENT_TYPE, "data_base64": "e30="}).encode(),
        b'{"data":{"n":' + b"9" * 5_000 + b"}}",
        b'{"data":' * 100_000,
        b"[" * 100_000,
    ],
)
def test_a_structured_event_that_is_not_one_is_broken(value: bytes) -> None:
    with pytest.raises(BrokenEnvelopeError):
        open_envelope(value, STRUCTURED, EVENT_TYPE)


def test_data_nested_to_any_depth_is_read_or_refused() -> None:
    for depth in range(sys.getrecursionlimit() - 150, sys.getrecursionlimit() + 5):
        value = b'{"data":' + b'{"a":' * depth + b"1" + b"}" * depth + b"}"
        try:
            assert open_envelope(value, STRUCTURED, EVENT_TYPE).data.startswith(b"{")
        except BrokenEnvelopeError:
            continue


_HEADERS = st.lists(
    st.tuples(
        st.one_of(
            st.sampled_from(["ce_type", "ce_specversion", "content-type", "traceparent", "CE_TYPE"]),
            st.text(max_size=6),
        ),
        st.one_of(st.none(), st.binary(max_size=8), st.sampled_from([b"1.0", EVENT_TYPE.encode(), STRUCTURED[0][1]])),
    ),
    max_size=5,
)


@settings(max_examples=300)
@given(st.one_of(st.binary(max_size=30), st.just(RAW), st.just(wrapped())), _HEADERS)
def test_hostile_headers_do_nothing_but_open_or_refuse(value: bytes, headers: list[tuple[str, bytes | None]]) -> None:
    try:
        opened = open_envelope(value, headers, EVENT_TYPE)
    except (UnsupportedEnvelopeError, BrokenEnvelopeError):
        return
    assert opened.type in (None, EVENT_TYPE)
    assert opened.data == value or json.loads(opened.data) == DATA


@given(st.text(min_size=1, max_size=20), st.none() | st.just(PARENT))
def test_what_is_sealed_can_be_opened(id: str, parent: str | None) -> None:
    time = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=timezone(timedelta(hours=2)))
    headers = seal(id=id, type=EVENT_TYPE, source="/worker", time=time, traceparent=parent)
    assert open_envelope(RAW, headers, EVENT_TYPE) == Envelope(RAW, EVENT_TYPE, parent)
    found = dict(headers)
    assert found["ce_id"].decode() == id
    assert datetime.fromisoformat(found["ce_time"].decode()).astimezone(UTC) == time
    assert ("traceparent" in found) == (parent is not None)
    assert len(found) == len(headers)
