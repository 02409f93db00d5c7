"""The acceptance's own logic, on the CPU with a tiny checkpoint."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from tests.gpu import check, shaped
from tests.gpu.acceptance import Given, compare, parity_check, read_answers, write_answers
from tests.gpu.prompts import all_prompts, picture
from tests.triton_models.proguard import fake_trt
from tests.triton_models.proguard.presets_arithmetic import SHAPES
from triton_models.proguard.guard.opening import open_guard
from triton_models.proguard.guard.settings import Settings
from triton_models.proguard.tiny import write_tiny

PROMPTS = [asked.name for asked in all_prompts(side=56)]
TRY_OUT = ["--device", "cpu", "--tiny", "--max-tokens", "4", "--concurrent", "2"]


def given(name: str, score: float = 0.9, **changes: Any) -> Given:
    return replace(Given(name, "text", 5, "unsafe", "safe", (score, math.nan), 10), **changes)


def test_engines_that_answer_alike_pass() -> None:
    one = [given(str(at)) for at in range(100)]
    parity = compare(one, [given(str(at), 0.9 + 0.04 * (at % 2)) for at in range(100)])
    assert parity_check(parity).passed
    assert (parity.labels, parity.compared_scores) == (1.0, 100)
    assert parity.max_score_difference == pytest.approx(0.04)


@pytest.mark.parametrize(
    "changes", [{"request": "safe"}, {"response": None}, {"first_token": 6}, {"scores": (0.8, math.nan)}]
)
def test_engines_that_differ_fail(changes: dict[str, Any]) -> None:
    one = [given(str(at)) for at in range(20)]
    other = [given(str(at), **(changes if at < 2 else {})) for at in range(20)]
    assert not parity_check(compare(one, other)).passed


def test_answers_of_another_environment_come_back_as_they_were(tmp_path: Path) -> None:
    one = [given("a"), given("b", response=None, first_token=None, scores=(math.nan, 0.25))]
    write_answers(tmp_path / "answers.json", [asdict(answer) for answer in one])
    back = read_answers(tmp_path / "answers.json")
    assert parity_check(compare(one, back)).passed
    assert [replace(answer, scores=(0.0, 0.0)) for answer in back] == [
        replace(answer, scores=(0.0, 0.0)) for answer in one
    ]
    assert back[1].scores[1] == 0.25
    assert math.isnan(back[1].scores[0])


def test_without_a_gpu_it_says_so_and_is_no_success(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "_has_gpu", lambda: False)
    assert check.main(["--out", str(tmp_path)]) == check.NO_GPU
    assert "nothing was checked" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


async def test_the_shaped_checkpoint_is_sealed_and_answers(tmp_path: Path) -> None:
    # The 7B's own head size and vision tower layout, one layer of each, so that it is made and read in seconds.
    text = {
        "hidden_size": 256,
        "intermediate_size": 256,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }
    vision = {
        "depth": 1,
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_heads": 2,
        "out_hidden_size": 256,
        "fullatt_block_indexes": [0],
    }
    shaped.write_shaped(tmp_path / "checkpoint", device="cpu", text=text, vision=vision)
    guard = open_guard(Settings(str(tmp_path / "checkpoint"), max_context=4096))
    try:
        image = picture(1024, 1024, 1)
        answer = await guard.judge.answer("policy", "hello", (image,), 3)
        assert answer.completion_tokens == 3
        assert answer.prompt_tokens > 1200, "a megapixel has about 1,280 tokens"
    finally:
        await guard.engine.aclose()


def test_the_full_shape_has_as_many_parameters_as_the_presets_count(tmp_path: Path) -> None:
    import torch
    from transformers import AutoConfig, Qwen2_5_VLForConditionalGeneration

    write_tiny(tmp_path / "tiny")
    config = shaped.with_sizes(AutoConfig.from_pretrained(tmp_path / "tiny"), shaped.TEXT, shaped.VISION)
    with torch.device("meta"):  # No memory: only the shapes.
        model = Qwen2_5_VLForConditionalGeneration(config)
    counted = SHAPES["7b"]
    assert sum(parameter.numel() for parameter in model.parameters()) == counted.linear + counted.other


@pytest.mark.timeout(600)
def test_the_whole_command_passes_on_a_tiny_checkpoint(tmp_path: Path) -> None:
    assert check.main([*TRY_OUT, "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "gpu-check.json").read_text())
    (engine,) = result["engines"]
    assert [(found["name"], found["passed"]) for found in engine["checks"]] == [
        ("health", True),
        ("repeated image", True),
        ("cancel", True),
        ("prefix reuse", True),
    ]
    assert all(rate["same_as_alone"] == 1.0 for rate in engine["rates"] + engine["rates_without_reuse"])
    assert [rate["same_as_alone"] for rate in result["through_triton"]] == [1.0]
    report = (tmp_path / "gpu-check.md").read_text()
    assert "weights are random" in report
    assert str(tmp_path.parent) not in report


@pytest.mark.timeout(600)
def test_an_engine_that_answers_otherwise_is_no_success(tmp_path: Path) -> None:
    # The stand-in judges by words: what it says differs from what is written down here, and its own checks pass.
    other = [asdict(given(name, text="nothing", request=None)) for name in PROMPTS]
    write_answers(tmp_path / "answers.json", other)
    with fake_trt.importable():
        engine = ["--engines", "tensorrt_llm", "--preset", "h100-3b", "--no-triton"]
        compared = ["--compare-with", str(tmp_path / "answers.json")]
        assert check.main([*TRY_OUT, *engine, *compared, "--out", str(tmp_path)]) == 1
    result = json.loads((tmp_path / "gpu-check.json").read_text())
    assert [found["passed"] for found in result["checks"]] == [False]
    (stand_in,) = result["engines"]
    assert [found["passed"] for found in stand_in["checks"]] == [True] * 5
