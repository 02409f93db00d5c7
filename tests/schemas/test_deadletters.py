"""A dead letter gives back the record it stands for, byte for byte."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.deadletters import REPLACES_VERDICT, DeadLetter, Header, Reason
from schemas.jsonschemas import CONTRACTS, Role, schema_of
from tests.schemas.instances import is_valid

_SCHEMAS = [schema_of(contract, role) for contract in CONTRACTS if contract.name == "dead-letter" for role in Role]
_BYTES = st.none() | st.binary(max_size=200)
_HEADERS = st.lists(st.tuples(st.text(max_size=8), _BYTES), max_size=4)


def letter(**changes: object) -> DeadLetter:
    fields: dict[str, object] = {
        "id": "d1",
        "reason": Reason.MALFORMED,
        "detail": "not JSON",
        "attempt": 1,
        "event_id": None,
        "tenant": None,
        "verdict_id": None,
        "source": {"topic": "content.events", "partition": 0, "offset": 7},
        "key": None,
        "headers": [],
        "value": b"{",
        "failed_at": datetime(2026, 1, 2, tzinfo=UTC),
    }
    return DeadLetter.model_validate({**fields, **changes})


@settings(max_examples=150)
@given(_BYTES, _BYTES, _HEADERS)
def test_the_original_record_survives_json(
    key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes | None]]
) -> None:
    before = letter(key=key, value=value, headers=[Header(name=n, value=v) for n, v in headers])
    wire = before.model_dump_json()
    after = DeadLetter.model_validate_json(wire)
    assert (after.key, after.value, [(h.name, h.value) for h in after.headers]) == (key, value, headers)
    assert after == before
    assert all(is_valid(json.loads(wire), schema) for schema in _SCHEMAS)


@given(st.binary(max_size=200))
def test_bytes_are_base64url_on_the_wire_and_both_alphabets_are_read(value: bytes) -> None:
    document = json.loads(letter(value=value).model_dump_json())
    assert base64.urlsafe_b64decode(document["value"]) == value
    document["value"] = base64.b64encode(value).decode()
    assert DeadLetter.model_validate_json(json.dumps(document)).value == value


def test_headers_keep_their_order_and_their_repetitions() -> None:
    headers = [("a", b"1"), ("b", None), ("a", b"2"), ("", b"")]
    again = DeadLetter.model_validate_json(
        letter(headers=[{"name": n, "value": v} for n, v in headers]).model_dump_json()
    )
    assert [(h.name, h.value) for h in again.headers] == headers


@pytest.mark.parametrize(
    "changes", [{"reason": "boredom"}, {"attempt": 0}, {"detail": "x" * 513}, {"source": {"topic": "t"}}]
)
def test_what_the_list_of_reasons_or_the_limits_do_not_have_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        letter(**changes)


def test_only_what_could_not_be_read_takes_the_place_of_a_verdict() -> None:
    assert {"malformed", "unsupported_version", "oversized"} == {reason.value for reason in REPLACES_VERDICT}
    assert set(Reason) > REPLACES_VERDICT
