"""From URIs to canonical images: all of them or one reason, in bounded time and space."""

from __future__ import annotations

import asyncio
import hashlib
import random
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.deadletters import Reason
from schemas.events import ImageRef
from stream.errors import ConfigurationError, EventError
from stream.evidence import resolver as resolver_module
from stream.evidence.canonical import CanonicalImage, canonicalise
from stream.evidence.resolver import Evidence, EvidenceResolver
from stream.evidence.settings import EvidenceSettings, StoreSettings
from stream.evidence.store import ObjectForbiddenError, ObjectMissingError, Store, StoreUnavailableError
from tests.stream.evidence.files import LIMITS, encode, scene
from tests.stream.evidence.hostile_uris import HOSTILE_URIS

CAT = encode(scene(), "PNG")
PREFIXES = ("s3://photos", "gs://photos", "az://photos", "media://photos")

Read = Callable[[str, int], Awaitable[bytes]]


class RecordingStore:
    """A store that notes what was asked of it, and answers by `answer`."""

    def __init__(self, answer: Read) -> None:
        self.asked: list[str] = []
        self.reading = 0
        self.most = 0
        self.started = asyncio.Semaphore(0)
        self._answer = answer

    async def read(self, key: str, max_bytes: int) -> bytes:
        self.asked.append(key)
        self.reading += 1
        self.most = max(self.most, self.reading)
        self.started.release()
        try:
            return await self._answer(key, max_bytes)
        finally:
            self.reading -= 1


async def started(store: RecordingStore, reads: int) -> None:
    async with asyncio.timeout(10):
        for _ in range(reads):
            await store.started.acquire()


async def a_cat(_: str, __: int) -> bytes:
    return CAT


async def nothing(_: str, __: int) -> bytes:
    await asyncio.Event().wait()
    return b""


def failing(*failures: Exception) -> Read:
    """Raises the failures in turn, then gives a cat."""
    left = list(failures)

    async def answer(_: str, __: int) -> bytes:
        if left:
            raise left.pop(0)
        return CAT

    return answer


def resolver_of(store: Store, **limits: Any) -> EvidenceResolver:
    found = EvidenceSettings(
        stores={prefix: StoreSettings(kind="local", root=Path("/")) for prefix in PREFIXES}, retry_delay=0.01, **limits
    )
    return EvidenceResolver(found, rng=random.Random(1), open_store=lambda *_: store)


@asynccontextmanager
async def resolving(answer: Read, **limits: Any) -> AsyncIterator[tuple[EvidenceResolver, RecordingStore]]:
    store = RecordingStore(answer)
    async with resolver_of(store, **limits) as resolver:
        yield resolver, store


def ref(name: str = "cat.png", sha256: str | None = None) -> ImageRef:
    return ImageRef(uri=f"media://photos/{name}", sha256=sha256)


async def refusal(resolver: Evidence, *images: ImageRef, deadline: float | None = 20) -> EventError:
    with pytest.raises(EventError) as caught:
        await resolver.resolve(images, deadline=deadline)
    return caught.value


async def test_images_come_back_canonical_and_in_order() -> None:
    async def by_name(key: str, _: int) -> bytes:
        return encode(scene(40 + int(key), 40), "PNG")

    async with resolving(by_name) as (resolver, _):
        images = await resolver.resolve([ref(str(index)) for index in range(8)], deadline=20)
    assert [image.width for image in images] == list(range(40, 48))


async def test_no_images_need_no_store() -> None:
    async with resolving(nothing) as (resolver, store):
        assert await resolver.resolve([], deadline=0) == []
    assert store.asked == []


@pytest.mark.parametrize("uri", [uri for uri in HOSTILE_URIS.values() if uri and not uri.count("\ud800")])
async def test_a_hostile_uri_reaches_no_store_and_takes_its_event_with_it(uri: str) -> None:
    async with resolving(a_cat) as (resolver, store):
        error = await refusal(resolver, ref(), ImageRef(uri=uri), ref())
    assert error.reason is Reason.IMAGE_FORBIDDEN
    assert store.asked == []


