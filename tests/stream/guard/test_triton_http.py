"""The HTTP client: what it sends, what it makes of answers that no Triton gives, and TLS. What every guard promises is in `test_guard_contract`."""

from __future__ import annotations

import asyncio
import json
import ssl
import struct
import subprocess
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.events import ContentEvent
from schemas.policy import default_policy
from schemas.prompt import RenderedPrompt, render
from stream.devkit.triton import TritonServer
from stream.errors import ConfigurationError
from stream.guard.connections import Response
from stream.guard.errors import GuardError, GuardRefusedError, GuardTimeoutError, GuardUnavailableError
from stream.guard.settings import GuardSettings, GuardTls
from stream.guard.triton_http import TritonHttpGuard, _completion
from tests.stream.guard.http_server import always, response, saying

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
CONTENTS = {
    "TEXT": ("BYTES", 1, struct.pack("<I", 2) + b"hi"),
    "FINISH_REASON": ("BYTES", 1, struct.pack("<I", 4) + b"stop"),
    "SCORES": ("FP32", 2, struct.pack("<2f", 0.25, 0.5)),
    "USAGE": ("INT32", 2, struct.pack("<2i", 7, 2)),
    "MANIFEST": ("BYTES", 1, struct.pack("<I", 1) + b"m"),
}


def head_of(contents: dict[str, tuple[str, int, bytes]]) -> dict[str, Any]:
    outputs = [
        {"name": name, "datatype": kind, "shape": [length], "parameters": {"binary_data_size": len(raw)}}
        for name, (kind, length, raw) in contents.items()
    ]
    return {"model_name": "m", "model_version": "3", "outputs": outputs}


def answer(head: object | None = None, body: bytes | None = None) -> bytes:
    encoded = json.dumps(head_of(CONTENTS) if head is None else head).encode()
    contents = b"".join(raw for _, _, raw in CONTENTS.values()) if body is None else body
    return response(encoded + contents, Inference_Header_Content_Length=str(len(encoded)))


def prompt(text: str) -> RenderedPrompt:
    return render(default_policy(), ContentEvent(id="e", user_text=text, occurred_at=datetime(2026, 1, 1, tzinfo=UTC)))


async def ask(port: int, images: tuple[bytes, ...] = (), *, timeout: float = 5, **settings: Any) -> Any:
    guard = TritonHttpGuard(GuardSettings(url=f"http://127.0.0.1:{port}", **settings), default_policy())
    try:
        return await guard.complete(prompt("hello"), images, timeout=timeout, traceparent=TRACE)
    finally:
        await guard.aclose()


@pytest.fixture
async def guard(scripted_guard: TritonServer) -> AsyncIterator[TritonHttpGuard]:
    guard = TritonHttpGuard(GuardSettings(url=scripted_guard.http_url, model="scripted_guard"), default_policy())
    yield guard
    await guard.aclose()


@pytest.mark.parametrize(("setting", "told"), [(None, 0), (99, 99)])
async def test_the_guard_is_told_a_limit_of_tokens_only_where_one_is_set(
    scripted_guard: TritonServer, setting: int | None, told: int
) -> None:
    settings = GuardSettings(url=scripted_guard.http_url, model="scripted_guard", max_tokens=setting)
    guard = TritonHttpGuard(settings, default_policy())
    try:
        for images in ([], [b"image"], [b"one", b""]):
            completion = await guard.complete(prompt("[[limit]] [[say=unsafe]]"), images, timeout=5)
            assert (completion.completion_tokens, completion.finish_reason) == (told, "stop")
    finally:
        await guard.aclose()


async def test_both_protocols_give_the_same_completion(guard: TritonHttpGuard, scripted_guard: TritonServer) -> None:
    from stream.guard.triton_grpc import TritonGrpcGuard

    other = TritonGrpcGuard(GuardSettings(url=scripted_guard.grpc_url, model="scripted_guard"), default_policy())
    try:
        for say in ("safe", "unsafe", "ood", "no_scores", "empty", "cut_off"):
            asked = prompt(f"[[say={say}]] ünïcode ✓ {say * 500}")
            over_http, over_grpc = [await each.complete(asked, [b"image"], timeout=5) for each in (guard, other)]
            assert over_http == over_grpc
    finally:
        await other.aclose()


async def test_a_request_says_how_long_its_answer_is_wanted_and_whose_trace_it_is_part_of() -> None:
    async with saying(always(answer())) as heard:
        await ask(heard.port, (b"first", b"second"), timeout=2.5, model="mine/1", version="7")
    start, _, body = heard.requests[0].partition(b"\r\n\r\n")
    lines = start.decode().split("\r\n")
    assert lines[0] == "POST /v2/models/mine%2F1/versions/7/infer HTTP/1.1"
    assert f"traceparent: {TRACE}" in lines
    length = int(next(line for line in lines if line.startswith("Inference-Header-Content-Length")).split(": ")[1])
    head, contents = json.loads(body[:length]), body[length:]
    assert head["parameters"] == {"binary_data_output": True, "timeout": 2_500_000}
    sizes = {each["name"]: each["parameters"]["binary_data_size"] for each in head["inputs"]}
    assert list(sizes) == ["SYSTEM", "USER", "IMAGES"]
    assert sum(sizes.values()) == len(contents)
    assert [each["shape"] for each in head["inputs"]] == [[1], [1], [2]]
    assert contents.endswith(b"\x05\x00\x00\x00first\x06\x00\x00\x00second")


