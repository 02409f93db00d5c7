"""The committed schemas are what the models give, closed for producers and open for consumers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from schemas.compat import PUBLISHED
from schemas.deadletters import Reason
from schemas.jsonschemas import CONTRACTS, VERSION, PublishedContract, Role, reader_schema, schema_of
from schemas.publish import main, render

_BOTH = [(contract, role) for contract in CONTRACTS for role in Role]
_IDS = [f"{contract.name}.{role}" for contract, role in _BOTH]


def objects(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every schema with declared fields, wherever it stands."""
    if "properties" in schema:
        yield schema
    for value in schema.values():
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, dict):
                yield from objects(child)


def test_the_committed_files_are_not_stale(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check"]) == 0, capsys.readouterr().out


def test_the_same_models_give_the_same_bytes() -> None:
    assert render() == render()


@pytest.mark.parametrize(("contract", "role"), _BOTH, ids=_IDS)
def test_every_schema_is_valid_and_says_what_it_is(contract: PublishedContract, role: Role) -> None:
    schema = schema_of(contract, role)
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$id"] == f"urn:proguard-stream:schema:{VERSION}:{contract.name}:{role}"
    assert schema["title"] == contract.model.__name__
    assert schema["description"]
    assert json.loads((PUBLISHED / VERSION / f"{contract.name}.{role}.json").read_text()) == schema


@pytest.mark.parametrize(("contract", "role"), _BOTH, ids=_IDS)
def test_producers_are_closed_and_consumers_open_everywhere_except_in_free_maps(
    contract: PublishedContract, role: Role
) -> None:
    schema = schema_of(contract, role)
    assert {node["additionalProperties"] for node in objects(schema)} == {role is Role.CONSUMER}
    free = {"content-event": "attributes", "verdict": "timings"}.get(contract.name)
    if free is not None:
        assert isinstance(schema["properties"][free]["additionalProperties"], dict)


@pytest.mark.parametrize("contract", [c for c in CONTRACTS if c.written_here], ids=lambda c: c.name)
def test_a_reader_of_what_the_service_writes_may_rely_on_every_field(contract: PublishedContract) -> None:
    for role in Role:
        for node in objects(schema_of(contract, role)):
            assert sorted(node["required"]) == sorted(node["properties"])
            assert not any("default" in field for field in node["properties"].values())


@pytest.mark.parametrize("contract", [c for c in CONTRACTS if not c.written_here], ids=lambda c: c.name)
def test_whoever_writes_for_the_service_may_leave_out_what_has_a_default(contract: PublishedContract) -> None:
    model = contract.model
    required = [name for name, field in model.model_fields.items() if field.is_required()]
    for role in Role:
        assert schema_of(contract, role)["required"] == required
    assert reader_schema(contract)["required"] == required


def test_the_reasons_of_dead_letters_are_a_closed_list_in_both_schemas() -> None:
    for role in Role:
        schema = schema_of(next(c for c in CONTRACTS if c.name == "dead-letter"), role)
        assert schema["$defs"]["Reason"]["enum"] == [reason.value for reason in Reason]


def test_a_stale_missing_or_leftover_file_fails_the_check_with_a_diff(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = ["--folder", str(tmp_path)]
    assert main([*folder, "--check"]) == 1
    assert main(folder) == 0
    assert main([*folder, "--check"]) == 0
    capsys.readouterr()
    (tmp_path / VERSION / "policy.consumer.json").unlink()
    (tmp_path / VERSION / "mood.consumer.json").write_text("{}\n")
    verdict = tmp_path / VERSION / "verdict.consumer.json"
    verdict.write_text(verdict.read_text().replace('"indeterminate"', '"undecided"'))
    assert main([*folder, "--check"]) == 1
    printed = capsys.readouterr().out
    assert "+++ models/v1/policy.consumer.json" in printed
    assert "--- committed/v1/mood.consumer.json" in printed
    assert '-        "undecided"' in printed
    assert '+        "indeterminate"' in printed


def test_publishing_over_a_schema_that_would_break_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--folder", str(tmp_path)]) == 0
    event = tmp_path / VERSION / "content-event.producer.json"
    schema = json.loads(event.read_text())
    schema["$defs"]["Kind"]["enum"].append("video")
    event.write_text(json.dumps(schema))
    (tmp_path / "asyncapi.yaml").unlink()
    assert main(["--folder", str(tmp_path)]) == 1
    assert json.loads(event.read_text()) == schema
    assert not (tmp_path / "asyncapi.yaml").exists()
    assert '$.kind: values not accepted: "video"' in capsys.readouterr().out
