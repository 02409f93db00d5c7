"""Why the guard gave no answer.

GuardError
├── GuardUnavailableError   nobody is there: wait for it and try again
├── GuardTimeoutError       it is there and did not answer in time
└── GuardRefusedError       it answered with an error that another try will not change
"""

from __future__ import annotations

from stream.errors import ProGuardStreamError


class GuardError(ProGuardStreamError):
    """The guard gave no answer. `status` is gRPC's name of the server's status, where there is one, over HTTP too; the text never holds content."""

    def __init__(self, detail: str, status: str = "") -> None:
        super().__init__(detail)
        self.status = status


class GuardUnavailableError(GuardError):
    """The server is down, restarting, or has not loaded the model."""


class GuardTimeoutError(GuardError):
    """The server took the request and did not answer within the timeout."""


class GuardRefusedError(GuardError):
    """The server will not answer this request: it is malformed for it, or makes the model fail."""
