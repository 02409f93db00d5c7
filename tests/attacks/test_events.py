"""Ten thousand broken events: each has exactly one outcome, none stops the worker, and nothing of them reaches a detail."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from schemas.deadletters import REPLACES_VERDICT, DeadLetter, Reason
from schemas.topics import DEFAULT_TOPICS
from schemas.verdicts import Status
from stream.devkit.kafka import KafkaBroker
from stream.devkit.triton import TritonServer
from stream.errors import EventError
from stream.evidence.resolver import EvidenceResolver
from stream.evidence.settings import EvidenceSettings
from stream.worker.outputs import output_records
from stream.worker.reading import read
from stream.worker.records import InputRecord
from tests.attacks.event_cases import CANARY, MUTATIONS, made, record
from tests.attacks.sizes import FUZZED, THROUGH_A_WORKER
from tests.end_to_end.harness import Stage, event, running
from tests.stream.worker.parts import SAFE, ScriptedGuard, completion, pipeline

MAX_BYTES = 65_536


def leaks(detail: str) -> bool:
    """Whether a detail holds anything of the sender's: our own words are short, printable and without the canary."""
    return CANARY in detail or not detail.isprintable() or len(detail) > 512


async def test_each_is_an_event_or_a_reason_and_has_exactly_one_outcome() -> None:
    guard = ScriptedGuard(completion(SAFE))
    evidence = EvidenceResolver(EvidenceSettings())
    judge = await pipeline(guard, evidence=evidence)
    found: Counter[str] = Counter()
    different: set[int] = set()
    for offset, (name, of) in enumerate(made(FUZZED)):
        given = record(offset, of)
        different.add(hash(of))
        unreadable = why_unreadable(given)
        outcome = await judge.process(given)
        assert outcome.record is given
        verdict, letter = outcome.verdict, outcome.dead_letter
        if letter is None:
            assert verdict is not None
            assert (verdict.status, unreadable) == (Status.DECIDED, None), name
        else:
            assert (verdict is None) == (letter.reason in REPLACES_VERDICT), name
            assert verdict is None or verdict.status is Status.INDETERMINATE, name
            assert letter.reason is not Reason.INTERNAL, (name, letter.detail)
            assert not leaks(letter.detail), (name, letter.detail)
            assert (letter.value, letter.key) == (of[0], b"k")
        found[letter.reason if letter else "decided"] += 1
        for written in output_records(outcome, DEFAULT_TOPICS, "urn:test"):
            if written.topic == DEFAULT_TOPICS.dead_letters:
                assert DeadLetter.model_validate_json(written.value) == letter
            else:
                assert not leaks(json.loads(written.value).get("reason") or "")
    await evidence.aclose()
    assert found.total() == FUZZED
    assert len(different) > 0.9 * FUZZED
    assert found.keys() >= {"decided", Reason.IMAGE_FORBIDDEN, *REPLACES_VERDICT}, "the generator reaches every way out"
    assert min(found["decided"], found[Reason.MALFORMED], found[Reason.IMAGE_FORBIDDEN]) > FUZZED / 100, found


def why_unreadable(given: InputRecord) -> Reason | None:
    """What reading says: nothing, or a reason that replaces the verdict, without a word of the sender's."""
    try:
        read(given, 262_144)
    except EventError as error:
        assert not leaks(error.detail)  # noqa: PT017
        return error.reason
    return None


def test_the_generator_repeats_itself_and_uses_every_mutation() -> None:
    first = list(made(300))
    assert list(made(300)) == first
    assert len({name for name, _ in first}) == len(MUTATIONS)
    assert list(made(300, seed=1)) != first


@pytest.mark.timeout(180)
def test_a_real_worker_goes_on_and_its_sums_match(
    kafka_broker: KafkaBroker, scripted_guard: TritonServer, tmp_path: Path
) -> None:
    stage = Stage.on(
        kafka_broker,
        scripted_guard.http_url,
        tmp_path,
        PROGUARD_LIMITS__MAX_EVENT_BYTES=str(MAX_BYTES),
        # Nearly all of them are dead letters: what stops a worker in earnest must not end this test.
        PROGUARD_DELIVERY__DEAD_LETTERS__ENABLED="false",
    )
    sent = [
        (value, f"key-{n % 50}".encode(), headers) for n, (_, (value, headers, _)) in enumerate(made(THROUGH_A_WORKER))
    ]
    with running(stage.worker()) as worker:
        stage.send(sent)
        stage.send([(event("afterwards"), b"k", ())])
        stage.all_answered()
        assert worker.checks("live") == {"polls": True, "turns": True}
    report = stage.audit()
    assert report.ok, (report.summary(), report.faults)
    assert report.events == THROUGH_A_WORKER + 1
    unreadable = [letter for letter in report.dead_letters if letter.reason in REPLACES_VERDICT]
    assert len(report.verdicts) + len(unreadable) == report.events
    assert [verdict.status for verdict in report.verdicts if verdict.event_id == "afterwards"] == [Status.DECIDED]
    assert not any(leaks(letter.detail) for letter in report.dead_letters)
    assert CANARY not in worker.log.read_text()
