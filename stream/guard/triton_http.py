"""The guard behind Triton's HTTP interface."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote, urlsplit

from pydantic_core import from_json

from schemas import tensors
from schemas.policy import Policy
from schemas.prompt import RenderedPrompt
from stream.errors import ConfigurationError
from stream.guard.backend import Completion, probe_prompt
from stream.guard.connections import Connections, Response
from stream.guard.errors import GuardTimeoutError, GuardUnavailableError
from stream.guard.settings import GuardSettings, GuardTls
from stream.guard.wire import broken_answer, completion_of, guard_error, strings

_HEADER_LENGTH = "Inference-Header-Content-Length"
_STATUSES = {
    400: "INVALID_ARGUMENT",
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
"""gRPC's name for what an HTTP status says; any other is INTERNAL. 404 to 503 as Triton's HTTP front end maps its own codes, 502 and 504
as a proxy before it."""


class _Common(NamedTuple):
    """What is the same for a policy. `head` is a `%` template: the sizes of the last tensors, and the microseconds that are left."""

    head: str
    contents: bytes


class TritonHttpGuard:
    """Calls one model on one Triton over HTTP/1.1, with the tensors in binary behind a JSON head (KServe's binary tensor extension).

    An event costs the worker 0.21 ms of CPU instead of 0.36 over gRPC (`make bench`). Triton's HTTP front end does not notice
    that a client has gone (triton-inference-server/server issue 7077), so each request carries how long its answer is wanted, in Triton's own
    `timeout` parameter: the guards in `triton_models` stop there.

    Create it inside the running event loop. Raises `ConfigurationError` for a certificate that cannot be read.
    """

    def __init__(self, settings: GuardSettings, probe_policy: Policy) -> None:
        self._settings = settings
        self._probe = probe_prompt(probe_policy)
        # Bounded, so that old policies go.
        self._common = lru_cache(maxsize=256)(self._common_part)
        self._connections = connections_to(settings)
        version = f"/versions/{quote(settings.version, safe='')}" if settings.version else ""
        path = f"/v2/models/{quote(settings.model, safe='')}{version}/infer"
        self._start = f"POST {path} HTTP/1.1\r\nHost: {settings.address}\r\nContent-Type: application/octet-stream\r\n"

    async def complete(
        self, prompt: RenderedPrompt, images: Sequence[bytes], *, timeout: float, traceparent: str | None = None
    ) -> Completion:
        request = self._request(prompt, images, timeout, traceparent)
        try:
            async with asyncio.timeout(timeout):
                response = await self._connections.ask(request)
        except TimeoutError:
            raise GuardTimeoutError("no answer within the timeout", "DEADLINE_EXCEEDED") from None
        except OSError as error:
            raise GuardUnavailableError(f"the call failed: {type(error).__name__}", "UNAVAILABLE") from error
        if response.status != 200:
            raise guard_error(_STATUSES.get(response.status, "INTERNAL"), response.body.decode("utf-8", "replace"))
        return _completion(response)

    async def probe(self, *, timeout: float) -> None:
        await self.complete(self._probe, [], timeout=timeout)

    async def aclose(self) -> None:
        self._connections.close()

    def _request(
        self, prompt: RenderedPrompt, images: Sequence[bytes], timeout: float, traceparent: str | None
    ) -> bytes:
        common = self._common(prompt.system, len(images))
        own = [strings([prompt.user.encode()])] + ([strings(images)] if images else [])
        head = common.head % (*map(len, own), max(1, int(timeout * 1e6)))
        trace = "" if traceparent is None else f"traceparent: {traceparent}\r\n"
        length = len(head) + len(common.contents) + sum(map(len, own))
        start = f"{self._start}{_HEADER_LENGTH}: {len(head)}\r\nContent-Length: {length}\r\n{trace}\r\n"
        return b"".join((start.encode("ascii"), head.encode("ascii"), common.contents, *own))

    def _common_part(self, system: str, images: int) -> _Common:
        """Everything but the event's own tensors, its text and its images, which come last."""
        first = strings([system.encode()])
        inputs = [_input(tensors.SYSTEM, "BYTES", 1, str(len(first)))]
        # Not without need: each tensor costs a Triton with a Python model 0.04 ms (`make bench`'s guard), a twentieth of a request.
        limit = self._settings.max_tokens
        if limit is not None:
            inputs.append(_input(tensors.MAX_TOKENS, "INT32", 1, "4"))
            first += limit.to_bytes(4, "little")
        inputs.append(_input(tensors.USER, "BYTES", 1, "%d"))
        if images:
            inputs.append(_input(tensors.IMAGES, "BYTES", images, "%d"))
        head = '{"inputs":[' + ",".join(inputs) + '],"parameters":{"binary_data_output":true,"timeout":%d}}'
        return _Common(head, first)


def connections_to(settings: GuardSettings) -> Connections:
    """Those of an HTTP or HTTPS `guard.url`. Raises `ConfigurationError` for a certificate that cannot be read."""
    parts = urlsplit(settings.url)
    secure = parts.scheme == "https"
    return Connections(
        parts.hostname or "",
        parts.port or (443 if secure else 80),
        tls=_context(settings.tls) if secure else None,
        connect_s=settings.keepalive_timeout_s,
        silence_s=settings.keepalive_s,
        probe_s=settings.keepalive_timeout_s,
    )


def _input(name: str, datatype: str, length: int, size: str) -> str:
    return f'{{"name":"{name}","datatype":"{datatype}","shape":[{length}],"parameters":{{"binary_data_size":{size}}}}}'


def _completion(response: Response) -> Completion:
    """The tensors of an answer. Raises `GuardRefusedError` for one that breaks the contract."""
    try:
        at = int(response.headers[_HEADER_LENGTH.lower().encode()])
        head = from_json(response.body[:at])
        contents: dict[str, bytes] = {}
        for output in head["outputs"]:
            end = at + int(output["parameters"]["binary_data_size"])
            contents[output["name"]], at = response.body[at:end], end
        if at != len(response.body):
            raise ValueError("the sizes do not add up")
        model, version = str(head["model_name"]), str(head["model_version"])
    except (KeyError, TypeError, ValueError) as error:
        raise broken_answer(error) from error
    return completion_of(contents, model, version)


def _context(tls: GuardTls) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(
            cafile=None if tls.root_certificates is None else str(tls.root_certificates)
        )
        if tls.certificate_chain is not None:
            context.load_cert_chain(tls.certificate_chain, tls.private_key)
    except OSError as error:
        raise ConfigurationError(f"guard.tls: cannot read a certificate: {error.strerror or error}") from error
    return context
