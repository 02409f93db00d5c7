"""A consumer thread on a real Kafka, with books that only note what they are told."""

from __future__ import annotations

import asyncio
import ctypes
import threading
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import confluent_kafka
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from stream.clock import SystemClock
from stream.devkit.kafka import KafkaBroker
from stream.telemetry.metrics import WorkerMetrics
from stream.worker.backlog import Backlog
from stream.worker.consumer import ConsumerThread
from stream.worker.records import InputRecord
from tests.support.services import fresh_topics

SESSION_MS = 1500

Partition = tuple[str, int]


class NotedBooks:
    """Notes every call, in order. `on_drain` stands for the events in flight; `on_positions` runs in the consumer's thread."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[int]]] = []
        self.owned: set[Partition] = set()
        self.accepted: defaultdict[int, list[InputRecord]] = defaultdict(list)
        self.ready: dict[Partition, int] = {}
        self.on_drain: Callable[[], Awaitable[bool]] | None = None
        self.on_positions: Callable[[], None] | None = None
        self._lock = threading.Lock()

    def assign(self, partitions: list[Partition]) -> None:
        self._note("assign", partitions)
        self.owned.update(partitions)

    def accept(self, records: list[InputRecord]) -> None:
        for record in records:
            self.accepted[record.partition].append(record)

    async def drain(self, partitions: list[Partition], timeout: float) -> bool:
        self._note("drain", partitions)
        return True if self.on_drain is None else await self.on_drain()

    def release(self, partitions: list[Partition]) -> None:
        self._note("release", partitions)
        self.owned.difference_update(partitions)
        with self._lock:
            for partition in partitions:
                self.ready.pop(partition, None)

    def positions(self, partitions: list[Partition] | None = None) -> dict[Partition, int]:
        if self.on_positions is not None and partitions is None:
            self.on_positions()
        with self._lock:
            return {p: offset for p, offset in self.ready.items() if partitions is None or p in partitions}

    @property
    def count(self) -> int:
        return sum(map(len, self.accepted.values()))

    def offsets(self, partition: int = 0) -> list[int]:
        return [record.offset for record in self.accepted[partition]]

    def told(self, what: str) -> list[list[int]]:
        return [partitions for name, partitions in self.calls if name == what]

    def _note(self, what: str, partitions: list[Partition]) -> None:
        self.calls.append((what, sorted(number for _, number in partitions)))


class Desk:
    """A topic, its group, and the thread that reads it."""

    def __init__(
        self,
        broker: KafkaBroker,
        *,
        partitions: int = 1,
        limit: int = 1000,
        drain_s: float = 10.0,
        consumer: type[Consumer] = Consumer,
        topic: str | None = None,
    ) -> None:
        self.bootstrap = broker.bootstrap
        self.topic = topic or fresh_topics(broker, "content", partitions=partitions)["content"]
        self.group = f"group-{self.topic}"
        self.books, self.backlog, self.metrics = NotedBooks(), Backlog(limit), WorkerMetrics()
        self.failures: list[BaseException] = []
        self.thread = ConsumerThread(
            consumer(self.member()),
            self.topic,
            books=self.books,
            backlog=self.backlog,
            loop=asyncio.get_running_loop(),
            clock=SystemClock(),
            metrics=self.metrics,
            commit_interval_s=0.05,
            drain_s=drain_s,
            on_failure=self.failures.append,
        )

    def member(self) -> dict[str, str | int | bool]:
        """Properties of a member of the group whose absence is noticed soon."""
        return {
            "bootstrap.servers": self.bootstrap,
            "group.id": self.group,
            "partition.assignment.strategy": "cooperative-sticky",
            "session.timeout.ms": SESSION_MS,
            "max.poll.interval.ms": SESSION_MS,
            "heartbeat.interval.ms": 200,
            "fetch.wait.max.ms": 50,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "log_level": 0,
        }

    def send(self, count: int, partition: int = 0, start: int = 0) -> None:
        producer = Producer({"bootstrap.servers": self.bootstrap, "linger.ms": 0})
        for n in range(start, start + count):
            producer.produce(self.topic, f"value {n}".encode(), f"key {n}".encode(), partition)
        assert producer.flush(20) == 0

    def committed(self, partition: int = 0) -> int:
        """The group's offset; -1001 when there is none."""
        consumer = Consumer({"bootstrap.servers": self.bootstrap, "group.id": self.group})
        try:
            (found,) = consumer.committed([TopicPartition(self.topic, partition)], timeout=10)
            return int(found.offset)
        finally:
            consumer.close()

    def members(self) -> int:
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        return len(admin.describe_consumer_groups([self.group])[self.group].result(10).members)

    def metric(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)


