"""A real Triton whose guard has several versions, each with a manifest and a character of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from schemas.events import ContentEvent
from schemas.policy import default_policy
from stream.demo.scene import guard_answers
from stream.devkit.triton import TritonServer
from stream.guard.settings import GuardSettings
from stream.operator.models.control import LoadedVersion, ModelControl
from tests.support.services import REPOSITORY_ROOT

SCRIPTED = REPOSITORY_ROOT / "tests" / "guards" / "scripted_guard"
MODEL = "guard"

CHARACTERS = {
    "good": "",
    "garbled": 'SAYS = {name: ("I would rather talk about the weather.", scores) for name, (_, scores) in SAYS.items()}',
    "flipped": 'SAYS["safe"], SAYS["unsafe"] = SAYS["unsafe"], SAYS["safe"]',
    "refuses": 'raise RuntimeError("there is no manifest beside the weights: export them again")',
    "crashes": "ANSWERS_BEFORE_DEATH = 20",
    "slow": "import time",
    "two_faced": "HONEST = SAYS",
}
"""What each kind of version does after the scripted guard's own code."""

_SLOW = """
    def initialize(self, args):
        time.sleep(4)
        super().initialize(args)
"""
_TWO_FACED = """
    def initialize(self, args):
        global SAYS
        super().initialize(args)
        if not args["model_name"].endswith("_candidate"):
            SAYS = {name: ("I would rather talk about the weather.", scores) for name, (_, scores) in SAYS.items()}
"""
_MORTAL = """
    def execute(self, requests):
        global ANSWERS_BEFORE_DEATH
        ANSWERS_BEFORE_DEATH -= len(requests)
        if ANSWERS_BEFORE_DEATH < 0:
            os._exit(1)
        super().execute(requests)
"""


def add_version(repository: Path, version: int, character: str = "good", delay_ms: int = 0) -> None:
    """Puts a version of the scripted guard into `repository`, answering with the manifest `manifest-VERSION`."""
    folder = repository / MODEL / str(version)
    folder.mkdir(parents=True)
    code = (SCRIPTED / "1" / "model.py").read_text(encoding="utf-8")
    code = code.replace('b"scripted"', f'b"manifest-{version}"')
    code = code.replace('orders.get(b"delay", 0)', f'orders.get(b"delay", {delay_ms})')
    code += "\n" + CHARACTERS[character] + "\n"
    method = {"crashes": _MORTAL, "slow": _SLOW, "two_faced": _TWO_FACED}.get(character)
    if method is not None:
        code += "\n_Guard = TritonPythonModel\n\nclass TritonPythonModel(_Guard):" + method
    (folder / "model.py").write_text(code, encoding="utf-8")


def make_repository(root: Path, serving: int = 1) -> Path:
    """A repository with one good version that serves."""
    repository = root / "models"
    add_version(repository, serving)
    config = (SCRIPTED / "config.pbtxt").read_text(encoding="utf-8").replace('"scripted_guard"', f'"{MODEL}"')
    (repository / MODEL / "config.pbtxt").write_text(
        config + f"version_policy {{ specific {{ versions: [ {serving} ] }} }}\n", encoding="utf-8"
    )
    return repository


def versioned_triton(repository: Path, environment: Path, folder: Path) -> TritonServer:
    """A Triton of its own on that repository, not started."""
    return TritonServer(repository, environment, folder, models=[MODEL], ready=lambda url: guard_answers(url, MODEL))


def write_events(folder: Path, count: int = 60) -> Path:
    """Questions to the scripted guard: a third each safe, unsafe, and outside the policy."""
    path = folder / "events.jsonl"
    says = ("safe", "unsafe", "ood")
    path.write_text(
        "".join(
            ContentEvent(
                id=f"event-{n}",
                user_text=f"[[say={says[n % 3]}]] number {n}",
                agent_text="As you wish.",
                occurred_at=datetime(2026, 1, 1, tzinfo=UTC),
            ).model_dump_json()
            + "\n"
            for n in range(count)
        ),
        encoding="utf-8",
    )
    return path


def loaded(url: str) -> list[int]:
    """The versions of the guard that are ready."""
    return [entry.version for entry in index(url) if entry.model == MODEL and entry.ready and entry.version is not None]


def index(url: str) -> Sequence[LoadedVersion]:
    async def ask() -> Sequence[LoadedVersion]:
        control = ModelControl(GuardSettings(url=url, model=MODEL), default_policy())
        try:
            return await control.index()
        finally:
            await control.aclose()

    return asyncio.run(ask())
