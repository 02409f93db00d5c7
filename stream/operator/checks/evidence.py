"""Does every store of the allow-list answer?"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from stream.errors import ConfigurationError
from stream.evidence.resolver import open_configured
from stream.evidence.settings import EvidenceSettings, StoreSettings
from stream.evidence.store import ObjectMissingError, StoreError
from stream.operator.checks.result import Check, fail, ok, warn

ABSENT = "proguard-doctor/this-object-does-not-exist"
"""Read from every store: an answer that it is missing needs no more rights than the worker has."""


def evidence_checks(settings: EvidenceSettings) -> list[Check]:
    """One check a store, all at once, within `evidence.fetch_timeout`. Runs an event loop of its own."""
    if not settings.stores:
        return [warn("evidence", "no store is configured: every image is refused", "set PROGUARD_EVIDENCE__STORES")]
    return asyncio.run(_checks(settings.stores, settings.fetch_timeout))


async def _checks(stores: Mapping[str, StoreSettings], timeout: float) -> list[Check]:
    return await asyncio.gather(*(_check(prefix, store, timeout) for prefix, store in stores.items()))


async def _check(prefix: str, settings: StoreSettings, timeout: float) -> Check:
    name = f"evidence {prefix}"
    fix = "look at the folder" if settings.kind == "local" else "look at endpoint, region, proxy and the bucket's name"
    try:
        store = open_configured(prefix, settings, timeout)
        async with asyncio.timeout(timeout):
            await store.read(ABSENT, 1)
    except ConfigurationError as error:
        return fail(name, str(error), fix)
    except TimeoutError:
        return fail(name, f"no answer in {timeout:g} s", fix)
    except ObjectMissingError as error:
        return _answered(name, settings, error)
    except StoreError as error:
        return fail(name, f"it does not answer: {error}", fix)
    return ok(name, "answers")


def _answered(name: str, settings: StoreSettings, error: ObjectMissingError) -> Check:
    """The store's own error tells a missing object from a missing bucket and from a refusal, which S3 gives for both."""
    cause = error.__context__
    if settings.kind == "local":
        return ok(name, "the folder can be read")
    if "NoSuchBucket" in str(cause) or "NoSuchContainer" in str(cause) or "ContainerNotFound" in str(cause):
        return fail(name, "there is no such bucket", "create it, or correct its name in PROGUARD_EVIDENCE__STORES")
    if isinstance(cause, FileNotFoundError):
        return ok(name, "answers")
    detail = "it answers, and refuses an object that does not exist"
    return warn(
        name, detail, "allow s3:GetObject and s3:ListBucket (or the like) to tell a missing image from a forbidden one"
    )
