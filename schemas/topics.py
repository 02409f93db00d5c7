"""The topics: their default names, and what is fixed about each however it is called.

This is the one place that knows them. Settings take their defaults from `DEFAULT_TOPICS`, `topics create` its clean-up
policies from `TOPIC_CONTRACTS`, and the AsyncAPI document is generated from both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Topics:
    """Where each contract travels. An installation may rename any of them."""

    content: str = "content.events"
    verdicts: str = "moderation.verdicts"
    ood: str = "moderation.ood"
    emerging_risks: str = "moderation.emerging-risks"
    policies: str = "moderation.policies"
    dead_letters: str = "moderation.dead-letters"
    shadow: str = "moderation.shadow"


DEFAULT_TOPICS = Topics()


class Cleanup(StrEnum):
    """Kafka's `cleanup.policy`. A compacted topic keeps the last record of a key; a null value deletes the key."""

    DELETE = "delete"
    COMPACT = "compact"


@dataclass(frozen=True, slots=True)
class TopicContract:
    """What every installation of a topic has in common. `key` is for people: what the record's key holds."""

    key: str
    cleanup: Cleanup
    summary: str


TOPIC_CONTRACTS: Mapping[str, TopicContract] = MappingProxyType(
    {
        "content": TopicContract(
            "Content id or thread id. Verdicts of one key keep the order in which its events arrived.",
            Cleanup.DELETE,
            "Content to be judged.",
        ),
        "verdicts": TopicContract("The input record's key.", Cleanup.DELETE, "One verdict per readable event."),
        "ood": TopicContract("Tenant.", Cleanup.DELETE, "Verdicts whose risk fits no category of the policy, by name."),
        "emerging_risks": TopicContract("Risk id.", Cleanup.COMPACT, "Clusters of named risks and how they grow."),
        "policies": TopicContract(
            "Tenant, or `default`.",
            Cleanup.COMPACT,
            "The live policies; a worker loads all of them before its first event.",
        ),
        "dead_letters": TopicContract(
            "The input record's key.",
            Cleanup.DELETE,
            "Events that could not be read or not be judged: original bytes and headers, with the reason.",
        ),
        "shadow": TopicContract(
            "The input record's key.", Cleanup.DELETE, "Verdicts of challenger models and draft policies."
        ),
    }
)
"""By the field of `Topics`."""
