"""Triton's model control for one model: what is loaded, load, unload, and which version answers whom.

Measured on tritonserver 2.51 in explicit mode, under traffic:

- Without a version, a request goes to the highest one that is loaded.
- A load with a policy that names other versions loads what is new beside what runs, switches, then ends what is no longer
  named: no request fails. A version that refuses to load changes nothing: what ran goes on.
- A version that stays is not loaded anew, unless anything in the model's folder changed since its load. The bytecode that Python
  writes beside `model.py` at the first load is such a change: then a policy that keeps the old version holds two copies of it
  for a moment. So the way that needs least memory names one version at a time.
- After a load that failed, `/v2/health/ready` says "not ready" until the server restarts, though everything else serves, and also
  after an unload. What decides whether a server gets traffic should ask `/v2/models/NAME/ready`.
- `load_model` without a configuration does nothing when `config.pbtxt` has not changed since it was read, even when another
  configuration was given in between. So this module always gives one or writes the file.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

from schemas.policy import Policy
from stream.clock import Clock, Deadline, SystemClock
from stream.errors import ConfigurationError
from stream.guard.backend import Completion
from stream.guard.errors import GuardError
from stream.guard.settings import GuardSettings
from stream.guard.triton_grpc import TritonGrpcGuard
from stream.operator.models.errors import ModelControlError
from stream.operator.models.repository import ModelRepository
from stream.operator.triton import grpc_client

REACH_S = 5.0
"""Seconds for an answer that needs no inference."""

_TURN_S = 0.1
_EMPTY_MODEL = b"class TritonPythonModel:\n    def execute(self, requests):\n        return []\n"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LoadedVersion:
    """A version as Triton's index has it. `state` is READY, LOADING, UNLOADING or UNAVAILABLE; `reason` says why, in one line."""

    model: str
    version: int | None
    state: str
    reason: str

    @property
    def ready(self) -> bool:
        return self.state == "READY"

    @property
    def gone(self) -> bool:
        return self.state == "UNAVAILABLE"

    @property
    def failed(self) -> bool:
        """It was to be loaded, and could not be."""
        return self.gone and self.reason not in ("", "unloaded")


