"""Puts the guard together from its settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from . import manifest
from .calibration import Calibration
from .chat import Chat
from .engine import Engine
from .judge import Judge
from .settings import Settings


@dataclass(frozen=True, slots=True)
class Guard:
    """A guard that is ready to answer."""

    judge: Judge
    engine: Engine
    digest: str
    """Of the manifest: what MANIFEST answers."""


def open_guard(settings: Settings) -> Guard:
    """Check the checkpoint against its manifest, then load it. Raises `LoadError`, which says what to do. Blocks until it is loaded."""
    checkpoint = Path(settings.checkpoint)
    sealed = manifest.open_checkpoint(checkpoint)
    calibration = Calibration.of_manifest(sealed.calibration)
    engine = _engine(settings, checkpoint)
    judge = Judge(engine, calibration=calibration, constrained=settings.constrained, nudges=settings.nudges)
    return Guard(judge, engine, sealed.digest)


def _engine(settings: Settings, checkpoint: Path) -> Engine:
    # Each engine's library is imported only for it: neither has the other's in its environment.
    if settings.engine == "tensorrt_llm":
        from .tensorrt_engine import TensorRTEngine

        return TensorRTEngine.open(
            checkpoint,
            Chat.load(checkpoint, min_pixels=settings.min_pixels, max_pixels=settings.max_pixels),
            settings.engine_args,
            constrained=settings.constrained,
            max_think_chars=settings.max_think_chars,
            min_pixels=settings.min_pixels,
            max_pixels=settings.max_pixels,
        )
    from .transformers_engine import TransformersEngine

    return TransformersEngine.load(settings, checkpoint)
