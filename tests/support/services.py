"""Real services for tests, each started when the first test asks for it and shared by the whole session."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from stream.demo.scene import guard_answers
from stream.devkit.kafka import KafkaBroker
from stream.devkit.mock_kafka import Kafka
from stream.devkit.s3 import S3Server
from stream.devkit.triton import TritonServer, triton_environment

REPOSITORY_ROOT = Path(__file__).resolve().parents[2]
CREATE_SECONDS = 20.0


@pytest.fixture(scope="session")
def kafka_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    """One real broker. Tests use topics of their own (`fresh_topics`) and never stop or pause it."""
    folder = tmp_path_factory.mktemp("kafka")
    try:
        with KafkaBroker(folder) as broker:
            yield broker
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """One S3 server in memory. Tests use buckets of their own."""
    with S3Server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="session")
def triton_env() -> Path:
    """The environment that holds `tritonserver`. Fails, with the command that builds it, when there is none."""
    return triton_environment(REPOSITORY_ROOT)


def fresh_topics(broker: Kafka, *names: str, partitions: int = 4) -> dict[str, str]:
    """Creates one topic for each name and returns name → the unique name that it got. Blocks until they exist."""
    suffix = uuid.uuid4().hex[:8]
    topics = {name: f"{name}.{suffix}" for name in names}
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    requested = [NewTopic(topic, num_partitions=partitions, replication_factor=1) for topic in topics.values()]
    for created in admin.create_topics(requested, operation_timeout=CREATE_SECONDS).values():
        created.result(CREATE_SECONDS)
    return topics


@pytest.fixture(scope="session")
def scripted_guard(triton_env: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """One real Triton with the guard that does what the content says (tests/guards). Tests never stop it."""
    with scripted_triton(triton_env, tmp_path_factory.mktemp("triton")) as server:
        yield server


def scripted_triton(environment: Path, folder: Path, *, start_timeout: float = 120.0) -> TritonServer:
    """A Triton of its own, not started, for tests that stop it."""
    return TritonServer(
        REPOSITORY_ROOT / "tests" / "guards",
        environment,
        folder,
        models=["scripted_guard"],
        ready=lambda url: guard_answers(url, "scripted_guard"),
        start_timeout=start_timeout,
    )
