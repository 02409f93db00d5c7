"""`proguard-stream redrive`: dead letters back to where they came from, once what made them fail is mended."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated

import typer
from confluent_kafka import KafkaException
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from schemas.deadletters import Reason
from stream.clock import SystemClock
from stream.errors import ConfigurationError
from stream.operator.kafka import (
    BootstrapOption,
    ConfigOption,
    KafkaUnreachableError,
    Reasons,
    open_reader,
    open_transactional,
    require_topics,
    settings_for_kafka,
)
from stream.operator.letters import Filter, RedriveReport, Selection, Stretch, count, letters, stretch
from stream.operator.output import JsonFlag, cell, complain, emit_json, err, note, out
from stream.operator.redriving import Redriver
from stream.settings import WorkerSettings

MAX_ATTEMPTS = 5
_SHOWN = 20
"""Faults that are told one by one; all are counted."""


def redrive(
    reason: Annotated[
        list[Reason] | None, typer.Option(metavar="REASON", help="Only these, e.g. guard_unparsable; may be repeated.")
    ] = None,
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's. Unreadable events have none.")] = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Only what failed at this ISO 8601 time or later; UTC if it says nothing."),
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Only what failed before this time.")] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Send this many at most; the next run goes on there.")
    ] = None,
    rate: Annotated[float | None, typer.Option(min=0.01, help="Events a second; as fast as it goes if unset.")] = None,
    max_attempts: Annotated[
        int, typer.Option(min=2, max=999_999, help="Leave events that have been judged this often.")
    ] = MAX_ATTEMPTS,
    again: Annotated[bool, typer.Option("--again", help="Start at the beginning, whatever was sent before.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count what would be sent; send nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    config: ConfigOption = None,
    bootstrap_servers: BootstrapOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Send dead letters back to the content topic, key, value and headers as they were, to be judged again.

    Reads the dead letters up to their present end. Each event that is sent says in a header which attempt it is (proguard-attempt)
    and of which letter (proguard-redrive-of); its verdict has the event's id and an id of its own, so it replaces none silently.

    Safe to interrupt and to run again: what is sent and how far the run has come are one transaction, kept in the consumer group
    proguard-redrive, for each set of filters (reason, tenant, since, until) in a group of its own. So a second run sends nothing
    twice, but two runs with different filters each send what both take. Brokers forget the position of a group that is not used
    for their offsets.retention.minutes (7 days by default); the run then begins at the beginning, and says so.

    Exit status 1 when it was interrupted or Kafka refused a record for good.
    """
    settings = settings_for_kafka(config, bootstrap_servers)
    wanted = Filter(frozenset(reason or ()), tenant, _time(since, "--since"), _time(until, "--until"))
    run = _Run(settings, wanted, max_attempts, limit, again=again)
    try:
        if dry_run or (not yes and on_terminal()):
            report, what = run.look()
            if dry_run or not report.letters:
                _tell(report, what, run, dry_run=dry_run, as_json=as_json)
                return
            err().print(_table(report))
            typer.confirm(f"Send {report.letters} events back to {settings.topics.content}?", abort=True, err=True)
        report, what = run.send(rate, shown=not as_json)
    except KafkaException as error:
        raise KafkaUnreachableError(f"Kafka: {error.args[0].str()}") from None
    finally:
        run.close()
    _tell(report, what, run, dry_run=False, as_json=as_json)
    if report.interrupted or report.refused:
        raise typer.Exit(1)


