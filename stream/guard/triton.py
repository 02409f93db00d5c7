"""The guard behind Triton's gRPC interface."""

from __future__ import annotations

import asyncio
import math
import struct
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import InferInput, KeepAliveOptions
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

from schemas import tensors
from schemas.events import ContentEvent
from schemas.policy import Policy
from schemas.prompt import RenderedPrompt, render
from stream.guard.backend import Completion
from stream.guard.errors import GuardError, GuardRefusedError, GuardTimeoutError, GuardUnavailableError
from stream.guard.settings import GuardSettings

_UNAVAILABLE = frozenset({"UNAVAILABLE", "NOT_FOUND", "UNKNOWN", "CANCELLED", "RESOURCE_EXHAUSTED"})
_STUB_DIED = ("stub process", "is not healthy", "not ready", "no longer ready", "shutting down")


class TritonGuard:
    """Calls one model on one Triton over one HTTP/2 connection.

    Create it inside the running event loop: `grpc.aio` binds to it.
    """

    def __init__(self, settings: GuardSettings, probe_policy: Policy) -> None:
        self._settings = settings
        self._max_tokens = _int_input(tensors.MAX_TOKENS, settings.max_tokens)
        # A system message is long and there are few: its tensor is serialised once. Bounded, so old policies go.
        self._system_input = lru_cache(maxsize=256)(lambda text: _bytes_input(tensors.SYSTEM, [text.encode()]))
        self._probe = _probe_prompt(probe_policy)
        tls = settings.tls
        self._client = InferenceServerClient(
            settings.url,
            ssl=tls.active,
            root_certificates=None if tls.root_certificates is None else str(tls.root_certificates),
            private_key=None if tls.private_key is None else str(tls.private_key),
            certificate_chain=None if tls.certificate_chain is None else str(tls.certificate_chain),
            keepalive_options=KeepAliveOptions(
                keepalive_time_ms=int(settings.keepalive_s * 1000),
                keepalive_timeout_ms=int(settings.keepalive_timeout_s * 1000),
                keepalive_permit_without_calls=False,
                http2_max_pings_without_data=0,
            ),
        )

    async def complete(
        self, prompt: RenderedPrompt, images: Sequence[bytes], *, timeout: float, traceparent: str | None = None
    ) -> Completion:
        inputs = [
            self._system_input(prompt.system),
            _bytes_input(tensors.USER, [prompt.user.encode()]),
            self._max_tokens,
        ]
        if images:
            inputs.append(_bytes_input(tensors.IMAGES, images))
        try:
            result = await self._client.infer(
                self._settings.model,
                inputs,
                model_version=self._settings.version,
                client_timeout=timeout,
                headers=None if traceparent is None else {"traceparent": traceparent},
            )
        except InferenceServerException as error:
            raise _guard_error(error) from None
        except grpc.aio.AioRpcError as error:
            raise _guard_error(InferenceServerException(error.details() or "", str(error.code()))) from None
        except (asyncio.CancelledError, GuardError):
            raise
        except Exception as error:
            # grpc.aio raises bare errors (UsageError, ValueError) when its channel is torn down under a call.
            raise GuardUnavailableError(f"the call failed: {type(error).__name__}") from error
        return self._read(result)

    async def probe(self, *, timeout: float) -> None:
        await self.complete(self._probe, [], timeout=timeout)

    async def aclose(self) -> None:
        await self._client.close()

    def _read(self, result: Any) -> Completion:
        """The tensors of a result. A result that breaks the contract is a refusal: another try will not mend it."""
        response = result.get_response()
        try:
            # Read from the wire format: five look-ups through `as_numpy` cost as much as the call itself.
            raw = dict(zip((output.name for output in response.outputs), response.raw_output_contents, strict=True))
            text, finish_reason, manifest = (
                _one_string(raw[name]) for name in (tensors.TEXT, tensors.FINISH_REASON, tensors.MANIFEST)
            )
            request_score, response_score = struct.unpack("<2f", raw[tensors.SCORES])
            prompt_tokens, completion_tokens = struct.unpack("<2i", raw[tensors.USAGE])
        except (KeyError, ValueError, struct.error) as error:
            raise GuardRefusedError(f"the answer breaks the tensor contract: {type(error).__name__}") from error
        return Completion(
            text=text,
            finish_reason=finish_reason,
            request_score=_probability(request_score),
            response_score=_probability(response_score),
            prompt_tokens=max(0, prompt_tokens),
            completion_tokens=max(0, completion_tokens),
            model=response.model_name,
            version=response.model_version,
            manifest=manifest,
        )


def _probe_prompt(policy: Policy) -> RenderedPrompt:
    event = ContentEvent(id="probe", user_text="Good morning.", occurred_at=datetime(2026, 1, 1, tzinfo=UTC))
    return render(policy, event)


def _bytes_input(name: str, values: Sequence[bytes]) -> InferInput:
    tensor = InferInput(name, [len(values)], "BYTES")
    array = np.empty(len(values), dtype=object)
    array[:] = values
    tensor.set_data_from_numpy(array)
    return tensor


def _int_input(name: str, value: int) -> InferInput:
    tensor = InferInput(name, [1], "INT32")
    tensor.set_data_from_numpy(np.array([value], dtype=np.int32))
    return tensor


def _one_string(raw: bytes) -> str:
    """The string of a BYTES [1] tensor: its length (4, little-endian), then its bytes."""
    if len(raw) < 4 or int.from_bytes(raw[:4], "little") != len(raw) - 4:
        raise ValueError("not one string")
    return raw[4:].decode()


def _probability(score: float) -> float | None:
    """None for NaN, the contract's "no score"; anything outside 0 to 1 is no probability either."""
    return score if math.isfinite(score) and 0.0 <= score <= 1.0 else None


def _guard_error(error: InferenceServerException) -> GuardError:
    status = (error.status() or "").rpartition(".")[2]
    message = (error.message() or "").lower()
    if status == "DEADLINE_EXCEEDED":
        return GuardTimeoutError("no answer within the timeout", status)
    if status in _UNAVAILABLE or any(sign in message for sign in _STUB_DIED):
        return GuardUnavailableError("the server is not there", status)
    return GuardRefusedError("the server refused the request", status)
