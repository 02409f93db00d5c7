"""`make bench`: the worker against the bare client on the same guard, in one run, as ratios.

Each figure is printed on a line `figure=<name> value=<number> goal=<number>`, as the median of the repetitions; the ones behind
it go to standard error. Broker, guard, worker and loop share the machine's cores: run it when nothing else does.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from stream.demo.scene import guard_answers
from stream.devkit.kafka import KafkaBroker
from stream.devkit.triton import TritonServer, triton_environment
from stream.devkit.worker import WorkerProcess
from tests.benchmarks.latency import Latency, Seen, latency_of, middle_rate, service_at
from tests.benchmarks.load import INSTANT, SLOW, TAIL, content, order_of
from tests.benchmarks.rehearsal import rehearse
from tests.end_to_end.harness import Stage, eventually

ROOT = Path(__file__).resolve().parents[2]
EXACTLY, AT_LEAST = "exactly_once", "at_least_once"
POSSIBLE_WITH_TAIL = 64 / (0.99 * 0.020 + 0.01 * 3.0)
"""Answers a second that 64 in flight allow when 1 in 100 takes 3 s and the rest 20 ms: 1,285."""
LOOK_S = 1.0
WARM_UPS = 3
UNHURRIED = 100
"""Events a second at which no part of the machine is busy: what the service's own steps take, without the queues before two cores."""
UV = ROOT / ".build" / "uv" / "bin" / "uv"


def say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def figure(name: str, value: float, goal: float) -> None:
    sys.stdout.write(f"figure={name} value={value:.3f} goal={goal:g}\n")
    sys.stdout.flush()


def bare_rate(url: str, requests: int, order: str) -> dict[str, float]:
    """The floor."""
    return dict(_bare(url, str(requests), order))


def bare_latency(url: str, requests: int, order: str, rate: float) -> Latency:
    return latency_of(_bare(url, str(requests), order, str(rate)))


def _bare(*arguments: str) -> Any:
    """What the bare client found, in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.bare_loop", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=True)
    return json.loads(done.stdout)


def feed(stage: Stage, events: int, order: str, start: int = 0) -> None:
    """Put the events into the content topic before the clock runs, each with a key of its own."""
    for first in range(start, start + events, 20_000):
        numbers = range(first, min(first + 20_000, start + events))
        stage.send([(content(number, order_of(order, number)), str(number).encode(), ()) for number in numbers])


def verdict_times(stage: Stage, events: int) -> list[float]:
    """When each verdict was written, in seconds, sorted."""
    consumer = Consumer({**stage.properties, "group.id": "bench", "enable.auto.commit": False})
    try:
        found = consumer.list_topics(stage.topics.verdicts, timeout=10).topics[stage.topics.verdicts]
        consumer.assign(
            [TopicPartition(stage.topics.verdicts, number, OFFSET_BEGINNING) for number in found.partitions]
        )
        times: list[float] = []
        while len(times) < events:
            times += [message.timestamp()[1] / 1000 for message in consumer.consume(1000, 1) if not message.error()]
        return sorted(times)
    finally:
        consumer.close()


def worker_rate(new_stage: Callable[[], Stage], events: int, order: str, mode: str = EXACTLY) -> dict[str, float]:
    """A fresh worker on topics that hold `events` events."""
    stage = new_stage()
    feed(stage, events, order)
    with stage.worker(PROGUARD_DELIVERY__MODE=mode) as worker:
        process = psutil.Process(worker.pid)
        _until_done(worker, events // 10)
        cpu, done = sum(process.cpu_times()[:2]), worker.metric("proguard_verdicts_total")
        _until_done(worker, events)
        cpu, done = sum(process.cpu_times()[:2]) - cpu, worker.metric("proguard_verdicts_total") - done
        resident = process.memory_info().rss / 1e6
        worker.terminate()
    return {"rate": middle_rate(verdict_times(stage, events)), "cpu_ms": cpu * 1000 / done, "resident_mb": resident}


def _until_done(worker: WorkerProcess, events: int) -> None:
    # Seldom, because each look has the worker write out all its metrics, and the bare loop is not looked at.
    eventually(
        lambda: worker.metric("proguard_verdicts_total") >= events, 600, f"{events} events are done", every=LOOK_S
    )


def memory_growth(new_stage: Callable[[], Stage], early_events: int) -> tuple[float, float]:
    """Resident MB of one worker after `early_events`, and after ten times as many."""
    stage = new_stage()
    with stage.worker() as worker:
        process = psutil.Process(worker.pid)
        feed(stage, early_events, INSTANT)
        early = _resident_after(worker, process, early_events)
        for tenth in range(1, 10):
            feed(stage, early_events, INSTANT, start=tenth * early_events)
            late = _resident_after(worker, process, (tenth + 1) * early_events)
        worker.terminate()
    return early, late


def _resident_after(worker: WorkerProcess, process: psutil.Process, events: int) -> float:
    _until_done(worker, events)
    # One commit interval of quiet, so that both readings see the same state.
    quiet = time.monotonic() + 2
    eventually(lambda: time.monotonic() > quiet, 5, "quiet")
    return float(process.memory_info().rss / 1e6)


def environment_mb() -> float:
    """Size of an environment made from the worker's lock, in MB."""
    with tempfile.TemporaryDirectory(prefix="proguard-env-") as folder:
        python = f"{folder}/env/bin/python"
        subprocess.run([UV, "venv", "--quiet", "--python", sys.executable, f"{folder}/env"], check=True)
        sync = [UV, "pip", "sync", "--quiet", "--link-mode", "copy", "--python", python, "--require-hashes"]
        subprocess.run([*sync, ROOT / "locks" / "worker.txt"], check=True)
        files = [path for path in Path(folder).rglob("*") if path.is_file() and not path.is_symlink()]
        return sum(path.stat().st_blocks * 512 for path in files) / 1e6


