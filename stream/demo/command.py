"""`proguard-stream demo`: the main job on one machine, through the real parts, with sums that must match."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import triton_models
from schemas.verdicts import Verdict
from stream.demo.guards import DemoGuard, GuardName, choose_guard
from stream.demo.report import show
from stream.demo.scene import (
    SAMPLES,
    Scene,
    create_topics,
    outcomes,
    read_sums,
    scratch_folder,
    send_samples,
    worker_settings,
)
from stream.devkit.mock_kafka import MockKafka
from stream.devkit.stack import DevStack
from stream.devkit.worker import WorkerProcess
from stream.operator.rendering import dead_letter_row, verdict_row

REPOSITORY = Path(triton_models.__file__).parent


def demo(
    events: Annotated[Path, typer.Option(help="Events to send, one record a line.", exists=True, dir_okay=False)] = (
        SAMPLES / "events.jsonl"
    ),
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything running and say how to send more.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Do not show each verdict as it arrives.")] = False,
    guard: Annotated[GuardName, typer.Option(help="The embedded guard, or the real model class.")] = GuardName.LITE,
    model: Annotated[
        Path | None,
        typer.Option(
            help="A local, sealed checkpoint for --guard proguard; without it, a tiny random one.",
            file_okay=False,
            exists=True,
        ),
    ] = None,
) -> None:
    """Start Kafka, Triton and a worker, send the sample events, show the verdicts, and check the sums.

    Exit status 1 when an event has no outcome, or more than one.
    """
    console = Console()
    with ExitStack() as scratch:
        chosen = choose_guard(
            guard,
            model,
            REPOSITORY.parent,
            lambda: Path(scratch.enter_context(TemporaryDirectory(prefix="proguard-demo-"))),
        )
        _demo(events, chosen, console, keep=keep, quiet=quiet)


def _demo(events: Path, guard: DemoGuard, console: Console, *, keep: bool, quiet: bool) -> None:
    console.print(f"[bold]ProGuard Stream[/] — starting Kafka, Triton with {guard.described}, and a worker")
    if guard.meaningless:
        console.print(
            "[bold yellow]The weights are random: the verdicts below mean nothing.[/] They show the way, not the judgement."
        )
    with DevStack(
        scratch_folder(),
        repository=REPOSITORY,
        environment=guard.environment,
        models=[guard.name.value],
        ready=guard.ready,
        triton_variables=guard.variables,
        announce=lambda line: console.print(f"  {line}", style="dim", highlight=False),
    ) as stack:
        own_images = events.parent / "images"
        settings = worker_settings(stack, own_images if own_images.is_dir() else SAMPLES / "images", guard.name.value)
        if not isinstance(stack.kafka, MockKafka):  # the mock makes topics by itself, and cannot be asked to
            create_topics(settings, os.environ)
        worker = stack.enter(WorkerProcess(settings, stack.folder))
        console.print("  worker: ready", style="dim", highlight=False)
        scene = Scene(stack, worker, settings)
        sent = _play(scene, events, console, quiet=quiet)
        if keep:
            ok = _close_the_books(scene, sent, console)
            _keep_running(settings, worker, console)
            status = worker.terminate()
        else:
            # The worker first: what its orderly end still writes must be in the sums.
            status = worker.terminate()
            if status != 0:
                console.print(
                    f"[bold red]the worker ended with status {status}[/]\n{worker.log_tail()}", highlight=False
                )
            ok = _close_the_books(scene, sent, console)
    if not ok or status != 0:
        raise typer.Exit(1)


def _play(scene: Scene, events: Path, console: Console, *, quiet: bool) -> int:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        sending = progress.add_task("sent", total=None)
        sent = send_samples(scene, events, lambda count: progress.update(sending, completed=count))
        progress.update(sending, completed=sent.records, total=sent.records)
        judging = progress.add_task("answered", total=sent.records)
        for outcome in outcomes(scene, sent.records):
            progress.advance(judging)
            if not quiet:
                row = verdict_row(outcome) if isinstance(outcome, Verdict) else dead_letter_row(outcome)
                progress.console.print(row, highlight=False, soft_wrap=True)
    return sent.records


def _close_the_books(scene: Scene, sent: int, console: Console) -> bool:
    """Read everything back, show it, and say whether the sums match."""
    report = read_sums(scene)
    show(report, console)
    ok = report.ok and report.events == sent
    if not ok:
        console.print(f"[bold red]the sums do not match[/] ({sent} sent)\n{scene.worker.log_tail()}", highlight=False)
    console.print(report.summary(), highlight=False)
    return ok


def _keep_running(settings: Mapping[str, str], worker: WorkerProcess, console: Console) -> None:
    console.rule("Still running; Ctrl-C stops it")
    variables = " \\\n  ".join(f"{name}='{value}'" for name, value in settings.items())
    console.print(
        f"Send more:     {variables} \\\n  proguard-stream events send FILE\n"
        f"Follow:        PROGUARD_KAFKA__BOOTSTRAP_SERVERS={settings['PROGUARD_KAFKA__BOOTSTRAP_SERVERS']} "
        f"proguard-stream verdicts tail\n"
        f"Look at it:    curl http://127.0.0.1:{worker.port}/ready   …/live   …/metrics",
        highlight=False,
        soft_wrap=True,
    )
    stopped = threading.Event()
    previous = signal.signal(signal.SIGINT, lambda *_: stopped.set())
    try:
        while worker.running and not stopped.wait(0.5):
            pass
    finally:
        signal.signal(signal.SIGINT, previous)
