"""Settings of the evidence room: which stores may be read, and every limit on the way from a URI to pixels."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from stream.evidence.scaling import MAX_RATIO, MIN_SIDE

StoreKind = Literal["local", "s3", "gcs", "azure"]

_PREFIX = re.compile(r"(s3|gs|az|media)://[a-z0-9][a-z0-9._-]{0,62}\Z")
_SCHEME_OF_KIND: dict[StoreKind, str] = {"local": "media", "s3": "s3", "gcs": "gs", "azure": "az"}
_CREDENTIAL = re.compile(r"secret|password|token|access_key|account_key|sas_key|credential|service_account_key", re.I)
# `allow_http`, `timeout` and the like belong to the HTTP client and are set from the named fields.
_RESERVED = frozenset(
    {"bucket", "endpoint", "region", "virtual_hosted_style_request", "client_options", "retry_config"}
)

_MIN_GUARD_PIXELS = MIN_SIDE * MIN_SIDE * MAX_RATIO


def _is_prefix(value: str) -> str:
    if not _PREFIX.match(value):
        raise ValueError("a store is named s3://bucket, gs://bucket, az://container or media://name, in lower case")
    return value


Prefix = Annotated[str, AfterValidator(_is_prefix)]
"""`scheme://bucket`, exactly as it must begin an image URI."""


class StoreSettings(BaseModel):
    """One store that image URIs may name. Credentials never stand here: they come from the process's environment, under
    the names that each cloud's own tools use (`AWS_ACCESS_KEY_ID`, `GOOGLE_APPLICATION_CREDENTIALS`, ..., or the
    machine's role)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: StoreKind = Field(
        description="What answers: a local folder (development), S3, Google Cloud Storage or Azure."
    )
    root: Path | None = Field(default=None, description="The folder, for kind `local`; nothing outside it can be read.")
    endpoint: str | None = Field(
        default=None,
        pattern=r"^https?://[^/@?#\s]+(/[^@?#\s]*)?$",
        description="URL of a store that is not the cloud's own; S3 is then spoken in path style.",
    )
    region: str | None = Field(default=None, description="The bucket's region, for kind `s3`.")
    allow_http: bool = Field(default=False, description="Accept an endpoint without TLS. For development.")
    proxy: str | None = Field(
        default=None,
        description="HTTP proxy on the way to the store. Proxies of the environment are not used: without this, the "
        "store is reached directly and redirects to other hosts fail.",
    )
    trusted_hosts: list[str] = Field(
        default_factory=list,
        description="Hosts, domains or addresses besides the endpoint that this store's client may talk to, for "
        "instance a private STS. Ignored when `proxy` is set.",
    )
    options: dict[str, str] = Field(
        default_factory=dict,
        description="Further options of obstore's store, for instance `account_name` for Azure or `skip_signature` for "
        "a public bucket. Names of credentials are refused.",
    )

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if (self.kind == "local") != (self.root is not None):
            raise ValueError("`root` is for kind `local`, and kind `local` needs it")
        if self.endpoint and self.endpoint.startswith("http://") and not self.allow_http:
            raise ValueError("the endpoint has no TLS: say `allow_http: true` if that is meant")
        for name in self.options:
            if _CREDENTIAL.search(name):
                raise ValueError(f"option {name!r} is a credential: give it in the environment of the process")
            if name in _RESERVED:
                raise ValueError(f"option {name!r} has a field of its own or is fixed")
        return self


class EvidenceSettings(BaseModel):
    """Where images may come from, and how much one event may cost.

    Memory: at most `max_concurrent_fetches x max_bytes` bytes are held as fetched. Decoding takes up to sixteen bytes a
    pixel (WebP; others six to ten), so `max_concurrent_decodes x max_pixels x 16` at worst.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    stores: dict[Prefix, StoreSettings] = Field(
        default_factory=dict,
        description="The allow-list: `scheme://bucket` to its store. A URI that begins otherwise is refused before "
        "anything is read. Empty: every image is refused.",
    )
    max_images: int = Field(default=8, ge=1, le=64, description="Images of one event.")
    max_bytes: int = Field(default=10 * 1024 * 1024, ge=1024, description="Bytes of one stored image.")
    max_pixels: int = Field(
        default=24_000_000,
        ge=1,
        le=89_000_000,
        description="Width x height that a file may declare to be decoded at all.",
    )
    guard_max_pixels: int = Field(
        default=2048 * 28 * 28,
        ge=_MIN_GUARD_PIXELS,
        description="Width x height that the guard is shown; larger images are scaled down.",
    )
    fetch_timeout: float = Field(
        default=5.0, gt=0, le=300, description="Seconds for one attempt to read one image, connecting included."
    )
    attempts: int = Field(default=3, ge=1, le=10, description="Attempts to read one image before it is unavailable.")
    retry_delay: float = Field(
        default=0.2,
        ge=0,
        le=30,
        description="Upper bound in seconds of the first random wait; it doubles each attempt.",
    )
    max_concurrent_fetches: int = Field(
        default=16, ge=1, le=1024, description="Images between the start of their fetch and the end of their decoding."
    )
    max_concurrent_decodes: int = Field(default=2, ge=1, le=64, description="Threads that decode images.")

    @model_validator(mode="after")
    def _schemes_fit(self) -> Self:
        for prefix, store in self.stores.items():
            scheme = prefix.partition("://")[0]
            # A folder may stand in for a cloud bucket, so that production's events can be replayed on a laptop.
            if store.kind != "local" and _SCHEME_OF_KIND[store.kind] != scheme:
                raise ValueError(f"{prefix} cannot be a store of kind {store.kind!r}")
        return self
