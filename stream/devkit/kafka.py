"""A real Apache Kafka broker on this machine: one node, KRaft, loopback only."""

from __future__ import annotations

import base64
import shutil
import socket
import threading
import uuid
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Self

from confluent_kafka.admin import AdminClient

from stream.devkit.jars import cache_folder, kafka_jars
from stream.devkit.process import Announce, ChildProcess, free_ports, silent
from stream.errors import DevkitError

__all__ = ["KafkaBroker", "kafka_jars"]

FORMAT_SECONDS = 60.0
START_SECONDS = 60.0
STOP_SECONDS = 10.0

JAVA_OPTIONS = (
    "-Xmx512m",
    "-XX:-UsePerfData",  # otherwise every JVM leaves a file in /tmp when it is killed
)
ONE_COLLECTOR = "-XX:+UseSerialGC"
"""Starts soonest, and stops the broker for 17 ms every few seconds of load."""
ALL_CORES_COLLECT = "-XX:+UseParallelGC"
"""Stops it as often; all cores share the work."""
QUICK_COMPILER = "-XX:TieredStopAtLevel=1"
"""The quick compiler only. A broker that lives for seconds or a few minutes gets less from the optimising one than that takes away from
what is being developed: 6.5 s against 4 s to start, 8.3 s against 3 s for the first 90,000 records. From then on it is slower."""

MAX_MESSAGE_BYTES = 24 * 1024 * 1024
"""A dead letter holds the original bytes, base64 in JSON: 16 MiB of them must fit."""

SETTINGS = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
    "inter.broker.listener.name": "PLAINTEXT",
    "auto.create.topics.enable": "false",
    "num.partitions": "4",
    # One node has one copy of everything.
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "message.max.bytes": str(MAX_MESSAGE_BYTES),
    "replica.fetch.max.bytes": str(MAX_MESSAGE_BYTES),
    # Groups form at once, and a member that was killed is missed soon: both kinds of groups may ask for short sessions.
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    "group.consumer.min.session.timeout.ms": "1000",
    "group.consumer.session.timeout.ms": "10000",
    "group.consumer.min.heartbeat.interval.ms": "500",
    "group.consumer.heartbeat.interval.ms": "1000",
    # A broker that was killed may come back once its last session is over: 9 s by default.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
    "log.cleaner.dedupe.buffer.size": str(16 * 1024 * 1024),
}


class KafkaBroker:
    """One broker, with its data in `folder`.

    The port stays the same from one start to the next, and so does the data: `kill` and `restart` are what a crash looks like
    to a client. `settings` are added to `server.properties`. With `long_lived` Java optimises it as it does a broker in production,
    which pays after the first 100,000 records. `start` blocks for 3 to 5 s, longer when the jars have to be
    downloaded first; it returns once the broker has answered a metadata request. The log is `folder/kafka.log`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        port: int | None = None,
        cache: Path | None = None,
        settings: Mapping[str, str] | None = None,
        long_lived: bool = False,
        announce: Announce = silent,
        discard_if_orphaned: Sequence[Path] = (),
    ) -> None:
        self.folder = folder.absolute()
        self._java_options = JAVA_OPTIONS + ((ALL_CORES_COLLECT,) if long_lived else (ONE_COLLECTOR, QUICK_COMPILER))
        self._cache = cache or cache_folder()
        self._extra = dict(settings or {})
        self._announce = announce
        self._discard_if_orphaned = discard_if_orphaned
        controller, own = free_ports(2)
        self._controller_port = controller
        self.port = port or own
        self._child: ChildProcess | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        return self._running_child().pid

    def start(self, cancelled: threading.Event | None = None) -> None:
        """Returns when clients can work. Raises DevkitError (`ChildDiedError` with the end of the log); then nothing runs."""
        java = shutil.which("java")
        if java is None:
            raise DevkitError("Apache Kafka needs Java 17 or newer, and there is no `java` on the PATH")
        jars = kafka_jars(self._cache, announce=self._announce, cancelled=cancelled)
        self._write_settings()
        command = [java, *self._java_options, f"-Djava.io.tmpdir={self.folder / 'tmp'}"]
        command += [f"-Dlog4j2.configurationFile={self.folder / 'log4j2.properties'}", "-cp", f"{jars}/*"]
        if not (self.folder / "data" / "meta.properties").exists():
            self._format(command, cancelled)
        self._child = self._process("Kafka", [*command, "kafka.Kafka", str(self.folder / "server.properties")])
        try:
            self._child.start()
            self._child.wait_until(self._answers, START_SECONDS, cancelled=cancelled)
        except BaseException:
            self._child.kill()
            raise

    def stop(self) -> None:
        """An orderly shutdown (about 1 s), then SIGKILL. The data stays. Does nothing when it is not running."""
        if self._child is not None:
            self._child.stop(STOP_SECONDS)

    def kill(self) -> None:
        """What `kill -9` does. The data stays."""
        self._running_child().kill()

    def restart(self) -> None:
        """`stop`, then `start` on the same port with the same data."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """The broker keeps its connections and answers nobody until `resume`."""
        self._running_child().pause()

    def resume(self) -> None:
        self._running_child().resume()

    def _running_child(self) -> ChildProcess:
        if self._child is None:
            raise DevkitError("Kafka was not started")
        return self._child

    def _process(self, name: str, argv: Sequence[str]) -> ChildProcess:
        return ChildProcess(
            argv, name=name, log=self.folder / "kafka.log", discard_if_orphaned=self._discard_if_orphaned
        )

    def _write_settings(self) -> None:
        (self.folder / "tmp").mkdir(parents=True, exist_ok=True)
        controller = f"127.0.0.1:{self._controller_port}"
        settings = SETTINGS | {
            "controller.quorum.voters": f"1@{controller}",
            "listeners": f"PLAINTEXT://{self.bootstrap},CONTROLLER://{controller}",
            "advertised.listeners": f"PLAINTEXT://{self.bootstrap}",
            "log.dirs": str(self.folder / "data"),
        }
        lines = [f"{name}={value}\n" for name, value in (settings | self._extra).items()]
        (self.folder / "server.properties").write_text("".join(lines), encoding="utf-8")
        logging = (files("stream.devkit") / "log4j2.properties").read_text(encoding="utf-8")
        (self.folder / "log4j2.properties").write_text(logging, encoding="utf-8")

    def _format(self, command: Sequence[str], cancelled: threading.Event | None) -> None:
        cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        tool = ["kafka.tools.StorageTool", "format", f"--cluster-id={cluster_id}"]
        configuration = f"--config={self.folder / 'server.properties'}"
        with self._process("Kafka's StorageTool", [*command, *tool, configuration]) as child:
            status = child.wait(FORMAT_SECONDS, cancelled=cancelled)
        if status != 0:
            raise DevkitError(f"Kafka's data folder could not be formatted (status {status}):\n{child.log_tail()}")

    def _answers(self) -> bool:
        # The connection first: librdkafka backs off after a refused one, and complains about it on standard error.
        with socket.create_connection(("127.0.0.1", self.port), timeout=1):
            pass
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        return bool(admin.list_topics(timeout=2).brokers)
