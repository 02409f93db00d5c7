"""Where policies come from. Today the packaged default or files; a live topic fits behind the same seam."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from pydantic import ValidationError

from schemas.events import Modality
from schemas.policy import Category, Policy, SubCategory, default_policy
from schemas.prompt import SystemPrompt
from schemas.verdicts import PolicyRef
from stream.errors import ConfigurationError

DEFAULT_TENANT = "default"


@dataclass(frozen=True, slots=True)
class LivePolicy:
    """A policy with everything that is derived from it, made once: an event keeps the one it started with."""

    policy: Policy
    ref: PolicyRef
    index: Mapping[str, tuple[Category, SubCategory | None]]
    systems: Mapping[Modality, SystemPrompt]

    @classmethod
    def of(cls, policy: Policy) -> LivePolicy:
        return cls(
            policy=policy,
            ref=PolicyRef(name=policy.name, version=policy.version, digest=policy.digest),
            index=MappingProxyType(policy.index),
            systems=MappingProxyType({modality: SystemPrompt(policy, modality) for modality in Modality}),
        )


class Policies(Protocol):
    """The set in force."""

    def for_tenant(self, tenant: str) -> LivePolicy:
        """The tenant's policy, or the default one. Never blocks, never fails."""
        ...


class FixedPolicies:
    """A set that does not change while the process lives."""

    def __init__(self, default: Policy, tenants: Mapping[str, Policy] | None = None) -> None:
        self._default = LivePolicy.of(default)
        self._tenants = {tenant: LivePolicy.of(policy) for tenant, policy in (tenants or {}).items()}

    def for_tenant(self, tenant: str) -> LivePolicy:
        return self._tenants.get(tenant, self._default)


def load_policies(path: Path | None) -> FixedPolicies:
    """The packaged default without a path; one policy from a file; from a folder `default.json` and one file a tenant.

    Raises `ConfigurationError` that names the file and the field.
    """
    if path is None:
        return FixedPolicies(default_policy())
    if path.is_dir():
        found = {file.stem: read_policy(file) for file in sorted(path.glob("*.json"))}
        if DEFAULT_TENANT not in found:
            raise ConfigurationError(
                f"{path} has no default.json: tenants without a policy of their own would have none"
            )
        default = found.pop(DEFAULT_TENANT)
        return FixedPolicies(default, found)
    return FixedPolicies(read_policy(path))


def read_policy(path: Path) -> Policy:
    """One policy from a JSON file. Raises `ConfigurationError` with every field that is wrong."""
    try:
        return Policy.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigurationError(f"cannot read the policy {path}: {error.strerror}") from error
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc'])) or 'policy'}: {fault['msg']}" for fault in error.errors()
        )
        raise ConfigurationError(f"the policy {path} is not valid: {faults}") from error
