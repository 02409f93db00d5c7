"""What can be looked at without the network: the policy and the health port."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path

from stream.errors import ConfigurationError
from stream.operator.checks.result import Check, fail, ok, warn
from stream.policies.source import DEFAULT_TENANT, load_policies
from stream.settings import HealthSettings

_ASK_S = 1.0


def policy_check(path: Path | None) -> Check:
    """Whether the policies can be loaded, and which one tenants without their own get."""
    try:
        live = load_policies(path).for_tenant(DEFAULT_TENANT)
    except ConfigurationError as error:
        return fail("policy", str(error), "proguard-stream policy validate FILE names every field that is wrong")
    policy = live.policy
    children = sum(len(category.subcategories) for category in policy.categories)
    detail = f"{policy.name} {policy.version}, {len(policy.categories)} categories and {children} sub-categories"
    if path is not None and path.is_dir():
        detail += f", {len(list(path.glob('*.json'))) - 1} tenants with their own"
    return ok("policy", f"{detail}, digest {policy.digest}")


def port_check(settings: HealthSettings) -> Check:
    """Whether a worker could listen here. One that runs already is worth a remark, anything else is in the way."""
    place = f"{settings.host}:{settings.port}"
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        with socket.socket(family, kind, protocol) as probe:
            # As the worker's own server does: a port that a worker has just left counts as free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if _is_worker(settings):
            return warn("health port", f"a worker is running at {place}", "nothing, if it is meant to")
        fix = "end what listens there, or set PROGUARD_HEALTH__HOST and PROGUARD_HEALTH__PORT (0 for any free port)"
        return fail("health port", f"{place}: {error.strerror}", fix)
    return ok("health port", f"{place} is free")


def _is_worker(settings: HealthSettings) -> bool:
    host = "127.0.0.1" if settings.host in ("", "0.0.0.0", "::") else settings.host  # noqa: S104 - compared, not bound
    connection = http.client.HTTPConnection(host, settings.port, timeout=_ASK_S)
    try:
        connection.request("GET", "/live")
        answer = json.loads(connection.getresponse().read(4096))
    except (OSError, ValueError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return isinstance(answer, dict) and "polls" in answer
