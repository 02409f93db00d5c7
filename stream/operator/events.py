"""`proguard-stream events`: content events for the service to judge."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from stream.errors import ConfigurationError
from stream.operator.kafka import (
    BootstrapOption,
    ConfigOption,
    Reasons,
    open_producer,
    require_topics,
    settings_for_kafka,
)
from stream.operator.output import JsonFlag, complain, emit_json, err, out
from stream.operator.sending import OutgoingRecord, SendReport, records_of, send

app = typer.Typer(no_args_is_help=True, help="Send content events.")

_LINGER_MS = 5
"""librdkafka's own default: a file is sent in large requests."""


@app.command("send")
def send_events(
    file: Annotated[Path, typer.Argument(metavar="FILE|-", help="One record a line; - for standard input.")],
    rate: Annotated[
        float | None, typer.Option(min=0.001, help="Records a second; as fast as it goes if unset.")
    ] = None,
    config: ConfigOption = None,
    bootstrap_servers: BootstrapOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Send each line of FILE as one record, unchanged, and wait until Kafka has them.

    Unreadable lines are sent too, and become dead letters. Exit status 1 when Kafka refused a record.
    """
    settings = settings_for_kafka(config, bootstrap_servers)
    reasons = Reasons()
    producer = open_producer(settings.kafka, _LINGER_MS, reasons)
    require_topics(producer, settings.kafka, reasons, [settings.topics.content])
    with _opened(file) as lines, _progress(shown=not as_json) as progress:
        task = progress.add_task("records", total=_size(lines), count=0)
        report = send(
            producer,
            settings.topics.content,
            _counted(records_of(lines), lambda size: progress.advance(task, size)),
            rate=rate,
            on_sent=lambda count: progress.update(task, count=count),
        )
    _tell(report, settings.topics.content, as_json=as_json)
    if report.failed:
        raise typer.Exit(1)


def _tell(report: SendReport, topic: str, *, as_json: bool) -> None:
    if as_json:
        emit_json({"topic": topic, **report.as_json()})
        return
    out().print(
        f"{report.records} records sent to {topic}; {report.unreadable} unreadable, {report.failed} refused",
        markup=False,
    )
    for line, reason in report.failures:
        complain(f"line {line}: {reason}")


@contextmanager
def _opened(file: Path) -> Iterator[BinaryIO]:
    if str(file) == "-":
        yield sys.stdin.buffer
        return
    try:
        lines = file.open("rb")
    except OSError as error:
        raise ConfigurationError(f"cannot read {file}: {error.strerror}") from error
    with lines:
        yield lines


def _size(lines: BinaryIO) -> int | None:
    """Bytes of a file, None of a pipe."""
    try:
        status = os.fstat(lines.fileno())
    except (OSError, ValueError):
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _counted(records: Iterable[OutgoingRecord], on_bytes: Callable[[int], object]) -> Iterator[OutgoingRecord]:
    for record in records:
        yield record
        on_bytes(len(record.value) + 1)


@contextmanager
def _progress(*, shown: bool) -> Iterator[Progress]:
    """A bar over the file's bytes, on a terminal only."""
    console = err()
    columns = (BarColumn(), TextColumn("{task.fields[count]} {task.description} sent"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not (shown and console.is_terminal)) as progress:
        yield progress
