from __future__ import annotations

import json
from pathlib import Path

import pytest

from schemas.policy import default_policy
from stream.errors import ConfigurationError
from stream.policies.source import load_policies


def write(folder: Path, name: str, version: str) -> Path:
    document = default_policy().model_dump(mode="json") | {"version": version}
    path = folder / name
    path.write_text(json.dumps(document))
    return path


def test_without_a_path_every_tenant_gets_the_packaged_policy() -> None:
    assert load_policies(None).for_tenant("anybody").ref.digest == default_policy().digest


def test_a_tenant_without_a_policy_of_its_own_gets_the_default(tmp_path: Path) -> None:
    write(tmp_path, "default.json", "d1")
    write(tmp_path, "acme.json", "a1")
    policies = load_policies(tmp_path)
    assert policies.for_tenant("acme").ref.version == "a1"
    assert policies.for_tenant("other").ref.version == "d1"
    assert policies.for_tenant("default").ref.version == "d1"


def test_a_folder_without_a_default_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "acme.json", "a1")
    with pytest.raises(ConfigurationError, match=r"default\.json"):
        load_policies(tmp_path)


@pytest.mark.parametrize(
    ("content", "says"), [("{", "not valid"), ('{"name": "x", "version": "1", "categories": []}', "categories")]
)
def test_a_policy_that_is_wrong_is_named_with_its_field(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "p.json"
    path.write_text(content)
    with pytest.raises(ConfigurationError, match=says):
        load_policies(path)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="missing"):
        load_policies(tmp_path / "missing.json")
