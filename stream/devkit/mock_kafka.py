"""Kafka for machines without Java or Maven: librdkafka's mock cluster, inside this process."""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, Self

from confluent_kafka import Producer

from stream.devkit.jars import cache_folder, jars_folder
from stream.devkit.kafka import KafkaBroker
from stream.devkit.process import Announce, silent
from stream.errors import DevkitError

OLDEST_JAVA = 17


class Kafka(Protocol):
    """What the rest of the kit needs of a broker, real or not."""

    @property
    def bootstrap(self) -> str: ...

    def start(self, cancelled: threading.Event | None = None) -> None: ...

    def stop(self) -> None: ...


class MockKafka:
    """A cluster of one, which any client of this process or of its children can reach at `bootstrap` once it has started.

    It knows produce and consume with headers, consumer groups of both kinds, commits with metadata. It does **not** know
    CreateTopics (the call times out; a topic comes to be with 4 partitions when it is first used), it accepts transactions and
    ignores them (an aborted record is visible), it keeps about 5 MB a partition, and it forgets everything on `stop`.
    """

    def __init__(self) -> None:
        self._host: Producer | None = None
        self._bootstrap = ""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    @property
    def bootstrap(self) -> str:
        """Raises DevkitError before `start`: only the running cluster knows its port."""
        if not self._bootstrap:
            raise DevkitError("the mock cluster was not started")
        return self._bootstrap

    def start(self, cancelled: threading.Event | None = None) -> None:  # noqa: ARG002 - part of `Kafka`
        """Takes milliseconds, so `cancelled` is not looked at."""
        self._host = Producer({"test.mock.num.brokers": 1, "log_level": 0})
        brokers = self._host.list_topics(timeout=10).brokers.values()
        self._bootstrap = ",".join(f"{broker.host}:{broker.port}" for broker in brokers)

    def stop(self) -> None:
        self._host = None  # the cluster lives exactly as long as this producer
        self._bootstrap = ""


def missing_for_real_kafka(cache: Path) -> str | None:
    """Why a real broker cannot be had on this machine, in words for a person; None when nothing is in the way."""
    java = shutil.which("java")
    if java is None:
        return "there is no `java` on the PATH (Apache Kafka needs Java 17 or newer)"
    version = _java_version(java)
    if version is not None and version < OLDEST_JAVA:
        return f"`java` is version {version} (Apache Kafka needs Java 17 or newer)"
    if not jars_folder(cache).is_dir() and shutil.which("mvn") is None:
        return "there is no `mvn` on the PATH (Maven downloads Apache Kafka)"
    return None


def open_kafka(
    folder: Path,
    announce: Announce = silent,
    *,
    cache: Path | None = None,
    discard_if_orphaned: Sequence[Path] = (),
) -> KafkaBroker | MockKafka:
    """The real broker where it can be had, else the mock cluster, and then `announce` says why. It is not started yet."""
    cache = cache or cache_folder()
    obstacle = missing_for_real_kafka(cache)
    if obstacle is None:
        return KafkaBroker(folder, cache=cache, announce=announce, discard_if_orphaned=discard_if_orphaned)
    announce(f"Kafka: {obstacle}. Using librdkafka's mock cluster instead: no transactions, nothing is kept.")
    return MockKafka()


def _java_version(java: str) -> int | None:
    try:
        answer = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r'version "(?:1\.)?(\d+)', answer.stderr)
    return int(found[1]) if found else None
