"""What a Triton says of itself, without an inference: over gRPC or over HTTP, as `guard.url` has it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from stream.errors import ProGuardStreamError
from stream.guard.settings import GuardSettings

REACH_S = 5.0
"""Seconds for an answer that needs no inference."""

T = TypeVar("T")


class SilentServerError(ProGuardStreamError):
    """The server gave no answer, or one that says no; the text says why."""


class Tensor(NamedTuple):
    """A tensor as a model describes it."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class Description(NamedTuple):
    """A model's tensors."""

    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]


class Server(Protocol):
    """Each question waits `REACH_S` at most and raises `SilentServerError` where the answer is not yes."""

    async def live(self) -> None: ...

    async def ready(self, model: str, version: str) -> None: ...

    async def describe(self, model: str, version: str) -> Description: ...

    async def aclose(self) -> None: ...


def triton_server(settings: GuardSettings) -> Server:
    """Create it inside the running loop. Raises `ConfigurationError` for a certificate that cannot be read."""
    return HttpServer(settings) if settings.over_http else GrpcServer(settings)


class GrpcServer:
    """By tritonclient."""

    def __init__(self, settings: GuardSettings) -> None:
        from stream.operator.triton import grpc_client

        self._client: Any = grpc_client(settings)

    async def live(self) -> None:
        _must(await _told(self._client.is_server_live(client_timeout=REACH_S)))

    async def ready(self, model: str, version: str) -> None:
        _must(await _told(self._client.is_model_ready(model, version, client_timeout=REACH_S)))

    async def describe(self, model: str, version: str) -> Description:
        found = await _told(self._client.get_model_metadata(model, version, client_timeout=REACH_S))
        inputs, outputs = (
            [Tensor(tensor.name, tensor.datatype, tuple(tensor.shape)) for tensor in tensors]
            for tensors in (found.inputs, found.outputs)
        )
        return Description(inputs, outputs)

    async def aclose(self) -> None:
        await self._client.close()


def _must(yes: bool) -> None:
    if not yes:
        raise SilentServerError("it says no")


async def _told(call: Awaitable[T]) -> T:
    import grpc
    from tritonclient.utils import InferenceServerException

    try:
        return await call
    except InferenceServerException as error:
        raise SilentServerError(_first_line(error.message())) from error
    except grpc.RpcError as error:
        raise SilentServerError(_first_line(str(error)) or type(error).__name__) from error


class HttpServer:
    """By the connections that the guard's client uses."""

    def __init__(self, settings: GuardSettings) -> None:
        from stream.guard.triton_http import connections_to

        self._host = settings.address
        self._connections = connections_to(settings)

    async def live(self) -> None:
        await self._get("/v2/health/live")

    async def ready(self, model: str, version: str) -> None:
        await self._get(f"{_path(model, version)}/ready")

    async def describe(self, model: str, version: str) -> Description:
        from pydantic import TypeAdapter, ValidationError

        body = await self._get(_path(model, version))
        try:
            found = TypeAdapter(Mapping[str, Any]).validate_json(body)
            inputs, outputs = (
                [
                    Tensor(str(each["name"]), str(each["datatype"]), tuple(map(int, each["shape"])))
                    for each in found[key]
                ]
                for key in ("inputs", "outputs")
            )
        except (ValidationError, KeyError, TypeError, ValueError) as error:
            raise SilentServerError(f"its answer cannot be read: {type(error).__name__}") from error
        return Description(inputs, outputs)

    async def aclose(self) -> None:
        self._connections.close()

    async def _get(self, path: str) -> bytes:
        request = f"GET {path} HTTP/1.1\r\nHost: {self._host}\r\n\r\n".encode("ascii")
        try:
            async with asyncio.timeout(REACH_S):
                response = await self._connections.ask(request)
        except TimeoutError:
            raise SilentServerError(f"no answer within {REACH_S:g} s") from None
        except OSError as error:
            raise SilentServerError(_first_line(str(error)) or type(error).__name__) from error
        if response.status != 200:
            detail = _first_line(response.body.decode("utf-8", "replace"))
            raise SilentServerError(f"it says {response.status}{': ' + detail if detail else ''}")
        return response.body


def _path(model: str, version: str) -> str:
    from urllib.parse import quote

    return f"/v2/models/{quote(model, safe='')}" + (f"/versions/{quote(version, safe='')}" if version else "")


def _first_line(text: Any) -> str:
    return next((line.strip() for line in str(text or "").splitlines() if line.strip()), "")[:200]
