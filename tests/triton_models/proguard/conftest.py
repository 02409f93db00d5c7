"""A tiny checkpoint for the real guard's tests. They need torch, so they run in an environment of their own (see `make test`)."""

from __future__ import annotations

import importlib.util
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

collect_ignore_glob = ["test_*.py"] if importlib.util.find_spec("torch") is None else []


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sealed tiny checkpoint. Tests that change one copy it."""
    from triton_models.proguard.tiny import write_tiny

    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    write_tiny(folder)
    return folder


@pytest.fixture(autouse=True, scope="session")
def few_threads() -> Iterator[None]:
    """More threads than cores make a tiny model slower, and a test's time depends on the machine."""
    if importlib.util.find_spec("torch") is not None:
        import torch

        torch.set_num_threads(2)
    yield


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
