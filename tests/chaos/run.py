"""`make chaos`: a workload, faults one after another and several at once, and then the books.

Real Kafka, a real Triton, real workers, loopback only. Every topic is read with `read_committed` in the end: one outcome an offset,
in the order of each key, no orphan OOD event or dead letter, sums that match, and verdicts that say what the guard said. Prints a
table by fault kind and one last line; exit status 1 when anything is wrong, with the seed, and the logs are kept.

The schedule follows from the seed. What the processes make of it does not: the same seed is the same faults, not the same run.
"""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from schemas.verdicts import Status
from stream.demo.audit import AuditReport
from stream.devkit.signals import terminate_as_exit
from stream.errors import ProGuardStreamError
from tests.chaos.arena import CLIENT_OF, Arena, Slot
from tests.chaos.faults import KINDS
from tests.chaos.schedule import Claims, Planned, plan
from tests.chaos.workload import Feeder, Workload

Mode = Literal["exactly_once", "at_least_once"]

RATE = 60.0
"""Events a second. Four workers, a broker and a guard that keep being killed and started share the machine's cores."""

CLAIM_S, SETTLE_S, DRAIN_S = 180.0, 60.0, 300.0
START_ALLOWANCE_S, FAULT_ALLOWANCE_S = 180.0, 6.0
"""No fault is injected later than this after the start: all runs end."""


@dataclass
class Result:
    """What a run came to. `ok` is the promise, and that the run was the one that was asked for."""

    seed: int
    mode: Mode
    planned: int
    injected: Counter[str] = field(default_factory=Counter)
    met: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    report: AuditReport | None = None
    refused: int = 0
    """Events that the workload's own producer gave up. All others must be in the topic, which is checked."""
    replaced: int = 0
    """How often that producer fell silent and was replaced."""
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return self.report is not None and self.report.ok and not self.problems

    def line(self) -> str:
        """The one line that scripts read."""
        report = self.report
        counts = (0, 0, 0, 0) if report is None else (report.events, report.lost, report.duplicated, report.reordered)
        faults = self.injected.total()
        line = "faults={} events={} lost={} duplicated={} reordered={}".format(faults, *counts)
        if self.mode == "at_least_once" and report is not None:
            line += f" repeated={report.repeated} revised={report.revised}"
        return line


def run(folder: Path, *, seed: int, faults: int, mode: Mode, group_protocol: str = "classic") -> Result:
    """One run in `folder`, which keeps its logs. Blocks for about three seconds a fault. Nothing that it started is left."""
    began = time.monotonic()
    result = Result(seed, mode, faults)
    with Arena(folder, mode=mode, group_protocol=group_protocol) as arena:
        workload = Workload(seed, arena.pictures)
        feeder = Feeder({"bootstrap.servers": arena.broker.bootstrap}, arena.stage.topics.content, workload, RATE)
        feeder.start()
        if not arena.until(lambda: all(slot.settled() for slot in arena.base), SETTLE_S):
            result.problems.append("the workers were not ready before the first fault")
        diary = Diary(folder / "chaos.log")
        diary.write(f"seed {seed}: {faults} faults")
        _inject(arena, plan(seed, faults, KINDS), began, result, diary)
        arena.heal()
        feeder.stop()
        diary.write("healed")
        if not arena.until(arena.drained, DRAIN_S):
            result.problems.append(f"{DRAIN_S:g} s after the last fault not every event was committed: {arena.lag()}")
        diary.write("drained")
        # One that is still starting has no orderly end yet.
        if not arena.until(lambda: all(slot.settled() for slot in arena.base), SETTLE_S):
            result.problems.append(f"the workers were not ready {SETTLE_S:g} s after everything was answered")
        for slot in arena.slots:
            if slot.worker.running and (status := slot.terminate()) != 0:
                result.problems.append(f"{slot.worker.log.name}: the orderly end had status {status}")
        result.ended = arena.ended
        result.report = report = arena.stage.audit(repeats_allowed=mode == "at_least_once")
        result.refused, result.replaced = len(feeder.refused), feeder.replaced
        result.problems += [*arena.findings(), *_untrue(report, workload)]
        if not feeder.sent - len(feeder.refused) <= report.events <= feeder.sent:
            result.problems.append(f"{feeder.sent} events were sent and {report.events} are there")
    result.seconds = time.monotonic() - began
    return result


