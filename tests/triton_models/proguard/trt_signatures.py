"""Signatures of TensorRT-LLM's LLM API, recorded from the sources of its 1.2 line (see `test_fake_tensorrt_llm.py`).

`differences` compares them with any package of that name: the stand-in in tests, the real one in `make gpu-check`.
"""

from __future__ import annotations

import inspect
from typing import Any

RELEASE = "1.2.1"

INIT = (
    "self",
    "model",
    "tokenizer",
    "tokenizer_mode",
    "skip_tokenizer_init",
    "trust_remote_code",
    "tensor_parallel_size",
    "dtype",
    "revision",
    "tokenizer_revision",
    "kwargs",
)
GENERATE_ASYNC = (
    "self",
    "inputs",
    "sampling_params",
    "lora_request",
    "prompt_adapter_request",
    "streaming",
    "kv_cache_retention_config",
    "disaggregated_params",
    "_postproc_params",
    "scheduling_params",
    "cache_salt",
)
USED_OF_GENERATE_ASYNC = frozenset({"inputs", "sampling_params", "streaming"})
GET_STATS_ASYNC = ("self", "timeout")
GUIDED = ("json", "regex", "grammar", "json_object", "structural_tag")
USED_OF_SAMPLING = frozenset(
    {"max_tokens", "logprobs", "guided_decoding", "detokenize", "add_special_tokens", "return_perf_metrics"}
)
USED_OF_RESULT = frozenset({"outputs", "aresult", "abort"})
USED_OF_COMPLETION = frozenset({"token_ids", "logprobs", "finish_reason", "request_perf_metrics"})


def differences(package: Any, llmapi: Any, *, exact: bool = True) -> list[str]:
    """What is not as recorded, a line each. Without `exact`, only what the engine uses must be there."""
    found: list[str] = []
    for name, method, recorded, used in (
        ("LLM.__init__", package.LLM.__init__, INIT, {"model"}),
        ("LLM.generate_async", package.LLM.generate_async, GENERATE_ASYNC, USED_OF_GENERATE_ASYNC),
        ("LLM.get_stats_async", package.LLM.get_stats_async, GET_STATS_ASYNC, set()),
        ("GuidedDecodingParams", llmapi.GuidedDecodingParams, GUIDED, {"grammar", "regex"}),
        ("SamplingParams", package.SamplingParams, None, USED_OF_SAMPLING),
        ("CompletionOutput", llmapi.CompletionOutput, None, USED_OF_COMPLETION),
    ):
        parameters = tuple(inspect.signature(method).parameters)
        if exact and recorded is not None and parameters != recorded:
            found.append(f"{name} has {parameters}, recorded are {recorded}")
        missing = set(used) - set(parameters)
        if missing:
            found.append(f"{name} has no {sorted(missing)}")
    missing_members = [member for member in sorted(USED_OF_RESULT) if not hasattr(llmapi.RequestOutput, member)]
    if missing_members:
        found.append(f"RequestOutput has no {missing_members}")
    if not issubclass(llmapi.RequestError, RuntimeError):
        found.append("RequestError is no RuntimeError")
    return found
