"""Stops, crashes, outages and rebalances, on real Kafka and a real Triton: nothing is lost and keys keep their order."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient

from stream.demo.audit import AuditReport
from stream.demo.scene import guard_answers
from stream.devkit.kafka import KafkaBroker
from stream.devkit.triton import TritonServer
from stream.errors import DevkitError
from tests.end_to_end.harness import Stage, event, eventually, running
from tests.support.services import scripted_triton

SLOW = "[[delay=20]]"
MANY = 3000
url_of = {"http": lambda guard: guard.http_url, "grpc": lambda guard: guard.grpc_url}


@pytest.fixture
def stage(kafka_broker: KafkaBroker, scripted_guard: TritonServer, tmp_path: Path) -> Stage:
    return Stage.on(kafka_broker, scripted_guard.http_url, tmp_path)


@pytest.fixture
def mortal_guard(triton_env: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    with scripted_triton(triton_env, tmp_path_factory.mktemp("mortal"), start_timeout=15.0) as server:
        yield server


def members(stage: Stage) -> int:
    admin = AdminClient({"bootstrap.servers": stage.broker.bootstrap})
    return len(admin.describe_consumer_groups([stage.group])[stage.group].result(10).members)


def committed_everything(stage: Stage) -> bool:
    consumer = Consumer({"bootstrap.servers": stage.broker.bootstrap, "group.id": stage.group})
    try:
        topic = consumer.list_topics(stage.topics.content, timeout=10).topics[stage.topics.content]
        partitions = [TopicPartition(stage.topics.content, number) for number in topic.partitions]
        ends = {p.partition: consumer.get_watermark_offsets(p, timeout=10)[1] for p in partitions}
        return all(p.offset == ends[p.partition] or ends[p.partition] == 0 for p in consumer.committed(partitions, 10))
    finally:
        consumer.close()


def assert_every_event_once_by_id(report: AuditReport, events: int) -> None:
    """At least once: an event may have its verdict again, under the same id, never another one."""
    assert (report.events, report.lost, report.faults) == (events, 0, [])
    by_event = {(verdict.event_id, verdict.id) for verdict in report.verdicts}
    assert len(by_event) == events


def test_a_worker_stopped_in_the_middle_and_started_again_answers_every_event_once(stage: Stage) -> None:
    with running(stage.worker()) as first:
        stage.send_events(1000, SLOW)
        eventually(lambda: first.metric("proguard_verdicts_total") > 200, 60, "the worker is in the middle")
        assert first.terminate() == 0, first.log_tail()
    part_way = stage.audit()
    assert 200 < len(part_way.verdicts) < 1000
    assert part_way.duplicated == 0
    with running(stage.worker()):
        report = stage.all_answered()
        eventually(lambda: committed_everything(stage), 10, "all offsets are committed")
    report = stage.audit()
    assert report.ok, report.summary()
    assert (report.events, len(report.verdicts)) == (1000, 1000)


@pytest.mark.parametrize(
    ("mode", "interval"),
    [("at_least_once", "PROGUARD_DELIVERY__LINGER_MS"), ("exactly_once", "PROGUARD_DELIVERY__TRANSACTION_INTERVAL_MS")],
)
def test_outcomes_are_written_together_for_as_long_as_the_settings_say(stage: Stage, mode: str, interval: str) -> None:
    # Four at a time, 20 ms each: two seconds in which a batch of its own for each turn would be a hundred.
    few = {"PROGUARD_GUARD__LIMITER": "fixed", "PROGUARD_GUARD__MAX_IN_FLIGHT": "4"}
    with running(stage.worker(PROGUARD_DELIVERY__MODE=mode, **few, **{interval: "1000"})) as worker:
        stage.send_events(400, SLOW, keys=400)  # of one key, only one at a time is written when at least once
        report = stage.all_answered()
        batches = worker.metric("proguard_batches_total", result="written")
    assert_every_event_once_by_id(report, 400)
    assert 2 <= batches <= 8


def test_a_worker_that_is_killed_loses_nothing(stage: Stage) -> None:
    # A short session, so that the group does not wait long for the dead member.
    short = {
        "PROGUARD_KAFKA__SESSION_TIMEOUT_MS": "6000",
        "PROGUARD_DELIVERY__DRAIN_S": "4",
        "PROGUARD_DELIVERY__TRANSACTION_TIMEOUT_MS": "6000",
    }
    with stage.worker(**short) as first:
        stage.send_events(600, SLOW)
        eventually(lambda: first.metric("proguard_verdicts_total") > 100, 60, "the worker is in the middle")
        first.kill()
    with running(stage.worker(**short)):
        report = stage.all_answered()
    assert_every_event_once_by_id(report, 600)


@pytest.mark.parametrize("protocol", url_of)
def test_a_guard_that_is_gone_for_twenty_seconds_costs_nothing(
    kafka_broker: KafkaBroker, mortal_guard: TritonServer, tmp_path: Path, protocol: str
) -> None:
    stage = Stage.on(kafka_broker, url_of[protocol](mortal_guard), tmp_path, PROGUARD_LIMITS__DEADLINE_S="10")
    with running(stage.worker()) as worker:
        stage.send_events(1500, SLOW)
        eventually(lambda: worker.metric("proguard_verdicts_total") > 100, 60, "the worker is in the middle")
        mortal_guard.kill()
        eventually(lambda: worker.metric("proguard_paused", why="guard") == 1, 20, "the worker has paused")
        assert worker.checks("ready")["guard"] is False
        assert worker.checks("live") == {"polls": True, "turns": True}
        # What was answered before the guard went may still have to be written.
        written = Countdown(5)
        eventually(written, 10, "what had its answer is written")
        answered = worker.metric("proguard_verdicts_total")
        outage_over = Countdown(15)
        eventually(outage_over, 25, "the outage is over")
        assert members(stage) == 1
        assert worker.metric("proguard_verdicts_total") == answered
        mortal_guard.restart()
        report = stage.all_answered()
        assert worker.metric("proguard_paused", why="guard") == 0
    assert report.ok, (report.summary(), report.faults)
    assert Counter(verdict.status.value for verdict in report.verdicts) == {"decided": 1500}


@pytest.mark.parametrize("protocol", url_of)
def test_a_guard_that_hangs_is_waited_out(
    kafka_broker: KafkaBroker, mortal_guard: TritonServer, tmp_path: Path, protocol: str
) -> None:
    # Enough that the guard is stopped in the middle of them, however late this test looks.
    stage = Stage.on(kafka_broker, url_of[protocol](mortal_guard), tmp_path, PROGUARD_GUARD__TIMEOUT_S="2")
    with running(stage.worker()) as worker:
        stage.send_events(MANY, SLOW)
        eventually(lambda: worker.metric("proguard_verdicts_total") > 50, 60, "the worker is in the middle")
        mortal_guard.pause()
        eventually(lambda: worker.metric("proguard_paused", why="guard") == 1, 20, "the worker has paused")
        mortal_guard.resume()

        def answered_even_if_the_stop_was_too_much_for_triton() -> bool:
            # Stopped in the middle of a request it may abort (boost::interprocess::lock_exception); a pod would start it again.
            if worker.metric("proguard_paused", why="guard") == 1 and not psutil.pid_exists(mortal_guard.pid):
                mortal_guard.restart()
            return stage.audit().lost == 0

        eventually(answered_even_if_the_stop_was_too_much_for_triton, 90, "every event has an outcome")
        report = stage.audit()
    assert report.ok, (report.summary(), report.faults)
    assert Counter(verdict.status.value for verdict in report.verdicts) == {"decided": MANY}


@pytest.mark.parametrize("protocol", url_of)
def test_an_event_that_kills_the_guard_is_given_up_and_the_others_are_judged(
    kafka_broker: KafkaBroker, mortal_guard: TritonServer, tmp_path: Path, protocol: str
) -> None:
    stage = Stage.on(kafka_broker, url_of[protocol](mortal_guard), tmp_path, PROGUARD_GUARD__ATTEMPTS="2")
    with running(stage.worker(PROGUARD_GUARD__TIMEOUT_S="2")) as worker:
        stage.send([(event("killer", "[[crash]]"), b"killer", ())])
        stage.send_events(50)

        def answered_with_a_server_that_is_restarted() -> bool:
            # This Triton does not restart a dead stub by itself; in production the pod's liveness probe does.
            # One that answers is left alone, whatever the worker knows yet: this would be a second death for the events beside the first.
            down = worker.metric("proguard_paused", why="guard") == 1
            if down and not guard_answers(mortal_guard.grpc_url, "scripted_guard"):
                with suppress(DevkitError):  # killed again before its own readiness probe was answered
                    mortal_guard.restart()
            return stage.audit().lost == 0

        eventually(answered_with_a_server_that_is_restarted, 90, "every event has an outcome")
        report = stage.audit()
    killer = [verdict for verdict in report.verdicts if verdict.event_id == "killer"]
    assert [(verdict.status.value, verdict.action) for verdict in killer] == [("indeterminate", "review")]
    assert Counter(verdict.status.value for verdict in report.verdicts)["decided"] == 50
    assert report.ok


def test_a_second_worker_takes_half_of_the_partitions_and_gives_them_back(stage: Stage) -> None:
    with running(stage.worker()) as first:
        stage.send_events(1000, SLOW)
        with running(stage.worker()) as second:
            eventually(
                lambda: second.metric("proguard_partitions_assigned") == 2, 60, "the second worker has its share"
            )
            stage.send_events(1000, SLOW, start=1000)
            eventually(lambda: second.metric("proguard_verdicts_total") > 20, 60, "the second worker works")
        eventually(lambda: first.metric("proguard_partitions_assigned") == 4, 60, "the first worker has all again")
        stage.send_events(500, SLOW, start=2000)
        report = stage.all_answered()
    assert_every_event_once_by_id(report, 2500)
    assert report.reordered == 0


def test_a_worker_more_than_there_are_partitions_is_ready_and_stands_by(
    kafka_broker: KafkaBroker, scripted_guard: TritonServer, tmp_path: Path
) -> None:
    stage = Stage.on(kafka_broker, scripted_guard.http_url, tmp_path, partitions=1)
    with running(stage.worker()) as first, running(stage.worker()) as second:
        owned = {worker.metric("proguard_partitions_assigned") for worker in (first, second)}
        assert owned == {0.0, 1.0}


class Countdown:
    """A condition that holds after `seconds`."""

    def __init__(self, seconds: float) -> None:
        self._clock = time.monotonic
        self._end = self._clock() + seconds

    def __call__(self) -> bool:
        return self._clock() >= self._end
