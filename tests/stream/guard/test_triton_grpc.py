"""The client against a real Triton."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
from tritonclient.grpc import service_pb2

from schemas.events import ContentEvent
from schemas.policy import default_policy
from schemas.prompt import RenderedPrompt, render
from stream.devkit.process import free_port
from stream.devkit.triton import TritonServer
from stream.guard.errors import GuardRefusedError, GuardTimeoutError, GuardUnavailableError
from stream.guard.settings import GuardSettings, GuardTls
from stream.guard.triton_grpc import TritonGrpcGuard


def prompt(text: str) -> RenderedPrompt:
    return render(default_policy(), ContentEvent(id="e", user_text=text, occurred_at=datetime(2026, 1, 1, tzinfo=UTC)))


@pytest.fixture
async def guard(scripted_guard: TritonServer) -> AsyncIterator[TritonGrpcGuard]:
    guard = TritonGrpcGuard(GuardSettings(url=scripted_guard.grpc_url, model="scripted_guard"), default_policy())
    yield guard
    await guard.aclose()


async def test_every_tensor_of_the_contract_is_read(guard: TritonGrpcGuard) -> None:
    completion = await guard.complete(prompt("[[say=unsafe]]"), [b"image"], timeout=5)
    assert completion.text.endswith("Category:C1S1\n</answer>")
    assert completion.finish_reason == "stop"
    assert completion.request_score == pytest.approx(0.95)
    assert completion.response_score == pytest.approx(0.03)
    assert completion.prompt_tokens > 0
    assert completion.completion_tokens > 0
    assert (completion.model, completion.version, completion.manifest) == ("scripted_guard", "1", "scripted")


async def test_a_score_that_is_not_a_number_is_no_score(guard: TritonGrpcGuard) -> None:
    completion = await guard.complete(prompt("[[say=no_scores]]"), [], timeout=5)
    assert (completion.request_score, completion.response_score) == (None, None)


@pytest.mark.parametrize(("setting", "told"), [(None, 0), (99, 99)])
async def test_the_guard_is_told_a_limit_of_tokens_only_where_one_is_set(
    scripted_guard: TritonServer, setting: int | None, told: int
) -> None:
    settings = GuardSettings(url=scripted_guard.grpc_url, model="scripted_guard", max_tokens=setting)
    guard = TritonGrpcGuard(settings, default_policy())
    try:
        for images in ([], [b"image"]):
            completion = await guard.complete(prompt("[[limit]] [[say=unsafe]]"), images, timeout=5)
            assert (completion.completion_tokens, completion.finish_reason) == (told, "stop")
    finally:
        await guard.aclose()


async def test_a_late_answer_is_a_timeout(guard: TritonGrpcGuard) -> None:
    with pytest.raises(GuardTimeoutError):
        await guard.complete(prompt("[[delay=5000]]"), [], timeout=0.2)


async def test_an_error_of_the_model_is_a_refusal(guard: TritonGrpcGuard) -> None:
    with pytest.raises(GuardRefusedError) as caught:
        await guard.complete(prompt("[[error]]"), [], timeout=5)
    assert "script" not in str(caught.value)


@pytest.mark.parametrize(
    "message", [b"\xff\xff not protobuf", b"", service_pb2.ModelInferResponse(model_name="m").SerializeToString()]
)
async def test_an_answer_that_breaks_the_contract_is_a_refusal(message: bytes) -> None:
    async def answer(_request: bytes, _context: object) -> bytes:
        return message

    server = grpc.aio.server()
    handlers = {"ModelInfer": grpc.unary_unary_rpc_method_handler(answer)}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    guard = TritonGrpcGuard(GuardSettings(url=f"127.0.0.1:{port}"), default_policy())
    try:
        with pytest.raises(GuardRefusedError, match="breaks the tensor contract"):
            await guard.complete(prompt("hello"), [], timeout=5)
    finally:
        await guard.aclose()
        await server.stop(None)


async def test_a_model_that_is_not_loaded_is_unavailable(scripted_guard: TritonServer) -> None:
    guard = TritonGrpcGuard(GuardSettings(url=scripted_guard.grpc_url, model="absent"), default_policy())
    with pytest.raises(GuardUnavailableError):
        await guard.probe(timeout=5)
    await guard.aclose()


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    guard = TritonGrpcGuard(GuardSettings(url=f"127.0.0.1:{free_port()}"), default_policy())
    with pytest.raises(GuardUnavailableError):
        await guard.probe(timeout=5)
    await guard.aclose()


async def test_sixty_four_at_a_time_are_each_answered_with_their_own(guard: TritonGrpcGuard) -> None:
    orders = ["safe", "unsafe", "ood", "tolerant"] * 16
    answers = await asyncio.gather(*(guard.complete(prompt(f"[[say={order}]]"), [], timeout=20) for order in orders))
    sequential = {order: await guard.complete(prompt(f"[[say={order}]]"), [], timeout=20) for order in set(orders)}
    assert [answer.text for answer in answers] == [sequential[order].text for order in orders]


async def test_a_probe_is_a_real_request(guard: TritonGrpcGuard) -> None:
    await guard.probe(timeout=5)


def test_half_of_a_client_certificate_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="go together"):
        GuardTls(private_key=tmp_path / "key.pem")


def test_a_file_of_authorities_switches_tls_on(tmp_path: Path) -> None:
    assert GuardTls(root_certificates=tmp_path / "ca.pem").active
    assert not GuardTls().active
