"""Verdicts are deterministic in their id, complete on the wire, and free of what JSON cannot say."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.jsonschemas import CONTRACTS, Role, schema_of
from schemas.verdicts import NO_MANIFEST, OodEvent, Scores, Verdict, verdict_id
from tests.schemas.instances import instances, is_valid

_VERDICT, _OOD = ([schema_of(contract, role) for role in Role] for contract in CONTRACTS[1:3])  # producer, consumer
_texts = st.text(max_size=8)


def test_the_id_is_the_same_in_every_release() -> None:
    # Changing this value would make every replay a duplicate under a new id.
    assert verdict_id("e1", "0" * 64, NO_MANIFEST) == "f18dd637-755f-555f-8b9a-82873feeeefd"


def test_a_first_attempt_has_the_id_that_it_always_had_and_a_redriven_one_another() -> None:
    parts = ("e1", "0" * 64, "m")
    assert verdict_id(*parts, 1) == verdict_id(*parts)
    assert verdict_id(*parts, 2) == "d628e739-f466-5050-ae49-e83055c41df4"


@given(_texts, _texts, _texts)
def test_the_id_is_a_uuid5_of_its_parts_and_nothing_else(event: str, policy: str, manifest: str) -> None:
    assert verdict_id(event, policy, manifest) == verdict_id(event, policy, manifest)
    assert uuid.UUID(verdict_id(event, policy, manifest)).version == 5


_HEX = st.text("0123456789abcdef", max_size=6)
_PARTS = st.tuples(st.text("a|:/12", max_size=8), _HEX, _HEX, st.integers(1, 13))


@given(_PARTS, _PARTS)
def test_two_different_judgements_never_share_an_id(
    one: tuple[str, str, str, int], other: tuple[str, str, str, int]
) -> None:
    assume(one != other)
    assert verdict_id(*one) != verdict_id(*other)


@settings(max_examples=60)
@given(instances(_VERDICT[0]))
def test_a_verdict_comes_back_from_its_json_and_fits_the_published_schemas(document: dict[str, Any]) -> None:
    _round_trip(Verdict, document, _VERDICT)


@settings(max_examples=60)
@given(instances(_OOD[0]))
def test_an_ood_event_comes_back_from_its_json_and_fits_the_published_schemas(document: dict[str, Any]) -> None:
    _round_trip(OodEvent, document, _OOD)


def _round_trip(model: type[Verdict | OodEvent], document: dict[str, Any], schemas: list[dict[str, Any]]) -> None:
    value = model.model_validate_json(json.dumps(document))
    wire = value.model_dump_json()
    assert model.model_validate_json(wire) == value
    assert all(is_valid(json.loads(wire), schema) for schema in schemas)


@pytest.mark.parametrize("score", [float("nan"), float("inf"), -0.01, 1.01])
def test_a_score_is_a_probability_or_null(score: float) -> None:
    with pytest.raises(ValidationError):
        Scores(request=score)
    assert Scores().model_dump() == {"request": None, "response": None}


@pytest.mark.parametrize("milliseconds", [float("nan"), float("inf")])
def test_a_timing_that_json_cannot_say_is_refused_instead_of_written_as_null(milliseconds: float) -> None:
    minimal = _minimal()
    assert Verdict(**minimal).timings == {"guard": 1.0}
    with pytest.raises(ValidationError):
        Verdict(**{**minimal, "timings": {"guard": milliseconds}})


def test_every_field_is_written_even_when_it_is_null() -> None:
    wire = json.loads(Verdict(**_minimal()).model_dump_json())
    assert set(wire) == set(Verdict.model_fields)
    assert wire["reason"] is None
    assert wire["scores"] == {"request": None, "response": None}


def test_a_verdict_has_no_room_for_content() -> None:
    with_content = {**_minimal(), "user_text": "secret", "agent_text": "secret"}
    assert "secret" not in Verdict(**with_content).model_dump_json()


def _minimal() -> dict[str, Any]:
    return {
        "id": verdict_id("e1", "0" * 64, NO_MANIFEST),
        "event_id": "e1",
        "tenant": "default",
        "kind": "post",
        "modality": "text",
        "status": "decided",
        "request": "safe",
        "response": None,
        "category": None,
        "scores": {},
        "action": "allow",
        "rationale": None,
        "policy": {"name": "p", "version": "1", "digest": "0" * 64},
        "model": {"name": "m", "version": "1", "manifest": NO_MANIFEST},
        "prompt_digest": None,
        "evidence": [],
        "usage": {},
        "timings": {"guard": 1.0},
        "degraded": [],
        "source": {"topic": "t", "partition": 0, "offset": 0},
        "issued_at": datetime(2026, 1, 2, tzinfo=UTC),
    }
