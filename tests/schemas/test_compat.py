"""A published schema cannot be broken unnoticed."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from schemas.compat import PUBLISHED, Direction, breaking_changes, check_models, main
from schemas.jsonschemas import CONTRACTS, Role, reader_schema, schema_of
from schemas.publish import main as publish
from tests.schemas.instances import is_valid

Schema = dict[str, Any]
_BY_NAME = {contract.name: contract for contract in CONTRACTS}


def found(old: Schema, new: Schema, direction: Direction = Direction.INPUT) -> list[str]:
    return [str(breaking) for breaking in breaking_changes(old, new, direction)]


def record(properties: Schema, *, closed: bool = False, required: tuple[str, ...] = ()) -> Schema:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": not closed}


def test_the_committed_schemas_are_kept() -> None:
    assert check_models() == []
    assert main([]) == 0


@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda c: c.name)
def test_every_contract_is_compatible_with_itself(contract: Any) -> None:
    producer = schema_of(contract, Role.PRODUCER)
    assert found(producer, reader_schema(contract)) == []
    assert found(schema_of(contract, Role.CONSUMER), producer, Direction.OUTPUT) == []


def _narrow_enum(schema: Schema) -> None:
    schema["$defs"]["Kind"]["enum"].remove("image")


def _remove_field(schema: Schema) -> None:
    del schema["properties"]["author"]


def _rename_field(schema: Schema) -> None:
    schema["properties"]["language"] = schema["properties"].pop("locale")


def _require_new(schema: Schema) -> None:
    schema["properties"]["region"] = {"type": "string"}
    schema["required"].append("region")


def _require_old(schema: Schema) -> None:
    schema["required"].append("kind")


def _refuse_null(schema: Schema) -> None:
    schema["properties"]["agent_text"]["anyOf"].pop()


def _shorten(schema: Schema) -> None:
    schema["properties"]["id"]["maxLength"] = 128


def _change_pattern(schema: Schema) -> None:
    schema["$defs"]["ImageRef"]["properties"]["sha256"]["anyOf"][0]["pattern"] = "^[0-9A-F]{64}$"


def _change_format(schema: Schema) -> None:
    schema["properties"]["occurred_at"]["format"] = "date"


def _retype(schema: Schema) -> None:
    schema["properties"]["attributes"]["additionalProperties"]["type"] = "integer"


def _fewer(schema: Schema) -> None:
    schema["properties"]["images"]["maxItems"] = 8


def _another_default(schema: Schema) -> None:
    schema["properties"]["tenant"]["default"] = "public"


def _unknown_keyword(schema: Schema) -> None:
    schema["properties"]["attributes"]["propertyNames"] = {"maxLength": 20}


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (_narrow_enum, '$.kind: values not accepted: "image"'),
        (_remove_field, "$.author: the field is removed or renamed: it would be dropped"),
        (_rename_field, "$.locale: the field is removed or renamed: it would be dropped"),
        (_require_new, "$.region: the field is required and may be missing"),
        (_require_old, "$.kind: the field is required and may be missing"),
        (_refuse_null, "$.agent_text: null is not accepted"),
        (_shorten, "$.id: maxLength 128 refuses larger ones"),
        (_change_pattern, "$.images[*].sha256: pattern is added or changed"),
        (_change_format, "$.occurred_at: format is added or changed"),
        (_retype, "$.attributes.*: string is not accepted"),
        (_fewer, "$.images: maxItems 8 refuses larger ones"),
        (_another_default, "$.tenant: the default is another one: an absent field would mean something else"),
        (_unknown_keyword, "$.attributes: the keyword propertyNames cannot be compared"),
    ],
)
def test_a_change_that_breaks_producers_of_events_is_found(change: Callable[[Schema], None], finding: str) -> None:
    contract = _BY_NAME["content-event"]
    new = reader_schema(contract)
    change(new)
    assert finding in found(schema_of(contract, Role.PRODUCER), new)


def _drop_output(schema: Schema) -> None:
    del schema["properties"]["rationale"]
    schema["required"].remove("rationale")


def _widen_enum(schema: Schema) -> None:
    schema["$defs"]["Status"]["enum"].append("deferred")


def _allow_null(schema: Schema) -> None:
    schema["properties"]["action"] = {"anyOf": [schema["properties"]["action"], {"type": "null"}]}


def _widen_range(schema: Schema) -> None:
    del schema["$defs"]["Scores"]["properties"]["request"]["anyOf"][0]["maximum"]


def _may_be_missing(schema: Schema) -> None:
    schema["required"].remove("reason")


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (_drop_output, "$.rationale: the field is required and may be missing"),
        (_drop_output, "$.rationale: the field is removed or renamed"),
        (_widen_enum, '$.status: values not accepted: "deferred"'),
        (_allow_null, "$.action: null is not accepted"),
        (_widen_range, "$.scores.request: larger numbers are not accepted"),
        (_may_be_missing, "$.reason: the field is required and may be missing"),
    ],
)
def test_a_change_that_breaks_readers_of_verdicts_is_found(change: Callable[[Schema], None], finding: str) -> None:
    contract = _BY_NAME["verdict"]
    new = schema_of(contract, Role.PRODUCER)
    change(new)
    assert finding in found(schema_of(contract, Role.CONSUMER), new, Direction.OUTPUT)


_A: Schema = {"a": {}}


@pytest.mark.parametrize(
    ("wide", "narrow", "witness"),
    [
        ({}, {"type": "string"}, 1),
        ({"type": "number"}, {"type": "integer"}, 0.5),
        ({"type": ["string", "null"]}, {"type": "string"}, None),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, {"type": "string"}, None),
        ({"type": "string"}, {"type": "string", "enum": ["a"]}, "b"),
        ({"enum": ["a", "b"]}, {"const": "a"}, "b"),
        ({"type": "string"}, {"type": "string", "minLength": 1}, ""),
        ({"type": "string", "maxLength": 3}, {"type": "string", "maxLength": 2}, "abc"),
        ({"type": "string"}, {"type": "string", "pattern": "^a"}, "b"),
        ({"type": "integer", "minimum": 0}, {"type": "integer", "minimum": 1}, 0),
        ({"type": "integer", "minimum": 0}, {"type": "integer", "exclusiveMinimum": 0}, 0),
        ({"type": "integer"}, {"type": "integer", "exclusiveMinimum": 0}, 0),
        ({"type": "number", "maximum": 1}, {"type": "number", "maximum": 0.5}, 1),
        ({"type": "number", "maximum": 1}, {"type": "number", "exclusiveMaximum": 1}, 1),
        ({"type": "integer"}, {"type": "integer", "multipleOf": 2}, 3),
        ({"type": "array"}, {"type": "array", "items": {"type": "null"}}, [1]),
        ({"type": "array"}, {"type": "array", "minItems": 1}, []),
        ({"type": "array", "maxItems": 2}, {"type": "array", "maxItems": 1}, [1, 2]),
        ({"type": "array"}, {"type": "array", "uniqueItems": True}, [1, 1]),
        (record(_A), record(_A, required=("a",)), {}),
        (record(_A), record(_A, closed=True), {"b": 1}),
        (record(_A), {**record(_A), "additionalProperties": {"type": "null"}}, {"b": 1}),
        (record(_A), record({"a": {"type": "null"}}), {"a": 1}),
        (record(_A), {**record(_A), "minProperties": 1}, {}),
        (record(_A), {**record(_A), "maxProperties": 0}, {"a": 1}),
        (True, False, None),
    ],
    ids=repr,
)
def test_every_keyword_breaks_when_it_narrows_and_not_when_it_widens(wide: Any, narrow: Any, witness: Any) -> None:
    assert is_valid(witness, wide)
    assert not is_valid(witness, narrow)
    assert breaking_changes(wide, narrow, Direction.INPUT)
    assert breaking_changes(narrow, wide, Direction.OUTPUT)
    assert not breaking_changes(narrow, wide, Direction.INPUT)
    assert not breaking_changes(wide, narrow, Direction.OUTPUT)


def test_what_only_adds_is_not_breaking() -> None:
    event = _BY_NAME["content-event"]
    reader = reader_schema(event)
    reader["properties"]["region"] = {"type": "string", "default": ""}
    reader["$defs"]["Kind"]["enum"].append("video")
    reader["properties"]["id"]["maxLength"] = 512
    assert found(schema_of(event, Role.PRODUCER), reader) == []
    verdict = _BY_NAME["verdict"]
    producer = schema_of(verdict, Role.PRODUCER)
    producer["properties"]["region"] = {"type": "string"}
    producer["required"].append("region")
    producer["$defs"]["Label"]["enum"].remove("unsafe")
    assert found(schema_of(verdict, Role.CONSUMER), producer, Direction.OUTPUT) == []


def test_a_closed_reader_refuses_a_new_field() -> None:
    old, new = record({"a": {}}, closed=True), record({"a": {}, "b": {"type": "string"}}, closed=True)
    assert found(old, new, Direction.OUTPUT) == ["$.b: nothing is accepted here"]


def test_a_new_optional_field_breaks_where_writers_were_free_to_use_its_name() -> None:
    assert found(record({}), record({"a": {"type": "string"}})) == ["$.a: a value of any type is not accepted"]


def test_a_reference_counts_as_what_it_refers_to() -> None:
    plain = record({"a": {"type": "integer", "minimum": 0}})
    referred: Schema = {**record({"a": {"$ref": "#/$defs/N"}}), "$defs": {"N": {"type": "integer", "minimum": 0}}}
    assert found(plain, referred) == found(referred, plain) == []
    referred["$defs"]["N"]["minimum"] = 1
    assert found(plain, referred) == ["$.a: smaller numbers are not accepted"]


def test_what_cannot_be_decided_is_breaking() -> None:
    recursive = {**record({"a": {"$ref": "#/$defs/N"}}), "$defs": {"N": record({"n": {"$ref": "#/$defs/N"}})}}
    assert any("$ref cannot be compared" in line for line in found(recursive, copy.deepcopy(recursive)))
    foreign = record({"a": {"$ref": "https://example.org/schema.json"}})
    assert found(foreign, foreign) == ["$.a: the keyword $ref cannot be compared"]
    twice = record({"a": {"anyOf": [{"maxLength": 3}], "maxLength": 5}})
    assert found(twice, twice) == ["$.a: the keyword allOf cannot be compared"]
    # Closed for `a` too: `additionalProperties` does not see the `properties` outside its own branch.
    elsewhere = {"properties": {"a": {}}, "anyOf": [{"additionalProperties": False}]}
    assert not is_valid({"a": 1}, elsewhere)
    assert "$: the keyword allOf cannot be compared" in found(record({"a": {}}, closed=True), elsewhere)


def test_breaking_the_published_folder_is_reported_and_ends_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert publish(["--folder", str(tmp_path)]) == 0
    file = tmp_path / "v1" / "content-event.producer.json"
    schema = json.loads(file.read_text())
    schema["properties"]["mood"] = {"type": "string"}  # as if a release had had it, and the models dropped it
    file.write_text(json.dumps(schema))
    (tmp_path / "v1" / "sentiment.producer.json").write_text("{}")
    assert main(["--published", str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert "v1/content-event.producer.json: $.mood: the field is removed or renamed" in printed
    assert "the contract sentiment does not exist any more" in printed
    assert "2 breaking" in printed


def test_a_check_against_nothing_is_not_a_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--published", str(tmp_path)]) == 1
    assert "run python -m schemas.publish" in capsys.readouterr().out


def test_both_sides_of_every_contract_are_published() -> None:
    names = {path.name for path in (PUBLISHED / "v1").glob("*.json")}
    assert names == {f"{contract.name}.{role}.json" for contract in CONTRACTS for role in Role}
