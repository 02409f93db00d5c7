"""Triton's side of the real guard: tensors in and out, and who is in flight. What it thinks is in `guard/`."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import sys
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

# The server's stub ignores PYTHONPATH, so the model brings its own folder: in a checkout, a package or a container alike.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from guard.errors import BadImageError, BadTensorError, OverloadedError, TooLongError
from guard.judge import Answer
from guard.loop import LoopThread
from guard.metrics import Metrics
from guard.opening import open_guard
from guard.settings import load_settings

_CANCEL_SECONDS = 0.05  # Each look at a request is a message to the server's process: some ten microseconds.
_METRICS_SECONDS = 0.5
_CLOSE_SECONDS = 10.0
_MAX_IMAGES = 16  # As in the embedded guard: an event has at most that many.


@dataclass(frozen=True, slots=True)
class _Asked:
    system: str
    user: str
    images: tuple[bytes, ...]
    max_tokens: int
    seconds: float | None
    """How long the client waits for the answer, where it says so."""


class TritonPythonModel:
    """`execute` only reads the messages and hands them over; answers are sent from the loop's thread."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load everything, so that the model is ready when the server says so. Raises `LoadError`, which says what to do."""
        parameters = json.loads(args["model_config"]).get("parameters", {})
        self._settings = load_settings(
            Path(__file__).with_name("model.yaml"),
            parameters={name: entry["string_value"] for name, entry in parameters.items()},
        )
        self._guard = open_guard(self._settings)
        labels = {"model": args["model_name"], "version": args["model_version"], "process": str(os.getpid())}
        self._metrics = Metrics(pb_utils, self._guard.engine.state, self._guard.judge.state, labels)
        self._in_flight: set[Future[None]] = set()
        self._watched: dict[Any, asyncio.Task[None]] = {}  # The loop's thread only.
        self._loop = LoopThread("guard-loop")
        self._loop.start(self._watch_for_cancelled())
        self._loop.start(self._write_metrics())

    def execute(self, requests: list[Any]) -> None:
        """Start every request; one that cannot be read, or that finds the model full, is refused at once, alone."""
        for request in requests:
            sender = request.get_response_sender()
            try:
                asked = self._read(request)
                if len(self._in_flight) >= self._settings.max_in_flight:
                    raise OverloadedError(f"{self._settings.max_in_flight} requests are in flight already")
            except Exception as error:
                _send_error(sender, error)
                continue
            work = self._loop.start(self._serve(sender, asked))
            self._in_flight.add(work)
            work.add_done_callback(self._in_flight.discard)

    def finalize(self) -> None:
        """Stop the engine; requests under way get an error."""
        self._loop.close(self._guard.engine.aclose(), _CLOSE_SECONDS)
        self._metrics.close()

    async def _serve(self, sender: Any, asked: _Asked) -> None:
        send = await self._outcome(sender, asked)
        send(sender)

    async def _outcome(self, sender: Any, asked: _Asked) -> Callable[[Any], None]:
        """What is to be sent. By then nobody looks at the sender any more: asking a request that was answered whether it is
        cancelled kills the server (2.51: a segmentation fault in TRITONBACKEND_ResponseFactoryIsCancelled)."""
        task = asyncio.current_task()
        assert task is not None
        self._watched[sender] = task
        limit = asyncio.timeout(asked.seconds)
        try:
            async with limit:
                answer = await self._guard.judge.answer(asked.system, asked.user, asked.images, asked.max_tokens)
        except asyncio.CancelledError:
            return _send_cancelled
        except Exception as error:
            if limit.expired():
                return _send_cancelled
            return functools.partial(_send_error, error=error)
        finally:
            del self._watched[sender]
        self._metrics.first_token(answer.first_token_s)
        return functools.partial(_send, answer=answer, digest=self._guard.digest)

    async def _watch_for_cancelled(self) -> None:
        while True:
            await asyncio.sleep(_CANCEL_SECONDS)
            for sender, task in self._watched.items():  # Nothing is awaited, so it does not change meanwhile.
                if sender.is_cancelled():
                    task.cancel()

    async def _write_metrics(self) -> None:
        while True:
            await asyncio.sleep(_METRICS_SECONDS)
            self._metrics.write()

    def _read(self, request: Any) -> _Asked:
        images = _optional(request, "IMAGES")
        pictures = () if images is None else tuple(bytes(image) for image in images.reshape(-1))
        if len(pictures) > _MAX_IMAGES:
            raise BadTensorError(f"IMAGES has {len(pictures)} entries, more than {_MAX_IMAGES}")
        # In microseconds; 0 where the request has none. Triton's HTTP front end does not notice that a client has gone (server issue
        # 7077), so this is all that keeps the engine from writing what nobody reads.
        seconds = request.timeout() / 1e6 or None
        return _Asked(_text(request, "SYSTEM"), _text(request, "USER"), pictures, self._max_tokens(request), seconds)

    def _max_tokens(self, request: Any) -> int:
        limit = _optional(request, "MAX_TOKENS")
        if limit is None:
            return self._settings.max_tokens
        if limit.size != 1 or int(limit.reshape(-1)[0]) < 1:
            raise BadTensorError("MAX_TOKENS must be one number, at least 1")
        return min(int(limit.reshape(-1)[0]), self._settings.max_tokens)


def _optional(request: Any, name: str) -> Any:
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return None if tensor is None else tensor.as_numpy()


def _text(request: Any, name: str) -> str:
    array = _optional(request, name)
    if array is None or array.size != 1:
        raise BadTensorError(f"{name} must hold one text")
    try:
        return bytes(array.reshape(-1)[0]).decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadTensorError(f"{name} is not UTF-8 (byte {error.start})") from error


def _send(sender: Any, answer: Answer, digest: str) -> None:
    tensors = [
        pb_utils.Tensor("TEXT", _strings(answer.text)),
        pb_utils.Tensor("FINISH_REASON", _strings(answer.finish_reason)),
        pb_utils.Tensor("SCORES", np.array([answer.request_score, answer.response_score], dtype=np.float32)),
        pb_utils.Tensor("USAGE", np.array([answer.prompt_tokens, answer.completion_tokens], dtype=np.int32)),
        pb_utils.Tensor("MANIFEST", _strings(digest)),
    ]
    _finish(sender, pb_utils.InferenceResponse(output_tensors=tensors))


def _strings(text: str) -> Any:
    return np.array([text.encode("utf-8")], dtype=np.object_)


def _send_error(sender: Any, error: Exception) -> None:
    if isinstance(error, OverloadedError):
        _send_fault(sender, str(error), pb_utils.TritonError.UNAVAILABLE)
    elif isinstance(error, BadTensorError | BadImageError | TooLongError):
        _send_fault(sender, f"{type(error).__name__}: {error}", pb_utils.TritonError.INVALID_ARG)
    else:
        # An engine that died says so by its name; of anything else the message could repeat content.
        _send_fault(sender, f"the guard failed ({type(error).__name__})", pb_utils.TritonError.INTERNAL)


def _send_cancelled(sender: Any) -> None:
    _send_fault(sender, "the client does not wait for the answer any more", pb_utils.TritonError.CANCELLED)


def _send_fault(sender: Any, message: str, code: Any) -> None:
    _finish(sender, pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code)))


def _finish(sender: Any, response: Any) -> None:
    with contextlib.suppress(pb_utils.TritonModelException):  # The client went away: its neighbours did not.
        sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
