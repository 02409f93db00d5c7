"""Everything that can break: a broker, a guard, a store, and workers that reach them over links of their own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from confluent_kafka import Consumer, KafkaException, TopicPartition

from stream.devkit.kafka import KafkaBroker
from stream.devkit.process import free_ports
from stream.devkit.proxy import LOOPBACK, TcpProxy
from stream.devkit.stack import start_together
from stream.devkit.triton import TritonServer, triton_environment
from stream.devkit.worker import WorkerProcess
from stream.errors import DevkitError
from tests.chaos.workload import PICTURES, put_pictures
from tests.end_to_end.harness import Stage
from tests.support.services import REPOSITORY_ROOT, scripted_triton

BASE_WORKERS, EXTRA_WORKERS = 3, 1
PARTITIONS = 12
"""So that every worker gives one up when the extra one comes."""
SESSION_S, DRAIN_S = 6.0, 4.0
TURN_S = 0.05
START_ATTEMPTS = 3

SETTINGS = {
    "PROGUARD_KAFKA__SESSION_TIMEOUT_MS": f"{SESSION_S * 1000:.0f}",
    "PROGUARD_DELIVERY__DRAIN_S": f"{DRAIN_S:.0f}",
    "PROGUARD_DELIVERY__TRANSACTION_TIMEOUT_MS": "6000",
    "PROGUARD_LIMITS__DEADLINE_S": "20",
    # Small, so that a slow event in a backlog fills it.
    "PROGUARD_LIMITS__WINDOW": "512",
    "PROGUARD_LIMITS__MAX_EVENT_BYTES": "65536",
    "PROGUARD_GUARD__TIMEOUT_S": "4",
    "PROGUARD_GUARD__DOWN_AFTER_TIMEOUTS": "8",
}

CLIENT = {"reconnect.backoff.ms": "250", "reconnect.backoff.max.ms": "1000", "socket.timeout.ms": "5000"}
"""librdkafka looks for a broker that comes back more often than by default."""

CLIENT_OF = {
    # A member hears of a rebalance with its heartbeat. In the newer protocol the broker says how often that is.
    "classic": CLIENT | {"heartbeat.interval.ms": "500"},
    "consumer": CLIENT,
}

OUR_FAULTS = (
    "worker.fault",
    "coordinator.fault",
    "event.internal_fault",
    "worker.consumer_did_not_stop",
    "Traceback (",
)
"""What no worker's log may hold, whatever breaks around it."""


def broker_settings(port: int, controller: int, links: Sequence[tuple[int, int]]) -> dict[str, str]:
    """Settings of a broker with one more listener for each link (its own port, the proxy's): clients of it only ever learn of
    the proxy. Sessions are short in both group protocols."""
    names = [f"LINK{number}" for number in range(len(links))]
    ports = dict(zip(names, links, strict=True))
    plain, own = f"PLAINTEXT://{LOOPBACK}:{port}", f"CONTROLLER://{LOOPBACK}:{controller}"
    return {
        "group.consumer.session.timeout.ms": f"{SESSION_S * 1000:.0f}",
        "controller.quorum.voters": f"1@{LOOPBACK}:{controller}",
        "listeners": ",".join([plain, *(f"{name}://{LOOPBACK}:{ports[name][0]}" for name in names), own]),
        "advertised.listeners": ",".join([plain, *(f"{name}://{LOOPBACK}:{ports[name][1]}" for name in names)]),
        "listener.security.protocol.map": ",".join(f"{name}:PLAINTEXT" for name in ("CONTROLLER", "PLAINTEXT", *names)),
    }


