"""`events send` to a real broker."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stream.devkit.kafka import KafkaBroker
from tests.stream.operator.parts import document, read_all, run, topic_variables
from tests.support.services import fresh_topics

LINES = [
    b'{"id":"a","user_text":"Hello.","occurred_at":"2026-05-04T08:00:00Z","attributes":{"thread":"t"}}',
    b"not an event",
    b"\xff\xfe",
    b'{"id":"b","user_text":"Hello.","occurred_at":"2026-05-04T08:00:00Z","attributes":{"thread":"t"}}',
]


@pytest.fixture
def environment(kafka_broker: KafkaBroker) -> dict[str, str]:
    return topic_variables(fresh_topics(kafka_broker, "content"), kafka_broker.bootstrap)


@pytest.fixture
def events(tmp_path: Path) -> Path:
    file = tmp_path / "events.jsonl"
    file.write_bytes(b"\n".join(LINES) + b"\n")
    return file


def test_every_line_arrives_unchanged_and_in_order(environment: dict[str, str], events: Path) -> None:
    result = run("events", "send", events, "--json", environment=environment)
    assert result.exit_code == 0, result.stderr
    topic = environment["PROGUARD_TOPICS__CONTENT"]
    assert document(result) == {"topic": topic, "records": 4, "unreadable": 2, "failed": 0, "failures": []}
    found = read_all(environment["PROGUARD_KAFKA__BOOTSTRAP_SERVERS"], topic, 4)
    assert sorted(message.value() or b"" for message in found) == sorted(LINES)
    thread = [message for message in found if message.key() == b"t"]
    assert [json.loads(message.value() or b"")["id"] for message in thread] == ["a", "b"]
    assert dict(thread[0].headers() or [])["ce_id"] == b"a"
    assert all(not message.headers() for message in found if message.key() is None)


def test_standard_input_is_a_file_too(environment: dict[str, str]) -> None:
    result = run("events", "send", "-", environment=environment, stdin=b"\n".join(LINES))
    assert result.exit_code == 0, result.stderr
    assert "4 records sent" in result.stdout
    assert "2 unreadable, 0 refused" in result.stdout


def test_a_record_that_the_broker_refuses_is_told_and_the_status_is_1(environment: dict[str, str]) -> None:
    too_large = {**environment, "PROGUARD_KAFKA__PROPERTIES": '{"message.max.bytes": "1000"}'}
    result = run("events", "send", "-", environment=too_large, stdin=b"a\n" + b"b" * 5000 + b"\nc\n")
    assert result.exit_code == 1
    assert "2 records sent" in result.stdout
    assert "line 2:" in result.stderr


def test_a_missing_topic_says_how_to_make_it(kafka_broker: KafkaBroker, events: Path) -> None:
    variables = topic_variables({"content": "no.such.topic"}, kafka_broker.bootstrap)
    result = run("events", "send", events, environment=variables)
    assert result.exit_code == 2
    assert "there is no topic no.such.topic" in result.stderr
    assert "topics create" in result.stderr


def test_a_missing_file_is_one_clear_line(environment: dict[str, str], tmp_path: Path) -> None:
    result = run("events", "send", tmp_path / "nothing", environment=environment)
    assert result.exit_code == 2
    assert "No such file" in result.stderr
    assert len(result.stderr.splitlines()) == 1
