"""Stores that answer badly, slowly, falsely or not at all."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import unquote

import pytest

from stream.evidence.bucket import BucketStore
from stream.evidence.settings import StoreSettings
from stream.evidence.store import ObjectMissingError, ObjectTooLargeError, StoreUnavailableError
from tests.stream.evidence.servers import Answer, StubServer, body, ending_early, serving, silence, stalling, status

KINDS = {
    "s3": {"skip_signature": "true"},
    "gcs": {"skip_signature": "true"},
    "azure": {"skip_signature": "true", "account_name": "people"},
}


def bucket(server: StubServer, kind: str = "s3", **more: Any) -> BucketStore:
    settings = StoreSettings.model_validate(
        {"kind": kind, "endpoint": server.url, "allow_http": True, "options": KINDS[kind], **more}
    )
    return BucketStore("photos", settings, timeout=5.0)


@pytest.mark.parametrize("kind", KINDS)
async def test_each_cloud_is_asked_at_the_configured_endpoint_only(kind: str) -> None:
    async with serving(body(b"a cat")) as server:
        assert await bucket(server, kind).read("cats/a b é.png", 100) == b"a cat"
    assert [unquote(path).removeprefix("/people") for path in server.asked] == ["/photos/cats/a b é.png"]


async def test_an_object_declared_too_large_is_not_read() -> None:
    async with serving(stalling(10**9, b"begin")) as server:
        with pytest.raises(ObjectTooLargeError):
            await bucket(server).read("cat.png", 1000)
        await asyncio.wait_for(server.closed.wait(), 30)


async def test_the_largest_allowed_object_is_read() -> None:
    async with serving(body(bytes(1000))) as server:
        assert len(await bucket(server).read("cat.png", 1000)) == 1000


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (status(404), ObjectMissingError),
        (status(403), ObjectMissingError),
        (status(401), ObjectMissingError),
        (status(400), StoreUnavailableError),
        (status(500), StoreUnavailableError),
        (status(503), StoreUnavailableError),
        (ending_early(1000, b"begin"), StoreUnavailableError),
    ],
    ids=["missing", "refused", "unauthenticated", "bad_request", "fault", "busy", "ends_early"],
)
async def test_a_failing_store_is_told_from_a_missing_object(answer: Answer, fault: type[Exception]) -> None:
    async with serving(answer) as server:
        with pytest.raises(fault) as caught:
            await bucket(server).read("private/name-of-a-person.png", 1000)
    assert "person" not in str(caught.value)
    assert len(server.asked) == 1


async def test_a_port_where_nobody_listens_is_unavailable() -> None:
    async with serving(silence) as server:
        pass
    with pytest.raises(StoreUnavailableError):
        await bucket(server).read("cat.png", 1000)


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
async def test_a_redirect_to_another_host_is_not_followed(code: int) -> None:
    async with serving(body(b"a secret")) as target:
        elsewhere = f"http://localhost:{target.port}/secret"
        async with serving(status(code, f"Location: {elsewhere}")) as server:
            with pytest.raises(StoreUnavailableError):
                await bucket(server).read("cat.png", 1000)
            assert target.asked == []
            trusting = bucket(server, trusted_hosts=["localhost"])
            assert await trusting.read("cat.png", 1000) == b"a secret"


async def test_proxies_of_the_environment_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(body(b"from the proxy")) as proxy, serving(body(b"a cat")) as server:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        assert await bucket(server).read("cat.png", 1000) == b"a cat"
        assert await bucket(server, proxy=proxy.url).read("cat.png", 1000) == b"from the proxy"


@pytest.mark.parametrize("answer", [silence, stalling(1000, b"begin")], ids=["silent", "stalled"])
async def test_a_cancelled_read_closes_its_connection(answer: Answer) -> None:
    async with serving(answer) as server:
        reading = asyncio.create_task(bucket(server).read("cat.png", 1000))
        await asyncio.wait_for(server.opened.wait(), 5)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await asyncio.wait_for(server.closed.wait(), 5)
        assert server.open == 0
