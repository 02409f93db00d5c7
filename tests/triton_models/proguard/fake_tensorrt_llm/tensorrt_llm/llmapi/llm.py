"""`LLM`: its constructor's rules, `generate_async`, `shutdown`."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal

from tokenizers import Tokenizer

from tensorrt_llm.executor.result import CompletionOutput, GenerationResult, Logprob, perf_metrics
from tensorrt_llm.executor.utils import RequestError
from tensorrt_llm.sampling_params import SamplingParams
from tensorrt_llm.script import answers

from .llm_args import TORCH_LLM_ARGS, KvCacheConfig

RequestOutput = GenerationResult
_STEP_S = 0.0005
_TOKENS_PER_BLOCK = 32


class LLM:
    def __init__(
        self,
        model: str | Path,
        tokenizer: Any = None,
        tokenizer_mode: Literal["auto", "slow"] = "auto",
        skip_tokenizer_init: bool = False,
        trust_remote_code: bool = False,
        tensor_parallel_size: int = 1,
        dtype: str = "auto",
        revision: str | None = None,
        tokenizer_revision: str | None = None,
        **kwargs: Any,
    ) -> None:
        for key in kwargs:
            if key not in TORCH_LLM_ARGS:
                raise ValueError(f"LLM got invalid argument: {key}")
        KvCacheConfig.check(kwargs.get("kv_cache_config"))
        folder = Path(model)
        if not (folder / "config.json").is_file():
            raise OSError(f"{folder} has no config.json")
        self.args = kwargs
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._end = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
        self._answers = answers()
        self._running: dict[int, tuple[GenerationResult, asyncio.Task[None]]] = {}
        self._seen: set[tuple[int, ...]] = set()
        self._last_id = 0
        self._is_shutdown = False
        self.aborted: list[int] = []
        self.prompts: list[Any] = []

    def generate_async(
        self,
        inputs: Any,
        sampling_params: SamplingParams | None = None,
        lora_request: Any = None,
        prompt_adapter_request: Any = None,
        streaming: bool = False,
        kv_cache_retention_config: Any = None,
        disaggregated_params: Any = None,
        _postproc_params: Any = None,
        scheduling_params: Any = None,
        cache_salt: str | None = None,
    ) -> RequestOutput:
        if self._is_shutdown:
            raise RuntimeError("LLM is shutting down")
        sampling = sampling_params or SamplingParams()
        if sampling.guided_decoding is not None:
            sampling.guided_decoding._validate()
            if self.args.get("guided_decoding_backend") is None:
                raise ValueError("Guided decoding is not enabled; set guided_decoding_backend in the LLM API")
        self.prompts.append(inputs)
        prompt = self._text(inputs)
        ids: list[int] = self._tokenizer.encode(prompt, add_special_tokens=False).ids
        limit = self.args.get("max_num_tokens") or 8192
        if not self.args.get("enable_chunked_prefill") and len(ids) > limit:
            raise ValueError(
                f"The sum of prompt length ({len(ids)}), query length (0) should not exceed max_num_tokens ({limit})"
            )
        self._last_id += 1
        result = GenerationResult(self._last_id, ids, self._abort)
        task = asyncio.get_running_loop().create_task(self._run(result, prompt, sampling))
        self._running[result.request_id] = (result, task)
        return result

    def get_stats_async(self, timeout: float | None = 2) -> AsyncIterator[dict[str, Any]]:
        async def one() -> AsyncIterator[dict[str, Any]]:
            yield {"numActiveRequests": len(self._running), "kvCacheStats": {"tokensPerBlock": _TOKENS_PER_BLOCK}}

        return one()

    def shutdown(self) -> None:
        """Results that are waited for never come, as when the real executor's processes are gone."""
        self._is_shutdown = True

    def _text(self, inputs: Any) -> str:
        if isinstance(inputs, str):
            return inputs
        if not inputs.get("prompt") and inputs.get("prompt_token_ids"):
            # The real one does this too when there are images: special tokens that the ids kept out come alive here.
            return str(self._tokenizer.decode(inputs["prompt_token_ids"], skip_special_tokens=False))
        return str(inputs["prompt"])

    def _abort(self, request_id: int) -> None:
        self.aborted.append(request_id)
        result, task = self._running.pop(request_id, (None, None))
        if result is not None and task is not None:
            task.cancel()
            result.put(CompletionOutput(0, finish_reason="cancelled"))

    async def _run(self, result: GenerationResult, prompt: str, sampling: SamplingParams) -> None:
        planned = self._answers(prompt)
        if planned.get("hang"):
            await asyncio.Event().wait()
        if "error" in planned:
            await asyncio.sleep(_STEP_S)
            result.put(self._failure(planned["error"]))
        else:
            result.put(await self._completion(result, planned, sampling))
        self._running.pop(result.request_id, None)

    def _failure(self, kind: str) -> Exception:
        if kind == "executor":
            self.shutdown()
            return RuntimeError("Executor worker died")
        texts = {"memory": "CUDA out of memory. Tried to allocate 2.00 GiB", "length": "prompt exceeds max_seq_len"}
        return RequestError(texts.get(kind, "internal error of one request"))

    async def _completion(
        self, result: GenerationResult, planned: dict[str, Any], sampling: SamplingParams
    ) -> CompletionOutput:
        ids: list[int] = self._tokenizer.encode(planned["text"], add_special_tokens=False).ids
        reason = planned.get("finish_reason", "stop")
        if len(ids) > sampling.max_tokens:
            ids, reason = ids[: sampling.max_tokens], "length"
        elif reason == "stop":
            ids = [*ids, self._end[0] if isinstance(self._end, list) else self._end]
        await asyncio.sleep(_STEP_S * len(ids))
        metrics = perf_metrics(_STEP_S, self._reused(result.prompt_token_ids)) if sampling.return_perf_metrics else None
        logprobs = [self._likely(id, sampling.logprobs) for id in ids] if sampling.logprobs else []
        return CompletionOutput(0, token_ids=ids, logprobs=logprobs, finish_reason=reason, request_perf_metrics=metrics)

    def _likely(self, id: int, count: int) -> dict[int, Logprob]:
        """Nine tenths for the written token, the rest for others: `safe` and `unsafe` among them, so that labels have scores."""
        others = [self._tokenizer.encode(text, add_special_tokens=False).ids[0] for text in ("safe", "unsafe")]
        listed = list(dict.fromkeys([id, *others]))[:count]
        rest = math.log(0.1 / max(1, len(listed) - 1))
        return {token: Logprob(math.log(0.9) if token == id else rest, at + 1) for at, token in enumerate(listed)}

    def _reused(self, ids: list[int]) -> int:
        blocks = [
            tuple(ids[: end + _TOKENS_PER_BLOCK]) for end in range(0, len(ids) - _TOKENS_PER_BLOCK, _TOKENS_PER_BLOCK)
        ]
        reused = 0
        if (self.args.get("kv_cache_config") or {}).get("enable_block_reuse", True):
            reused = sum(block in self._seen for block in blocks)
            self._seen.update(blocks)
        return reused
