"""Rolling the real guard: a tiny random Qwen2.5-VL in transformers, whose versions are checkpoints of their own."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas.policy import Policy, default_policy
from stream.demo.scene import guard_answers
from stream.devkit.triton import TritonServer, triton_environment
from stream.evidence.settings import EvidenceSettings
from stream.guard.settings import GuardSettings
from stream.operator.models.comparison import Limits
from stream.operator.models.control import ModelControl
from stream.operator.models.golden import read_golden
from stream.operator.models.promotion import Plan, Promoter, Promotion, roll_back
from stream.operator.models.repository import ModelRepository
from tests.stream.operator.models.parts import write_events
from tests.stream.operator.models.traffic import Traffic
from tests.support.services import REPOSITORY_ROOT

MODEL = "proguard"
PATIENCE_S = 60.0
"""A transformer on a core that others use too."""

_CHECKPOINTS = """
import sys
from pathlib import Path
from triton_models.proguard.tiny import write_tiny
for name, seed in (("first", 1), ("same", 1), ("other", 2)):
    write_tiny(Path(sys.argv[1]) / name, seed=seed, name=name)
"""


@pytest.fixture(scope="module")
def environment() -> Path:
    return triton_environment(REPOSITORY_ROOT, ".venv-proguard")


@pytest.fixture(scope="module")
def policy() -> Policy:
    """Short, so that the requests are."""
    whole = default_policy()
    return whole.model_copy(update={"categories": whole.categories[:1]})


@pytest.fixture(scope="module")
def repository(environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Version 1; 2 with the same weights under another name; 3 with other weights."""
    root = tmp_path_factory.mktemp("rolling")
    command = [str(environment / "bin" / "python"), "-c", _CHECKPOINTS, str(root)]
    subprocess.run(command, cwd=REPOSITORY_ROOT, check=True, timeout=120, capture_output=True)
    model = root / "models" / MODEL
    shutil.copytree(REPOSITORY_ROOT / "triton_models" / MODEL, model, ignore=shutil.ignore_patterns("__pycache__"))
    for version, checkpoint in enumerate(("first", "same", "other"), 1):
        folder = model / str(version)
        if version > 1:
            shutil.copytree(model / "1", folder)
        (folder / "model.yaml").write_text(
            f"checkpoint: {root / checkpoint}\nthreads: 1\nconstrained: true\nmax_think_chars: 10\n", encoding="utf-8"
        )
    with (model / "config.pbtxt").open("a", encoding="utf-8") as config:
        config.write("version_policy { specific { versions: [ 1 ] } }\n")
    return root / "models"


@pytest.fixture
def triton(repository: Path, environment: Path, tmp_path: Path) -> Iterator[TritonServer]:
    with TritonServer(
        repository, environment, tmp_path, models=[MODEL], ready=lambda url: guard_answers(url, MODEL)
    ) as server:
        yield server


def control_of(triton: TritonServer, policy: Policy) -> tuple[ModelControl, ModelRepository]:
    repository = ModelRepository(triton.repository, MODEL)
    settings = GuardSettings(url=triton.grpc_url, model=MODEL, timeout_s=PATIENCE_S)
    return ModelControl(settings, policy, repository=repository), repository


async def promote(triton: TritonServer, policy: Policy, version: int, events: Path) -> Promotion:
    control, repository = control_of(triton, policy)
    golden = await read_golden(events, policy, EvidenceSettings(), 10_000)
    limits = Limits(min_format_valid=0.98, min_agreement=0.95)
    plan = Plan(limits, watch_s=1.0, timeout_s=PATIENCE_S, patience_s=PATIENCE_S)
    try:
        return await Promoter(control, golden.samples, plan, repository=repository).promote(version)
    finally:
        await control.aclose()


@pytest.mark.timeout(400)
async def test_checkpoints_roll_under_load_and_one_that_judges_otherwise_is_never_met(
    triton: TritonServer, policy: Policy, tmp_path: Path
) -> None:
    events = write_events(tmp_path, 12)
    with Traffic(triton.grpc_url, MODEL, policy, timeout_s=PATIENCE_S) as during:
        refused = await promote(triton, policy, 3, events)
        rolled = await promote(triton, policy, 2, events)
        control, repository = control_of(triton, policy)
        try:
            back = await roll_back(control, repository, None)
        finally:
            await control.aclose()
    assert (refused.outcome, rolled.outcome, back) == ("rejected", "promoted", (2, 1)), (refused.why, rolled.why)
    assert "labels" in refused.why
    first, second = rolled.old_manifest, rolled.new_manifest
    assert (during.errors, during.manifests) == ([], [first, second, first])
