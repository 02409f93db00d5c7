"""Runs one schedule: workers, brokers and faults, then healing, quiet, and the promises."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

import structlog

from tests.simulation.brokers import SimBrokers
from tests.simulation.events import TOPICS
from tests.simulation.loop import SimLoop, SimProcess, SimThread, current_thread
from tests.simulation.network import Network, Trace
from tests.simulation.plan import Fault, Plan, plan
from tests.simulation.promises import BrokenPromiseError, Promises
from tests.simulation.worker import Parts, SimJudge, SimWorker

HEALING_S = 150.0
"""Seconds after the last fault in which everything must be done: sessions, transactions and waits for commits end well before."""

MAX_WORKERS = 4


@dataclass(frozen=True, slots=True)
class Report:
    """What a schedule did."""

    seed: int
    steps: int
    seconds: float
    events: int
    records: int
    repeated: int
    commits: int
    remembering: int
    generations: int
    notes: int
    lines: list[str]


class FoundError(AssertionError):
    """A schedule that broke a promise. The message holds the seed; `lines` the trace, where one was kept."""

    def __init__(self, seed: int, cause: BaseException, lines: list[str]) -> None:
        super().__init__(f"{cause}\n  replay: python -m tests.simulation.replay {seed}")
        self.seed = seed
        self.lines = lines


def simulate(seed: int, parts: Parts | None = None, *, trace: bool = False) -> Report:
    """Run the schedule of `seed`. Raises `FoundError` when a promise is broken."""
    schedule = Schedule(plan(seed), parts or Parts(), keep_trace=trace)
    try:
        with schedule.logs():
            return schedule.loop.run(schedule.run)
    except AssertionError as error:
        raise FoundError(seed, error, schedule.trace.lines) from error


class Schedule:
    """The world of one seed."""

    def __init__(self, chosen: Plan, parts: Parts, *, keep_trace: bool) -> None:
        self._plan = chosen
        self._parts = parts
        self._random = Random(chosen.seed ^ 0x5EED)
        self.loop = SimLoop(self._random)
        self.trace = Trace(self.loop, keep_trace)
        self._keep = keep_trace
        self._weather = dataclasses.replace(chosen.weather)
        self._mishaps = dataclasses.replace(chosen.mishaps)
        self._promises = Promises(exactly_once=chosen.settings.exactly_once)
        self._judge = SimJudge(chosen.settings, self._random)
        self._workers: list[SimWorker] = []
        self._slots: dict[int, SimWorker] = {}
        self._made = 0
        self._next_slot = chosen.workers
        self._healed = False
        self._leaving: set[str] = set()
        self._stopping = False

    @contextlib.contextmanager
    def logs(self) -> Iterator[None]:
        """The workers' logs go to the trace, or nowhere."""
        before = structlog.get_config()
        structlog.configure(processors=[self._log], cache_logger_on_first_use=False)
        try:
            yield
        finally:
            structlog.configure(**before)

    def _log(self, _logger: object, _method: str, event: Any) -> str:
        name = event.pop("event")
        self.trace("log", "%s %s", name, event)
        leaving = current_thread().process.name in self._leaving
        if self._plan.calm and name == "coordinator.drain_timed_out" and not leaving:
            self._fail("a revocation could not drain, though everything was quick")
        raise structlog.DropEvent

    def _fail(self, what: str) -> None:
        self.loop.fail(BrokenPromiseError(what))

    async def run(self) -> Report:
        network = Network(self.loop, self._random, self._weather, self.trace)
        self._brokers = SimBrokers(network, on_visible=self._visible, on_commit=self._promises.committed)
        for name in sorted({name for _, name, _ in self._plan.arrivals}):
            self._brokers.add_input(name, [])
            self._promises.arrived(name, [])
        me = self.loop.processes[0].main
        started = self.loop.time()
        for slot in range(self._plan.workers):
            self._start_worker(slot)
        for at, name, entry in self._plan.arrivals:
            me.call_later(at, self._arrive, name, entry)
        for fault in self._plan.faults:
            me.call_later(fault.at_s, self._apply, fault)
        await asyncio.sleep(self._plan.faults_end_s)
        self._heal()
        await self._until_quiet()
        self._at_the_end()
        await self._stop_all()
        promises = self._promises
        return Report(
            self._plan.seed,
            self.loop.steps,
            self.loop.time() - started,
            len(self._plan.arrivals),
            promises.records,
            promises.repeated,
            promises.commits,
            promises.remembering,
            self._brokers.group.generation,
            self.trace.events,
            self.trace.lines,
        )

    # Workers.

    def _start_worker(self, slot: int) -> None:
        self._made += 1
        process = SimProcess(self.loop, f"worker-{slot}.{self._made}")
        name = f"id-{slot}" if self._plan.stable_ids else f"id-{self._made}"
        self.trace(process.name, "starts as %s", name)
        worker = SimWorker(
            self._brokers,
            process,
            self._plan.settings,
            self._parts,
            self._judge,
            self._mishaps,
            name,
            self._ended,
        )
        self._workers.append(worker)
        self._slots[slot] = worker

    def _ended(self, worker: SimWorker) -> None:
        self.trace(worker.process.name, "has ended: %r", worker.failure)
        if worker.failure is not None and self._plan.calm:
            self._fail(f"a worker died though nothing had failed: {worker.failure!r}")
        if worker.failure is None:
            self._let_go(worker)
        if worker.failure is not None and not self._stopping:
            self._start_later(worker)

    def _start_later(self, worker: SimWorker) -> None:
        slot = next((slot for slot, holder in self._slots.items() if holder is worker), None)
        if slot is not None:
            self.loop.processes[0].main.call_later(self._random.uniform(0.05, 2.0), self._restart, slot, worker)

    def _restart(self, slot: int, of: SimWorker) -> None:
        if self._slots.get(slot) is of and not self._stopping:
            self._start_worker(slot)

    def _let_go(self, worker: SimWorker) -> None:
        """A worker that ended as it should holds nothing."""
        if worker.backlog.count:
            self._fail(f"a worker ended with a backlog of {worker.backlog.count}")

    # Faults.

    def _apply(self, fault: Fault) -> None:
        if self._healed:
            return
        held = self._alive()
        self.trace("fault", "%s", fault)
        if fault.kind == "join":
            self._join(len(held))
        elif fault.kind == "slow":
            self._weather.slow = 20.0 + 100.0 * fault.choice
            self.loop.processes[0].main.call_later(min(fault.seconds, 3.0), self._as_fast_as_ever)
        elif held:
            self._strike(fault, *held[fault.worker % len(held)])

    def _alive(self) -> list[tuple[int, SimWorker]]:
        return [(slot, worker) for slot, worker in self._slots.items() if worker.process.alive]

    def _join(self, there_are: int) -> None:
        if there_are < MAX_WORKERS:
            self._next_slot += 1
            self._start_worker(self._next_slot)

    def _strike(self, fault: Fault, slot: int, worker: SimWorker) -> None:
        process = worker.process
        if fault.kind == "crash":
            self._crash(worker)
        elif fault.kind == "crash_step":
            process.at_step = (process.steps + (fault.step or 1), None, partial(self._crash, worker))
        elif fault.kind == "freeze":
            process.stop(fault.seconds)
        elif fault.kind == "freeze_step":
            process.at_step = (process.steps + (fault.step or 1), None, partial(self._freeze, process, fault.seconds))
        elif fault.kind == "stall":
            _one_of(process.threads, fault.choice).stop(fault.seconds)
        elif fault.kind == "stall_and_join":
            # A revocation that the loop hears of too late: its partitions have a new owner before it goes on.
            stall = partial(self._stall_and_join, process, fault.seconds)
            process.at_step = (process.steps + (fault.step or 1), process.main, stall)
        elif fault.kind == "replace":
            process.stop(fault.seconds)
            self._start_worker(slot)
        elif fault.kind == "leave":
            self._slots.pop(slot)
            self._leaving.add(process.name)
            worker.stop()
        elif fault.kind == "guard_down":
            worker.guard(False)
            self.loop.processes[0].main.call_later(fault.seconds, worker.guard, True)

    def _crash(self, worker: SimWorker) -> None:
        self.trace(worker.process.name, "is killed")
        worker.process.kill()
        self._start_later(worker)

    def _freeze(self, process: SimProcess, seconds: float) -> None:
        self.trace(process.name, "is stopped for %.2f s", seconds)
        process.stop(seconds)

    def _stall_and_join(self, process: SimProcess, seconds: float) -> None:
        self.trace(process.name, "does not turn for %.2f s", seconds)
        process.main.stop(seconds)
        self._join(len(self._alive()))

    def _as_fast_as_ever(self) -> None:
        self._weather.slow = 1.0

    # Events, and what becomes of them.

    def _arrive(self, name: Any, entry: Any) -> None:
        self._promises.arrived(name, [entry])
        self._brokers.add_input(name, [entry])

    def _visible(self, records: Any, commits: Any) -> None:
        self._promises.visible(records, commits)
        self._bounded()

    def _bounded(self) -> None:
        """Memory has limits at every moment."""
        settings = self._plan.settings
        for worker in self._workers:
            if not worker.process.alive or worker.books is None:
                continue
            if worker.backlog.count > settings.max_in_flight + 1:
                raise BrokenPromiseError(f"{worker.backlog.count} events in flight, {settings.max_in_flight} allowed")
            if worker.backlog.count < 0:
                raise BrokenPromiseError("more events were given back than were taken")
            for owned in worker.books._owned.values():
                # What was handed over before the loop could say that the window is full, and one step of the consumer more.
                if not self._plan.gaps and owned.ledger.span > settings.window + 2 * settings.max_in_flight + 2:
                    raise BrokenPromiseError(f"a span of {owned.ledger.span} in a window of {settings.window}")

    def _heal(self) -> None:
        self.trace("world", "heals")
        self._healed = True
        self._weather.heal()
        self._mishaps.refused = self._mishaps.broken = self._mishaps.unfit = 0.0
        self._judge.quick = True
        for worker in self._workers:
            worker.process.at_step = None
            worker.guard(True)
        if not self._slots:
            self._join(0)  # a slot of its own: under the name of one that is still leaving it would fence that one

    async def _until_quiet(self) -> None:
        until = self.loop.time() + HEALING_S
        while not self._is_quiet():
            if self.loop.time() > until:
                self._stalled()
            await asyncio.sleep(0.25)

    def _is_quiet(self) -> bool:
        if self._promises.unfinished() or self._promises.uncommitted(self._brokers.group.committed):
            return False
        alive = [worker for worker in self._workers if worker.process.alive]
        # One that is still stopped has yet to hear that its partitions are somebody else's.
        stopped = any(thread.stopped_until > self.loop.time() for worker in alive for thread in worker.process.threads)
        return not stopped and all(worker.backlog.count == 0 for worker in alive)

    def _stalled(self) -> None:
        missing = sorted(self._promises.unfinished())
        if missing:
            raise BrokenPromiseError(f"stalled: {len(missing)} events have no outcome, the first is {missing[0]}")
        late = self._promises.uncommitted(self._brokers.group.committed)
        if late:
            raise BrokenPromiseError(f"stalled: the commits of {late} do not come to the end")
        raise BrokenPromiseError("a worker's backlog does not come down to zero")

    def _at_the_end(self) -> None:
        for topic in (TOPICS.verdicts, TOPICS.dead_letters, TOPICS.ood):
            self._promises.in_order(topic, self._brokers.read(topic, committed=True))
        for worker in self._workers:
            if worker.process.alive and worker.books is not None:
                for owned in worker.books._owned.values():
                    if owned.ledger.unfinished or owned.ledger.remembered or owned.tasks:
                        raise BrokenPromiseError(
                            f"{owned.name} is done and its books are not empty: {owned.ledger.unfinished} unfinished, "
                            f"{owned.ledger.remembered} remembered, {len(owned.tasks)} tasks"
                        )

    async def _stop_all(self) -> None:
        self._stopping = True
        for worker in self._workers:
            if worker.process.alive:
                worker.stop()
        until = self.loop.time() + HEALING_S
        while any(worker.process.alive for worker in self._workers):
            if self.loop.time() > until:
                raise BrokenPromiseError("a worker does not stop")
            await asyncio.sleep(0.25)


def _one_of(threads: list[SimThread], choice: float) -> SimThread:
    return threads[int(choice * len(threads))]
