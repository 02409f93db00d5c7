"""Without Java or Maven there is still a Kafka to talk to, and the person is told which."""

from __future__ import annotations

from pathlib import Path

import pytest

from stream.devkit.jars import jars_folder
from stream.devkit.kafka import KafkaBroker
from stream.devkit.mock_kafka import MockKafka, open_kafka
from stream.errors import DevkitError
from tests.stream.devkit.test_kafka import read, write


def executable(folder: Path, name: str, output: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\necho '{output}' >&2\n", encoding="utf-8")
    (folder / name).chmod(0o755)


def test_the_mock_cluster_takes_and_gives_records_and_ends_with_stop() -> None:
    with MockKafka() as mock:
        write(mock, "anything", b"a", b"b")
        assert read(mock, "anything", 2) == [b"a", b"b"]
    with pytest.raises(DevkitError, match="not started"):
        _ = mock.bootstrap


@pytest.mark.parametrize(
    ("programs", "reason"),
    [
        ({}, "no `java`"),
        ({"java": 'openjdk version "11.0.2" 2019-01-15'}, "version 11"),
        ({"java": 'java version "1.8.0_202"'}, "version 8"),
        ({"java": 'openjdk version "17.0.15" 2025-04-15'}, "no `mvn`"),
    ],
)
def test_the_mock_is_taken_where_real_kafka_cannot_run_and_the_reason_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, programs: dict[str, str], reason: str
) -> None:
    (tmp_path / "bin").mkdir()
    for name, output in programs.items():
        executable(tmp_path / "bin", name, output)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    told: list[str] = []
    assert isinstance(open_kafka(tmp_path, told.append, cache=tmp_path / "cache"), MockKafka)
    assert len(told) == 1
    assert reason in told[0]
    assert "mock" in told[0]


def test_maven_is_not_needed_once_the_jars_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executable(tmp_path / "bin", "java", 'openjdk version "21.0.1" 2023-10-17')
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    jars_folder(tmp_path / "cache").mkdir(parents=True)
    told: list[str] = []
    assert isinstance(open_kafka(tmp_path, told.append, cache=tmp_path / "cache"), KafkaBroker)
    assert not told
