"""What is written into a model repository."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2

from stream.operator.models.errors import ModelRepositoryError
from stream.operator.models.repository import ModelRepository, Rollout, with_name, with_versions
from tests.stream.operator.models.parts import MODEL, add_version, make_repository
from tests.support.services import REPOSITORY_ROOT

POLICIES = [
    "",
    "version_policy { latest { num_versions: 1 } }",
    "version_policy: { all {} }",
    "version_policy {\n  # { not this one\n  specific { versions: [1,\n 2] }\n},",
    "version_policy < specific < versions: 1 versions: 2 > >;",
]
BODY = 'name: "g" # version_policy { all {} }\nbackend: "python"\nparameters: { key: "name", value: { string_value: "version_policy {" } }\n'


def parsed(text: str) -> model_config_pb2.ModelConfig:
    return text_format.Parse(text, model_config_pb2.ModelConfig())


@given(
    policy=st.sampled_from(POLICIES),
    first=st.booleans(),
    versions=st.lists(st.integers(1, 10**6), min_size=1, unique=True),
)
def test_a_policy_replaces_any_other_and_changes_nothing_else(policy: str, first: bool, versions: list[int]) -> None:
    text = f"{policy}\n{BODY}" if first else f"{BODY}{policy}\n"
    changed = with_versions(text, versions)
    wanted = parsed(BODY)
    wanted.version_policy.specific.versions.extend(versions)
    assert parsed(changed) == wanted
    assert "# version_policy { all {} }" in changed
    assert with_versions(changed, versions) == changed


@pytest.mark.parametrize("model", ["proguard", "proguard_lite"])
def test_the_packaged_models_can_be_given_a_policy_and_a_name(model: str) -> None:
    text = (REPOSITORY_ROOT / "triton_models" / model / "config.pbtxt").read_text(encoding="utf-8")
    changed = parsed(with_name(with_versions(text, [4]), "other"))
    wanted = parsed(text)
    wanted.name = "other"
    wanted.version_policy.specific.versions.append(4)
    assert changed == wanted


def test_what_is_no_configuration_is_refused() -> None:
    with pytest.raises(ModelRepositoryError):
        with_versions("this is { not", [1])


def test_a_second_name_links_to_its_version_and_its_helpers_and_leaves_no_trace(tmp_path: Path) -> None:
    root = make_repository(tmp_path)
    add_version(root, 2)
    (root / MODEL / "helpers").mkdir()
    before = {path: path.stat().st_mtime_ns for path in (root / MODEL).rglob("*")} | {
        root / MODEL: (root / MODEL).stat().st_mtime_ns
    }
    repository = ModelRepository(root, MODEL)
    repository.stage(2)
    repository.stage(2)
    trial = root / repository.trial
    assert sorted(path.name for path in trial.iterdir()) == ["2", "config.pbtxt", "helpers"]
    assert (trial / "2" / "model.py").resolve() == (root / MODEL / "2" / "model.py").resolve()
    config = parsed((trial / "config.pbtxt").read_text())
    assert (config.name, list(config.version_policy.specific.versions)) == (repository.trial, [2])
    repository.unstage()
    assert not trial.exists()
    after = {path: path.stat().st_mtime_ns for path in before}
    assert after == before, "Triton would load every version anew"


def test_a_model_that_has_the_second_name_is_not_removed(tmp_path: Path) -> None:
    root = make_repository(tmp_path)
    (root / f"{MODEL}_candidate" / "1").mkdir(parents=True)
    with pytest.raises(ModelRepositoryError, match="of its own"):
        ModelRepository(root, MODEL).unstage()
    assert (root / f"{MODEL}_candidate" / "1").is_dir()


def test_the_last_switch_is_remembered_outside_the_models_folder(tmp_path: Path) -> None:
    root = make_repository(tmp_path)
    repository = ModelRepository(root, MODEL)
    assert repository.rollout() is None
    before = (root / MODEL).stat().st_mtime_ns
    repository.note_rollout(Rollout(serving=2, previous=1))
    assert repository.rollout() == Rollout(2, 1)
    assert (root / MODEL).stat().st_mtime_ns == before
    (root / f"{MODEL}.rollout.json").write_text("[]")
    with pytest.raises(ModelRepositoryError, match="name the version"):
        repository.rollout()


def test_a_folder_without_the_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelRepositoryError, match="no model repository"):
        ModelRepository(tmp_path, MODEL)
