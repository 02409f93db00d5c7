"""The whole way over the network: a real S3 server, honest and not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from schemas.deadletters import Reason
from schemas.events import ImageRef
from stream.devkit.s3 import S3Server
from stream.errors import EventError
from stream.evidence.resolver import EvidenceResolver
from stream.evidence.settings import EvidenceSettings
from tests.stream.evidence.files import corners, decode, encode, scene
from tests.stream.evidence.servers import body, in_turn, serving, silence, stalling, status

CAT = encode(scene(), "PNG")


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")


@asynccontextmanager
async def resolver_at(url: str, **limits: Any) -> AsyncIterator[EvidenceResolver]:
    store = {"kind": "s3", "endpoint": url, "region": "us-east-1", "allow_http": True}
    found = EvidenceSettings.model_validate(
        {"stores": {"s3://evidence": store, "s3://gone": store}, "retry_delay": 0.01, **limits}
    )
    async with EvidenceResolver(found) as resolver:
        yield resolver


async def outcome(resolver: EvidenceResolver, uri: str = "s3://evidence/cat.png") -> Reason | list[str]:
    try:
        (image,) = await resolver.resolve([ImageRef(uri=uri)], deadline=30)
    except EventError as error:
        return error.reason
    return corners(decode(image.data))


async def test_an_object_of_a_real_server_is_read(s3: S3Server) -> None:
    s3.put("evidence", "2026/a cat é.jpg", encode(scene(), "JPEG"))
    async with resolver_at(s3.endpoint) as resolver:
        assert await outcome(resolver) == ["red", "green", "white", "blue"]
        assert await outcome(resolver, "s3://evidence/2026/a cat é.jpg") == ["red", "green", "white", "blue"]


async def test_a_missing_object_and_a_missing_bucket_are_missing(s3: S3Server) -> None:
    async with resolver_at(s3.endpoint) as resolver:
        assert await outcome(resolver, "s3://evidence/dog.png") is Reason.IMAGE_MISSING
        assert await outcome(resolver, "s3://gone/cat.png") is Reason.IMAGE_MISSING


async def test_an_object_beyond_the_limit_is_too_large(s3: S3Server) -> None:
    s3.put("evidence", "large.png", CAT + bytes(5000))
    async with resolver_at(s3.endpoint, max_bytes=len(CAT) + 1000) as resolver:
        assert await outcome(resolver, "s3://evidence/large.png") is Reason.IMAGE_TOO_LARGE
        assert await outcome(resolver) == ["red", "green", "white", "blue"]


async def test_a_disguised_object_is_invalid(s3: S3Server) -> None:
    s3.put("evidence", "invoice.png", b"%PDF-1.7")
    async with resolver_at(s3.endpoint) as resolver:
        assert await outcome(resolver, "s3://evidence/invoice.png") is Reason.IMAGE_INVALID


async def test_sixty_four_images_at_once_are_read(s3: S3Server) -> None:
    async with resolver_at(s3.endpoint) as resolver:
        found = await asyncio.gather(
            *(resolver.resolve([ImageRef(uri="s3://evidence/cat.png")], deadline=60) for _ in range(64))
        )
    assert len({image.sha256 for (image,) in found}) == 1


async def test_a_server_that_freezes_is_unavailable_and_comes_back(s3: S3Server) -> None:
    async with resolver_at(s3.endpoint, fetch_timeout=0.5, attempts=2) as resolver:
        assert await outcome(resolver) == ["red", "green", "white", "blue"]
        s3.pause()
        try:
            assert await asyncio.wait_for(outcome(resolver), 5) is Reason.IMAGE_UNAVAILABLE
        finally:
            s3.resume()
    async with resolver_at(s3.endpoint, fetch_timeout=10.0) as resolver:
        assert await outcome(resolver) == ["red", "green", "white", "blue"]


@pytest.mark.parametrize(
    "answer", [silence, stalling(1000, b"begin"), status(500), status(503)], ids=["silent", "stalled", "fault", "busy"]
)
async def test_a_server_that_never_serves_is_unavailable_within_its_time(answer: Any) -> None:
    async with serving(answer) as server, resolver_at(server.url, fetch_timeout=0.1, attempts=3) as resolver:
        assert await asyncio.wait_for(outcome(resolver), 5) is Reason.IMAGE_UNAVAILABLE
        assert len(server.asked) == 3


async def test_a_server_that_recovers_is_read_at_the_next_attempt() -> None:
    answers = in_turn(status(503), silence, body(CAT))
    async with serving(answers) as server, resolver_at(server.url, fetch_timeout=0.3, attempts=3) as resolver:
        assert await outcome(resolver) == ["red", "green", "white", "blue"]


async def test_a_cancelled_resolve_closes_its_connections() -> None:
    async with serving(silence) as server, resolver_at(server.url) as resolver:
        task = asyncio.create_task(resolver.resolve([ImageRef(uri="s3://evidence/cat.png")], deadline=None))
        await asyncio.wait_for(server.opened.wait(), 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(server.closed.wait(), 5)
        assert (server.open, resolver.held) == (0, 0)
