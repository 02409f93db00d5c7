"""Which topics an installation needs, what is fixed about each, and how an existing one differs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, ClusterMetadata, ConfigResource, ResourceType

from schemas.topics import TOPIC_CONTRACTS
from stream.operator.kafka import REACH_S, existing
from stream.settings import WorkerSettings

TOPICS_IN_USE = ("content", "verdicts", "ood", "dead_letters")
"""By the field of `schemas.topics.Topics`: those that this release reads or writes."""

BROKER_DEFAULT_MAX_BYTES = 1_048_588
"""Kafka's own default for `max.message.bytes`."""

OVERHEAD_BYTES = 65_536
"""Room for key, headers and the fields around a value."""

CLEANUP = "cleanup.policy"
MAX_BYTES = "max.message.bytes"
MIN_ISR = "min.insync.replicas"
_SHOWN = (CLEANUP, MAX_BYTES, MIN_ISR)


@dataclass(frozen=True, slots=True)
class WantedTopic:
    """A topic as `topics create` makes it. `replication_factor` -1 leaves it to the broker."""

    role: str
    name: str
    partitions: int
    replication_factor: int
    config: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class FoundTopic:
    """A topic as the cluster has it. `config` is empty when we may not read it."""

    name: str
    partitions: int
    replication_factor: int
    config: Mapping[str, str] = field(default_factory=dict)

    @property
    def max_bytes(self) -> int | None:
        value = self.config.get(MAX_BYTES, "")
        return int(value) if value.isdigit() else None


def wanted_topics(settings: WorkerSettings, partitions: int, replication_factor: int) -> list[WantedTopic]:
    """The plan for these settings.

    A dead letter holds the whole record in base64, so its topic takes twice what the content topic does: a record that can
    arrive can be put aside.
    """
    names = settings.topics.topics()
    content_bytes = max(BROKER_DEFAULT_MAX_BYTES, settings.limits.max_event_bytes + OVERHEAD_BYTES)
    sizes = {"content": content_bytes, "dead_letters": 2 * content_bytes}
    plan = []
    for role in TOPICS_IN_USE:
        config = {CLEANUP: TOPIC_CONTRACTS[role].cleanup.value}
        if role in sizes:
            config[MAX_BYTES] = str(sizes[role])
        plan.append(WantedTopic(role, getattr(names, role), partitions, replication_factor, config))
    return plan


def found_topics(admin: AdminClient, metadata: ClusterMetadata, names: Iterable[str]) -> dict[str, FoundTopic]:
    """Those of `names` that exist. Blocks for `REACH_S` at most; a configuration that is refused is left empty."""
    present = {name: topic for name in names if (topic := existing(metadata, name)) is not None}
    if not present:
        return {}
    resources = {ConfigResource(ResourceType.TOPIC, name): name for name in present}
    configs: dict[str, dict[str, str]] = {}
    for resource, answer in admin.describe_configs(list(resources), request_timeout=REACH_S).items():
        try:
            entries = answer.result(REACH_S)
        except (KafkaException, TimeoutError):
            continue
        configs[resource.name] = {name: str(entries[name].value) for name in _SHOWN if name in entries}
    return {
        name: FoundTopic(
            name,
            len(topic.partitions),
            min((len(partition.replicas) for partition in topic.partitions.values()), default=0),
            configs.get(name, {}),
        )
        for name, topic in present.items()
    }


def differences(wanted: WantedTopic, found: FoundTopic, *, with_partitions: bool) -> list[str]:
    """How an existing topic is not what `topics create` would make, one short text each.

    A larger `max.message.bytes` is no difference, nor is a number of partitions that nobody asked for.
    """
    texts = []
    if with_partitions and wanted.partitions != found.partitions:
        texts.append(f"{found.partitions} partitions instead of {wanted.partitions}")
    if wanted.replication_factor not in (-1, found.replication_factor):
        texts.append(f"replication factor {found.replication_factor} instead of {wanted.replication_factor}")
    for name, value in wanted.config.items():
        actual = found.config.get(name)
        if actual is None or actual == value:
            continue
        if name == MAX_BYTES:
            if int(actual) < int(value):
                texts.append(f"{name} {actual}, at least {value} is advised")
        elif set(actual.split(",")) != set(value.split(",")):
            texts.append(f"{name} {actual} instead of {value}")
    return texts


def dead_letter_bytes(record_bytes: int) -> int:
    """How large the dead letter of a record can get: base64 is four bytes for three."""
    return math.ceil(record_bytes / 3) * 4 + OVERHEAD_BYTES
