"""The real guard on a real tritonserver, for tests and benchmarks that run where torch is installed."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from stream.devkit.triton import TritonServer
from tests.triton_models.contract_suite import answers

MODEL = "proguard"
ROOT = Path(__file__).resolve().parents[3]
ENVIRONMENT = Path(sys.prefix)
"""This process's own environment: it has tritonserver beside torch."""
SHORT_ANSWERS = {"CONSTRAINED": "true", "MAX_THINK_CHARS": "40", "THREADS": "2"}
"""A random model writes the grammar's form, and no more reasoning than a test wants to wait for."""


def copy_model(folder: Path, model: str = MODEL) -> Path:
    """A repository with nothing around it, as in a container: the model must bring all that it imports."""
    repository = folder / "models"
    source = ROOT / "triton_models" / model
    shutil.copytree(source, repository / model, ignore=shutil.ignore_patterns("__pycache__"))
    return repository


@contextlib.contextmanager
def environment(**settings: str) -> Iterator[None]:
    """PROGUARD_MODEL_… for the servers that are started inside the block."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("PROGUARD_MODEL_")]:
            patch.delenv(name)
        for name, value in settings.items():
            patch.setenv(f"PROGUARD_MODEL_{name}", value)
        yield


@contextlib.contextmanager
def serving(
    folder: Path, checkpoint: Path, settings: Mapping[str, str] = SHORT_ANSWERS, *, repository: Path | None = None
) -> Iterator[TritonServer]:
    """A server with the transformers engine on `checkpoint`, for as long as the block lasts."""
    server = TritonServer(
        repository or copy_model(folder), ENVIRONMENT, folder, models=[MODEL], ready=lambda url: answers(url, MODEL)
    )
    with environment(CHECKPOINT=str(checkpoint), **settings), server:
        yield server
