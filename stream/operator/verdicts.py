"""`proguard-stream verdicts`: what the service decided."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import typer
from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, KafkaException, Message, TopicPartition
from pydantic import ValidationError

from schemas.verdicts import Status, Verdict
from stream.operator.kafka import (
    BootstrapOption,
    ConfigOption,
    KafkaUnreachableError,
    Reasons,
    open_reader,
    require_topics,
    settings_for_kafka,
)
from stream.operator.output import JsonFlag, emit_json_line, note, out
from stream.operator.rendering import verdict_row

app = typer.Typer(no_args_is_help=True, help="Look at verdicts.")

_POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A record of the verdicts' topic that is no verdict: where it is, and why."""

    place: str
    reason: str


def follow(
    consumer: Consumer, topic: str, partitions: Sequence[int], *, from_beginning: bool
) -> Iterator[Verdict | Unreadable]:
    """Everything on these partitions, as it arrives; without a group and without commits.

    Blocks in between and never ends by itself. Brokers that come and go are waited for; raises `KafkaUnreachableError` when
    librdkafka has given up for good.
    """
    offset = OFFSET_BEGINNING if from_beginning else OFFSET_END
    consumer.assign([TopicPartition(topic, partition, offset) for partition in partitions])
    while True:
        message = consumer.poll(_POLL_S)
        if message is None:
            continue
        error = message.error()
        if error is None:
            yield _read(message)
        elif error.fatal():
            raise KafkaUnreachableError(f"Kafka: {error.str()}")


def _read(message: Message) -> Verdict | Unreadable:
    try:
        return Verdict.model_validate_json(message.value() or b"")
    except ValidationError as error:
        fault = error.errors(include_input=False, include_url=False)[0]
        field = ".".join(map(str, fault["loc"]))
        place = f"{message.topic()}[{message.partition()}]@{message.offset()}"
        return Unreadable(place, f"{field}: {fault['type']}" if field else fault["type"])


@app.command("tail")
def tail(
    from_beginning: Annotated[
        bool, typer.Option("--from-beginning", help="Start with the oldest verdict instead of the next one.")
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="End after this many verdicts.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None,
    status: Annotated[Status | None, typer.Option(help="Only these.")] = None,
    config: ConfigOption = None,
    bootstrap_servers: BootstrapOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Show verdicts as they arrive, one line each, until Ctrl-C. With --json, each as one JSON line.

    Reads beside the workers and the platform: it joins no group. What is no verdict is mentioned on standard error.
    """
    settings = settings_for_kafka(config, bootstrap_servers)
    reasons = Reasons()
    console = out()
    shown = 0
    consumer = open_reader(settings.kafka, reasons)
    try:
        topic = settings.topics.verdicts
        partitions = sorted(require_topics(consumer, settings.kafka, reasons, [topic]).topics[topic].partitions)
        for found in follow(consumer, topic, partitions, from_beginning=from_beginning):
            if isinstance(found, Unreadable):
                note(f"{found.place} is no verdict: {found.reason}")
                continue
            if (tenant is not None and found.tenant != tenant) or (status is not None and found.status is not status):
                continue
            if as_json:
                emit_json_line(found.model_dump(mode="json"))
            else:
                console.print(verdict_row(found), soft_wrap=True)
            shown += 1
            if shown == limit:
                break
    except KeyboardInterrupt:
        return
    except KafkaException as error:
        raise KafkaUnreachableError(f"Kafka: {error.args[0].str()}") from None
    finally:
        consumer.close()
