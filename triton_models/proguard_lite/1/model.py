"""Triton's side of the embedded guard: tensors in and out, and the two threads. What it thinks is in `guard/`."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

# The server's stub ignores PYTHONPATH, so the model brings its own folder: in a checkout, a package or a container alike.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from guard.answer import Answer
from guard.assembly import open_parts
from guard.batching import Stage
from guard.errors import BadTensorError, GuardRequestError, OverloadedError
from guard.judge import Judge, Reading
from guard.ocr import MAX_IMAGES, RapidReader

_CLOSE_SECONDS = 5.0


@dataclass(slots=True)
class _Job:
    reading: Reading
    images: tuple[bytes, ...]
    sender: Any
    until: float
    """When the client stops to wait, by the monotonic clock."""

    def unwanted(self) -> bool:
        """Triton's HTTP front end does not notice that a client has gone (server issue 7077): then only the time tells."""
        return time.monotonic() > self.until or self.sender.is_cancelled()


class TritonPythonModel:
    """`execute` only reads the messages and queues; answers are sent from the threads."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load everything, so that the model is ready when the server says so. Raises when the weights are not whole."""
        parameters = json.loads(args["model_config"])["parameters"]
        self._judge: Judge = open_parts(threads=int(parameters["threads"]["string_value"])).judge
        self._ocr = RapidReader(threads=int(parameters["ocr_threads"]["string_value"]))
        self._texts: Stage[_Job] = Stage("guard", self._answer, _refuse)
        self._pictures: Stage[_Job] = Stage("ocr", self._read_images, _refuse, largest=1)

    def execute(self, requests: list[Any]) -> None:
        """Queue every request; one that cannot be read is refused at once, alone."""
        for request in requests:
            sender = request.get_response_sender()
            try:
                job = self._job(request, sender)
            except Exception as error:
                _send_error(sender, error)
                continue
            stage = self._pictures if job.images else self._texts
            if not stage.put(job):
                _send_error(sender, OverloadedError("too many requests wait"))

    def finalize(self) -> None:
        """Finish what waits, then stop both threads."""
        self._pictures.close(_CLOSE_SECONDS)
        self._texts.close(_CLOSE_SECONDS)

    def _job(self, request: Any, sender: Any) -> _Job:
        limit = _optional(request, "MAX_TOKENS")
        if limit is not None and (limit.size != 1 or int(limit.reshape(-1)[0]) < 1):
            raise BadTensorError("MAX_TOKENS must be one number, at least 1")
        images = _optional(request, "IMAGES")
        pictures = () if images is None else tuple(bytes(image) for image in images.reshape(-1))
        if len(pictures) > MAX_IMAGES:
            raise BadTensorError(f"IMAGES has {len(pictures)} entries, more than {MAX_IMAGES}")
        reading = self._judge.read(
            _text(request, "SYSTEM"),
            _text(request, "USER"),
            max_tokens=None if limit is None else int(limit.reshape(-1)[0]),
        )
        seconds = request.timeout() / 1e6 or math.inf
        return _Job(reading, pictures, sender, time.monotonic() + seconds)

    def _read_images(self, jobs: list[_Job]) -> None:
        for job in jobs:
            if job.unwanted():
                _send_cancelled(job.sender)
                continue
            text = "\n".join(filter(None, (self._ocr.read(image) for image in job.images)))
            job.reading = replace(job.reading, image_text=text)
            job.images = ()
            if not self._texts.put(job):
                _send_error(job.sender, OverloadedError("too many requests wait"))

    def _answer(self, jobs: list[_Job]) -> None:
        waiting: list[_Job] = []
        for job in jobs:
            if job.unwanted():
                _send_cancelled(job.sender)
            else:
                waiting.append(job)
        for job, outcome in zip(waiting, self._judge.answer([job.reading for job in waiting]), strict=True):
            with contextlib.suppress(pb_utils.TritonModelException):  # The client went away: its neighbours did not.
                if isinstance(outcome, Answer):
                    _send(job.sender, outcome, self._judge.digest)
                else:
                    _send_error(job.sender, outcome)


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
        pb_utils.Tensor("SCORES", np.array([answer.request, answer.response], dtype=np.float32)),
        pb_utils.Tensor("USAGE", np.array(answer.usage, dtype=np.int32)),
        pb_utils.Tensor("MANIFEST", _strings(digest)),
    ]
    _finish(sender, pb_utils.InferenceResponse(output_tensors=tensors))


def _strings(text: str) -> Any:
    return np.array([text.encode("utf-8")], dtype=np.object_)


def _refuse(job: _Job, error: Exception) -> None:
    _send_error(job.sender, error)


def _send_error(sender: Any, error: Exception) -> None:
    if isinstance(error, OverloadedError):
        fault = pb_utils.TritonError(str(error), pb_utils.TritonError.UNAVAILABLE)
    elif isinstance(error, GuardRequestError):
        fault = pb_utils.TritonError(f"{type(error).__name__}: {error}", pb_utils.TritonError.INVALID_ARG)
    else:
        fault = pb_utils.TritonError(f"the guard failed ({type(error).__name__})", pb_utils.TritonError.INTERNAL)
    _finish(sender, pb_utils.InferenceResponse(error=fault))


def _send_cancelled(sender: Any) -> None:
    fault = pb_utils.TritonError("the client does not wait for the answer any more", pb_utils.TritonError.CANCELLED)
    _finish(sender, pb_utils.InferenceResponse(error=fault))


def _finish(sender: Any, response: Any) -> None:
    sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