async def test_a_whole_answer_is_read() -> None:
    async with saying(always(answer())) as heard:
        completion = await ask(heard.port)
    assert (completion.text, completion.finish_reason, completion.manifest) == ("hi", "stop", "m")
    assert (completion.request_score, completion.response_score) == (0.25, 0.5)
    assert (completion.prompt_tokens, completion.completion_tokens) == (7, 2)
    assert (completion.model, completion.version) == ("m", "3")


@pytest.mark.parametrize(
    "said",
    [
        response(b"{}"),
        response(b"{}", Inference_Header_Content_Length="two"),
        response(b"{}", Inference_Header_Content_Length="900"),
        answer(head=[]),
        answer(head={"outputs": None}),
        answer(head=head_of(CONTENTS) | {"outputs": head_of(CONTENTS)["outputs"][:-1]}),
        answer(body=b"".join(raw for _, _, raw in CONTENTS.values())[:-1]),
        answer(body=b"".join(raw for _, _, raw in CONTENTS.values()) + b"more"),
        answer(head=head_of({name: content for name, content in CONTENTS.items() if name != "SCORES"})),
        answer(head={"model_name": "m", "model_version": "1", "outputs": [{"name": "TEXT", "data": ["hi"]}]}, body=b""),
        response(b"\xff\xfe", Inference_Header_Content_Length="2"),
    ],
)
async def test_an_answer_that_breaks_the_contract_is_a_refusal(said: bytes) -> None:
    async with saying(always(said)) as heard:
        with pytest.raises(GuardRefusedError, match="breaks the tensor contract"):
            await ask(heard.port)


@given(st.data())
def test_a_damaged_answer_is_read_as_it_says_or_refused_and_never_anything_else(data: st.DataObject) -> None:
    encoded = json.dumps(head_of(CONTENTS)).encode()
    whole = encoded + b"".join(raw for _, _, raw in CONTENTS.values())
    at = data.draw(st.integers(0, len(whole) - 1))
    damaged = whole[:at] + data.draw(st.binary(max_size=3)) + whole[at + data.draw(st.integers(0, 3)) :]
    length = data.draw(st.sampled_from([str(len(encoded)), str(at), "-1", "", "1e3"]))
    try:
        found = _completion(Response(200, {b"inference-header-content-length": length.encode()}, damaged))
    except GuardRefusedError:
        return
    assert isinstance(found.text, str)


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        ("400 Bad Request", b'{"error":"content"}', GuardRefusedError),
        ("500 Internal Server Error", b'{"error":"content"}', GuardRefusedError),
        ("500 Internal Server Error", b'{"error":"Stub process \'m\' is not healthy."}', GuardUnavailableError),
        ("404 Not Found", b"", GuardUnavailableError),
        ("429 Too Many Requests", b"", GuardUnavailableError),
        ("502 Bad Gateway", b"<html>content</html>", GuardUnavailableError),
        ("503 Service Unavailable", b"\xff", GuardUnavailableError),
        ("504 Gateway Timeout", b"", GuardTimeoutError),
        ("302 Found", b"", GuardRefusedError),
    ],
)
async def test_what_a_status_means(status: str, body: bytes, error: type[GuardError]) -> None:
    async with saying(always(response(body, status))) as heard:
        with pytest.raises(error) as caught:
            await ask(heard.port)
    assert "content" not in str(caught.value)
    assert len(heard.requests) == 1


async def test_a_connection_that_ends_in_the_middle_is_unavailable() -> None:
    async def hang_up(writer: asyncio.StreamWriter, _number: int) -> None:
        writer.write(answer()[:-1])
        await writer.drain()
        writer.close()

    async with saying(hang_up) as heard:
        with pytest.raises(GuardUnavailableError):
            await ask(heard.port)


async def test_a_model_that_is_not_loaded_is_unavailable(scripted_guard: TritonServer) -> None:
    guard = TritonHttpGuard(GuardSettings(url=scripted_guard.http_url, model="absent"), default_policy())
    with pytest.raises(GuardUnavailableError):
        await guard.probe(timeout=5)
    await guard.aclose()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("certificate")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-subj", "/CN=proxy", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    subprocess.run([*command, *names, "-keyout", key, "-out", certificate], check=True, capture_output=True, timeout=60)
    return key, certificate


async def test_https_speaks_to_whom_its_authorities_vouch_for_and_to_nobody_else(
    certificate: tuple[Path, Path],
) -> None:
    key, public = certificate
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(public, key)
    # The client must show a certificate too.
    server.load_verify_locations(public)
    server.verify_mode = ssl.CERT_REQUIRED
    async with saying(always(answer()), tls=server) as heard:

        async def asked(tls: GuardTls) -> str:
            guard = TritonHttpGuard(GuardSettings(url=f"https://127.0.0.1:{heard.port}", tls=tls), default_policy())
            try:
                return (await guard.complete(prompt("hello"), [], timeout=5)).text
            finally:
                await guard.aclose()

        mutual = GuardTls(root_certificates=public, private_key=key, certificate_chain=public)
        assert await asked(mutual) == "hi"
        for tls in (GuardTls(), GuardTls(root_certificates=public)):
            with pytest.raises(GuardUnavailableError):
                await asked(tls)
    assert len(heard.requests) == 1


@pytest.mark.parametrize("broken", ["absent.pem", "empty.pem"])
async def test_a_certificate_that_cannot_be_read_is_a_configuration_error(tmp_path: Path, broken: str) -> None:
    (tmp_path / "empty.pem").touch()
    settings = GuardSettings(url="https://127.0.0.1:1", tls=GuardTls(root_certificates=tmp_path / broken))
    with pytest.raises(ConfigurationError, match=r"guard\.tls"):
        TritonHttpGuard(settings, default_policy())
