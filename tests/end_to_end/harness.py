"""What every end-to-end test needs: fresh topics on the shared broker, a real worker, and the books read back."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from confluent_kafka import Producer

from schemas.topics import Topics
from stream.demo.audit import AuditReport, audit_topics
from stream.devkit.kafka import KafkaBroker
from stream.devkit.worker import WorkerProcess
from tests.support.services import fresh_topics

Header = tuple[str, bytes | None]


def event(event_id: str, text: str = "hello", **fields: object) -> bytes:
    """A content event as a producer would write it."""
    document = {"id": event_id, "user_text": text, "occurred_at": "2026-01-01T00:00:00Z", **fields}
    return json.dumps({name: value for name, value in document.items() if value is not None}).encode()


def eventually(condition: Callable[[], bool], timeout: float, what: str, *, every: float = 0.1) -> None:
    """Return once `condition` holds; fail after `timeout` seconds. Looks `every` so many seconds."""
    deadline, pause = time.monotonic() + timeout, threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"after {timeout:g} s still not: {what}"
        pause.wait(every)


@dataclass
class Stage:
    """Four topics and the settings of the workers that serve them."""

    broker: KafkaBroker
    topics: Topics
    group: str
    settings: dict[str, str]
    folder: Path
    workers: int = 0
    _producer: Producer | None = field(default=None, repr=False)

    @classmethod
    def on(cls, broker: KafkaBroker, guard_url: str, folder: Path, *, partitions: int = 4, **settings: str) -> Stage:
        names = fresh_topics(broker, "content", "verdicts", "ood", "dead-letters", partitions=partitions)
        topics = Topics(
            content=names["content"], verdicts=names["verdicts"], ood=names["ood"], dead_letters=names["dead-letters"]
        )
        group = f"group-{names['content']}"
        return cls(
            broker,
            topics,
            group,
            {
                "PROGUARD_KAFKA__BOOTSTRAP_SERVERS": broker.bootstrap,
                "PROGUARD_KAFKA__GROUP_ID": group,
                "PROGUARD_TOPICS__CONTENT": topics.content,
                "PROGUARD_TOPICS__VERDICTS": topics.verdicts,
                "PROGUARD_TOPICS__OOD": topics.ood,
                "PROGUARD_TOPICS__DEAD_LETTERS": topics.dead_letters,
                "PROGUARD_GUARD__URL": guard_url,
                "PROGUARD_GUARD__MODEL": "scripted_guard",
                "PROGUARD_TELEMETRY__LOG_FORMAT": "json",
                **settings,
            },
            folder,
        )

    @property
    def properties(self) -> Mapping[str, str | int | bool]:
        return {"bootstrap.servers": self.broker.bootstrap}

    def worker(self, **settings: str) -> WorkerProcess:
        """Another worker of the group; not started."""
        self.workers += 1
        return WorkerProcess({**self.settings, **settings}, self.folder, name=f"worker-{self.workers}")

    def send(self, values: Sequence[tuple[bytes | None, bytes | None, Sequence[Header]]]) -> None:
        """Write records (value, key, headers) and wait until Kafka has them."""
        producer = self._producer or Producer({**self.properties, "linger.ms": 5, "message.max.bytes": 8_000_000})
        self._producer = producer
        failures: list[str] = []
        for value, key, headers in values:
            producer.produce(
                self.topics.content,
                value,
                key,
                headers=list(headers),
                on_delivery=lambda error, _message: failures.append(error.str()) if error else None,
            )
            producer.poll(0)
        assert producer.flush(60) == 0
        assert not failures

    def send_events(self, count: int, text: str = "hello", keys: int = 50, start: int = 0) -> None:
        """`count` events over `keys` keys."""
        self.send(
            [(event(f"e{n}", f"{text} {n}"), f"key-{n % keys}".encode(), ()) for n in range(start, start + count)]
        )

    def audit(self, *, repeats_allowed: bool = False) -> AuditReport:
        return audit_topics(self.properties, self.topics, repeats_allowed=repeats_allowed)

    def all_answered(self, timeout: float = 90.0) -> AuditReport:
        """The books once every event has an outcome."""
        latest: list[AuditReport] = []

        def answered() -> bool:
            latest[:] = [self.audit()]
            return latest[0].events > 0 and latest[0].lost == 0

        eventually(answered, timeout, "every event has an outcome")
        return latest[0]


@contextmanager
def running(worker: WorkerProcess) -> Iterator[WorkerProcess]:
    """The worker, started and ready; at the end it drains and must end well."""
    with worker:
        yield worker
        if worker.running:
            assert worker.terminate() == 0, worker.log_tail()
