"""Dead letters stop a worker that makes nothing else, and go back to be judged again; no verdict is lost or replaced on the way."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

from stream.devkit.kafka import KafkaBroker
from stream.devkit.triton import TritonServer
from tests.end_to_end.harness import Stage, event, eventually, running
from tests.stream.operator.parts import document, run


@pytest.fixture
def stage(kafka_broker: KafkaBroker, scripted_guard: TritonServer, tmp_path: Path) -> Stage:
    return Stage.on(kafka_broker, scripted_guard.http_url, tmp_path)


def test_a_worker_that_makes_only_dead_letters_stops_and_the_next_one_goes_on_where_it_was(stage: Stage) -> None:
    stage.send([(b"{broken", f"key-{n}".encode(), ()) for n in range(1000)])
    stage.send_events(50)
    limits = {"PROGUARD_DELIVERY__DEAD_LETTERS__MAX_RUN": "40", "PROGUARD_DELIVERY__MAX_BATCH": "20"}
    with stage.worker(**limits) as first:
        eventually(lambda: not first.running, 60, "the worker has stopped")
        assert first.returncode == 1
        assert "stopped by the dead-letter breaker: 40 dead letters one after another" in first.log.read_text()
    part_way = stage.audit()
    assert 40 <= len(part_way.dead_letters) < 1000
    assert part_way.duplicated == 0
    with running(stage.worker(PROGUARD_DELIVERY__DEAD_LETTERS__ENABLED="false")) as second:
        stage.all_answered()
        assert second.metric("proguard_dead_letter_run") >= 0
    report = stage.audit()
    assert report.ok, (report.summary(), report.faults)
    assert (len(report.dead_letters), len(report.verdicts)) == (1000, 50)


def test_a_redriven_event_is_judged_again_under_its_own_id_and_its_letter_counts_the_attempt(stage: Stage) -> None:
    bad = {
        "refused": event("refused", "[[error]]"),
        "unparsable": event("unparsable", "[[say=garbage]]"),
        "": b"{broken",
    }
    environment = stage.settings
    with running(stage.worker()):
        stage.send([(value, b"k", (("origin", b"test"),)) for value in bad.values()])
        stage.all_answered()
        for _ in range(2):
            told = run("redrive", "--json", "--max-attempts", "3", environment=environment)
            assert told.exit_code == 0, told.stderr
            assert document(told)["events"] == 3
            stage.all_answered()
        told = run("redrive", "--json", "--max-attempts", "3", environment=environment)
        assert (document(told)["events"], document(told)["left"]["too_many_attempts"]) == (0, 3)
    report = stage.audit()
    assert report.ok, (report.summary(), report.faults)
    attempts = defaultdict(list)
    for letter in report.dead_letters:
        attempts[letter.event_id].append(letter.attempt)
        assert letter.value == bad[letter.event_id or ""]
        assert (letter.key, letter.headers[0].name, letter.headers[0].value) == (b"k", "origin", b"test")
    assert attempts == {"refused": [1, 2, 3], "unparsable": [1, 2, 3], None: [1, 2, 3]}
    ids = {verdict.id for verdict in report.verdicts}
    assert len(ids) == len(report.verdicts) == 6
    assert {letter.verdict_id for letter in report.dead_letters if letter.verdict_id} == ids
