"""From the client's message to the record that the worker carries."""

from __future__ import annotations

import structlog
from confluent_kafka import KafkaError, KafkaException, Message

from stream.worker.records import InputRecord

_log = structlog.get_logger(__name__)


def record_of(message: Message) -> InputRecord | None:
    """The record; None for an error that passes, which is logged. Raises `KafkaException` for a fatal one."""
    error = message.error()
    if error is not None:
        if error.fatal():
            raise KafkaException(error)
        _log.warning("consumer.error", code=error.name(), detail=error.str())
        return None
    topic, partition, offset = message.topic(), message.partition(), message.offset()
    if topic is None or partition is None or offset is None:
        raise KafkaException(KafkaError(KafkaError._BAD_MSG, "a message without coordinates"))
    headers = _headers(message)
    return InputRecord(
        topic=topic,
        partition=partition,
        offset=offset,
        key=_raw(message.key()),
        value=_raw(message.value()),
        headers=headers or (),
        headers_lost=headers is None,
        timestamp_ms=message.timestamp()[1],
    )


def _headers(message: Message) -> tuple[tuple[str, bytes | None], ...] | None:
    """The headers; None when the client cannot give them. Asked for once: after a failure it gives broken objects."""
    try:
        return tuple((name, _raw(value)) for name, value in message.headers() or ())
    except (SystemError, UnicodeDecodeError):
        # confluent-kafka 2.16 decodes names as UTF-8, and raises SystemError where they are not. Anybody can write such a record.
        return None


def _raw(value: str | bytes | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value
