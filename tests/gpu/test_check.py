"""The acceptance's own logic, on the CPU with a tiny checkpoint."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")

from tests.gpu import check
from tests.gpu.acceptance import Given, compare, parity_check, read_answers, write_answers
from tests.gpu.prompts import all_prompts
from tests.triton_models.proguard import fake_trt

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


def test_without_a_gpu_it_says_so_and_is_no_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if check._has_gpu():
        pytest.skip("this machine has a GPU")
    assert check.main(["--out", str(tmp_path)]) == check.NO_GPU
    assert "nothing was checked" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


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
