"""Settings of the guard client and of the verdict cache."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, model_validator


class GuardTls(BaseModel):
    """Transport security towards Triton. Without any of these the connection is in clear text."""

    enabled: bool = Field(False, description="Use TLS; implied by any of the files below.")
    root_certificates: Path | None = Field(
        None, description="PEM file of the authorities to trust; the system's if unset."
    )
    private_key: Path | None = Field(None, description="PEM file of the client's key, for mutual TLS.")
    certificate_chain: Path | None = Field(None, description="PEM file of the client's certificate, for mutual TLS.")

    @model_validator(mode="after")
    def _pairs(self) -> GuardTls:
        if (self.private_key is None) != (self.certificate_chain is None):
            raise ValueError("private_key and certificate_chain go together")
        return self

    @property
    def active(self) -> bool:
        return self.enabled or self.root_certificates is not None or self.private_key is not None


class CanarySettings(BaseModel):
    """A second guard that answers a share of the requests, until it breaks a limit."""

    share: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="Share of the requests that the canary answers, chosen by their content; 0 for no canary."
    )
    version: str = Field("", description="Version of the canary; empty for its server's choice.")
    model: str = Field("", description="Model of the canary; guard.model if empty.")
    url: str = Field("", description="Triton's address of the canary, as in guard.url; guard.url if empty.")
    compare_share: Annotated[float, Field(ge=0, le=1)] = Field(
        0.2, description="Share of the canary's requests that the stable guard is asked too, to compare the labels."
    )
    timeout_s: Annotated[float, Field(gt=0, le=600)] = Field(
        5.0,
        description="Seconds for the canary, half of guard.timeout_s at most: the stable guard answers in what is left.",
    )
    min_format_valid: Annotated[float, Field(ge=0, le=1)] = Field(
        0.98, description="Share of the canary's answers that must be readable, over the window."
    )
    min_agreement: Annotated[float, Field(ge=0, le=1)] = Field(
        0.95, description="Share of the compared answers that must have the stable guard's labels, over the window."
    )
    max_failures: Annotated[float, Field(ge=0, le=1)] = Field(
        0.05, description="Share of the canary's requests that may get no answer, over the window."
    )
    window: Annotated[int, Field(ge=1, le=100_000)] = Field(200, description="Latest answers that the limits look at.")
    min_answers: Annotated[int, Field(ge=1, le=100_000)] = Field(
        50,
        description="A window with fewer answers counts as one of so many, the missing ones good: the first bad answer proves little.",
    )

    @property
    def active(self) -> bool:
        return self.share > 0


class GuardSettings(BaseModel):
    """Which guard to ask, and how patiently."""

    url: str = Field(
        "http://127.0.0.1:8000",
        description="Triton's address. http://host:port (or https://, of a proxy that ends TLS before it): the quickest. grpc://host:port, "
        "or just host:port: Triton ends TLS itself, and is told when an answer is not wanted any more.",
    )
    model: str = Field("proguard", min_length=1, description="Name of the guard model on the server.")
    version: str = Field("", description="Pin one version of the model; empty for the server's choice.")
    max_tokens: Annotated[int, Field(ge=16, le=8192)] | None = Field(
        None,
        description="Completion tokens at most. Unset, the guard's own limit holds (1,024, if it says nothing else), and one tensor "
        "less is sent.",
    )
    limiter: Literal["adaptive", "fixed"] = Field(
        "adaptive",
        description="adaptive: between min_in_flight and max_in_flight, by how long answers take; fixed: max_in_flight.",
    )
    max_in_flight: Annotated[int, Field(ge=1, le=4096)] = Field(
        64, description="Requests on the server at a time, at most."
    )
    min_in_flight: Annotated[int, Field(ge=1, le=4096)] = Field(
        8,
        description="Requests that the guard takes at a time without queueing them; the limit never goes below. Counts as "
        "max_in_flight where it is more.",
    )
    limiter_tolerance: Annotated[float, Field(gt=1, le=100)] = Field(
        2.0,
        description="How many times as long as on a quiet guard the median answer may take before the limit shrinks.",
    )
    timeout_s: Annotated[float, Field(gt=0, le=600)] = Field(10.0, description="Seconds for one request.")
    attempts: Annotated[int, Field(ge=1, le=20)] = Field(
        3, description="Requests for one event; outages that failed one are waited out in between."
    )
    retry_ratio: Annotated[float, Field(ge=0, le=1)] = Field(
        0.2, description="Retries for each request, at most; those after an outage are not counted."
    )
    retry_reserve: Annotated[int, Field(ge=0, le=10_000)] = Field(
        32, description="Retries beyond that ratio, at most. 0 with a ratio of 0: no retries but after outages."
    )
    down_after_timeouts: Annotated[int, Field(ge=1)] = Field(
        16, description="Timeouts in a row, with no answer between them, after which the guard counts as down."
    )
    probe_interval_s: Annotated[float, Field(gt=0)] = Field(
        0.5, description="Seconds between probes of a guard that is down."
    )
    keepalive_s: Annotated[float, Field(ge=1)] = Field(
        20.0,
        description="Seconds of silence on a connection after which its other end is asked whether it is still there.",
    )
    keepalive_timeout_s: Annotated[float, Field(ge=1)] = Field(
        10.0, description="Seconds to wait for its answer, or for a new connection."
    )
    tls: GuardTls = Field(GuardTls(), description="Transport security.")
    canary: CanarySettings = Field(CanarySettings(), description="A new version that answers a share of the requests.")

    @property
    def over_http(self) -> bool:
        """Whether Triton is spoken to over HTTP; otherwise over gRPC."""
        return self.url.startswith(("http://", "https://"))

    @property
    def address(self) -> str:
        """`url` without its scheme: host:port, or, for gRPC, any name that it can resolve."""
        return self.url.removeprefix("grpc://") if not self.over_http else urlsplit(self.url).netloc

    @model_validator(mode="after")
    def _address_is_one(self) -> GuardSettings:
        if not self.over_http:
            return self
        if not self.url.isascii() or not self.url.isprintable() or " " in self.url:
            raise ValueError("guard.url has characters that no address has")
        parts = urlsplit(self.url)
        if not parts.hostname or parts.path not in ("", "/") or parts.query or parts.fragment or "@" in parts.netloc:
            raise ValueError("guard.url must be scheme://host:port and nothing more")
        try:
            _ = parts.port
        except ValueError:
            raise ValueError("guard.url has no valid port") from None
        if self.tls.active and parts.scheme == "http":
            raise ValueError("guard.tls needs https:// or grpc:// in guard.url")
        return self

    @model_validator(mode="after")
    def _canary_is_another(self) -> GuardSettings:
        canary = self.canary_guard()
        if canary is None or (canary.url, canary.model) != (self.url, self.model):
            return self
        if not self.version or not canary.version or self.version == canary.version:
            raise ValueError(
                "a canary on the same model needs two pins, guard.version and guard.canary.version: without one, Triton answers with "
                "the highest version that is loaded"
            )
        return self

    def canary_guard(self) -> GuardSettings | None:
        """The settings of the canary's own client; None without a canary."""
        canary = self.canary
        if not canary.active:
            return None
        its = {"url": canary.url or self.url, "model": canary.model or self.model, "version": canary.version}
        return self.model_copy(update={**its, "canary": CanarySettings()})


class CacheSettings(BaseModel):
    """Content that was judged already: the same prompt and pictures under the same policy by the same model."""

    enabled: bool = Field(
        True, description="Judge the same content once. The verdicts that were not paid for say `cached`."
    )
    max_entries: Annotated[int, Field(ge=1, le=10_000_000)] = Field(
        10_000, description="Answers kept; the one not used for longest goes first."
    )
    max_bytes: Annotated[int, Field(ge=65_536)] = Field(
        33_554_432, description="Bytes of memory for kept answers, about."
    )
    ttl_s: Annotated[float, Field(gt=0)] | None = Field(
        3600.0,
        description="Seconds for which an answer is kept; null for no limit. A new model is noticed at its first answer, which a "
        "stream of nothing but repeats would never ask for.",
    )
    share_between_tenants: bool = Field(
        False,
        description="Give tenants with the same policy each other's answers. A tenant could then tell from the times whether "
        "another one had the same content.",
    )