def compare(
    name: str, goal: float, url: str, new_stage: Callable[[], Stage], events: int, order: str, pairs: int
) -> None:
    """Worker and bare loop in turn; the ratio is taken pair by pair."""
    ratios, cpu, floor_cpu, resident = [], [], [], []
    for number in range(pairs):
        bare = bare_rate(url, events, order)
        ours = worker_rate(new_stage, events, order)
        ratios.append(ours["rate"] / bare["rate"])
        cpu.append(ours["cpu_ms"])
        floor_cpu.append(bare["cpu_ms"])
        resident.append(ours["resident_mb"])
        say(
            f"{name} {number + 1}/{pairs}: worker {ours['rate']:.0f}/s at {ours['cpu_ms']:.3f} ms CPU, "
            f"bare loop {bare['rate']:.0f}/s at {bare['cpu_ms']:.3f} ms CPU"
        )
    figure(f"worker_to_bare_loop_{name}", statistics.median(ratios), goal)
    figure(f"worker_cpu_ms_per_event_{name}", statistics.median(cpu), 0.5)
    figure(f"bare_loop_cpu_ms_per_request_{name}", statistics.median(floor_cpu), 0.5)
    figure(f"worker_resident_mb_{name}", statistics.median(resident), 200)


def compare_modes(new_stage: Callable[[], Stage], events: int, pairs: int) -> float:
    """Exactly once against at least once, in turn. Returns the rate of exactly once."""
    ratios, rates = [], []
    for _ in range(pairs):
        least, exactly = (worker_rate(new_stage, events, SLOW, mode)["rate"] for mode in (AT_LEAST, EXACTLY))
        ratios.append(exactly / least)
        rates.append(exactly)
        say(f"exactly once {exactly:.0f}/s, at least once {least:.0f}/s")
    figure("exactly_once_to_at_least_once", statistics.median(ratios), 0.95)
    return statistics.median(rates)


def heavy_tail(url: str, new_stage: Callable[[], Stage], events: int, pairs: int) -> None:
    """Against what 64 in flight allow, and against what of that the bare client reaches on this machine."""
    for mode in (EXACTLY, AT_LEAST):
        possible, reached, ratios = [], [], []
        for _ in range(pairs):
            bare = bare_rate(url, events, TAIL)["rate"]
            rate = worker_rate(new_stage, events, TAIL, mode)["rate"]
            possible.append(rate / POSSIBLE_WITH_TAIL)
            reached.append(bare / POSSIBLE_WITH_TAIL)
            ratios.append(rate / bare)
            say(f"heavy tail, {mode}: {rate:.0f}/s, bare loop {bare:.0f}/s, of {POSSIBLE_WITH_TAIL:.0f}/s possible")
        figure(f"heavy_tail_to_possible_{mode}", statistics.median(possible), 0.95)
        figure(f"heavy_tail_bare_loop_to_possible_beside_{mode}", statistics.median(reached), 0.95)
        figure(f"heavy_tail_to_bare_loop_{mode}", statistics.median(ratios), 0.95)


def compare_protocols(grpc_url: str, new_stage: Callable[[], Stage], events: int, pairs: int) -> None:
    """The worker over HTTP against the same over gRPC, in turn."""
    ratios, cpu = [], []
    for _ in range(pairs):
        http = worker_rate(new_stage, events, SLOW)
        grpc = worker_rate(lambda: _over(new_stage(), grpc_url), events, SLOW)
        ratios.append(http["rate"] / grpc["rate"])
        cpu.append(grpc["cpu_ms"])
        say(
            f"over HTTP {http['rate']:.0f}/s at {http['cpu_ms']:.3f} ms CPU, over gRPC {grpc['rate']:.0f}/s at {grpc['cpu_ms']:.3f} ms"
        )
    figure("worker_over_http_to_grpc", statistics.median(ratios), 1)
    figure("worker_cpu_ms_per_event_over_grpc", statistics.median(cpu), 0.5)


