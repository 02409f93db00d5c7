"""What codes of the Kafka client mean to the consumer's thread."""

from __future__ import annotations

from confluent_kafka import KafkaError, Message

from stream.worker.partitions import TopicPartition

PASSING = frozenset(
    {
        KafkaError._TIMED_OUT,
        KafkaError._TIMED_OUT_QUEUE,
        KafkaError._TRANSPORT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._WAIT_COORD,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_COORDINATOR,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
    }
)
"""What a broker's restart looks like from here, whether the client calls it retriable or not."""

NOT_OURS_ANY_MORE = frozenset(
    {
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError.STALE_MEMBER_EPOCH,
        KafkaError.FENCED_MEMBER_EPOCH,
        KafkaError._ASSIGNMENT_LOST,
        KafkaError._STATE,
    }
)
"""Why a commit is refused to a member whose partitions went to somebody else."""


def lost_its_place(message: Message) -> TopicPartition | None:
    """The partition that the client does not read on by itself, if that is what this is.

    With `auto.offset.reset=error` it tells of an offset that the broker does not have, and of a log that it takes to have been cut
    off. The latter may be no more than a leader's change while it fetches: librdkafka (2.16, `OffsetForLeaderEpoch`) compares the end
    of the epoch that it asked about with how far it has fetched by the time of the answer. With any other policy it then jumps there
    and says nothing, past all that it had fetched and not yet given out.
    """
    error, topic, partition = message.error(), message.topic(), message.partition()
    if error is None or error.code() != KafkaError._AUTO_OFFSET_RESET or topic is None or partition is None:
        return None
    return topic, partition
