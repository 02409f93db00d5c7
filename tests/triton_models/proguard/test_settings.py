"""The settings of the model: overrides in their order, and nothing that is not known."""

from __future__ import annotations

from pathlib import Path

import pytest

from triton_models.proguard.guard.errors import LoadError
from triton_models.proguard.guard.settings import Settings, load_settings

SHIPPED = Path(__file__).resolve().parents[3] / "triton_models" / "proguard" / "1" / "model.yaml"


def test_the_shipped_file_is_the_defaults_and_wants_a_checkpoint() -> None:
    assert load_settings(SHIPPED, environment={"PROGUARD_MODEL_CHECKPOINT": "w"}) == Settings(checkpoint="w")
    with pytest.raises(LoadError, match="PROGUARD_MODEL_CHECKPOINT"):
        load_settings(SHIPPED, parameters={"checkpoint": ""}, environment={})


def test_the_environment_overrides_the_parameter_and_that_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.yaml"
    path.write_text("checkpoint: file\nmax_batch: 3\nengine_args: {a: 1}")
    assert load_settings(path, environment={}).checkpoint == "file"
    assert load_settings(path, parameters={"checkpoint": "parameter"}, environment={}).checkpoint == "parameter"
    settings = load_settings(
        path,
        parameters={"checkpoint": "parameter", "engine": ""},
        environment={"PROGUARD_MODEL_CHECKPOINT": "environment", "PROGUARD_MODEL_CONSTRAINED": "true"},
    )
    assert (settings.checkpoint, settings.constrained, settings.max_batch) == ("environment", True, 3)
    assert settings.engine_args == {"a": 1}


WRONG = {
    "max_bach: 3": "unknown entry 'max_bach'",
    "engine: vllm": "engine must be transformers or tensorrt_llm",
    "max_batch: 0": "max_batch must be a whole number of at least 1",
    "max_batch: many": "max_batch must be",
    "max_tokens: true": "max_tokens must be",
    "nudges: -1": "nudges must be a whole number of at least 0",
    "constrained: 1": "constrained must be true or false",
    "dtype: int3": "dtype must be",
    "engine_args: [1]": "engine_args must be a mapping",
    "device: 3": "device must be a text",
    "- a list": "must be a mapping",
    "a: [": "cannot be read",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_entry_is_refused_by_its_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "model.yaml"
    path.write_text(text if text.startswith("-") else f"checkpoint: w\n{text}")
    with pytest.raises(LoadError, match=WRONG[text]):
        load_settings(path, environment={})
