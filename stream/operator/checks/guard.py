"""Is Triton there, with a guard that keeps to the contract and answers?"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import grpc
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

from schemas import tensors
from schemas.policy import default_policy
from stream.guard.errors import GuardError
from stream.guard.settings import GuardSettings
from stream.guard.triton import TritonGuard
from stream.operator.checks.result import Check, fail, not_checked, ok

REACH_S = 5.0
"""Seconds for an answer that needs no inference."""

Signature = Mapping[str, tuple[str, tuple[int, ...]]]

INPUTS: Signature = {
    tensors.SYSTEM: ("BYTES", (1,)),
    tensors.USER: ("BYTES", (1,)),
    tensors.IMAGES: ("BYTES", (-1,)),
    tensors.MAX_TOKENS: ("INT32", (1,)),
}
OUTPUTS: Signature = {
    tensors.TEXT: ("BYTES", (1,)),
    tensors.FINISH_REASON: ("BYTES", (1,)),
    tensors.SCORES: ("FP32", (2,)),
    tensors.USAGE: ("INT32", (2,)),
    tensors.MANIFEST: ("BYTES", (1,)),
}


def guard_checks(settings: GuardSettings) -> list[Check]:
    """The server, the model, its tensors and a real inference; then the same of the canary, if there is one.

    Waits `REACH_S` at most for each of the first three, and `guard.timeout_s` for the inference: a Triton whose Python process has
    died still calls itself ready. Runs an event loop of its own.
    """
    checks = asyncio.run(_checks(settings))
    canary = settings.canary_guard()
    if canary is None:
        return checks
    return checks + [replace(check, name=f"canary {check.name}") for check in asyncio.run(_checks(canary))]


async def _checks(settings: GuardSettings) -> list[Check]:
    model = f"model {settings.model}"
    rest = (model, "tensors", "inference")
    try:
        client = _client(settings)
    except OSError as error:
        fix = "look at PROGUARD_GUARD__TLS__ROOT_CERTIFICATES and its siblings"
        missing = fail("triton", f"cannot read {error.filename}: {error.strerror}", fix)
        return [missing, *(not_checked(name, "no connection") for name in rest)]
    try:
        problem = await _asked(client.is_server_live(client_timeout=REACH_S))
        if problem is not None:
            fix = "start Triton, or set PROGUARD_GUARD__URL to its gRPC address (port 8001, not 8000)"
            detail = f"nobody at {settings.url} answered: {problem}"
            return [fail("triton", detail, fix), *(not_checked(name, "Triton does not answer") for name in rest)]
        live = ok("triton", f"live at {settings.url}")
        problem = await _asked(client.is_model_ready(settings.model, settings.version, client_timeout=REACH_S))
        if problem is not None:
            fix = "load the model, or set PROGUARD_GUARD__MODEL and PROGUARD_GUARD__VERSION; Triton's log says why it does not load"
            return [
                live,
                fail(model, f"not ready: {problem}", fix),
                *(not_checked(name, "the model is not ready") for name in rest[1:]),
            ]
        return [live, ok(model, "ready"), await _tensors(client, settings), await _inference(settings)]
    finally:
        await client.close()


async def _tensors(client: InferenceServerClient, settings: GuardSettings) -> Check:
    try:
        metadata = await client.get_model_metadata(settings.model, settings.version, client_timeout=REACH_S)
    except (InferenceServerException, grpc.RpcError) as error:
        return fail("tensors", f"the model does not describe itself: {_told(error)}", "look at Triton's log")
    faults = signature_faults("input", metadata.inputs, INPUTS) + signature_faults("output", metadata.outputs, OUTPUTS)
    if faults:
        fix = "serve a model of the guard contract: triton_models/ has two, schemas/tensors.py the list"
        return fail("tensors", "; ".join(faults), fix)
    return ok("tensors", f"{len(INPUTS)} inputs and {len(OUTPUTS)} outputs as in the contract")


def signature_faults(what: str, found: Iterable[Any], wanted: Signature) -> list[str]:
    """How the tensors of a model's metadata differ from the contract. Additional tensors are faults too: nobody would fill them."""
    faults = []
    actual = {tensor.name: (tensor.datatype, tuple(tensor.shape)) for tensor in found}
    for name, (datatype, shape) in wanted.items():
        if name not in actual:
            faults.append(f"{what} {name} is missing")
        elif actual[name] != (datatype, shape):
            kind, dimensions = actual[name]
            faults.append(f"{what} {name} is {kind} {list(dimensions)} instead of {datatype} {list(shape)}")
    if what == "input":
        faults += [f"{what} {name} is unknown" for name in sorted(actual.keys() - wanted.keys())]
    return faults


async def _inference(settings: GuardSettings) -> Check:
    guard = TritonGuard(settings, default_policy())
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        await guard.probe(timeout=settings.timeout_s)
    except GuardError as error:
        status = f" ({error.status})" if error.status else ""
        fix = "restart Triton: a model whose Python process died stays ready and answers nothing; its log has the cause"
        return fail("inference", f"a real request failed: {error}{status}", fix)
    finally:
        await guard.aclose()
    return ok("inference", f"answered in {(loop.time() - began) * 1000:.0f} ms")


async def _asked(call: Any) -> str | None:
    """None when the server says yes, else why not."""
    try:
        return None if await call else "it says no"
    except (InferenceServerException, grpc.RpcError) as error:
        return _told(error)


def _told(error: BaseException) -> str:
    text = error.message() if isinstance(error, InferenceServerException) else str(error)
    return str(text or type(error).__name__).splitlines()[0][:200]


def _client(settings: GuardSettings) -> InferenceServerClient:
    """A plain connection for questions that `Guard` has no method for. Raises OSError when a certificate cannot be read."""
    tls = settings.tls
    return InferenceServerClient(
        settings.url,
        ssl=tls.active,
        root_certificates=None if tls.root_certificates is None else str(tls.root_certificates),
        private_key=None if tls.private_key is None else str(tls.private_key),
        certificate_chain=None if tls.certificate_chain is None else str(tls.certificate_chain),
    )
