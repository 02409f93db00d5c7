"""Why a command on models could not do its work."""

from __future__ import annotations

from stream.errors import ProGuardStreamError


class ModelControlError(ProGuardStreamError):
    """Triton could not be asked, or refused. The message has Triton's reason."""


class ModelRepositoryError(ProGuardStreamError):
    """The model repository's files are not as they have to be. The message says what to do."""
