"""`policy show|validate|digest`."""

from __future__ import annotations

import json
from pathlib import Path

from schemas.policy import default_policy
from tests.stream.operator.parts import document, run


def changed(tmp_path: Path, **changes: object) -> Path:
    file = tmp_path / "policy.json"
    file.write_text(json.dumps({**default_policy().model_dump(mode="json"), **changes}), encoding="utf-8")
    return file


def test_the_packaged_policy_is_valid_and_has_its_digest() -> None:
    digest = default_policy().digest
    assert run("policy", "digest").stdout == f"{digest}\n"
    assert document(run("policy", "digest", "--json")) == {"digest": digest}
    assert document(run("policy", "validate", "--json")) == {"valid": True, "digest": digest, "faults": []}


def test_show_names_every_category(tmp_path: Path) -> None:
    text = run("policy", "show").stdout
    policy = default_policy()
    entries = [entry for category in policy.categories for entry in (category, *category.subcategories)]
    assert len(entries) == 39
    for entry in entries:
        assert f"{entry.id}  {entry.name}" in text
    assert policy.digest in text
    shown = document(run("policy", "show", "--json"))
    assert shown == {"digest": policy.digest, "policy": policy.model_dump(mode="json")}
    assert document(run("policy", "show", changed(tmp_path, name="mine"), "--json"))["policy"]["name"] == "mine"


def test_validate_names_every_wrong_field_and_the_status_is_1(tmp_path: Path) -> None:
    file = changed(tmp_path, version="", rules={"safe": "allow", "indeterminate": "allow"}, categories=[{"id": "X"}])
    result = run("policy", "validate", file, "--json")
    assert result.exit_code == 1
    fields = {fault["field"] for fault in document(result)["faults"]}
    assert {"version", "rules", "categories.0.id", "categories.0.name", "categories.0.description"} <= fields
    for_people = run("policy", "validate", file)
    assert for_people.exit_code == 1
    assert all(any(line.startswith(f"{field}: ") for line in for_people.stderr.splitlines()) for field in fields)


def test_what_is_no_policy_at_all_is_one_clear_answer(tmp_path: Path) -> None:
    file = tmp_path / "policy.json"
    for content in (b"", b"\xff", b"[]", b"{", b"[" * 100_000):
        file.write_bytes(content)
        assert run("policy", "validate", file).exit_code == 1
        shown = run("policy", "show", file)
        assert shown.exit_code == 2
        assert "Traceback" not in shown.output
    missing = run("policy", "validate", tmp_path / "nothing")
    assert missing.exit_code == 2
    assert "No such file" in missing.stderr


def test_a_hostile_policy_does_not_reach_the_terminal_raw(tmp_path: Path) -> None:
    file = changed(tmp_path, name="[red]\x9b2J‮x")
    assert run("policy", "show", file).exit_code == 0
    assert "[red]\\x9b2J\\u202ex" in run("policy", "show", file).stdout
