"""Presets: their arithmetic is right, the settings read them, and the LLM API takes their arguments."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.triton_models.proguard import fake_trt
from tests.triton_models.proguard.presets_arithmetic import CONTEXT, FRACTION, SHAPES, budget, memory_comment
from triton_models.proguard.guard.settings import Settings, load_settings

PRESETS = Path(__file__).resolve().parents[3] / "triton_models" / "proguard" / "presets"
NAMES = [f"{gpu}-{size}{kind}" for gpu in ("h100", "h200") for size in ("3b", "7b") for kind in ("", "-fp8")]


def settings_of(name: str) -> Settings:
    return load_settings(PRESETS / f"{name}.yaml", environment={"PROGUARD_MODEL_CHECKPOINT": "weights"})


def test_there_is_a_preset_for_each_card_size_and_format() -> None:
    assert sorted(path.stem for path in PRESETS.glob("*.yaml")) == sorted(NAMES)


def test_the_parameters_add_up_to_the_published_sizes() -> None:
    # The model cards: 3.75 and 8.29 billion, vision included.
    assert [(shape.linear + shape.other) // 10**7 for shape in SHAPES.values()] == [375, 829]


@pytest.mark.parametrize("name", NAMES)
def test_the_memory_in_the_comments_is_computed(name: str) -> None:
    gpu, size, *fp8 = name.split("-")
    text = (PRESETS / f"{name}.yaml").read_text(encoding="utf-8")
    assert memory_comment(gpu, size, fp8=bool(fp8)) in text
    assert f"PRESET={name}\n" in text


@pytest.mark.parametrize("name", NAMES)
def test_the_settings_read_a_preset_whose_numbers_are_the_arithmetics(name: str) -> None:
    settings = settings_of(name)
    arguments = settings.engine_args
    assert settings.engine == "tensorrt_llm"
    assert arguments["max_seq_len"] == CONTEXT
    assert arguments["kv_cache_config"]["free_gpu_memory_fraction"] == FRACTION
    assert arguments["cuda_graph_config"]["max_batch_size"] == arguments["max_batch_size"] <= settings.max_in_flight
    assert "dtype" not in arguments["kv_cache_config"]
    gpu, size, *fp8 = name.split("-")
    # Even if no two requests shared a policy, half of the batch would have room for a whole context.
    assert budget(gpu, size, fp8=bool(fp8)).contexts * 2 >= arguments["max_batch_size"] * 0.8


@pytest.mark.parametrize("name", NAMES)
def test_the_llm_api_takes_every_argument(name: str) -> None:
    with fake_trt.importable():
        from tensorrt_llm.llmapi.llm_args import TORCH_LLM_ARGS, KvCacheConfig

        arguments = settings_of(name).engine_args
        assert set(arguments) <= TORCH_LLM_ARGS
        KvCacheConfig.check(arguments["kv_cache_config"])
