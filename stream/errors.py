"""The tree of errors that the service raises on purpose.

    ProGuardStreamError
    ├── ConfigurationError     a setting, file or policy is wrong: nothing was started
    ├── EventError             one event cannot go on; carries the closed-list reason for its dead letter
    ├── GuardError             the guard gave no answer (see stream.guard.errors)
    ├── DeliveryError          Kafka did not take a record: its offset is not committed
    │   └── StuckClientError   the Kafka client hangs in a call: only the end of the process frees it
    ├── ModelControlError      Triton could not be asked about its models, or refused (see stream.operator.models.errors)
    ├── ModelRepositoryError   the model repository's files are not as they have to be (there too)
    └── DevkitError            a child process of the development kit did not start or stop

Each carries its context as attributes, so that a log line can be structured and never needs the message parsed.
"""

from __future__ import annotations

from schemas.deadletters import Reason


class ProGuardStreamError(Exception):
    """Root of the tree. Catch this to catch everything the service raises on purpose."""


class ConfigurationError(ProGuardStreamError):
    """A setting, a file or a policy is wrong. The message says which one and what to do."""


class EventError(ProGuardStreamError):
    """One event cannot go further.

    `reason` is from the closed list of `schemas.deadletters.Reason`; `detail` is for operators and never holds content.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail


class DeliveryError(ProGuardStreamError):
    """Kafka refused a record for good. The offset behind it stays uncommitted, so nothing is lost."""

    def __init__(self, topic: str, detail: str) -> None:
        super().__init__(f"could not write to {topic}: {detail}")
        self.topic = topic
        self.detail = detail


class StuckClientError(DeliveryError):
    """A call of the Kafka client has not returned, and its thread cannot be stopped. Whoever owns the process has to end it."""


class DevkitError(ProGuardStreamError):
    """A part of the development kit could not be started or stopped; the message says what to install or look at."""