class Slot:
    """A place for one worker, with its own links to Kafka and to the guard.

    While `wanted`, a worker that ends by itself is started again (by `Arena`), as a cluster would.
    """

    def __init__(self, number: int, kafka: TcpProxy, guard: TcpProxy, worker: WorkerProcess) -> None:
        self.number = number
        self.kafka = kafka
        self.guard = guard
        self.worker = worker
        self.wanted = False
        self._lock = threading.Lock()
        self._started_before = False

    def start(self) -> None:
        """Returns when the process runs, not when it is ready."""
        with self._lock:
            self.wanted = True
            if not self.worker.running:
                self.worker.start(wait=False)
                self._started_before = True

    def kill(self) -> None:
        with self._lock:
            self.wanted = False
            self.worker.kill()

    def ask_to_end(self) -> None:
        """SIGTERM, without waiting for what comes of it."""
        with self._lock:
            self.wanted = False
            if self.worker.running:
                os.kill(self.worker.pid, signal.SIGTERM)

    def terminate(self, timeout: float = 30.0) -> int | None:
        """An orderly end, which may take `DRAIN_S` and more. Returns the exit status."""
        with self._lock:
            self.wanted = False
        return self.worker.terminate(timeout)

    def revive(self) -> int | None:
        """Start it again if it should run and does not; then the status with which it ended."""
        with self._lock:
            if not self.wanted or self.worker.running:
                return None
            status = self.worker.returncode if self._started_before else None
            self.worker.start(wait=False)
            self._started_before = True
            return status

    def settled(self) -> bool:
        """Whether its worker is ready: it has partitions and a guard."""
        return self.worker.running and self.worker.ready()

    def draining(self) -> bool:
        """Whether it was told to stop and still answers."""
        try:
            return not self.worker.checks("ready")["running"]
        except (OSError, ValueError, KeyError):
            return False

    def beyond_watermark(self) -> bool:
        """Whether it remembers completed offsets beyond a gap."""
        try:
            return self.worker.metric("proguard_ledger_remembered_offsets") > 0
        except (OSError, ValueError):
            return False

    def log_from_here(self) -> Callable[[str], bool]:
        """Tells whether some text was logged after this call."""
        start = self.worker.log.stat().st_size if self.worker.log.exists() else 0

        def logged(text: str) -> bool:
            with self.worker.log.open("rb") as log:
                log.seek(start)
                return text.encode() in log.read()

        return logged


def over_http(worker: int) -> bool:
    """Half of the workers ask the guard over HTTP, the others over gRPC."""
    return worker // 2 % 2 == 0


