"""What is read as a content event, and what never is."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.events import ContentEvent, Kind, Modality
from schemas.jsonschemas import CONTRACTS, Role, schema_of
from tests.schemas.instances import instances, is_valid

LEAST: dict[str, Any] = {"id": "e1", "user_text": "hi", "occurred_at": "2026-01-02T03:04:05Z"}
_SCHEMA = schema_of(CONTRACTS[0], Role.PRODUCER)


def read(**fields: Any) -> ContentEvent:
    return ContentEvent.model_validate_json(json.dumps({**LEAST, **fields}))


def test_the_least_event_is_a_post_of_the_default_tenant() -> None:
    event = read()
    assert (event.tenant, event.kind, event.agent_text, event.images) == ("default", Kind.POST, None, [])
    assert event.modality is Modality.TEXT


@settings(max_examples=100)
@given(instances(_SCHEMA).filter(lambda e: e.get("user_text") or e.get("agent_text") or e.get("images")))
def test_what_the_producer_schema_allows_is_read_and_written_back_unchanged(document: dict[str, Any]) -> None:
    event = ContentEvent.model_validate_json(json.dumps(document))
    again = ContentEvent.model_validate_json(event.model_dump_json())
    assert again == event
    assert is_valid(json.loads(event.model_dump_json()), _SCHEMA)
    for name, value in document.items():
        if name != "occurred_at":
            assert json.loads(event.model_dump_json(exclude_unset=True))[name] == value


def test_a_field_of_a_newer_producer_is_ignored() -> None:
    assert read(mood="curious") == read()


@pytest.mark.parametrize(
    "empty", [{"user_text": ""}, {"user_text": "", "agent_text": ""}, {"user_text": "", "images": []}]
)
def test_an_event_without_any_content_is_refused(empty: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="needs user_text, agent_text or images"):
        read(**empty)


@pytest.mark.parametrize(
    ("fields", "modality"),
    [
        ({"user_text": "a"}, Modality.TEXT),
        ({"user_text": "", "agent_text": "a"}, Modality.TEXT),
        ({"user_text": "", "images": [{"uri": "s3://b/i.png"}]}, Modality.IMAGE),
        ({"user_text": "", "agent_text": "", "images": [{"uri": "s3://b/i.png"}]}, Modality.IMAGE),
        ({"user_text": "a", "images": [{"uri": "s3://b/i.png"}]}, Modality.TEXT_IMAGE),
        ({"user_text": "", "agent_text": "a", "images": [{"uri": "s3://b/i.png"}]}, Modality.TEXT_IMAGE),
        ({"user_text": " ", "images": [{"uri": "s3://b/i.png"}], "kind": "image"}, Modality.TEXT_IMAGE),
    ],
)
def test_the_modality_follows_from_what_the_event_holds(fields: dict[str, Any], modality: Modality) -> None:
    assert read(**fields).modality is modality


@pytest.mark.parametrize(
    "time",
    [
        0,
        1_767_323_045,
        1.5,
        "1767323045",
        "1767323045000",
        "2026-01-02T03:04:05",
        "2026-01-02",
        "now",
        "",
        None,
        True,
        [],
    ],
)
def test_a_time_is_never_guessed(time: object) -> None:
    with pytest.raises(ValidationError):
        read(occurred_at=time)


def test_a_time_keeps_its_offset() -> None:
    assert read(occurred_at="2026-01-02T03:04:05.5+05:30").occurred_at.utcoffset() == timedelta(hours=5, minutes=30)


@pytest.mark.parametrize(
    "fields",
    [
        {"id": ""},
        {"id": "a" * 257},
        {"id": "a\nb"},
        {"id": "a\n"},
        {"id": "\x00"},
        {"id": 7},
        {"id": None},
        {"tenant": ""},
        {"tenant": None},
        {"kind": "video"},
        {"kind": "POST"},
        {"user_text": None},
        {"user_text": 7},
        {"user_text": ["a"]},
        {"images": [{"uri": ""}]},
        {"images": [{"uri": "x" * 4097}]},
        {"images": [{}]},
        {"images": ["s3://b/i.png"]},
        {"images": [{"uri": "s3://b/i.png"}] * 65},
        {"images": [{"uri": "s3://b/i.png", "sha256": "A" * 64}]},
        {"images": [{"uri": "s3://b/i.png", "sha256": "a" * 63}]},
        {"locale": "x" * 36},
        {"attributes": {"a": 1}},
        {"attributes": {str(n): "" for n in range(65)}},
        {"attributes": []},
    ],
)
def test_a_field_out_of_bounds_or_of_another_type_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        read(**fields)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*LEAST, "images", "x"]), inner, max_size=3)
    ),
)


@settings(max_examples=200)
@given(st.one_of(st.binary(max_size=60), _JSON.map(lambda value: json.dumps(value).encode())))
def test_whatever_the_bytes_are_they_are_an_event_or_a_validation_error(raw: bytes) -> None:
    try:
        event = ContentEvent.model_validate_json(raw)
    except ValidationError:
        return
    assert event.id


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b'{"id":"e1","user_text":"\\ud800","occurred_at":"2026-01-02T03:04:05Z"}',
        b'{"id":"e1","user_text":"\xff","occurred_at":"2026-01-02T03:04:05Z"}',
        b'{"id":"e1","user_text":"a","occurred_at":"2026-01-02T03:04:05Z"}x',
        b"[" * 100_000,
        b'{"a":' * 100_000,
    ],
)
def test_bytes_that_are_not_one_json_object_in_utf8_are_refused(raw: bytes) -> None:
    with pytest.raises(ValidationError):
        ContentEvent.model_validate_json(raw)


def test_an_event_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        read().user_text = "other"  # type: ignore[misc]