PIECES = st.sampled_from(
    ["media://", "s3://", "photos", "secrets", "/", "..", ".", "cat.png", "%2e", "\\", "file://", "@", "?", "~", "\x00"]
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(uri=st.one_of(st.lists(PIECES, min_size=1, max_size=10).map("".join), st.text(min_size=1, max_size=40)))
def test_no_uri_outside_the_allow_list_reaches_a_store(uri: str, tmp_path: Path) -> None:
    root = tmp_path / "photos"
    root.mkdir(exist_ok=True)
    (root / "cat.png").write_bytes(CAT)
    (tmp_path / "secrets").mkdir(exist_ok=True)
    (tmp_path / "secrets" / "cat.png").write_bytes(CAT)
    opened: list[RecordingStore] = []

    def recording(prefix: str, found: StoreSettings, timeout: float) -> Store:
        opened.append(RecordingStore(resolver_module.open_configured(prefix, found, timeout).read))
        return opened[-1]

    async def attempt() -> list[CanonicalImage]:
        found = EvidenceSettings(stores={"media://photos": StoreSettings(kind="local", root=root)})
        async with EvidenceResolver(found, open_store=recording) as resolver:
            return await resolver.resolve([ImageRef(uri=uri)], deadline=20)

    try:
        asyncio.run(attempt())
    except EventError as error:
        if error.reason is Reason.IMAGE_FORBIDDEN:
            assert opened[0].asked == []
            return
    assert [f"media://photos/{key}" for key in opened[0].asked] == [uri]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (ObjectMissingError("x"), Reason.IMAGE_MISSING),
        (ObjectForbiddenError("x"), Reason.IMAGE_FORBIDDEN),
    ],
)
async def test_what_cannot_get_better_is_not_tried_again(fault: Exception, reason: Reason) -> None:
    async with resolving(failing(fault)) as (resolver, store):
        error = await refusal(resolver, ref("name-of-a-person.png"))
    assert error.reason is reason
    assert "person" not in str(error)
    assert len(store.asked) == 1


async def test_a_passing_fault_is_retried_and_a_lasting_one_given_up() -> None:
    fault = StoreUnavailableError("GenericError")
    async with resolving(failing(fault, fault), attempts=3) as (resolver, store):
        assert len(await resolver.resolve([ref()], deadline=20)) == 1
        assert len(store.asked) == 3
    async with resolving(failing(fault, fault), attempts=2) as (resolver, store):
        assert (await refusal(resolver, ref())).reason is Reason.IMAGE_UNAVAILABLE
        assert len(store.asked) == 2


async def test_a_silent_store_is_given_up_within_its_time() -> None:
    async with resolving(nothing, attempts=2, fetch_timeout=0.05) as (resolver, store):
        error = await asyncio.wait_for(refusal(resolver, ref()), 5)
    assert error.reason is Reason.IMAGE_UNAVAILABLE
    assert store.asked == ["cat.png", "cat.png"]
    assert store.reading == 0


@pytest.mark.parametrize("deadline", [-1.0, 0.0, 0.05])
async def test_the_deadline_ends_everything(deadline: float) -> None:
    async with resolving(nothing) as (resolver, store):
        error = await asyncio.wait_for(refusal(resolver, ref(), ref(), deadline=deadline), 5)
        assert error.reason is Reason.DEADLINE_EXCEEDED
        assert (store.reading, resolver.held) == (0, 0)


async def test_the_first_failure_gives_up_the_other_images() -> None:
    async def one_is_missing(key: str, limit: int) -> bytes:
        if key == "missing":
            raise ObjectMissingError("x")
        return await nothing(key, limit)

    async with resolving(one_is_missing) as (resolver, store):
        error = await asyncio.wait_for(refusal(resolver, ref("slow"), ref("missing"), ref("slow")), 5)
        assert error.reason is Reason.IMAGE_MISSING
        assert store.reading == 0


