"""Puts the stand-in for `tensorrt_llm` where Python, or a Triton stub, finds it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "fake_tensorrt_llm"
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


def add_to(environment: Path) -> Path:
    """Make the stand-in importable in the Python environment of a Triton stub, which reads no PYTHONPATH. Remove the file that is
    returned when the server has stopped."""
    (packages,) = (environment / "lib").glob("python3.*/site-packages")
    link = packages / "fake_tensorrt_llm.pth"
    link.write_text(f"{FOLDER}\n", encoding="utf-8")
    return link
