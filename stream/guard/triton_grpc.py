"""The guard behind Triton's gRPC interface."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import grpc
from tritonclient.grpc import service_pb2

from schemas import tensors
from schemas.policy import Policy
from schemas.prompt import RenderedPrompt
from stream.errors import ConfigurationError
from stream.guard.backend import Completion, probe_prompt
from stream.guard.errors import GuardError, GuardUnavailableError
from stream.guard.grpc_answers import AnswerReader
from stream.guard.settings import GuardSettings, GuardTls
from stream.guard.wire import guard_error, strings

_INFER = "/inference.GRPCInferenceService/ModelInfer"


class TritonGrpcGuard:
    """Calls one model on one Triton over one HTTP/2 connection, with tritonclient's messages.

    A request is put together from serialised parts: protobuf defines the concatenation of two messages as their merger, so
    what is the same for a policy (the long system message, and what describes the tensors) is serialised once, and only the event's
    own bytes anew. That halves the client's CPU time, which on small machines is what limits the rate.

    Create it inside the running event loop: `grpc.aio` binds to it. Raises `ConfigurationError` for a certificate that cannot be
    read.
    """

    def __init__(self, settings: GuardSettings, probe_policy: Policy) -> None:
        self._settings = settings
        self._probe = probe_prompt(probe_policy)
        # Bounded, so that old policies go.
        self._common_part = lru_cache(maxsize=256)(self._serialise_common_part)
        self._answers = AnswerReader()
        self._channel = _channel(settings)
        # Bytes in, bytes out: what gRPC calls for them costs more than the messages do.
        self._infer = self._channel.unary_unary(_INFER)

    async def complete(
        self, prompt: RenderedPrompt, images: Sequence[bytes], *, timeout: float, traceparent: str | None = None
    ) -> Completion:
        request = self._common_part(prompt.system, len(images)) + _event_part(prompt.user.encode(), images)
        metadata = None if traceparent is None else (("traceparent", traceparent),)
        try:
            response = await self._infer(request, timeout=timeout, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise guard_error(error.code().name, error.details() or "") from None
        except (asyncio.CancelledError, GuardError):
            raise
        except Exception as error:
            # grpc.aio raises bare errors (UsageError, ValueError) when its channel is torn down under a call.
            raise GuardUnavailableError(f"the call failed: {type(error).__name__}") from error
        return self._answers.completion(response)

    def _serialise_common_part(self, system: str, images: int) -> bytes:
        """Everything but the contents of the last tensors, which are the event's: its text, and its images if there are any.

        A tensor's place among the raw contents is its place among the inputs.
        """
        request = service_pb2.ModelInferRequest(model_name=self._settings.model, model_version=self._settings.version)
        request.inputs.add(name=tensors.SYSTEM, datatype="BYTES", shape=[1])
        request.raw_input_contents.append(strings([system.encode()]))
        # Not without need: each tensor costs a Triton with a Python model 0.04 ms (`make bench`'s guard), a twentieth of a request.
        if self._settings.max_tokens is not None:
            request.inputs.add(name=tensors.MAX_TOKENS, datatype="INT32", shape=[1])
            request.raw_input_contents.append(struct.pack("<i", self._settings.max_tokens))
        request.inputs.add(name=tensors.USER, datatype="BYTES", shape=[1])
        if images:
            request.inputs.add(name=tensors.IMAGES, datatype="BYTES", shape=[images])
        return bytes(request.SerializeToString())

    async def probe(self, *, timeout: float) -> None:
        await self.complete(self._probe, [], timeout=timeout)

    @property
    def probe_prompt(self) -> RenderedPrompt:
        """What `probe` asks: an everyday sentence under the policy that this client was given."""
        return self._probe

    async def aclose(self) -> None:
        await self._channel.close()


def _channel(settings: GuardSettings) -> grpc.aio.Channel:
    options = [
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", -1),
        ("grpc.keepalive_time_ms", int(settings.keepalive_s * 1000)),
        ("grpc.keepalive_timeout_ms", int(settings.keepalive_timeout_s * 1000)),
        ("grpc.http2.max_pings_without_data", 0),
        # Retries are ours (`stream.guard.protection`): gRPC's own would keep a copy of every request for a policy nobody has set.
        ("grpc.enable_retries", 0),
    ]
    if not settings.tls.active:
        return grpc.aio.insecure_channel(settings.address, options)
    return grpc.aio.secure_channel(settings.address, _credentials(settings.tls), options)


def _credentials(tls: GuardTls) -> grpc.ChannelCredentials:
    def read(path: Path | None) -> bytes | None:
        try:
            return None if path is None else path.read_bytes()
        except OSError as error:
            raise ConfigurationError(f"guard.tls: cannot read {path}: {error.strerror}") from error

    return grpc.ssl_channel_credentials(read(tls.root_certificates), read(tls.private_key), read(tls.certificate_chain))


def _event_part(user: bytes, images: Sequence[bytes]) -> bytes:
    contents = [strings([user]), strings(images)] if images else [strings([user])]
    return bytes(service_pb2.ModelInferRequest(raw_input_contents=contents).SerializeToString())
