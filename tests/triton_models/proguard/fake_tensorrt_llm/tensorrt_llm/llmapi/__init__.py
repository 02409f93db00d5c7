from __future__ import annotations

from tensorrt_llm.executor import CompletionOutput, RequestError
from tensorrt_llm.sampling_params import GuidedDecodingParams, SamplingParams

from .llm import LLM, RequestOutput

__all__ = ["LLM", "CompletionOutput", "GuidedDecodingParams", "RequestError", "RequestOutput", "SamplingParams"]
