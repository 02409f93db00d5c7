"""Puts the stand-in for `tensorrt_llm` where Python, or a Triton stub, finds it."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "fake_tensorrt_llm"
MODEL_FOLDER = Path(__file__).resolve().parents[3] / "triton_models" / "proguard"
SCRIPT_VARIABLE = "FAKE_TENSORRT_LLM"


@contextmanager
def importable() -> Iterator[None]:
    """`import tensorrt_llm` finds the stand-in, and nothing of it is left afterwards."""
    sys.path.insert(0, str(FOLDER))
    try:
        yield
    finally:
        sys.path.remove(str(FOLDER))
        for name in [name for name in sys.modules if name.partition(".")[0] == "tensorrt_llm"]:
            del sys.modules[name]


def write_script(path: Path, answers: list[dict[str, Any]]) -> Path:
    """A script for the stand-in; `$FAKE_TENSORRT_LLM` names it to the process that opens the engine."""
    path.write_text(json.dumps({"answers": answers}), encoding="utf-8")
    return path


def repository(folder: Path, checkpoint: Path, *, installed: bool = True) -> Path:
    """A model repository in `folder` with `proguard` on `checkpoint` and the TensorRT-LLM engine.

    The stand-in lies in the model's own folder, which `1/model.py` puts on the stub's import path; with `installed` false it does not.
    """
    model = folder / "proguard"
    shutil.copytree(MODEL_FOLDER, model, ignore=shutil.ignore_patterns("__pycache__"))
    if installed:
        shutil.copytree(FOLDER / "tensorrt_llm", model / "tensorrt_llm", ignore=shutil.ignore_patterns("__pycache__"))
    arguments = {"max_seq_len": 16384, "kv_cache_config": {"enable_block_reuse": True}, "max_num_tokens": 16384}
    settings = {"engine": "tensorrt_llm", "checkpoint": str(checkpoint), "engine_args": arguments}
    (model / "1" / "model.yaml").write_text(json.dumps(settings), encoding="utf-8")  # JSON is YAML.
    return folder
