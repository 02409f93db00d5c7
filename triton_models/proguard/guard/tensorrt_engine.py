"""The engine for production: TensorRT-LLM's LLM API with its PyTorch backend, release 1.2.1.

`tensorrt_llm` is imported only when an engine is opened, because it exists only in NVIDIA's container
(tritonserver 26.07-trtllm-python-py3) and importing it takes the GPU. NOT RUN ON A GPU yet: what is written here was read in the
sources of NVIDIA/TensorRT-LLM and is tested against a fake with their signatures. `make gpu-check` is the run that is missing.

What the 1.2 line's sources say, and what follows (`llmapi/llm.py`, `executor/result.py`, `executor/executor.py` at ed53795b,
`sampling_params.py`, `_torch/models/modeling_qwen2vl.py`):

- *Prompts are sent as text, never as token ids.* With ids and images, `generate_async` decodes the ids back to text and encodes that
  again, special tokens included (the path from ids was added after 1.2: pull request 11708). With ids alone, the multimodal positions
  (mRoPE) that Qwen2.5-VL needs "even on the text-only prompts" are not computed, and in a batch they are joined without looking
  which request has none. What keeps content from being structure here is `prompt_text.py`.
- *`generate_async` is called on the event loop*: it looks for the running loop to give its result an asynchronous queue. It encodes the
  prompt and scales the images before it returns, so the loop stands still for milliseconds a megapixel.
- *Greedy* means that neither temperature, top_k nor top_p is given.
- `logprobs` on the PyTorch backend come from the sampler, a mapping from token to an object with `logprob`, or a bare number for the
  written token alone; both are read. Under guided decoding they may be those after the mask. A label's score is a ratio of
  tokens that the grammar allows, so it is the same either way.
- An error of one request is a `RequestError` (built from the backend's text); any other exception means that the executor shuts down.
- A finished completion may still hold its end token: special tokens at the end are dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import manifest
from .chat import Chat
from .engine import Conversation, EngineState, FinishReason, Generation, Token
from .errors import BadTensorError, EngineDiedError, GuardModelError, LoadError, OverloadedError, TooLongError
from .grammar import Allowed, answer_grammar, answer_regex
from .prompt_text import PromptText, TextPrompt
from .vocabulary import Vocabulary

RELEASE = "1.2."
"""The line that this module was written for. 1.3 removes arguments and changes the paths named above."""
CONTAINER = "tritonserver 26.07-trtllm-python-py3"
LIKELY = 20
"""Tokens whose log-probability is asked for at each step: enough that the spellings of both labels are among them."""
MAX_THINK_CHARS = 1500
"""Longest reasoning under the grammar: about 400 tokens, so that an answer of 1,024 always comes to its end."""


@dataclass(frozen=True, slots=True)
class _Api:
    """What is used of `tensorrt_llm`."""

    llm: Any
    sampling_params: Any
    guided_decoding_params: Any
    request_error: type[Exception]


@dataclass(slots=True)
class _Counts:
    running: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    reused_blocks: int = 0


class TensorRTEngine:
    """One `tensorrt_llm.LLM`. See `Engine` for what its methods promise."""

    def __init__(
        self,
        llm: Any,
        api: _Api,
        chat: Chat,
        *,
        max_seq_len: int | None,
        guide: Callable[[Allowed], Any] | None,
        pixels: Mapping[str, int],
        clock: Callable[[], float],
    ) -> None:
        self._llm = llm
        self._api = api
        self._chat = chat
        self._prompts = PromptText(chat)
        self._max_seq_len = max_seq_len
        self._guide = guide
        self._pixels = dict(pixels)
        self._clock = clock
        self._counts = _Counts()
        self._death: EngineDiedError | None = None
        self._dead: asyncio.Event | None = None
        self._vocabulary = Vocabulary(chat.tokenizer)

    @classmethod
    def open(
        cls,
        checkpoint: Path,
        chat: Chat,
        engine_args: Mapping[str, Any],
        *,
        constrained: bool = False,
        max_think_chars: int = MAX_THINK_CHARS,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> TensorRTEngine:
        """Load `checkpoint` with the LLM arguments in `engine_args` (a preset). Blocks for minutes.

        Raises `LoadError` when TensorRT-LLM is not there, is another release, refuses the arguments, was given no
        `guided_decoding_backend` with `constrained`, or would quantise what the manifest does not name.
        """
        _check_quantisation(engine_args, manifest.read(checkpoint).document["quantisation"])
        api = _import()
        backend = engine_args.get("guided_decoding_backend")
        if constrained and backend is None:
            raise LoadError("constrained answers need engine_args.guided_decoding_backend: xgrammar or llguidance")
        try:
            llm = api.llm(model=str(checkpoint), **engine_args)
        except Exception as error:  # Arguments, weights and the GPU all fail in their own ways.
            raise LoadError(f"TensorRT-LLM cannot load {checkpoint.name}: {type(error).__name__}: {error}") from error
        limits = {"min_pixels": min_pixels, "max_pixels": max_pixels}
        return cls(
            llm,
            api,
            chat,
            max_seq_len=engine_args.get("max_seq_len"),
            guide=_guide(api, str(backend), max_think_chars) if constrained else None,
            pixels={name: limit for name, limit in limits.items() if limit is not None},
            clock=clock,
        )

    async def generate(self, conversation: Conversation) -> Generation:
        """See `Engine.generate`. A constrained conversation needs an engine that was opened as constrained."""
        self._check_alive()
        if conversation.constrained and self._guide is None:
            raise BadTensorError("this engine was not opened for constrained answers")
        asked_at = self._clock()
        prompt = await asyncio.to_thread(self._prompts.write, conversation)
        self._check_fits(prompt, conversation.max_tokens)
        self._check_alive()
        self._counts.running += 1
        try:
            result = self._ask(prompt, conversation)
            output = await self._finished(result)
            return self._generation(result, output, self._clock() - asked_at)
        finally:
            self._counts.running -= 1

    def token_text(self, token: int) -> bytes:
        """See `Engine.token_text`."""
        return self._vocabulary.bytes_of(token)

    def state(self) -> EngineState:
        """See `Engine.state`. TensorRT-LLM schedules what runs inside its own batch, so everything that was asked counts as running."""
        counts = self._counts
        return EngineState(counts.running, 0, counts.prompt_tokens, counts.generated_tokens, counts.reused_blocks)

    async def aclose(self) -> None:
        """See `Engine.aclose`."""
        self._die("the engine was closed")
        await asyncio.to_thread(self._llm.shutdown)

    def _ask(self, prompt: TextPrompt, conversation: Conversation) -> Any:
        inputs: dict[str, Any] = {"prompt": prompt.text}
        if prompt.encoded.images:
            inputs["multi_modal_data"] = {"image": list(prompt.encoded.images)}
            if self._pixels:
                inputs["mm_processor_kwargs"] = dict(self._pixels)
        guided = None
        if conversation.constrained and self._guide is not None:
            guided = self._guide(Allowed.by(conversation.system, conversation.user, bool(conversation.images)))
        sampling = self._api.sampling_params(
            max_tokens=conversation.max_tokens,
            logprobs=LIKELY,
            guided_decoding=guided,
            # The text is put together from the tokens' bytes, as the scores are.
            detokenize=False,
            add_special_tokens=False,
            return_perf_metrics=True,
        )
        with self._translated():
            return self._llm.generate_async(inputs, sampling_params=sampling, streaming=False)

    async def _finished(self, result: Any) -> Any:
        """The first output of `result`, once it is complete. Aborts it when the caller goes away or the engine ends."""
        if self._dead is None:
            self._dead = asyncio.Event()
        answered = asyncio.ensure_future(result.aresult())
        ended = asyncio.ensure_future(self._dead.wait())
        try:
            await asyncio.wait((answered, ended), return_when=asyncio.FIRST_COMPLETED)
            if not answered.done():
                self._check_alive()
            with self._translated():
                answered.result()
        finally:
            if not answered.done() or answered.cancelled():
                with contextlib.suppress(Exception):  # It ends anyway; an executor that is gone cannot be told.
                    result.abort()
            for task in (answered, ended):
                task.cancel()
        output = result.outputs[0]
        if output.finish_reason not in ("stop", "length"):
            raise OverloadedError(f"TensorRT-LLM gave the request up ({output.finish_reason})")
        return output

    def _generation(self, result: Any, output: Any, elapsed_s: float) -> Generation:
        tokens = _tokens(output)
        while tokens and not self.token_text(tokens[-1].id):
            tokens.pop()
        text = self._vocabulary.text_of(token.id for token in tokens)
        reason: FinishReason = output.finish_reason
        prompt_tokens = len(result.prompt_token_ids)
        metrics = output.request_perf_metrics
        self._counts.prompt_tokens += prompt_tokens
        self._counts.generated_tokens += len(tokens)
        if metrics is not None:
            self._counts.reused_blocks += metrics.kv_cache_metrics.num_reused_blocks
        return Generation(text, tuple(tokens), prompt_tokens, reason, _first_token_s(metrics, elapsed_s))

    def _check_fits(self, prompt: TextPrompt, max_tokens: int) -> None:
        if self._max_seq_len is None:
            return
        length = len(prompt.encoded.token_ids) + image_tokens(self._chat, prompt, self._pixels)
        if length + max_tokens > self._max_seq_len:
            raise TooLongError(
                f"the prompt has {length} tokens and {max_tokens} are asked for: more than {self._max_seq_len} together"
            )

    def _check_alive(self) -> None:
        if self._death is not None:
            raise EngineDiedError(str(self._death))

    def _die(self, why: str) -> EngineDiedError:
        if self._death is None:
            self._death = EngineDiedError(why)
        if self._dead is not None:
            self._dead.set()
        return self._death

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """TensorRT-LLM's errors as the guard's own."""
        try:
            yield
        except (GuardModelError, asyncio.CancelledError):
            raise
        except self._api.request_error as error:
            raise _of_request(error) from error
        except ValueError as error:  # `_check_arguments` in llm.py: a prompt over max_num_tokens or max_seq_len.
            raise TooLongError("TensorRT-LLM refused the request's length") from error
        except Exception as error:
            raise self._die(f"TensorRT-LLM ended ({type(error).__name__})") from error


def image_tokens(chat: Chat, prompt: TextPrompt, pixels: Mapping[str, int]) -> int:
    """How many tokens the images add to the prompt's one placeholder each, without scaling them."""
    if not prompt.encoded.images:
        return 0
    processor = chat.processor.image_processor
    patches: int = sum(
        processor.get_number_of_image_patches(image.height, image.width, dict(pixels))
        for image in prompt.encoded.images
    )
    merged: int = processor.merge_size**2
    return int(patches // merged) - len(prompt.encoded.images)


def _import() -> _Api:
    try:
        import tensorrt_llm
        from tensorrt_llm import LLM, SamplingParams
        from tensorrt_llm.llmapi import GuidedDecodingParams, RequestError
    except ImportError as error:
        raise LoadError(
            f"TensorRT-LLM is not installed here ({error}): use the container {CONTAINER}, or set `engine: transformers`"
        ) from error
    if not str(tensorrt_llm.__version__).startswith(RELEASE):
        raise LoadError(
            f"TensorRT-LLM {tensorrt_llm.__version__} is not of the {RELEASE}x line that this model was written for:"
            f" use the container {CONTAINER}"
        )
    return _Api(LLM, SamplingParams, GuidedDecodingParams, RequestError)


def _check_quantisation(engine_args: Mapping[str, Any], sealed: Mapping[str, Any] | None) -> None:
    """The weights' format is the checkpoint's, which TensorRT-LLM reads by itself. Only what was evaluated may be served, so nothing
    else may be quantised on the way: neither the weights, nor the cache, whose FP8 is another one's accuracy."""
    if "quant_config" in engine_args:
        raise LoadError(
            "engine_args.quant_config: quantise when the checkpoint is exported, so that it is what was evaluated"
        )
    cache = (engine_args.get("kv_cache_config") or {}).get("dtype", "auto")
    if cache != "auto" and str((sealed or {}).get("kv_cache_quant_algo", "")).lower() != cache:
        raise LoadError(
            f"engine_args.kv_cache_config.dtype is {cache!r}, and the manifest's quantisation names no such cache"
        )


def _guide(api: _Api, backend: str, max_think_chars: int) -> Callable[[Allowed], Any]:
    """llguidance reads another grammar notation than xgrammar, and the same regular expressions."""

    def guide(allowed: Allowed) -> Any:
        if backend == "xgrammar":
            return api.guided_decoding_params(grammar=answer_grammar(allowed, max_think_chars))
        return api.guided_decoding_params(regex=answer_regex(allowed, max_think_chars))

    return guide


def _tokens(output: Any) -> list[Token]:
    steps: list[Any] = list(output.logprobs or ())
    if len(steps) < len(output.token_ids):
        steps += [None] * (len(output.token_ids) - len(steps))
    return [Token(id, _likely(id, step)) for id, step in zip(output.token_ids, steps, strict=False)]


def _likely(id: int, step: Any) -> dict[int, float] | None:
    if step is None:
        return None
    if isinstance(step, Mapping):
        return {token: float(entry.logprob) for token, entry in step.items()}
    return {id: float(step)}


def _first_token_s(metrics: Any, elapsed_s: float) -> float:
    if metrics is None:
        return elapsed_s
    timing = metrics.timing_metrics
    seconds: float = (timing.first_token_time - timing.arrival_time).total_seconds()
    return seconds


def _of_request(error: Exception) -> GuardModelError:
    text = str(error).lower()
    if "out of memory" in text:
        return OverloadedError("the GPU's memory ran out")
    if "max_num_tokens" in text or "max_seq_len" in text or "too long" in text:
        return TooLongError("TensorRT-LLM refused the request's length")
    return OverloadedError("TensorRT-LLM dropped the request")
