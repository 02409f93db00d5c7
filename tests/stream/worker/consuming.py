"""A consumer thread on a real Kafka, with books that only note what they are told."""

from __future__ import annotations

import asyncio
import ctypes
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

import confluent_kafka
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from stream.clock import SystemClock
from stream.devkit.kafka import KafkaBroker
from stream.settings import KafkaSettings
from stream.telemetry.metrics import WorkerMetrics
from stream.worker.backlog import Backlog
from stream.worker.consumer import ConsumerThread
from stream.worker.ledger import Commit
from stream.worker.partitions import Commits
from stream.worker.records import InputRecord
from tests.support.services import fresh_topics

SESSION_MS = 1500

Partition = tuple[str, int]
Protocol = Literal["classic", "consumer"]
PROTOCOLS: tuple[Protocol, ...] = ("classic", "consumer")


class NotedBooks:
    """Notes every call, in order. `on_give_up` stands for the events in flight; `on_commits` may refuse to answer.

    `ready` is what may be committed. `memberships` has each token once, in the order in which they came, with the partitions that
    were owned and the number of records that had come by then.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[int]]] = []
        self.owned: dict[Partition, Commit | None] = {}
        self.accepted: defaultdict[int, list[InputRecord]] = defaultdict(list)
        self.memberships: list[tuple[object, set[Partition], int]] = []
        self.ready: Commits = {}
        self.on_give_up: Callable[[], Awaitable[None]] | None = None
        self.on_commits: Callable[[], None] | None = None
        self._lock = threading.Lock()

    def assign(self, partitions: Mapping[Partition, Commit | None]) -> None:
        self._note("assign", partitions)
        self.owned.update(partitions)

    def accept(self, records: list[InputRecord]) -> None:
        for record in records:
            self.accepted[record.partition].append(record)

    async def give_up(self, partitions: list[Partition], drain_s: float) -> Commits:
        self._note("give_up", partitions)
        if self.on_give_up is not None:
            await self.on_give_up()
        complete = self.commits(partitions)
        self._drop(partitions)
        return complete

    def release(self, partitions: list[Partition]) -> None:
        self._note("release", partitions)
        self._drop(partitions)

    def commits(self, partitions: list[Partition] | None = None) -> Commits:
        if self.on_commits is not None and partitions is None:
            self.on_commits()
        with self._lock:
            return {p: commit for p, commit in self.ready.items() if partitions is None or p in partitions}

    def joined(self, membership: object) -> None:
        if not self.memberships or self.memberships[-1][0] != membership:
            self.memberships.append((membership, set(self.owned), self.count))

    def _drop(self, partitions: list[Partition]) -> None:
        with self._lock:
            for partition in partitions:
                self.owned.pop(partition, None)
                self.ready.pop(partition, None)

    @property
    def count(self) -> int:
        return sum(map(len, self.accepted.values()))

    def offsets(self, partition: int = 0) -> list[int]:
        return [record.offset for record in self.accepted[partition]]

    def told(self, what: str) -> list[list[int]]:
        return [partitions for name, partitions in self.calls if name == what]

    def _note(self, what: str, partitions: Iterable[Partition]) -> None:
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
        commits: bool = True,
        protocol: Protocol = "classic",
        poll_interval_ms: int = SESSION_MS,
        consumer: type[Consumer] = Consumer,
        topic: str | None = None,
    ) -> None:
        self.bootstrap = broker.bootstrap
        self.protocol = protocol
        self.poll_interval_ms = poll_interval_ms
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
            commits=commits,
            commit_interval_s=0.05,
            drain_s=drain_s,
            on_failure=self.failures.append,
        )

    def member(self) -> dict[str, str | int | bool]:
        """The worker's properties, for a member whose absence is noticed soon."""
        settings = KafkaSettings(
            bootstrap_servers=self.bootstrap, group_id=self.group, group_protocol=self.protocol, session_timeout_ms=6000
        )
        short: dict[str, str | int | bool] = {"max.poll.interval.ms": self.poll_interval_ms, "log_level": 0}
        if self.protocol == "classic":
            short |= {"session.timeout.ms": SESSION_MS, "heartbeat.interval.ms": 200}
        return settings.consumer() | short

    def send(self, count: int, partition: int = 0, start: int = 0) -> None:
        producer = Producer({"bootstrap.servers": self.bootstrap, "linger.ms": 0})
        for n in range(start, start + count):
            producer.produce(self.topic, f"value {n}".encode(), f"key {n}".encode(), partition)
        assert producer.flush(20) == 0

    def complete(self, position: int, metadata: str = "", partition: int = 0) -> None:
        """The books say from now on that this may be committed."""
        self.books.ready[self.topic, partition] = Commit(position, metadata)

    def commit(self, commit: Commit, partition: int = 0) -> None:
        """Commit for the group, as an earlier owner. Nobody may be in it."""
        consumer = Consumer({"bootstrap.servers": self.bootstrap, "group.id": self.group})
        try:
            place = TopicPartition(self.topic, partition, commit.position, metadata=commit.metadata)
            consumer.commit(offsets=[place], asynchronous=False)
        finally:
            consumer.close()

    def committed(self, partition: int = 0) -> Commit | None:
        """What the group has committed; None when there is nothing."""
        consumer = Consumer({"bootstrap.servers": self.bootstrap, "group.id": self.group})
        try:
            (found,) = consumer.committed([TopicPartition(self.topic, partition)], timeout=10)
            return Commit(found.offset, found.metadata or "") if found.offset >= 0 else None
        finally:
            consumer.close()

    async def took_a_turn(self) -> None:
        """What was told to the thread before has its effect, and what the thread told the books has arrived."""
        for _ in range(2):
            seen = self.thread.last_poll
            await until(lambda seen=seen: self.thread.last_poll > seen)  # type: ignore[misc]

    async def commit_in_a_transaction(self, commit: Commit, partition: int = 0) -> None:
        """As the worker does it: under the membership that the books know. Raises `KafkaException` when it is refused."""
        await until(lambda: self.books.memberships)
        owner = OtherOwner(self)
        await asyncio.to_thread(owner.begin, commit, partition, self.books.memberships[-1][0])
        await asyncio.to_thread(owner.end)

    def members(self) -> int:
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        return len(admin.describe_consumer_groups([self.group])[self.group].result(10).members)

    def metric(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)


