"""tritonclient's own client, for questions and orders that a guard has no method for."""

from __future__ import annotations

from tritonclient.grpc.aio import InferenceServerClient

from stream.errors import ConfigurationError
from stream.guard.settings import GuardSettings


def grpc_client(settings: GuardSettings) -> InferenceServerClient:
    """Create it inside the running loop, where `guard.url` is an address of gRPC. Raises `ConfigurationError` for a certificate that
    cannot be read."""
    tls = settings.tls
    try:
        return InferenceServerClient(
            settings.address,
            ssl=tls.active,
            root_certificates=None if tls.root_certificates is None else str(tls.root_certificates),
            private_key=None if tls.private_key is None else str(tls.private_key),
            certificate_chain=None if tls.certificate_chain is None else str(tls.certificate_chain),
        )
    except OSError as error:
        raise ConfigurationError(f"cannot read {error.filename}: {error.strerror}") from error
