"""A stand-in for TensorRT-LLM's LLM API. See README.md beside this package."""

from __future__ import annotations

from .llmapi import LLM
from .sampling_params import SamplingParams
from .version import __version__

__all__ = ["LLM", "SamplingParams", "__version__"]
