"""Kafka for the commands: clients from the worker's own settings, quick to say that nobody is there."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient, ClusterMetadata, TopicMetadata

from stream.clock import Clock, Deadline, SystemClock
from stream.errors import ProGuardStreamError
from stream.settings import KafkaSettings, WorkerSettings, load_settings

REACH_S = 5.0
"""Seconds within which a broker has to answer a command."""

SETTLE_S = 2.0
"""Seconds within which every broker knows a topic that was just made."""

DELIVERY_S = 60.0
"""Seconds within which a record has to be acknowledged: a person waits, so it is less patient than the worker."""

ConfigOption = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="Settings file, in the place of PROGUARD_CONFIG.")
]
BootstrapOption = Annotated[
    str | None,
    typer.Option("--bootstrap-servers", help="Brokers, in the place of PROGUARD_KAFKA__BOOTSTRAP_SERVERS."),
]


class KafkaUnreachableError(ProGuardStreamError):
    """No broker answered, or none that takes us. The message says what librdkafka saw."""


class TopicMissingError(ProGuardStreamError):
    """A topic that the command needs does not exist."""


class Reasons:
    """What librdkafka reports beside its answers: without it, an unreachable broker is only "transport failure"."""

    def __init__(self) -> None:
        self._seen: dict[str, None] = {}

    def note(self, error: KafkaError) -> None:
        """The `error_cb` of a client."""
        if error.code() != KafkaError._ALL_BROKERS_DOWN:
            self._seen[error.str()] = None

    def latest(self) -> str | None:
        return next(reversed(self._seen), None)


def settings_for_kafka(config: Path | None, bootstrap_servers: str | None) -> WorkerSettings:
    """The settings of a command that takes two flags of them. Raises `ConfigurationError`."""
    if bootstrap_servers is None:
        return load_settings(config=config)
    return load_settings(config=config, kafka={"bootstrap_servers": bootstrap_servers})


def open_admin(settings: KafkaSettings, reasons: Reasons) -> AdminClient:
    """Raises `KafkaUnreachableError` when a property is not one; talks to nobody yet."""
    try:
        return AdminClient({**settings.common(), **_quiet(reasons)})
    except KafkaException as error:
        raise _not_configured(error) from None


def open_producer(settings: KafkaSettings, linger_ms: int, reasons: Reasons) -> Producer:
    """The worker's producer, as safe as its own, that gives a record up after `DELIVERY_S`."""
    patience = {"delivery.timeout.ms": int(DELIVERY_S * 1000)}
    try:
        return Producer({**settings.producer(linger_ms), **patience, **_quiet(reasons)})
    except KafkaException as error:
        raise _not_configured(error) from None


def open_transactional(settings: KafkaSettings, transactional_id: str, reasons: Reasons) -> Producer:
    """The worker's transactional producer under another id, ready for transactions; an older holder of the id is fenced.

    Blocks for at most `DELIVERY_S`. Raises `KafkaUnreachableError`.
    """
    properties = settings.transactional_producer(transactional_id, int(DELIVERY_S * 1000))
    try:
        producer = Producer({**properties, **_quiet(reasons)})
    except KafkaException as error:
        raise _not_configured(error) from None
    try:
        producer.init_transactions(DELIVERY_S)
    except KafkaException as error:
        raise KafkaUnreachableError(f"cannot begin transactions: {error.args[0].str()}") from None
    return producer


READER_GROUP = "proguard-stream-reader"
"""librdkafka wants a name; without subscribe or commit no broker sees it."""


def open_reader(
    settings: KafkaSettings, reasons: Reasons, *, group: str = READER_GROUP, to_end: bool = False
) -> Consumer:
    """A consumer for assigned partitions: it joins no group and commits nothing by itself.

    With `to_end`, reaching the end of a partition is an event of its own, and a position that is gone becomes the beginning.
    """
    reading = {
        "group.id": group,
        "enable.partition.eof": to_end,
        "auto.offset.reset": "earliest" if to_end else "latest",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "isolation.level": "read_committed",
        "fetch.wait.max.ms": 100,
    }
    try:
        return Consumer({**settings.common(), **reading, **_quiet(reasons)})
    except KafkaException as error:
        raise _not_configured(error) from None


def cluster(
    client: AdminClient | Producer | Consumer, settings: KafkaSettings, reasons: Reasons, timeout: float = REACH_S
) -> ClusterMetadata:
    """Brokers and topics, as the cluster tells them. Blocks for at most `timeout` seconds; raises `KafkaUnreachableError`."""
    try:
        found = client.list_topics(timeout=timeout)
    except KafkaException as error:
        client.poll(0)  # only this hands over what librdkafka has reported meanwhile
        detail = reasons.latest() or error.args[0].str()
        raise KafkaUnreachableError(
            f"no broker at {settings.bootstrap_servers} answered in {timeout:g} s: {detail}"
        ) from None
    assert isinstance(found, ClusterMetadata)
    return found


def existing(metadata: ClusterMetadata, topic: str) -> TopicMetadata | None:
    """The topic, if the cluster has it and says so without an error."""
    found = metadata.topics.get(topic)
    return found if found is not None and found.error is None else None


def require_topics(
    client: AdminClient | Producer | Consumer,
    settings: KafkaSettings,
    reasons: Reasons,
    names: Iterable[str],
    clock: Clock | None = None,
) -> ClusterMetadata:
    """The cluster, once it has these topics. Raises `TopicMissingError` that says how to make the ones it has not.

    Brokers learn of a new topic a moment after it was made, so this waits up to `SETTLE_S` seconds for it.
    """
    deadline = Deadline(clock or SystemClock(), SETTLE_S)
    while True:
        metadata = cluster(client, settings, reasons)
        missing = [name for name in names if existing(metadata, name) is None]
        if not missing:
            return metadata
        if deadline.remaining() <= 0:
            raise TopicMissingError(
                f"there is no topic {', '.join(missing)}: make it with `proguard-stream topics create`"
            )
        client.poll(0.1)


def _quiet(reasons: Reasons) -> dict[str, object]:
    # Log lines would break `--json` on a terminal that shows both streams; what they say comes by `error_cb`.
    return {"error_cb": reasons.note, "log_level": 0}


def _not_configured(error: KafkaException) -> KafkaUnreachableError:
    return KafkaUnreachableError(f"the Kafka settings make no client: {error.args[0].str()}")
