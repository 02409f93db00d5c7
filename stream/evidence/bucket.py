"""A bucket of S3, Google Cloud Storage or Azure as a store, by obstore."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import obstore
from obstore import exceptions
from obstore.store import AzureStore, GCSStore, S3Store

from stream.evidence.settings import StoreKind, StoreSettings
from stream.evidence.store import (
    ObjectForbiddenError,
    ObjectMissingError,
    ObjectTooLargeError,
    StoreUnavailableError,
)

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

_CHUNK = 256 * 1024

# The clouds' own names, and the addresses where a machine, a container or a pod gets its role's credentials.
_METADATA = ("169.254.169.254", "169.254.170.2", "169.254.170.23", "fd00:ec2::254", "fd00:ec2::23")
_CLOUD_HOSTS: dict[StoreKind, tuple[str, ...]] = {
    "s3": ("amazonaws.com", "amazonaws.com.cn", "api.aws", *_METADATA),
    "gcs": ("googleapis.com", "metadata.google.internal", "metadata", *_METADATA),
    "azure": ("windows.net", "chinacloudapi.cn", "usgovcloudapi.net", "microsoftonline.com", *_METADATA),
}

_NOWHERE = "http://127.0.0.1:0"
"""A proxy that cannot exist. See `_client`."""


class BucketStore:
    """Objects of one bucket. The connection pool is opened once; obstore closes it with the last reference.

    Whom it talks to comes from settings alone: S3 in path style on `endpoint`, no redirect to another host.
    """

    def __init__(self, bucket: str, settings: StoreSettings, timeout: float) -> None:
        """Raises obstore's BaseError, ValueError or TypeError when the settings make no store; does no I/O."""
        self._store = _open(bucket, settings, timeout)

    async def read(self, key: str, max_bytes: int) -> bytes:
        try:
            found = await obstore.get_async(self._store, key)
            if found.meta["size"] > max_bytes:
                raise ObjectTooLargeError(f"{found.meta['size']} bytes")
            data = bytearray()
            async for chunk in found.stream(min_chunk_size=_CHUNK):
                data += chunk
                if len(data) > max_bytes:
                    raise ObjectTooLargeError(f"more than {max_bytes} bytes")
        except (FileNotFoundError, PermissionError, exceptions.PermissionDeniedError, exceptions.UnauthenticatedError):
            raise ObjectMissingError("no such object, or the store refuses it") from None
        except exceptions.InvalidPathError:
            raise ObjectForbiddenError("not a key that the store can hold") from None
        except (exceptions.BaseError, ValueError, OSError) as error:
            # Their texts hold the key, so only the type goes on.
            raise StoreUnavailableError(type(error).__name__) from None
        if len(data) != found.meta["size"]:
            raise StoreUnavailableError("the object ended early")
        return bytes(data)


def _open(bucket: str, settings: StoreSettings, timeout: float) -> S3Store | GCSStore | AzureStore:
    client = _client(settings, timeout)
    # The resolver retries, under the event's deadline; a second loop inside would multiply the attempts.
    retry: RetryConfig = {"max_retries": 0}
    options: dict[str, Any] = dict(settings.options)
    if settings.kind == "s3":
        if settings.region:
            options["region"] = settings.region
        if settings.endpoint:
            # Path style: the bucket's name never becomes a part of a host's name.
            options |= {"endpoint": settings.endpoint, "virtual_hosted_style_request": False}
        return S3Store(bucket, client_options=client, retry_config=retry, **options)
    if settings.kind == "gcs":
        if settings.endpoint:
            options["google_base_url"] = settings.endpoint
        return GCSStore(bucket, client_options=client, retry_config=retry, **options)
    if settings.endpoint:
        options["endpoint"] = settings.endpoint
    return AzureStore(bucket, client_options=client, retry_config=retry, **options)


def _client(settings: StoreSettings, timeout: float) -> ClientConfig:
    """The HTTP client's settings.

    object_store follows redirects and has no switch for it (measured with obstore 0.12: a 302 from the endpoint is
    followed to any host). So every host but the trusted ones is sent through a proxy that cannot exist, and a redirect
    to it fails to connect. A redirect to another port of a trusted host is still followed. With a proxy of one's own, the
    proxy decides.
    """
    client: ClientConfig = {
        "allow_http": settings.allow_http,
        "timeout": timedelta(seconds=timeout),
        "connect_timeout": timedelta(seconds=timeout),
    }
    if settings.proxy:
        client["proxy_url"] = settings.proxy
        return client
    endpoint = urlsplit(settings.endpoint).hostname if settings.endpoint else None
    trusted = [*_CLOUD_HOSTS[settings.kind], *settings.trusted_hosts]
    client["proxy_url"] = _NOWHERE
    client["proxy_excludes"] = ",".join([endpoint, *trusted] if endpoint else trusted)
    return client