class Arena:
    """Started by `with`; on the way out everything is stopped. `folder` keeps the logs and the data."""

    def __init__(self, folder: Path, *, mode: str, group_protocol: str = "classic") -> None:
        self.folder = folder
        self.pictures = put_pictures(folder / "store")
        self._exits = ExitStack()
        self._ending = threading.Event()
        count = BASE_WORKERS + EXTRA_WORKERS
        port, controller, *link_ports = free_ports(2 + 3 * count)
        direct, kafka_ports, guard_ports = link_ports[:count], link_ports[count : 2 * count], link_ports[2 * count :]
        self.broker = KafkaBroker(
            folder / "kafka",
            port=port,
            settings=broker_settings(port, controller, list(zip(direct, kafka_ports, strict=True))),
        )
        self.triton: TritonServer = scripted_triton(triton_environment(REPOSITORY_ROOT), folder / "triton")
        self._links = [
            (TcpProxy(own, port=kafka), TcpProxy(self._guard_port(number), port=guard))
            for number, (own, kafka, guard) in enumerate(zip(direct, kafka_ports, guard_ports, strict=True))
        ]
        self._mode = mode
        self._group_protocol = group_protocol
        self.slots: list[Slot] = []
        self.ended: Counter[str] = Counter()

    def __enter__(self) -> Self:
        try:
            start_together([("Kafka", self.broker), ("Triton", self.triton)], self._exits)
            self.stage = Stage.on(self.broker, self.triton.grpc_url, self.folder, partitions=PARTITIONS)
            for number, (kafka, guard) in enumerate(self._links):
                self._exits.enter_context(kafka)
                self._exits.enter_context(guard)
                worker = self.stage.worker(**self._worker_settings(number, kafka, guard))
                self._exits.callback(worker.kill)
                self.slots.append(Slot(number, kafka, guard, worker))
            supervisor = threading.Thread(target=self._supervise, name="supervisor", daemon=True)
            self._exits.callback(supervisor.join)
            self._exits.callback(self._ending.set)
            for slot in self.base:
                slot.start()
            supervisor.start()
        except BaseException:
            self._exits.close()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        for slot in self.slots:
            slot.wanted = False
        self._exits.close()

    @property
    def base(self) -> list[Slot]:
        """The workers that are there all the time, if nothing happens to them."""
        return self.slots[:BASE_WORKERS]

    @property
    def extra(self) -> Slot:
        """The place for a worker that comes and goes."""
        return self.slots[BASE_WORKERS]

    def hold(self, seconds: float) -> None:
        """Wait, or until the arena ends."""
        self._ending.wait(seconds)

    def until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Whether `condition` came to hold within `seconds`."""
        give_up = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > give_up or self._ending.wait(TURN_S):
                return False
        return True

    def bring_back(self, part: KafkaBroker | TritonServer) -> None:
        """Start what was killed; again if a busy machine was too slow for it."""
        for _ in range(START_ATTEMPTS - 1):
            with contextlib.suppress(DevkitError):
                part.start()
                return
        part.start()

    def give_up(self) -> None:
        """Whoever holds or waits goes on at once."""
        self._ending.set()

    def store_gone(self, gone: bool) -> None:
        here, away = self.folder / "store" / PICTURES, self.folder / "store" / "away"
        source, target = (here, away) if gone else (away, here)
        if source.exists():
            source.rename(target)

    def heal(self) -> None:
        """Everything as it was, whatever faults have left: nothing paused, cut, slow or away, and every base worker wanted."""
        self.store_gone(False)
        for part in (self.broker, self.triton):
            part.resume()
        for slot in self.slots:
            slot.kafka.heal()
            slot.guard.heal()
            slot.worker.resume()
        for slot in self.base:
            slot.start()

    def unanswered(self) -> dict[int, int]:
        """Partitions with events that the group has not committed, and how many. Raises `KafkaException`."""
        consumer = Consumer({"bootstrap.servers": self.broker.bootstrap, "group.id": self.stage.group})
        try:
            partitions = [TopicPartition(self.stage.topics.content, number) for number in range(PARTITIONS)]
            committed = {found.partition: max(0, found.offset) for found in consumer.committed(partitions, 10)}
            ends = {p.partition: consumer.get_watermark_offsets(p, timeout=10)[1] for p in partitions}
        finally:
            consumer.close()
        return {number: end - committed[number] for number, end in ends.items() if end > committed[number]}

    def drained(self) -> bool:
        """Whether every event has its outcome, as far as the group's commits say. False while nobody answers."""
        try:
            return not self.unanswered()
        except KafkaException:
            return False

    def lag(self) -> str:
        """What is not committed, for people."""
        try:
            return ", ".join(f"{count} of partition {number}" for number, count in self.unanswered().items())
        except KafkaException as error:
            return f"Kafka does not say ({error.args[0].str()})"

    def findings(self) -> list[str]:
        """What the workers' logs hold and must not."""
        found = []
        for slot in self.slots:
            text = slot.worker.log.read_text("utf-8", "replace") if slot.worker.log.exists() else ""
            found += [f"{slot.worker.log.name}: {fault} ×{text.count(fault)}" for fault in OUR_FAULTS if fault in text]
        return found

    def _guard_port(self, number: int) -> int:
        return self.triton.http_port if over_http(number) else self.triton.grpc_port

    def _worker_settings(self, number: int, kafka: TcpProxy, guard: TcpProxy) -> dict[str, str]:
        stores = {"media://chaos": {"kind": "local", "root": str(self.folder / "store")}}
        settings = SETTINGS | {
            "PROGUARD_DELIVERY__MODE": self._mode,
            "PROGUARD_KAFKA__BOOTSTRAP_SERVERS": kafka.address,
            "PROGUARD_KAFKA__GROUP_PROTOCOL": self._group_protocol,
            "PROGUARD_KAFKA__PROPERTIES": json.dumps(CLIENT_OF[self._group_protocol]),
            "PROGUARD_GUARD__URL": f"{'http' if over_http(number) else 'grpc'}://{guard.address}",
            "PROGUARD_EVIDENCE__STORES": json.dumps(stores),
        }
        if number % 2 == 0:
            # Half of them have a transactional id that survives a restart, the others a new one each time.
            settings["PROGUARD_DELIVERY__TRANSACTIONAL_ID"] = f"{self.stage.group}-{number}"
        return settings

    def _supervise(self) -> None:
        while not self._ending.wait(0.2):
            for slot in self.slots:
                try:
                    status = slot.revive()
                except DevkitError as error:
                    self.ended[f"could not be started: {error}"] += 1
                    continue
                if status is not None:
                    self.ended[f"status {status}: {_last_words(slot.worker.log)}"] += 1


def _last_words(log: Path) -> str:
    """Why a worker ended, as its log tells."""
    for line in reversed(log.read_text("utf-8", "replace").splitlines()[-200:]):
        if '"worker.failed"' in line or '"worker.fault"' in line:
            document = json.loads(line)
            return str(document.get("detail") or document.get("fault"))[:160]
    return "no reason in its log"
