"""Is Triton there, with a guard that keeps to the contract and answers?"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from schemas import tensors
from schemas.policy import default_policy
from stream.errors import ConfigurationError
from stream.guard.errors import GuardError
from stream.guard.settings import GuardSettings
from stream.guard.triton import triton_guard
from stream.operator.checks.result import Check, fail, not_checked, ok
from stream.operator.checks.triton import Server, SilentServerError, triton_server

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

    Waits a few seconds at most for each of the first three, and `guard.timeout_s` for the inference: a Triton whose Python process has
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
        server = triton_server(settings)
    except ConfigurationError as error:
        fix = "look at PROGUARD_GUARD__TLS__ROOT_CERTIFICATES and its siblings"
        return [fail("triton", str(error), fix), *(not_checked(name, "no connection") for name in rest)]
    try:
        try:
            await server.live()
        except SilentServerError as error:
            fix = (
                "start Triton, or set PROGUARD_GUARD__URL to its address: http://host:8000, or grpc://host:8001 "
                "(another port, another protocol)"
            )
            detail = f"nobody at {settings.url} answered: {error}"
            return [fail("triton", detail, fix), *(not_checked(name, "Triton does not answer") for name in rest)]
        live = ok("triton", f"live at {settings.url}")
        try:
            await server.ready(settings.model, settings.version)
        except SilentServerError as error:
            fix = "load the model, or set PROGUARD_GUARD__MODEL and PROGUARD_GUARD__VERSION; Triton's log says why it does not load"
            return [
                live,
                fail(model, f"not ready: {error}", fix),
                *(not_checked(name, "the model is not ready") for name in rest[1:]),
            ]
        return [live, ok(model, "ready"), await _tensors(server, settings), await _inference(settings)]
    finally:
        await server.aclose()


async def _tensors(server: Server, settings: GuardSettings) -> Check:
    try:
        found = await server.describe(settings.model, settings.version)
    except SilentServerError as error:
        return fail("tensors", f"the model does not describe itself: {error}", "look at Triton's log")
    faults = signature_faults("input", found.inputs, INPUTS) + signature_faults("output", found.outputs, OUTPUTS)
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
    guard = triton_guard(settings, default_policy())
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
