"""`proguard-stream topics`: the topics of an installation."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Annotated

import typer
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic
from rich.table import Table

from stream.operator.kafka import (
    REACH_S,
    BootstrapOption,
    ConfigOption,
    Reasons,
    TopicMissingError,
    cluster,
    open_admin,
    require_topics,
    settings_for_kafka,
)
from stream.operator.output import JsonFlag, cell, emit_json, note, out
from stream.operator.topic_plan import WantedTopic, differences, found_topics, wanted_topics
from stream.settings import KafkaSettings, WorkerSettings

PARTITIONS = 12
"""Partitions of a new topic: the most workers that can share one, and it divides well."""

CREATE_S = 20.0
"""Seconds for a cluster to lay out its topics."""

app = typer.Typer(no_args_is_help=True, help="Create the topics that the service reads and writes.")

_STYLES = {"created": "green", "would create": "cyan", "exists": "", "differs": "yellow", "failed": "bold red"}


@dataclass(frozen=True, slots=True)
class TopicResult:
    """What became of one wanted topic: `created`, `would create`, `exists`, `differs` or `failed`."""

    topic: WantedTopic
    state: str
    details: tuple[str, ...] = ()

    def as_json(self) -> dict[str, object]:
        wanted = self.topic
        return {
            "role": wanted.role,
            "name": wanted.name,
            "state": self.state,
            "details": list(self.details),
            "wanted": {
                "partitions": wanted.partitions,
                "replication_factor": None if wanted.replication_factor < 0 else wanted.replication_factor,
                "config": dict(wanted.config),
            },
        }


def create_topics(
    settings: WorkerSettings, *, partitions: int | None = None, replication_factor: int = -1, dry_run: bool = False
) -> list[TopicResult]:
    """Create what is missing, change nothing that exists. A dry run asks the broker whether it would agree.

    Without `partitions`, new topics get `PARTITIONS` and existing ones may have any number.

    Blocks for `REACH_S` and then `CREATE_S` seconds at most, and until brokers know the new topics. Raises `KafkaUnreachableError`;
    what the brokers refuse is a result.
    """
    kafka: KafkaSettings = settings.kafka
    reasons = Reasons()
    admin = open_admin(kafka, reasons)
    plan = wanted_topics(settings, partitions or PARTITIONS, replication_factor)
    found = found_topics(admin, cluster(admin, kafka, reasons), [topic.name for topic in plan])
    made = _request(admin, [topic for topic in plan if topic.name not in found], dry_run=dry_run)
    made_or_met = [name for name, result in made.items() if result.state in ("created", "exists")]
    if made_or_met:
        # What comes next may use them at once. One that somebody else made a moment ago is looked at too.
        with contextlib.suppress(TopicMissingError):
            metadata = require_topics(admin, kafka, reasons, made_or_met)
            found |= found_topics(admin, metadata, [name for name in made_or_met if made[name].state == "exists"])
    results = []
    for topic in plan:
        if topic.name in found:
            details = tuple(differences(topic, found[topic.name], with_partitions=partitions is not None))
            results.append(TopicResult(topic, "differs" if details else "exists", details))
        else:
            results.append(made[topic.name])
    return results


def _request(admin: AdminClient, missing: list[WantedTopic], *, dry_run: bool) -> dict[str, TopicResult]:
    if not missing:
        return {}
    requests = [
        NewTopic(
            topic.name,
            num_partitions=topic.partitions,
            replication_factor=topic.replication_factor,
            config=dict(topic.config),
        )
        for topic in missing
    ]
    answers = admin.create_topics(
        requests, operation_timeout=CREATE_S, request_timeout=CREATE_S + REACH_S, validate_only=dry_run
    )
    return {topic.name: _result(topic, answers[topic.name], dry_run=dry_run) for topic in missing}


def _result(topic: WantedTopic, answer: object, *, dry_run: bool) -> TopicResult:
    try:
        answer.result(CREATE_S + 2 * REACH_S)  # type: ignore[attr-defined]
    except KafkaException as error:
        fault: KafkaError = error.args[0]
        if fault.code() == KafkaError.TOPIC_ALREADY_EXISTS:
            return TopicResult(topic, "exists")
        return TopicResult(topic, "failed", (fault.str(),))
    except TimeoutError:
        return TopicResult(topic, "failed", ("the brokers did not answer in time",))
    return TopicResult(topic, "would create" if dry_run else "created")


@app.command("create")
def create(
    partitions: Annotated[
        int | None, typer.Option(min=1, max=10_000, help=f"Partitions of each new topic; {PARTITIONS} if not given.")
    ] = None,
    replication_factor: Annotated[
        int | None, typer.Option(min=1, max=32, help="Copies of each new topic; the brokers' default if not given.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Ask the brokers, create nothing.")] = False,
    config: ConfigOption = None,
    bootstrap_servers: BootstrapOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Create the topics that are missing, and tell where existing ones differ. Never changes a topic that exists.

    Exit status 1 when a topic could not be created.
    """
    results = create_topics(
        settings_for_kafka(config, bootstrap_servers),
        partitions=partitions,
        replication_factor=replication_factor or -1,
        dry_run=dry_run,
    )
    if as_json:
        emit_json({"dry_run": dry_run, "topics": [result.as_json() for result in results]})
    else:
        table = Table("topic", "state", "details", box=None, pad_edge=False, header_style="dim")
        for result in results:
            details = "; ".join(result.details) or ("" if result.state == "exists" else _layout(result.topic))
            table.add_row(cell(result.topic.name), cell(result.state, _STYLES[result.state]), cell(details))
        out().print(table)
        if any(result.state == "differs" for result in results):
            note("existing topics are left as they are; change them with kafka-configs.sh or kafka-topics.sh")
    if any(result.state == "failed" for result in results):
        raise typer.Exit(1)


def _layout(topic: WantedTopic) -> str:
    return ", ".join([f"{topic.partitions} partitions", *(f"{name}={value}" for name, value in topic.config.items())])