def _over(stage: Stage, guard_url: str) -> Stage:
    stage.settings["PROGUARD_GUARD__URL"] = guard_url
    return stage


def carried(new_stage: Callable[[], Stage], rate: float) -> float:
    """Events a second that the service carries, in both modes, while they are sent and their verdicts read beside it, on the same cores:
    what comes out when `rate` comes in, which is what the worker reaches alone."""
    return min(_served(new_stage(), mode, rate, int(rate * 6)).rate for mode in (AT_LEAST, EXACTLY))


def _served(stage: Stage, mode: str, rate: float, events: int) -> Seen:
    with stage.worker(PROGUARD_DELIVERY__MODE=mode) as worker:
        seen = service_at(stage, rate=rate, events=events, order=SLOW)
        worker.terminate()
    return seen


def latencies(url: str, new_stage: Callable[[], Stage], rate: float, name: str) -> None:
    """What the service adds to the bare client's time, at `rate` events a second; exactly once may take one commit interval
    (100 ms) more."""
    events = int(rate * 8)
    for mode, goal_p50, goal_p99 in ((AT_LEAST, 5, 20), (EXACTLY, 105, 120)):
        bare = bare_latency(url, events, SLOW, rate)
        # Java's compiler has work again when the broker meets a load that is new to it: the first time does not count.
        found = [_served(new_stage(), mode, rate, events).latency for _ in range(2)][-1]
        say(
            f"{mode} at {rate:.0f}/s: p50 {found.p50:.1f} ms, p99 {found.p99:.1f} ms; "
            f"bare client p50 {bare.p50:.1f} ms, p99 {bare.p99:.1f} ms"
        )
        figure(f"added_latency_p50_ms_{name}_{mode}", found.p50 - bare.p50, goal_p50)
        figure(f"added_latency_p99_ms_{name}_{mode}", found.p99 - bare.p99, goal_p99)


def main(
    pairs: Annotated[int, typer.Option(help="Repetitions of each comparison.")] = 3,
    events: Annotated[int, typer.Option(help="Events of each repetition.")] = 20_000,
    memory: Annotated[
        int, typer.Option(help="Resident memory after so many events, and after ten times as many; 0: skip.")
    ] = 10_000,
) -> None:
    """Print the figures: throughput against the bare client, modes, heavy tail, latency, CPU, memory, sizes."""
    folder = Path(tempfile.mkdtemp(prefix="proguard-bench-"))
    try:
        with (
            KafkaBroker(folder / "kafka", long_lived=True) as broker,
            TritonServer(
                ROOT / "tests" / "guards",
                triton_environment(ROOT),
                folder / "triton",
                models=["scripted_guard"],
                ready=lambda url: guard_answers(url, "scripted_guard"),
            ) as triton,
        ):

            def new_stage() -> Stage:
                # The limiter is held at the bare loop's 64, and every event is judged: nothing comes from the cache.
                return Stage.on(
                    broker,
                    triton.http_url,
                    folder,
                    PROGUARD_GUARD__LIMITER="fixed",
                    PROGUARD_GUARD__MAX_IN_FLIGHT="64",
                )

            for _ in range(WARM_UPS):
                worker_rate(new_stage, events, INSTANT)
            rehearsed = rehearse(new_stage())
            say(
                f"rehearsed for {rehearsed.seconds:.0f} s; Java's compiler has {rehearsed.compiler_cores:.3f} of a core at the end of it"
            )
            compare("guard_20ms", 0.95, triton.grpc_url, new_stage, events, SLOW, pairs)
            compare("guard_instant", 0.7, triton.grpc_url, new_stage, events, INSTANT, pairs)
            rate = compare_modes(new_stage, events, pairs)
            heavy_tail(triton.grpc_url, new_stage, events, pairs)
            compare_protocols(triton.grpc_url, new_stage, events, pairs)
            most = carried(new_stage, rate)
            say(f"sent and read beside it: {most:.0f}/s carried, of {rate:.0f}/s that came")
            latencies(triton.grpc_url, new_stage, most / 2, "half_load")
            latencies(triton.grpc_url, new_stage, UNHURRIED, f"{UNHURRIED}_a_second")
            if memory:
                early, late = memory_growth(new_stage, memory)
                say(f"resident: {early:.0f} MB after {memory:,} events, {late:.0f} MB after {memory * 10:,}")
                figure(f"resident_after_{memory * 10}_to_{memory}_events", late / early, 1.05)
        figure("worker_environment_mb", environment_mb(), 220)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    typer.run(main)