class ModelControl:
    """Triton's control of the model that `settings` names. Create it inside the running loop, end it with `aclose`.

    With a `repository`, what is loaded is also written into its `config.pbtxt`, so that it holds after a restart of the server; a
    load that fails leaves the file as it was. Raises `ModelControlError` with Triton's own reason.
    """

    def __init__(
        self,
        settings: GuardSettings,
        probe_policy: Policy,
        *,
        repository: ModelRepository | None = None,
        load_timeout_s: float = 600.0,
        clock: Clock | None = None,
    ) -> None:
        self._settings = settings
        self._policy = probe_policy
        self._repository = repository
        self._load_timeout_s = load_timeout_s
        self._clock = clock or SystemClock()
        self._client = _client(settings)

    @property
    def model(self) -> str:
        return self._settings.model

    async def aclose(self) -> None:
        await self._client.close()

    async def index(self) -> list[LoadedVersion]:
        """Every version of every model that the server knows."""
        found = await self._call(self._client.get_model_repository_index(client_timeout=REACH_S))
        return sorted(
            (
                LoadedVersion(
                    entry.name,
                    int(entry.version) if entry.version else None,
                    entry.state or "UNAVAILABLE",
                    _first_line(entry.reason),
                )
                for entry in found.models
            ),
            key=lambda entry: (entry.model, entry.version or 0),
        )

    async def loaded(self) -> list[int]:
        """The versions of the model that are ready."""
        return [e.version for e in await self.index() if e.model == self.model and e.ready and e.version is not None]

    def guard(self, model: str | None = None, version: int | None = None) -> TritonGrpcGuard:
        """A client for one version of one model; without a version, for what unpinned requests get."""
        pin = "" if version is None else str(version)
        settings = self._settings.model_copy(update={"model": model or self.model, "version": pin})
        return TritonGrpcGuard(settings, self._policy)

    async def answering(self, model: str | None = None, version: int | None = None) -> Completion:
        """Asks one real request. Raises a `GuardError`."""
        guard = self.guard(model, version)
        try:
            return await guard.complete(guard.probe_prompt, [], timeout=self._settings.timeout_s)
        finally:
            await guard.aclose()

    async def load_only(self, versions: Sequence[int], *, until_gone: bool = True) -> None:
        """The model becomes these versions. Returns when each has answered a real request and the others have gone.

        Without `until_gone` it does not wait for the latter: a version whose Python process has died may never go.

        Raises `ModelControlError`: then what ran before still serves, and the repository's file is as it was.
        """
        wanted = sorted(set(versions))
        before = None if self._repository is None else self._repository.config()
        try:
            if self._repository is not None:
                self._repository.write_policy(wanted)
                await self._load(self.model, None, wanted)
            else:
                await self._load(self.model, await self._config_with(wanted), wanted)
            await self._until_answered(self.model, wanted)
        except BaseException:
            if self._repository is not None and before is not None:
                self._repository.write_config(before)
            raise
        if until_gone:
            await self._until_gone(self.model, keep=wanted)

    async def load_as_configured(self) -> list[int]:
        """Loads what the repository's configuration says, and returns it."""
        await self._load(self.model, None, [])
        wanted = await self.loaded()
        await self._until_answered(self.model, wanted)
        return wanted

    async def load_trial(self, name: str, version: int) -> None:
        """Loads a second name that `ModelRepository.stage` has made. Returns when it has answered."""
        await self._load(name, None, [version])
        await self._until_answered(name, [version])

    async def bury_trial(self, name: str, version: int, config: str) -> None:
        """Ends a second name whose version did not load.

        A version that failed makes the whole server say "not ready" until it restarts; an unload does not change that, but a load of
        the same name does. So an empty model takes its place, and is unloaded. `config` is its `config.pbtxt`.
        """
        message = text_format.Parse(config, model_config_pb2.ModelConfig())
        as_json = json_format.MessageToJson(message, preserving_proto_field_name=True)
        files = {f"file:{version}/model.py": _EMPTY_MODEL}
        await self._call(
            self._client.load_model(name, config=as_json, files=files, client_timeout=self._load_timeout_s)
        )
        await self.unload(name)

    async def unload(self, name: str | None = None, *, until_gone: bool = True) -> None:
        """The whole model goes. Returns when it has gone; requests under way are answered before. `until_gone` as above."""
        name = name or self.model
        await self._call(self._client.unload_model(name, client_timeout=self._load_timeout_s))
        if until_gone:
            await self._until_gone(name, keep=[])

    async def wait_for_server(self, seconds: float) -> None:
        """Returns when the server answers. Raises `ModelControlError` after so many seconds without it.

        Not its readiness: that is "no" from the first load that fails until the server restarts, whatever else it serves.
        """
        deadline = Deadline(self._clock, seconds)
        while True:
            try:
                if await self._call(self._client.is_server_live(client_timeout=REACH_S)):
                    return
            except ModelControlError:
                if deadline.remaining() <= 0:
                    raise
            if deadline.remaining() <= 0:
                raise ModelControlError(f"Triton at {self._settings.url} is not there")
            await asyncio.sleep(_TURN_S)

    async def _load(self, name: str, config: str | None, wanted: Sequence[int]) -> None:
        try:
            await self._call(self._client.load_model(name, config=config, client_timeout=self._load_timeout_s))
        except ModelControlError as error:
            reasons = [
                f"version {entry.version}: {entry.reason}"
                for entry in await self._index_or_nothing()
                if entry.model == name and entry.version in wanted and entry.failed
            ]
            detail = "; ".join(reasons) or str(error)
            raise ModelControlError(f"{name} was not loaded: {detail}") from None

    async def _index_or_nothing(self) -> list[LoadedVersion]:
        try:
            return await self.index()
        except ModelControlError:
            return []

    async def _config_with(self, versions: Sequence[int]) -> str:
        try:
            found = await self._call(self._client.get_model_config(self.model, as_json=True, client_timeout=REACH_S))
        except ModelControlError as error:
            raise ModelControlError(
                f"{self.model} has no version loaded, so its configuration is not known here: load it without a version,"
                f" or give --repository ({error})"
            ) from None
        config = found["config"]
        config["version_policy"] = {"specific": {"versions": list(versions)}}
        return json.dumps(config)

    async def _until_answered(self, name: str, versions: Sequence[int]) -> None:
        """A server's own word is not enough: a model whose Python process has died stays ready."""
        for version in versions:
            try:
                await self.answering(name, version)
            except GuardError as error:
                raise ModelControlError(f"{name} {version} is loaded and does not answer: {error}") from None

    async def _until_gone(self, name: str, keep: Sequence[int]) -> None:
        deadline = Deadline(self._clock, self._load_timeout_s)
        while True:
            left = [e for e in await self.index() if e.model == name and e.version not in keep and not e.gone]
            if not left:
                return
            if deadline.remaining() <= 0:
                still = ", ".join(f"{entry.version} ({entry.state})" for entry in left)
                raise ModelControlError(f"of {name}, still there: {still}")
            await asyncio.sleep(_TURN_S)

    async def _call(self, call: Awaitable[T]) -> T:
        try:
            return await call
        except InferenceServerException as error:
            if "UNAVAILABLE" in str(error.status()) and "connect" in str(error.message()).lower():
                raise ModelControlError(f"nobody at {self._settings.url} answers") from None
            raise ModelControlError(_first_line(error.message())) from None
        except grpc.RpcError as error:
            raise ModelControlError(_first_line(str(error))) from None


def _first_line(text: Any) -> str:
    return next((line.strip() for line in str(text or "").splitlines() if line.strip()), "")[:300]


def _client(settings: GuardSettings) -> InferenceServerClient:
    if settings.over_http:
        raise ModelControlError(
            f"this speaks gRPC, and guard.url is {settings.url}: give Triton's gRPC address with --url, as host:8001"
        )
    try:
        return grpc_client(settings)
    except ConfigurationError as error:
        raise ModelControlError(str(error)) from error