@asynccontextmanager
async def desk(broker: KafkaBroker, **options: object) -> AsyncIterator[Desk]:
    """A started thread; at the end it must come to its end."""
    opened = Desk(broker, **options)  # type: ignore[arg-type]
    opened.thread.start()
    try:
        yield opened
    finally:
        opened.books.on_positions = None
        assert await opened.thread.finish(20, drain_s=0.0)


class SecondMember:
    """Another consumer of the group, polled by a thread of its own."""

    def __init__(self, of: Desk) -> None:
        self.assigned: set[int] = set()
        self._consumer = Consumer(of.member())
        self._stop = threading.Event()
        self._consumer.subscribe([of.topic], on_assign=self._on_assign, on_revoke=self._on_revoke)
        self._thread = threading.Thread(target=self._poll, daemon=True)
        self._thread.start()

    def leave(self) -> None:
        self._stop.set()
        self._thread.join(20)

    def _poll(self) -> None:
        while not self._stop.is_set():
            self._consumer.poll(0.05)
        self._consumer.close()

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self.assigned |= {partition.partition for partition in partitions}
        consumer.incremental_assign(partitions)
        consumer.pause(partitions)

    def _on_revoke(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self.assigned -= {partition.partition for partition in partitions}


async def until(condition: Callable[[], object], timeout: float = 20.0) -> None:
    async with asyncio.timeout(timeout):
        while not condition():
            await asyncio.sleep(0.02)


async def still(condition: Callable[[], object], seconds: float) -> None:
    """`condition` holds now and for `seconds` on."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert condition()
        await asyncio.sleep(0.05)


def send_with_raw_header(bootstrap: str, topic: str, name: bytes) -> None:
    """Write a record whose header name is `name`, byte for byte: confluent-kafka would only write UTF-8, other clients do not care."""
    folder = Path(confluent_kafka.__file__).parent.parent / "confluent_kafka.libs"
    lib = ctypes.CDLL(str(next(folder.glob("librdkafka*"))))
    for function in (lib.rd_kafka_conf_new, lib.rd_kafka_new, lib.rd_kafka_headers_new):
        function.restype = ctypes.c_void_p
    fault = ctypes.create_string_buffer(512)
    conf = ctypes.c_void_p(lib.rd_kafka_conf_new())
    lib.rd_kafka_conf_set(conf, b"bootstrap.servers", bootstrap.encode(), fault, ctypes.c_size_t(512))
    producer = ctypes.c_void_p(lib.rd_kafka_new(0, conf, fault, ctypes.c_size_t(512)))
    headers = ctypes.c_void_p(lib.rd_kafka_headers_new(ctypes.c_size_t(1)))
    lib.rd_kafka_header_add(headers, name, ctypes.c_ssize_t(len(name)), b"v", ctypes.c_ssize_t(1))
    # Tags of rd_kafka_vtype_t: 1 topic, 4 value, 7 flags (2 copies the value), 10 headers, 0 the end.
    tag = ctypes.c_int
    value = b"value"
    arguments = (tag(1), ctypes.c_char_p(topic.encode()), tag(4), ctypes.c_char_p(value), ctypes.c_size_t(len(value)))
    assert lib.rd_kafka_producev(producer, *arguments, tag(7), ctypes.c_int(2), tag(10), headers, tag(0)) == 0
    assert lib.rd_kafka_flush(producer, ctypes.c_int(10_000)) == 0
    lib.rd_kafka_destroy(producer)