class Diary:
    """When each fault came and went, beside the logs."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()

    def write(self, line: str) -> None:
        with self._lock, self._path.open("a", encoding="utf-8") as file:
            file.write(f"{datetime.now(UTC):%H:%M:%S.%f} {line}\n")


def _inject(arena: Arena, planned: list[Planned], began: float, result: Result, diary: Diary) -> None:
    claims = Claims()
    give_up = began + START_ALLOWANCE_S + FAULT_ALLOWANCE_S * len(planned)
    running: list[tuple[Planned, Future[bool]]] = []
    with ThreadPoolExecutor(16, thread_name_prefix="fault") as pool:
        try:
            for fault in planned:
                arena.hold(fault.gap_s)
                taken = claims.take(arena, fault, CLAIM_S)
                if taken is None or time.monotonic() > give_up:
                    result.problems.append(f"only {len(running)} of {len(planned)} faults in their time")
                    break
                slot, names = taken
                running.append((fault, pool.submit(_one, arena, fault, slot, claims, names, diary)))
        except BaseException:
            # Ctrl-C: what is being broken is healed at once, instead of in its time.
            arena.give_up()
            raise
    for fault, future in running:
        name = fault.kind.name
        result.injected[name] += 1
        if (error := future.exception()) is not None:
            result.problems.append(f"{name}: {type(error).__name__}: {error}")
        else:
            result.met[name] += future.result()


def _one(arena: Arena, fault: Planned, slot: Slot, claims: Claims, names: frozenset[str], diary: Diary) -> bool:
    what = f"{fault.kind.name} ({', '.join(sorted(names))})"
    diary.write(f"{what}: begins, {fault.seconds:.1f} s")
    met = False
    try:
        met = fault.kind.act(arena, slot, fault.seconds)
    finally:
        claims.give_back(names)
        diary.write(f"{what}: over, {'at' if met else 'not at'} its point")
    return met


def _untrue(report: AuditReport, workload: Workload) -> list[str]:
    """Decided verdicts that do not say what the guard was told to say about their event."""
    wrong = [
        f"{verdict.event_id} is {verdict.request}"
        for verdict in report.verdicts
        if verdict.status is Status.DECIDED and verdict.request != workload.expected.get(verdict.event_id)
    ]
    return [f"{len(wrong)} verdicts are not the guard's: {', '.join(wrong[:5])}"] if wrong else []


def show(result: Result, console: Console) -> None:
    """The table by fault kind, why workers ended by themselves, and what is wrong."""
    table = Table(title=f"seed {result.seed}, {result.mode}, {result.seconds:.0f} s", title_justify="left")
    table.add_column("Fault")
    table.add_column("n", justify="right")
    table.add_column("at its point", justify="right")
    for kind in KINDS:
        if count := result.injected[kind.name]:
            table.add_row(kind.name, str(count), str(result.met[kind.name]))
    console.print(table)
    if result.report is not None:
        console.print(result.report.summary(), highlight=False)
    if result.replaced:
        console.print(f"{result.replaced} × the sender's client fell silent and was replaced", highlight=False)
    if result.refused:
        console.print(
            f"{result.refused} events were given up by the sender; a few of them may be in the topic", highlight=False
        )
    for why, count in result.ended.most_common():
        console.print(f"{count} × a worker ended by itself and was started again: {why}", highlight=False, markup=False)
    for problem in (*result.problems, *(result.report.faults[:20] if result.report else ())):
        console.print(f"wrong: {problem}", style="bold red", highlight=False, markup=False)


def main(
    seed: Annotated[int | None, typer.Option(envvar="SEED", help="The schedule; a new one if absent.")] = None,
    faults: Annotated[int, typer.Option(envvar="FAULTS", min=0, help="How many faults.")] = 500,
    mode: Annotated[str, typer.Option(envvar="MODE", help="exactly_once or at_least_once.")] = "exactly_once",
    group_protocol: Annotated[str, typer.Option(help="classic, or consumer (KIP-848).")] = "classic",
    keep: Annotated[bool, typer.Option("--keep", help="Keep the folder with the logs and the data.")] = False,
) -> None:
    """Break everything, and look whether anything was lost, repeated or reordered."""
    if mode not in ("exactly_once", "at_least_once"):
        raise typer.BadParameter("the mode is exactly_once or at_least_once")
    if group_protocol not in CLIENT_OF:
        raise typer.BadParameter("the group protocol is classic or consumer")
    seed = random.SystemRandom().randrange(1_000_000) if seed is None else seed
    console = Console(file=sys.stderr)
    folder = Path(tempfile.mkdtemp(prefix="proguard-chaos-"))
    ok = False
    try:
        with terminate_as_exit():
            result = run(folder, seed=seed, faults=faults, mode=mode, group_protocol=group_protocol)  # type: ignore[arg-type]
        show(result, console)
        ok = result.ok
        sys.stdout.write(result.line() + "\n")
    except ProGuardStreamError as error:
        console.print(f"wrong: {error}", style="bold red", highlight=False, markup=False)
    finally:
        if ok and not keep:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            console.print(f"seed {seed}; the logs are in {folder}", highlight=False, soft_wrap=True)
    raise typer.Exit(0 if ok else 1)


if __name__ == "__main__":
    typer.run(main)