def on_terminal() -> bool:
    """Whether somebody is there to be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


class _Run:
    """One call of the command: its clients and what it asks for."""

    def __init__(
        self, settings: WorkerSettings, wanted: Filter, max_attempts: int, limit: int | None, *, again: bool
    ) -> None:
        self.wanted = wanted
        self.max_attempts = max_attempts
        self.content = settings.topics.content
        self.dead_letters = settings.topics.dead_letters
        self._settings = settings
        self._limit = limit
        self._again = again
        self._clock = SystemClock()
        self._reasons = Reasons()
        self._consumer = open_reader(settings.kafka, self._reasons, group=wanted.group, to_end=True)
        found = require_topics(self._consumer, settings.kafka, self._reasons, [self.content, self.dead_letters]).topics
        self._partitions = sorted(found[self.dead_letters].partitions)
        self._content_partitions = len(found[self.content].partitions)

    def look(self) -> tuple[RedriveReport, Stretch]:
        """What a run would send."""
        report = RedriveReport()
        what = stretch(self._consumer, self.dead_letters, self._partitions, again=self._again)
        with _stopping() as stopped:
            count(letters(self._consumer, what, self._clock, stopped), self._selection(report), report)
            report.interrupted = stopped()
        return report, what

    def send(self, rate: float | None, *, shown: bool) -> tuple[RedriveReport, Stretch]:
        """Send, with a bar over the dead letters' positions when somebody looks."""
        report = RedriveReport()
        # First the transactions, then the position: an earlier run that still writes is fenced and can move it no more.
        producer = open_transactional(self._settings.kafka, f"{self.wanted.group}.{self.dead_letters}", self._reasons)
        what = stretch(self._consumer, self.dead_letters, self._partitions, again=self._again)
        redriver = Redriver(
            producer,
            self._consumer,
            dead_letters=self.dead_letters,
            content=self.content,
            partitions=self._content_partitions,
            rate=rate,
            clock=self._clock,
            report=report,
        )
        with _progress(what.size, shown=shown) as progress, _stopping() as stopped:
            task = progress.add_task("sent", total=what.size, count=0)
            redriver.run(
                letters(self._consumer, what, self._clock, stopped),
                self._selection(report),
                stopped,
                lambda passed: progress.update(task, advance=passed, count=report.letters),
            )
            report.interrupted = stopped()
        return report, what

    def close(self) -> None:
        self._consumer.close()

    def _selection(self, report: RedriveReport) -> Selection:
        return Selection(self.wanted, self.max_attempts, self._limit, report)


def _time(text: str | None, option: str) -> datetime | None:
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(f"{option} {text}: not an ISO 8601 time, such as 2026-05-04T08:00:00Z") from None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


@contextmanager
def _stopping() -> Iterator[_Flag]:
    """A flag that the first SIGINT or SIGTERM raises, so that a transaction under way is finished. A second one ends the process."""
    flag = _Flag()
    earlier = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in earlier.items():
            signal.signal(number, handler)

    def stop(_number: int, _frame: object) -> None:
        flag.raised = True
        restore()

    for number in earlier:
        signal.signal(number, stop)
    try:
        yield flag
    finally:
        restore()


class _Flag:
    raised = False

    def __call__(self) -> bool:
        return self.raised


def _tell(report: RedriveReport, what: Stretch, run: _Run, *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        emit_json(
            {
                "dry_run": dry_run,
                "from": run.dead_letters,
                "to": run.content,
                "group": run.wanted.group,
                "resumed": what.resumed,
                "interrupted": report.interrupted,
                "events": report.letters,
                "by": [
                    {"reason": reason.value, "tenant": tenant, "events": number}
                    for (reason, tenant), number in report.sent.most_common()
                ],
                "left": {
                    "filtered": report.filtered,
                    "too_many_attempts": report.too_many_attempts,
                    "unreadable": len(report.unreadable),
                    "refused": len(report.refused),
                },
                "refused": [{"letter": letter, "reason": reason} for letter, reason in report.refused[:_SHOWN]],
            }
        )
        return
    if report.letters:
        out().print(_table(report))
    verb = "would be sent back" if dry_run else "sent back"
    began = "going on from an earlier run" if what.resumed else "from the beginning"
    out().print(f"{report.letters} events {verb} to {run.content}, {began}", markup=False)
    if report.too_many_attempts:
        note(
            f"{report.too_many_attempts} were left: judged {run.max_attempts} times or more. `--max-attempts` with `--again` sends them"
        )
    for place in report.unreadable[:_SHOWN]:
        note(f"{run.dead_letters}{place}: no dead letter")
    for letter, fault in report.refused[:_SHOWN]:
        complain(f"dead letter {letter}: {fault}")
    if report.interrupted:
        note("interrupted; the same command goes on from here")


def _table(report: RedriveReport) -> Table:
    table = Table("reason", "tenant", "events", box=None, pad_edge=False, header_style="dim")
    table.columns[-1].justify = "right"
    for (reason, tenant), number in report.sent.most_common():
        table.add_row(cell(reason.value), cell(tenant if tenant is not None else "–"), cell(str(number)))
    return table


@contextmanager
def _progress(total: int, *, shown: bool) -> Iterator[Progress]:
    console = err()
    columns = (BarColumn(), TextColumn("{task.fields[count]} {task.description}"), TimeElapsedColumn())
    disable = not (shown and total and console.is_terminal)
    with Progress(*columns, console=console, transient=True, disable=disable) as progress:
        yield progress
