"""The client of a guard on Triton, over the protocol that its address names."""

from __future__ import annotations

from schemas.policy import Policy
from stream.guard.backend import Guard
from stream.guard.settings import GuardSettings


def triton_guard(settings: GuardSettings, probe_policy: Policy) -> Guard:
    """A client of one model on one Triton. Create it inside the running loop; probes ask under `probe_policy`.

    Raises `ConfigurationError` for a certificate that cannot be read.
    """
    # Only one of them is loaded: gRPC alone is 20 MB and a third of a second.
    if settings.over_http:
        from stream.guard.triton_http import TritonHttpGuard

        return TritonHttpGuard(settings, probe_policy)
    from stream.guard.triton_grpc import TritonGrpcGuard

    return TritonGrpcGuard(settings, probe_policy)
