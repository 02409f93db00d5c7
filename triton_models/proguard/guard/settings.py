"""How the model runs: `model.yaml` beside `model.py`, with a few entries that its place may override."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

import yaml

from .errors import LoadError

EngineName = Literal["transformers", "tensorrt_llm"]
OVERRIDABLE = (
    "engine",
    "checkpoint",
    "device",
    "dtype",
    "threads",
    "max_in_flight",
    "max_batch",
    "constrained",
    "max_think_chars",
    "nudges",
)
ENVIRONMENT_PREFIX = "PROGUARD_MODEL_"


@dataclass(frozen=True, slots=True)
class Settings:
    """The entries of model.yaml, all optional but `checkpoint`."""

    checkpoint: str
    """The folder of the checkpoint, with its manifest."""
    engine: EngineName = "transformers"
    device: str = "cpu"
    """Where the transformers engine runs: cpu, cuda, cuda:1."""
    dtype: str = "auto"
    """auto (the checkpoint's own), float32, bfloat16 or float16."""
    threads: int | None = None
    """Of torch on a CPU; None leaves it to torch."""
    max_in_flight: int = 256
    """Requests that may be inside the model at once; one more is told to come back (UNAVAILABLE)."""
    max_batch: int = 64
    """Rows that are written together."""
    max_context: int | None = None
    """Tokens of a prompt and its answer; None for the checkpoint's own limit."""
    max_tokens: int = 1024
    """Tokens of an answer when MAX_TOKENS is absent, and at most."""
    min_pixels: int | None = None
    max_pixels: int | None = None
    """Of an image after scaling; None for the checkpoint's own limits, which is what it was trained with."""
    prefill_tokens: int = 8192
    """Prompt tokens that one forward pass takes: more is faster and needs more memory."""
    prefix_tokens: int = 65536
    """Tokens of system messages whose keys and values are remembered; 0 for none."""
    constrained: bool = False
    """Whether answers are held to the output grammar while they are written."""
    max_think_chars: int = 600
    """How long the reasoning of a constrained answer may be."""
    nudges: int = 1
    """How often an answer that does not parse is asked for again."""
    engine_args: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """Arguments for TensorRT-LLM's `LLM`, as they are."""


def load_settings(
    path: Path, *, parameters: Mapping[str, str] | None = None, environment: Mapping[str, str] | None = None
) -> Settings:
    """Read `path`; a parameter of config.pbtxt overrides it, and PROGUARD_MODEL_… (say PROGUARD_MODEL_CHECKPOINT) overrides both.

    An override that is an empty text is none. Raises `LoadError`, which names the entry and what it may be.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError) as error:
        raise LoadError(f"{path.name} cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise LoadError(f"{path.name} must be a mapping")
    entries: dict[str, Any] = {key: value for key, value in document.items() if value is not None}
    surroundings = os.environ if environment is None else environment
    for name in OVERRIDABLE:
        for given in ((parameters or {}).get(name), surroundings.get(ENVIRONMENT_PREFIX + name.upper())):
            if given:
                entries[name] = yaml.safe_load(given)
    return _settings(entries, path.name)


def _settings(entries: Mapping[str, Any], source: str) -> Settings:
    known = {entry.name for entry in fields(Settings)}
    for name in entries:
        if name not in known:
            raise LoadError(f"{source} has the unknown entry {name!r}; there are {', '.join(sorted(known))}")
    if not entries.get("checkpoint"):
        raise LoadError(
            f"no checkpoint: set `checkpoint` in {source}, the parameter `checkpoint` of config.pbtxt,"
            f" or {ENVIRONMENT_PREFIX}CHECKPOINT to the folder of the weights"
        )
    checked = {name: _checked(name, value, source) for name, value in entries.items()}
    settings = Settings(**checked)
    if settings.constrained and settings.max_think_chars < 1:
        raise LoadError(f"{source}: max_think_chars must be at least 1")
    return settings


def _checked(name: str, value: Any, source: str) -> Any:
    if name == "engine_args":
        if not isinstance(value, dict):
            raise LoadError(f"{source}: engine_args must be a mapping")
        return MappingProxyType(value)
    if name == "engine":
        if value not in get_args(EngineName):
            raise LoadError(f"{source}: engine must be {' or '.join(get_args(EngineName))}, not {value!r}")
        return value
    if name == "constrained":
        if not isinstance(value, bool):
            raise LoadError(f"{source}: constrained must be true or false, not {value!r}")
        return value
    if name in ("checkpoint", "device", "dtype"):
        if not isinstance(value, str):
            raise LoadError(f"{source}: {name} must be a text, not {value!r}")
        if name == "dtype" and value not in ("auto", "float32", "bfloat16", "float16"):
            raise LoadError(f"{source}: dtype must be auto, float32, bfloat16 or float16, not {value!r}")
        return value
    lowest = 0 if name in ("nudges", "prefix_tokens") else 1
    if not isinstance(value, int) or isinstance(value, bool) or value < lowest:
        raise LoadError(f"{source}: {name} must be a whole number of at least {lowest}, not {value!r}")
    return value
