"""`verdicts tail` on a real broker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
from confluent_kafka.admin import AdminClient

from schemas.verdicts import CategoryRef, Verdict
from stream.devkit.kafka import KafkaBroker
from tests.stream.operator.parts import indeterminate, produce, run, topic_variables, verdict
from tests.support.services import REPOSITORY_ROOT, fresh_topics

HOSTILE = CategoryRef(id=None, path=[], name="\x1b[2J[red]\x07 ‮Fraud", in_taxonomy=False)
VERDICTS = [
    verdict(event_id="first"),
    verdict(event_id="second", tenant="nimbus"),
    indeterminate(event_id="third"),
    verdict(event_id="fourth", category=HOSTILE),
]


@pytest.fixture
def environment(kafka_broker: KafkaBroker) -> dict[str, str]:
    """A topic with an unreadable record between four verdicts."""
    topics = fresh_topics(kafka_broker, "verdicts", partitions=1)
    values = [verdict.model_dump_json().encode() for verdict in VERDICTS]
    produce(kafka_broker.bootstrap, topics["verdicts"], [values[0], b"{broken", *values[1:]])
    return topic_variables(topics, kafka_broker.bootstrap)


def test_json_lines_are_the_verdicts_and_nothing_else(environment: dict[str, str]) -> None:
    result = run("verdicts", "tail", "--from-beginning", "--limit", "4", "--json", environment=environment)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.isascii()
    assert [Verdict.model_validate_json(line) for line in result.stdout.splitlines()] == VERDICTS


def test_an_unreadable_record_is_mentioned_and_passed_by(environment: dict[str, str]) -> None:
    result = run("verdicts", "tail", "--from-beginning", "--limit", "4", environment=environment)
    assert result.exit_code == 0
    assert f"{environment['PROGUARD_TOPICS__VERDICTS']}[0]@1 is no verdict: json_invalid" in result.stderr
    assert [line.split()[2] for line in result.stdout.splitlines()] == ["first", "second", "third", "fourth"]


def test_a_hostile_name_does_not_reach_the_terminal_raw(environment: dict[str, str]) -> None:
    result = run("verdicts", "tail", "--from-beginning", "--limit", "4", environment=environment)
    assert "new risk: \\x1b[2J[red]\\x07 \\u202eFraud" in result.stdout
    assert all(line.isprintable() for line in result.stdout.splitlines())


def test_filters_hold_back_what_was_not_asked_for(environment: dict[str, str]) -> None:
    begin = ("verdicts", "tail", "--from-beginning", "--limit", "1", "--json")
    nimbus = run(*begin, "--tenant", "nimbus", environment=environment)
    assert json.loads(nimbus.stdout)["event_id"] == "second"
    undecided = run(*begin, "--status", "indeterminate", environment=environment)
    assert json.loads(undecided.stdout)["event_id"] == "third"


def test_ctrl_c_ends_it_well_and_no_group_is_left(kafka_broker: KafkaBroker, environment: dict[str, str]) -> None:
    mine = {name: value for name, value in os.environ.items() if not name.startswith("PROGUARD_")}
    command = [sys.executable, "-m", "stream.operator.cli", "verdicts", "tail", "--from-beginning", "--json"]
    with subprocess.Popen(
        command,
        env={**mine, **environment},
        cwd=REPOSITORY_ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as child:
        try:
            assert child.stdout is not None
            assert json.loads(child.stdout.readline())["event_id"] == "first"
            child.send_signal(signal.SIGINT)
            _, errors = child.communicate(timeout=30)
        finally:
            child.kill()
    assert child.returncode == 0, errors
    assert b"Traceback" not in errors
    groups = AdminClient({"bootstrap.servers": kafka_broker.bootstrap}).list_consumer_groups().result(10).valid
    assert "proguard-stream-reader" not in {group.group_id for group in groups}
