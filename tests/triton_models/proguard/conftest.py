"""A tiny checkpoint for the real guard's tests. They need torch, so they run in an environment of their own (see `make test`)."""

from __future__ import annotations

import importlib.util
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from hypothesis import settings

collect_ignore_glob = ["test_*.py"] if importlib.util.find_spec("torch") is None else []

# How long an example takes on shared cores says nothing about it.
settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sealed tiny checkpoint. Tests that change one copy it."""
    from triton_models.proguard.tiny import write_tiny

    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    write_tiny(folder)
    return folder


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """A tiny model is no faster with two, and on a machine that has other work their waiting for one another makes it many times slower."""
    import torch

    torch.set_num_threads(1)


MakeEngine = Callable[..., object]


@pytest.fixture
async def make_engine(checkpoint: Path) -> AsyncIterator[MakeEngine]:
    """Makes engines on the tiny checkpoint, with a runner class of the test's own where it wants one, and closes them."""
    from tests.triton_models.proguard.engines import engine_on
    from triton_models.proguard.guard.transformers_engine import TransformersEngine

    made: list[TransformersEngine] = []

    def make(**options: object) -> TransformersEngine:
        made.append(engine_on(checkpoint, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for engine in made:
        await engine.aclose()