async def test_more_images_than_the_limit_are_refused_before_any_is_read() -> None:
    async with resolving(a_cat, max_images=2) as (resolver, store):
        assert (await refusal(resolver, *[ref()] * 3)).reason is Reason.IMAGE_TOO_LARGE
        assert store.asked == []
        assert len(await resolver.resolve([ref()] * 2, deadline=20)) == 2


async def test_the_declared_digest_is_the_fetched_files() -> None:
    digest = hashlib.sha256(CAT).hexdigest()
    async with resolving(a_cat) as (resolver, _):
        (image,) = await resolver.resolve([ref(sha256=digest)], deadline=20)
        assert image == canonicalise(CAT, LIMITS)
        assert image.source_sha256 == digest != image.sha256
        assert (await refusal(resolver, ref(sha256="0" * 64))).reason is Reason.IMAGE_MISMATCH
        assert (await refusal(resolver, ref(sha256=image.sha256))).reason is Reason.IMAGE_MISMATCH


async def test_an_unreadable_image_is_the_events_refusal() -> None:
    async def html(_: str, __: int) -> bytes:
        return b"<html>"

    async with resolving(html) as (resolver, _):
        assert (await refusal(resolver, ref())).reason is Reason.IMAGE_INVALID


async def test_a_cancelled_resolve_leaves_nothing_running() -> None:
    async with resolving(nothing) as (resolver, store):
        before = asyncio.all_tasks()
        resolving_task = asyncio.create_task(resolver.resolve([ref()] * 4, deadline=None))
        await started(store, 4)
        resolving_task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await resolving_task
        assert (store.reading, resolver.held) == (0, 0)
        assert asyncio.all_tasks() == before


async def test_images_in_hand_never_exceed_the_limit_and_places_are_given_back() -> None:
    released = asyncio.Event()

    async def held(_: str, __: int) -> bytes:
        await released.wait()
        return CAT

    async with resolving(held, max_concurrent_fetches=3) as (resolver, store):
        events = [asyncio.create_task(resolver.resolve([ref()] * 2, deadline=20)) for _ in range(10)]
        await started(store, 3)
        assert resolver.held == 3
        events[0].cancel()
        released.set()
        await asyncio.gather(*events, return_exceptions=True)
        assert store.most == 3
        assert resolver.held == 0
        assert all(len(event.result()) == 2 for event in events[1:])


async def test_decodings_never_exceed_their_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    lock, decoding, most = threading.Lock(), 0, 0
    both = threading.Barrier(2, timeout=10)

    def counted(data: bytes, limits: Any) -> CanonicalImage:
        nonlocal decoding, most
        with lock:
            decoding += 1
            most = max(most, decoding)
        both.wait()  # fails unless two run side by side
        image = canonicalise(data, limits)
        with lock:
            decoding -= 1
        return image

    monkeypatch.setattr(resolver_module, "canonicalise", counted)
    async with resolving(a_cat, max_concurrent_decodes=2) as (resolver, _):
        assert len(await resolver.resolve([ref()] * 8, deadline=20)) == 8
    assert most == 2


async def test_closing_ends_the_threads() -> None:
    async with resolving(a_cat) as (resolver, _):
        await resolver.resolve([ref()], deadline=20)
        assert any(thread.name.startswith("evidence-decode") for thread in threading.enumerate())
    assert not any(thread.name.startswith("evidence-decode") for thread in threading.enumerate())


def test_a_store_that_cannot_be_opened_stops_the_start() -> None:
    found = EvidenceSettings(stores={"media://photos": StoreSettings(kind="local", root=Path("/nonexistent-folder"))})
    with pytest.raises(ConfigurationError, match="media://photos"):
        EvidenceResolver(found)
