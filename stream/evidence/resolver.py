"""From the image URIs of an event to the pictures that the guard is shown."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, Self

from obstore.exceptions import BaseError

from schemas.deadletters import Reason
from schemas.events import ImageRef
from stream.errors import ConfigurationError, EventError
from stream.evidence.bucket import BucketStore
from stream.evidence.canonical import CanonicalImage, PixelLimits, canonicalise
from stream.evidence.folder import FolderStore
from stream.evidence.settings import EvidenceSettings, StoreSettings
from stream.evidence.store import (
    ObjectForbiddenError,
    ObjectMissingError,
    ObjectTooLargeError,
    Store,
    StoreUnavailableError,
)
from stream.evidence.uris import Location, locate


class Evidence(Protocol):
    """What the worker needs of this room."""

    async def resolve(self, images: Sequence[ImageRef], *, deadline: float | None) -> list[CanonicalImage]:
        """The pictures behind `images`, in order; an empty list for none. All of them, or EventError.

        `deadline` is in seconds from now. An event with an image that cannot be had is not judged without it.
        """
        ...


class EvidenceResolver:
    """Fetches images from allow-listed stores and makes them canonical. One per process; safe for any number of events.

    Bounds: `max_concurrent_fetches` images are between the start of their fetch and the end of their decoding, in all
    events together, so that fetched bytes cannot pile up before the decoders; `max_concurrent_decodes` threads decode.
    Others wait their turn, inside their deadline.

    Cancelling `resolve` closes its connections and gives its places back. Only a decoding that has begun goes on in its
    thread until it ends, about a second at most at the default limits, and its result is dropped.
    """

    def __init__(
        self,
        settings: EvidenceSettings,
        *,
        rng: random.Random | None = None,
        open_store: Callable[[str, StoreSettings, float], Store] | None = None,
    ) -> None:
        """Opens the stores (without talking to them). Raises ConfigurationError that names the store which cannot be."""
        self._settings = settings
        self._limits = PixelLimits(settings.max_pixels, settings.guard_max_pixels)
        self._rng = rng or random.Random()
        opener = open_store or open_configured
        self._stores = {
            prefix: opener(prefix, store, settings.fetch_timeout) for prefix, store in settings.stores.items()
        }
        self._places = asyncio.Semaphore(settings.max_concurrent_fetches)
        self._decoders = ThreadPoolExecutor(settings.max_concurrent_decodes, thread_name_prefix="evidence-decode")
        self._held = 0

    @property
    def held(self) -> int:
        """Images being fetched or decoded now, of at most `max_concurrent_fetches`."""
        return self._held

    async def resolve(self, images: Sequence[ImageRef], *, deadline: float | None = None) -> list[CanonicalImage]:
        """See `Evidence.resolve`. Every URI is checked before the first byte is read.

        Raises EventError. When several images fail, the one that failed first is told, and the others are given up:

        - IMAGE_TOO_LARGE: more images, bytes or pixels than the limits;
        - IMAGE_FORBIDDEN: a URI outside the allow-list, or one that leads out of a local folder;
        - IMAGE_MISSING: no such object or bucket, or access refused (S3 does not tell these apart);
        - IMAGE_UNAVAILABLE: the store failed in all attempts;
        - IMAGE_MISMATCH: other bytes than the event declared;
        - IMAGE_INVALID: not an accepted image;
        - DEADLINE_EXCEEDED: `deadline` passed.
        """
        if len(images) > self._settings.max_images:
            raise EventError(Reason.IMAGE_TOO_LARGE, f"{len(images)} images; the limit is {self._settings.max_images}")
        wanted = [(locate(image.uri, self._stores), image.sha256) for image in images]
        try:
            async with asyncio.timeout(deadline), asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._one(location, sha256)) for location, sha256 in wanted]
        except* EventError as failures:
            first = failures.exceptions[0]
        except* TimeoutError:
            first = EventError(Reason.DEADLINE_EXCEEDED, "the images took longer than the event's deadline")
        else:
            return [task.result() for task in tasks]
        raise first

    async def aclose(self) -> None:
        """Waits for the decodings that have begun, and ends their threads. Nothing can be resolved afterwards."""
        await asyncio.to_thread(self._decoders.shutdown, wait=True, cancel_futures=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _one(self, location: Location, sha256: str | None) -> CanonicalImage:
        async with self._places:
            self._held += 1
            try:
                data = await self._fetch(location)
                return await asyncio.get_running_loop().run_in_executor(
                    self._decoders, _checked, data, sha256, self._limits
                )
            finally:
                self._held -= 1

    async def _fetch(self, location: Location) -> bytes:
        store, prefix = self._stores[location.prefix], location.prefix
        for attempt in range(1, self._settings.attempts + 1):
            try:
                async with asyncio.timeout(self._settings.fetch_timeout):
                    return await store.read(location.key, self._settings.max_bytes)
            except ObjectMissingError:
                raise EventError(Reason.IMAGE_MISSING, f"no such object in {prefix}, or access refused") from None
            except ObjectTooLargeError:
                raise EventError(
                    Reason.IMAGE_TOO_LARGE, f"the object in {prefix} has more than {self._settings.max_bytes} bytes"
                ) from None
            except ObjectForbiddenError:
                raise EventError(Reason.IMAGE_FORBIDDEN, f"the key leads out of {prefix}") from None
            except TimeoutError:
                fault = f"no answer in {self._settings.fetch_timeout:g} s"
            except StoreUnavailableError as error:
                fault = str(error)
            if attempt < self._settings.attempts:
                # Full jitter: the workers that a store's outage stopped together do not come back together.
                await asyncio.sleep(self._rng.uniform(0, self._settings.retry_delay * 2 ** (attempt - 1)))
        raise EventError(Reason.IMAGE_UNAVAILABLE, f"{prefix}: {fault}; attempts made: {attempt}")


def open_configured(prefix: str, settings: StoreSettings, timeout: float) -> Store:
    """The store of settings. Raises ConfigurationError naming `prefix`; talks to nobody."""
    try:
        if settings.root is not None:
            return FolderStore(settings.root)
        return BucketStore(prefix.partition("://")[2], settings, timeout)
    except OSError as error:
        raise ConfigurationError(f"evidence store {prefix}: the folder cannot be read ({error.strerror})") from error
    except (BaseError, ValueError, TypeError) as error:
        raise ConfigurationError(f"evidence store {prefix}: {error}") from error


def _checked(data: bytes, sha256: str | None, limits: PixelLimits) -> CanonicalImage:
    """`canonicalise`, for exactly the bytes that the event declared."""
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
        raise EventError(Reason.IMAGE_MISMATCH, "the object's SHA-256 is not the declared one")
    return canonicalise(data, limits)
