"""`redrive` on a real broker: what failed goes back as it came, once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from schemas.base import Source
from schemas.deadletters import DeadLetter, Header, Reason
from stream.devkit.kafka import KafkaBroker
from stream.errors import DeliveryError
from stream.operator import redrive as command
from stream.operator.kafka import Reasons, open_reader, open_transactional
from stream.operator.letters import Filter, RedriveReport, Selection, letters, stretch
from stream.operator.redriving import Redriver
from stream.settings import KafkaSettings
from tests.stream.operator.parts import NOBODY, document, produce, run, topic_variables
from tests.support.clock import ManualClock
from tests.support.services import REPOSITORY_ROOT, fresh_topics

PARTITIONS = 3
MONDAY = datetime(2026, 5, 4, 8, tzinfo=UTC)


@dataclass
class Queue:
    """A dead-letter topic and a content topic of their own."""

    broker: KafkaBroker
    topics: dict[str, str]
    written: list[DeadLetter] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        return topic_variables(self.topics, self.broker.bootstrap)

    @property
    def kafka(self) -> KafkaSettings:
        return KafkaSettings(bootstrap_servers=self.broker.bootstrap)

    def letter(self, number: int, **changes: object) -> DeadLetter:
        fields: dict[str, object] = {
            "id": f"letter-{number}",
            "reason": Reason.GUARD_UNPARSABLE,
            "detail": "",
            "attempt": 1,
            "event_id": f"e{number}",
            "tenant": "agora",
            "verdict_id": "v",
            "source": Source(topic=self.topics["content"], partition=number % PARTITIONS, offset=number),
            "key": f"key-{number % 5}".encode(),
            "headers": [],
            "value": f"value {number}".encode(),
            "failed_at": MONDAY,
        }
        return DeadLetter.model_validate({**fields, **changes})

    def put(self, found: Iterable[DeadLetter]) -> None:
        new = list(found)
        self.written += new
        producer = Producer({"bootstrap.servers": self.broker.bootstrap, "linger.ms": 5})
        for letter in new:
            producer.produce(self.topics["dead_letters"], letter.model_dump_json(), letter.key)
        assert producer.flush(20) == 0

    def redrive(self, *arguments: str, exit_code: int = 0) -> Any:
        result = run("redrive", "--json", *arguments, environment=self.environment)
        assert result.exit_code == exit_code, result.stderr
        return document(result)

    def content(self) -> list[Message]:
        """What readers of the content topic see."""
        return stored(self.broker.bootstrap, self.topics["content"])

    def values(self) -> list[bytes | None]:
        return sorted((message.value() for message in self.content()), key=str)

    def group_exists(self, group: str) -> bool:
        admin = AdminClient({"bootstrap.servers": self.broker.bootstrap})
        return group in {known.group_id for known in admin.list_consumer_groups().result(10).valid}


def stored(bootstrap: str, topic: str) -> list[Message]:
    """Every committed record of a topic, in order within a partition."""
    reading = {"group.id": "test-reads", "enable.partition.eof": True, "isolation.level": "read_committed"}
    consumer = Consumer({"bootstrap.servers": bootstrap, **reading})
    try:
        numbers = set(consumer.list_topics(topic, timeout=10).topics[topic].partitions)
        consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in numbers])
        found: list[Message] = []
        give_up = time.monotonic() + 20
        while numbers:
            assert time.monotonic() < give_up
            for message in consumer.consume(500, 0.2):
                error = message.error()
                if error is None:
                    found.append(message)
                else:
                    assert error.code() == KafkaError._PARTITION_EOF
                    numbers.discard(message.partition())
        return found
    finally:
        consumer.close()


@pytest.fixture
def queue(kafka_broker: KafkaBroker) -> Queue:
    return Queue(kafka_broker, fresh_topics(kafka_broker, "content", "dead_letters", partitions=PARTITIONS))


def headers_of(message: Message) -> list[tuple[str, bytes | None]]:
    return list(message.headers() or ())


def test_key_value_and_headers_come_back_as_they_were_to_the_partition_they_came_from(queue: Queue) -> None:
    kept = [Header(name="ce_type", value=b"\xff\x00"), Header(name="", value=None), Header(name="ce_type", value=b"2")]
    older = [Header(name="proguard-attempt", value=b"2"), Header(name="proguard-redrive-of", value=b"older")]
    originals = [
        queue.letter(0, headers=[kept[0], older[0], kept[1], older[1], kept[2]], attempt=2),
        queue.letter(1, value=None, key=None),
        queue.letter(2, value=b"", key=b""),
        queue.letter(3, value=bytes(range(256)), key=b"\xff"),
    ]
    queue.put(originals)
    assert queue.redrive()["events"] == 4
    found = {headers_of(message)[-1][1]: message for message in queue.content()}
    for letter in originals:
        message = found[letter.id.encode()]
        assert (message.key(), message.value()) == (letter.key, letter.value)
        assert message.partition() == letter.source.partition
        expected = [(h.name, h.value) for h in letter.headers if h not in older]
        attempt = str(letter.attempt + 1).encode()
        ours = [("proguard-attempt", attempt), ("proguard-redrive-of", letter.id.encode())]
        assert headers_of(message) == expected + ours


def test_a_second_run_sends_only_what_failed_since(queue: Queue) -> None:
    queue.put(queue.letter(n) for n in range(40))
    first = queue.redrive()
    assert (first["events"], first["resumed"], first["group"]) == (40, False, "proguard-redrive")
    second = queue.redrive()
    assert (second["events"], second["resumed"]) == (0, True)
    queue.put(queue.letter(n) for n in range(40, 50))
    assert queue.redrive()["events"] == 10
    assert queue.values() == sorted((letter.value for letter in queue.written), key=str)


def test_again_starts_over(queue: Queue) -> None:
    queue.put(queue.letter(n) for n in range(5))
    assert [queue.redrive()["events"], queue.redrive("--again")["events"], queue.redrive()["events"]] == [5, 5, 0]


def test_filters_choose_and_each_has_a_memory_of_its_own(queue: Queue) -> None:
    late = MONDAY + timedelta(days=1)
    queue.put(
        [
            queue.letter(0),
            queue.letter(1, reason=Reason.MALFORMED, tenant=None, event_id=None, verdict_id=None),
            queue.letter(2, tenant="nimbus"),
            queue.letter(3, reason=Reason.INTERNAL, failed_at=late),
        ]
    )

    seen: Counter[bytes | None] = Counter()

    def chosen(*arguments: str) -> list[str]:
        report = queue.redrive(*arguments)
        assert report["events"] + report["left"]["filtered"] == 4
        new = Counter(message.value() for message in queue.content()) - seen
        seen.update(new)
        return sorted((value or b"").decode() for value in new)

    assert chosen("--reason", "malformed") == ["value 1"]
    assert chosen("--reason", "malformed", "--reason", "internal") == ["value 1", "value 3"]
    assert chosen("--tenant", "nimbus") == ["value 2"]
    assert chosen("--since", "2026-05-05T08:00:00") == ["value 3"]
    assert chosen("--until", "2026-05-05T10:00:00+02:00") == ["value 0", "value 1", "value 2"]
    assert queue.redrive("--reason", "internal", "--reason", "malformed")["events"] == 0


def test_a_dry_run_counts_and_leaves_no_trace(queue: Queue) -> None:
    queue.put([*(queue.letter(n) for n in range(7)), queue.letter(7, tenant="nimbus", attempt=9)])
    # Nobody else uses this filter, so its group tells.
    unique = f"nobody-{queue.topics['content']}"
    queue.put([queue.letter(8, tenant=unique)])
    report = queue.redrive("--dry-run", "--tenant", unique)
    assert (report["dry_run"], report["events"]) == (True, 1)
    assert report["by"] == [{"reason": "guard_unparsable", "tenant": unique, "events": 1}]
    assert not queue.group_exists(report["group"])
    report = queue.redrive("--dry-run")
    assert (report["events"], report["left"]["too_many_attempts"]) == (8, 1)
    assert queue.content() == []
    assert queue.redrive()["events"] == 8
    shown = run("redrive", "--dry-run", "--again", environment=queue.environment)
    assert "8 events would be sent back" in shown.stdout
    assert "1 were left: judged 5 times or more" in shown.stderr


def test_a_limited_run_passes_nothing_by(queue: Queue) -> None:
    queue.put(queue.letter(n, tenant="agora" if n % 3 else "nimbus") for n in range(60))
    sent = [queue.redrive("--tenant", "agora", "--limit", "15")["events"] for _ in range(4)]
    assert sent == [15, 15, 10, 0]
    assert queue.values() == sorted((letter.value for letter in queue.written if letter.tenant == "agora"), key=str)


def test_events_that_failed_too_often_are_left_and_counted(queue: Queue) -> None:
    queue.put(queue.letter(n, attempt=n + 1) for n in range(8))
    report = queue.redrive("--max-attempts", "4")
    assert (report["events"], report["left"]["too_many_attempts"]) == (3, 5)
    report = queue.redrive("--max-attempts", "100", "--again")
    assert (report["events"], report["left"]["too_many_attempts"]) == (8, 0)


def test_what_is_no_dead_letter_is_told_and_passed_by(queue: Queue) -> None:
    produce(queue.broker.bootstrap, queue.topics["dead_letters"], [b"{broken"])
    queue.put([queue.letter(0)])
    result = run("redrive", environment=queue.environment)
    assert result.exit_code == 0
    assert f"{queue.topics['dead_letters']}[0]@0: json_invalid: no dead letter" in result.stderr
    assert "1 events sent back" in result.stdout


def test_letters_of_an_aborted_transaction_do_not_exist(queue: Queue) -> None:
    settings = queue.kafka.transactional_producer(f"aborts-{queue.topics['content']}", 10_000)
    producer = Producer(settings)
    producer.init_transactions(20)
    producer.begin_transaction()
    producer.produce(queue.topics["dead_letters"], queue.letter(0).model_dump_json(), b"k")
    producer.flush(10)
    producer.abort_transaction(20)
    queue.put([queue.letter(1)])
    assert queue.redrive()["events"] == 1
    assert queue.values() == [b"value 1"]


def test_a_record_that_kafka_refuses_is_told_and_the_others_go(queue: Queue) -> None:
    resource = ConfigResource(
        ResourceType.TOPIC,
        queue.topics["content"],
        incremental_configs=[ConfigEntry("max.message.bytes", "2000", incremental_operation=AlterConfigOpType.SET)],
    )
    admin = AdminClient({"bootstrap.servers": queue.broker.bootstrap})
    for done in admin.incremental_alter_configs([resource]).values():
        done.result(20)
    large = {5: os.urandom(4000), 8: os.urandom(5000)}
    queue.put(queue.letter(n, **({"value": large[n]} if n in large else {})) for n in range(20))
    report = queue.redrive(exit_code=1)
    assert (report["events"], report["left"]["refused"]) == (18, 2)
    assert {refused["letter"] for refused in report["refused"]} == {"letter-5", "letter-8"}
    small = (letter.value for letter in queue.written if letter.value not in large.values())
    assert queue.values() == sorted(small, key=str)
    assert queue.redrive()["events"] == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
def test_an_interrupted_run_is_taken_up_where_it_ended(queue: Queue, number: signal.Signals) -> None:
    queue.put(queue.letter(n) for n in range(60))
    mine = {name: value for name, value in os.environ.items() if not name.startswith("PROGUARD_")}
    command_line = [sys.executable, "-m", "stream.operator.cli", "redrive", "--rate", "10", "--json"]
    with subprocess.Popen(
        command_line,
        env={**mine, **queue.environment},
        cwd=REPOSITORY_ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        try:
            give_up = time.monotonic() + 40
            while not queue.content():
                assert time.monotonic() < give_up
            child.send_signal(number)
            told, errors = child.communicate(timeout=30)
        finally:
            child.kill()
    part = len(queue.content())
    assert 10 <= part < 60
    if number is signal.SIGINT:
        assert child.returncode == 1, errors
        assert (json.loads(told)["interrupted"], json.loads(told)["events"]) == (True, part)
    rest = queue.redrive()
    assert (rest["events"], rest["resumed"]) == (60 - part, True)
    assert queue.values() == sorted((letter.value for letter in queue.written), key=str)


def redriver(queue: Queue, report: RedriveReport, rate: float | None = None) -> tuple[Redriver, Any]:
    reasons = Reasons()
    consumer = open_reader(queue.kafka, reasons, group=Filter().group, to_end=True)
    name = f"proguard-redrive.{queue.topics['dead_letters']}"
    made = Redriver(
        open_transactional(queue.kafka, name, reasons),
        consumer,
        dead_letters=queue.topics["dead_letters"],
        content=queue.topics["content"],
        partitions=PARTITIONS,
        rate=rate,
        clock=ManualClock(),
        report=report,
    )
    return made, consumer


def found_in(queue: Queue, consumer: Any, stopped: Any = lambda: False) -> Any:
    what = stretch(consumer, queue.topics["dead_letters"], range(PARTITIONS), again=False)
    return letters(consumer, what, ManualClock(), stopped)


def test_a_second_run_beside_the_first_takes_over(queue: Queue) -> None:
    queue.put(queue.letter(n) for n in range(10))
    report = RedriveReport()
    first, consumer = redriver(queue, report)
    found = list(found_in(queue, consumer))
    assert queue.redrive()["events"] == 10
    with pytest.raises(DeliveryError, match="another redrive with the same filter has begun"):
        first.run(found, Selection(Filter(), 5, None, report), lambda: False, lambda _passed: None)
    consumer.close()
    assert report.letters == 0
    assert len(queue.content()) == 10


def test_a_rate_is_kept(queue: Queue) -> None:
    queue.put(queue.letter(n) for n in range(12))
    report, seen = RedriveReport(), list[int]()
    made, consumer = redriver(queue, report, rate=5)
    clock: Any = made._clock
    waits = 0

    def stopped() -> bool:
        # Asked once a wait: the clock moves here, 0.1 s each.
        nonlocal waits
        waits += 1
        clock.advance(0.1)
        return False

    made.run(
        found_in(queue, consumer), Selection(Filter(), 5, None, report), stopped, lambda _passed: seen.append(waits)
    )
    consumer.close()
    assert report.letters == 12
    assert len(seen) == 3
    assert seen[1] >= 10
    assert seen[2] >= 20


def test_a_terminal_is_asked_first(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "on_terminal", lambda: True)
    queue.put(queue.letter(n) for n in range(3))
    refused = run("redrive", environment=queue.environment, stdin=b"n\n")
    assert refused.exit_code == 1
    assert "Send 3 events back" in refused.stderr
    assert queue.content() == []
    agreed = run("redrive", environment=queue.environment, stdin=b"y\n")
    assert agreed.exit_code == 0
    assert len(queue.content()) == 3
    assert run("redrive", "--yes", environment=queue.environment).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["--since", "monday"], "--since monday: not an ISO 8601 time"), (["--reason", "bad"], "bad")],
)
def test_a_wrong_filter_is_refused(arguments: Sequence[str], says: str) -> None:
    result = run("redrive", *arguments, environment={"PROGUARD_KAFKA__BOOTSTRAP_SERVERS": NOBODY})
    assert result.exit_code == 2
    assert says in result.stderr


def test_no_kafka_is_one_line() -> None:
    result = run("redrive", environment={"PROGUARD_KAFKA__BOOTSTRAP_SERVERS": NOBODY})
    assert result.exit_code == 2
    assert "no broker at" in result.stderr
