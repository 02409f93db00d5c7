"""The one contract, on every guard model. A new engine gets an entry in MODELS."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from stream.devkit.triton import TritonServer, triton_environment
from tests.triton_models.contract_suite import *
from tests.triton_models.contract_suite import Served, answers, client
from tests.triton_models.proguard.serving import MODEL, ROOT, copy_model, serving
from triton_models.proguard.guard import manifest

__all__ = ["client"]


@contextlib.contextmanager
def lite(folder: Path, _: Path) -> Iterator[Served]:
    """The embedded guard, in its own environment."""
    weights = ROOT / "triton_models" / "proguard_lite" / "weights"
    server = TritonServer(
        copy_model(folder, "proguard_lite"),
        triton_environment(ROOT),
        folder,
        models=["proguard_lite"],
        ready=lambda url: answers(url, "proguard_lite"),
    )
    with server:
        yield Served("proguard_lite", server, hashlib.sha256((weights / "manifest.json").read_bytes()).hexdigest())


@contextlib.contextmanager
def transformers(folder: Path, checkpoint: Path) -> Iterator[Served]:
    """The real model class, held to the grammar: its weights are random."""
    with serving(folder, checkpoint) as server:
        yield Served(MODEL, server, manifest.read(checkpoint).digest)


MODELS: dict[str, Callable[[Path, Path], AbstractContextManager[Served]]] = {
    "proguard_lite": lite,
    "proguard with transformers": transformers,
    # "proguard with the faked LLM API": its context manager starts a server whose environment has the fake, and yields a Served.
}


@pytest.fixture(scope="module", params=MODELS)
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, checkpoint: Path
) -> Iterator[Served]:
    with MODELS[request.param](tmp_path_factory.mktemp("served"), checkpoint) as running:
        yield running
