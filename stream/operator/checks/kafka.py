"""Is Kafka there, with topics that can hold what the service writes?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from confluent_kafka import (
    ConsumerGroupState,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, ClusterMetadata, OffsetSpec

from stream.operator.checks.result import Check, fail, not_checked, ok, warn
from stream.operator.kafka import REACH_S, KafkaUnreachableError, Reasons, cluster, existing, open_admin
from stream.operator.topic_plan import (
    CLEANUP,
    MAX_BYTES,
    FoundTopic,
    WantedTopic,
    dead_letter_bytes,
    found_topics,
    wanted_topics,
)
from stream.settings import WorkerSettings

_CREATE = "proguard-stream topics create"
_ASK_AGAIN = (
    "ask again: a new cluster makes its group coordinator when it is first asked; else look at the brokers' log"
)
_NO_COORDINATOR = frozenset(
    {
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.NOT_COORDINATOR,
        KafkaError._TIMED_OUT,
    }
)


def kafka_checks(settings: WorkerSettings) -> list[Check]:
    """Brokers, topics, sizes and the consumer group. Each question waits `REACH_S` at most; raises nothing on purpose."""
    reasons = Reasons()
    plan = wanted_topics(settings, partitions=1, replication_factor=-1)
    names = [f"topic {topic.name}" for topic in plan]
    try:
        admin = open_admin(settings.kafka, reasons)
        metadata = cluster(admin, settings.kafka, reasons)
    except KafkaUnreachableError as error:
        fix = "start Kafka, or set PROGUARD_KAFKA__BOOTSTRAP_SERVERS and, for TLS or SASL, PROGUARD_KAFKA__PROPERTIES"
        rest = [*names, "dead letter size", f"group {settings.kafka.group_id}"]
        return [fail("kafka", str(error), fix), *(not_checked(name, "Kafka does not answer") for name in rest)]
    brokers = len(metadata.brokers)
    found = found_topics(admin, metadata, [topic.name for topic in plan])
    return [
        ok("kafka", f"{brokers} broker{'s' if brokers != 1 else ''} at {settings.kafka.bootstrap_servers}"),
        *(_topic(topic, found.get(topic.name), brokers) for topic in plan),
        _sizes(settings, found),
        _group(admin, settings, metadata),
    ]


def _topic(wanted: WantedTopic, found: FoundTopic | None, brokers: int) -> Check:
    name = f"topic {wanted.name}"
    if found is None:
        return fail(name, "it does not exist", _CREATE)
    details = [
        f"{found.partitions} partition{'s' if found.partitions != 1 else ''}",
        f"replication {found.replication_factor}",
    ]
    details += [f"{key}={value}" for key, value in found.config.items()]
    detail = ", ".join(details)
    if not found.config:
        return warn(name, f"{detail}; its configuration may not be read", "allow DescribeConfigs on the topic")
    cleanup = found.config.get(CLEANUP)
    if cleanup is not None and cleanup != wanted.config[CLEANUP]:
        loss = "Kafka removes records that share a key" if "compact" in cleanup else "Kafka removes old records"
        return fail(name, f"{detail}; {loss}", f"set {CLEANUP}={wanted.config[CLEANUP]} on {wanted.name}")
    if found.replication_factor == 1 and brokers > 1:
        return warn(name, f"{detail}; one lost broker loses it", "raise the topic's replication factor to 3")
    return ok(name, detail)


def _sizes(settings: WorkerSettings, found: Mapping[str, FoundTopic]) -> Check:
    """A dead letter holds the whole record: one that does not fit would stop the worker at that record, again and again."""
    name = "dead letter size"
    letters, content = found.get(settings.topics.dead_letters), found.get(settings.topics.content)
    if letters is None or letters.max_bytes is None:
        return not_checked(name, f"{settings.topics.dead_letters} or its configuration is not there")
    limit = 2 * settings.limits.max_event_bytes
    if letters.max_bytes < limit:
        return fail(
            name,
            f"{MAX_BYTES} of {letters.name} is {letters.max_bytes}; events of limits.max_event_bytes need {limit}",
            f"set {MAX_BYTES}={limit} or more on {letters.name}",
        )
    if content is None or content.max_bytes is None:
        return not_checked(name, f"{settings.topics.content} or its configuration is not there")
    producer = settings.kafka.producer(0)["message.max.bytes"]
    room = min(letters.max_bytes, int(producer))
    needed = dead_letter_bytes(content.max_bytes)
    if needed > room:
        return fail(
            name,
            f"{content.name} takes records of {content.max_bytes} bytes, whose dead letters of {needed} do not fit into {room}",
            f"set {MAX_BYTES} of {letters.name} to {needed} or more, or lower that of {content.name}",
        )
    return ok(name, f"records of {content.name} up to {content.max_bytes} bytes fit into {letters.name}")


def _group(admin: AdminClient, settings: WorkerSettings, metadata: ClusterMetadata) -> Check:
    group = settings.kafka.group_id
    name = f"group {group}"
    try:
        found = admin.describe_consumer_groups([group], request_timeout=REACH_S)[group].result(REACH_S)
        lag = sum(_lags(admin, settings, metadata))
    except KafkaException as error:
        fault: KafkaError = error.args[0]
        if fault.code() == KafkaError.GROUP_ID_NOT_FOUND:
            return ok(name, "no worker has joined it yet")
        if fault.code() not in _NO_COORDINATOR:
            return warn(name, fault.str(), "allow Describe on the group, or look at the brokers' log")
        return warn(name, fault.str(), _ASK_AGAIN)
    except TimeoutError:
        return warn(name, f"no answer in {REACH_S:g} s", _ASK_AGAIN)
    if found.state in (ConsumerGroupState.DEAD, ConsumerGroupState.EMPTY):
        waiting = f"{lag} events wait" if lag else "nothing waits"
        detail = f"no worker is in it; {waiting}"
        return warn(name, detail, "start a worker: proguard-stream worker") if lag else ok(name, detail)
    members = len(found.members)
    return ok(name, f"{found.state.name.lower()}, {members} worker{'s' if members != 1 else ''}, {lag} events wait")


def _lags(admin: AdminClient, settings: WorkerSettings, metadata: ClusterMetadata) -> Iterator[int]:
    """Records of the content topic behind each commit of the group. Partitions without a commit count from their beginning."""
    topic = existing(metadata, settings.topics.content)
    if topic is None:
        return
    partitions = [TopicPartition(settings.topics.content, number) for number in topic.partitions]
    request = ConsumerGroupTopicPartitions(settings.kafka.group_id, partitions)
    answer = admin.list_consumer_group_offsets([request], request_timeout=REACH_S)[settings.kafka.group_id]
    committed = {at.partition: at.offset for at in answer.result(REACH_S).topic_partitions or []}
    ends = admin.list_offsets({at: OffsetSpec.latest() for at in partitions}, request_timeout=REACH_S)
    starts = admin.list_offsets({at: OffsetSpec.earliest() for at in partitions}, request_timeout=REACH_S)
    for at in partitions:
        begin = committed.get(at.partition, -1)
        if begin < 0:
            begin = starts[at].result(REACH_S).offset
        yield max(0, ends[at].result(REACH_S).offset - begin)
