"""Which guard the demo runs: the embedded one, or the real model class on a checkpoint."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path

from stream.demo.scene import guard_answers
from stream.devkit.triton import Ready, triton_environment
from stream.errors import ConfigurationError, DevkitError

MANIFEST = "manifest.json"
TINY_SECONDS = 120.0
SHORT_REASONING = 20
"""Characters of reasoning of a random model: it says nothing, and would say it at length."""


class GuardName(StrEnum):
    LITE = "proguard_lite"
    PROGUARD = "proguard"


@dataclass(frozen=True, slots=True)
class DemoGuard:
    """What Triton is started with, and how long its first answer may take in coming."""

    name: GuardName
    described: str
    environment: Path
    variables: Mapping[str, str]
    ready: Ready
    meaningless: bool = False
    """Its verdicts are noise: the model is random."""


def choose_guard(name: GuardName, model: Path | None, root: Path, scratch: Callable[[], Path]) -> DemoGuard:
    """The guard called `name`. `model` is a local checkpoint for `proguard`; without one, a tiny random one is made in a folder
    of `scratch`, and its answers are held to the grammar, because a random model would never write it.

    `root` is the repository. Raises `ConfigurationError` for a checkpoint that cannot be one, `DevkitError` when the environment is
    missing or the tiny checkpoint cannot be made. Making one blocks for some seconds.
    """
    ready = partial(guard_answers, model=name.value)
    if name is GuardName.LITE:
        if model is not None:
            raise ConfigurationError("--model is a checkpoint for --guard proguard; the embedded guard brings its own")
        return DemoGuard(name, "the embedded guard", triton_environment(root), {}, ready)
    environment = triton_environment(root, ".venv-proguard")
    if model is None:
        checkpoint = _tiny_checkpoint(environment, root, scratch() / "checkpoint")
        variables = {
            "PROGUARD_MODEL_CHECKPOINT": str(checkpoint),
            "PROGUARD_MODEL_CONSTRAINED": "true",
            "PROGUARD_MODEL_THREADS": "1",
            "PROGUARD_MODEL_MAX_THINK_CHARS": str(SHORT_REASONING),
        }
        return DemoGuard(name, "a tiny random Qwen2.5-VL", environment, variables, ready, meaningless=True)
    if not (model / MANIFEST).is_file():
        raise ConfigurationError(
            f"{model} has no {MANIFEST}: it is not a checkpoint, or not sealed yet (python -m triton_models.proguard.seal {model})"
        )
    variables = {"PROGUARD_MODEL_CHECKPOINT": str(model.absolute())}
    return DemoGuard(name, f"the checkpoint {model.name}", environment, variables, ready)


def _tiny_checkpoint(environment: Path, root: Path, folder: Path) -> Path:
    # By the environment that has torch; the demo's own has not.
    command = [str(environment / "bin" / "python"), "-m", "triton_models.proguard.tiny", str(folder)]
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=TINY_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise DevkitError(f"the tiny checkpoint was not made within {TINY_SECONDS:g} s") from error
    if done.returncode:
        raise DevkitError(f"the tiny checkpoint could not be made: {done.stderr.strip()[-2000:]}")
    return folder