@asynccontextmanager
async def desk(broker: KafkaBroker, *, desk: Desk | None = None, **options: object) -> AsyncIterator[Desk]:
    """A started thread; at the end it must come to its end."""
    opened = desk or Desk(broker, **options)  # type: ignore[arg-type]
    opened.thread.start()
    try:
        yield opened
    finally:
        opened.books.on_commits = None
        assert await opened.thread.finish(20, drain_s=0.0)


class OtherOwner:
    """Commits for a desk's group in a transaction of its own, in two steps."""

    def __init__(self, of: Desk) -> None:
        self._of = of
        self._producer = Producer(
            {"bootstrap.servers": of.bootstrap, "transactional.id": uuid.uuid4().hex, "log_level": 0}
        )
        self._producer.init_transactions(20)

    def begin(self, commit: Commit, partition: int = 0, membership: object = None) -> None:
        """Without a membership the group must be empty. Raises `KafkaException` when the group refuses."""
        outsider = Consumer({"bootstrap.servers": self._of.bootstrap, "group.id": self._of.group})
        place = TopicPartition(self._of.topic, partition, commit.position, metadata=commit.metadata)
        self._producer.begin_transaction()
        token = outsider.consumer_group_metadata() if membership is None else membership
        self._producer.send_offsets_to_transaction([place], token, 20)
        outsider.close()

    def end(self) -> None:
        self._producer.commit_transaction(20)


class SecondMember:
    """Another consumer of the group, polled by a thread of its own."""

    def __init__(self, of: Desk) -> None:
        self.assigned: set[int] = set()
        self.membership: object = None
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
            self.membership = self._consumer.consumer_group_metadata()
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
