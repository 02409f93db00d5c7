"""The audit finds every kind of lie. A truthful world is made, one thing in it is falsified, and the report must say so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.deadletters import DeadLetter
from schemas.topics import DEFAULT_TOPICS as TOPICS
from schemas.verdicts import Verdict
from stream.demo.audit import AuditReport, audit
from stream.demo.reading_back import StoredRecord
from stream.worker.outputs import output_records
from stream.worker.records import InputRecord, Outcome
from tests.stream.worker.parts import failed, judged, record, unreadable

KINDS: dict[str, Callable[[InputRecord], Outcome]] = {
    "safe": judged,
    "ood": lambda of: judged(of, risk_name="A New Risk"),
    "failed": failed,
    "unreadable": unreadable,
}


@dataclass
class World:
    """What four topics hold."""

    events: list[StoredRecord]
    outputs: dict[str, list[StoredRecord]]

    @classmethod
    def of(cls, shape: list[tuple[str, int, bytes | None]]) -> World:
        """A truthful one: for each (kind, partition, key) an event and exactly what it leads to, in order."""
        events, outputs = [], {TOPICS.verdicts: [], TOPICS.ood: [], TOPICS.dead_letters: []}  # type: ignore[var-annotated]
        for offset, (kind, partition, key) in enumerate(shape):
            of = record(offset, partition=partition, key=key)
            events.append(StoredRecord(partition, offset, key, of.value))
            for written in output_records(KINDS[kind](of), TOPICS, "urn:test"):
                topic = outputs[written.topic]
                topic.append(StoredRecord(0, len(topic), written.key, written.value))
        return cls(events, outputs)

    @property
    def verdicts(self) -> list[StoredRecord]:
        return self.outputs[TOPICS.verdicts]

    @property
    def letters(self) -> list[StoredRecord]:
        return self.outputs[TOPICS.dead_letters]

    @property
    def ood(self) -> list[StoredRecord]:
        return self.outputs[TOPICS.ood]

    def audit(self, *, repeats_allowed: bool = False) -> AuditReport:
        return audit(
            events=self.events,
            verdicts=self.verdicts,
            dead_letters=self.letters,
            ood=self.ood,
            repeats_allowed=repeats_allowed,
        )


SHAPES = st.lists(
    st.tuples(st.sampled_from(sorted(KINDS)), st.integers(0, 2), st.sampled_from([None, b"a", b"b", b"c"])), max_size=25
)


def worlds(*needed: str) -> st.SearchStrategy[World]:
    """Truthful worlds that hold at least one event of each kind in `needed`."""
    extra = [(kind, 0, b"z") for kind in needed]
    return st.tuples(SHAPES, SHAPES).map(lambda parts: World.of([*parts[0], *extra, *parts[1]]))


@given(worlds())
def test_a_truthful_world_is_ok_and_its_sums_are_right(world: World) -> None:
    report = world.audit()
    assert report.ok, report.faults
    assert report.summary() == (
        f"events={len(world.events)} verdicts={len(world.verdicts)} dead_letters={len(world.letters)} "
        f"ood={len(world.ood)} lost=0 duplicated=0"
    )


@given(worlds("safe"), st.data())
def test_a_lost_verdict_is_found(world: World, data: st.DataObject) -> None:
    world.verdicts.pop(data.draw(st.integers(0, len(world.verdicts) - 1)))
    report = world.audit()
    assert (report.lost, report.duplicated, report.ok) == (1, 0, False)


@given(worlds("unreadable"), st.data())
def test_a_lost_dead_letter_is_found(world: World, data: st.DataObject) -> None:
    world.letters.pop(data.draw(st.integers(0, len(world.letters) - 1)))
    report = world.audit()
    assert not report.ok
    assert report.lost + len(report.faults) == 1


@given(worlds("safe"), st.data())
def test_a_second_verdict_is_found(world: World, data: st.DataObject) -> None:
    world.verdicts.append(data.draw(st.sampled_from(world.verdicts)))
    report = world.audit()
    assert (report.lost, report.duplicated, report.ok) == (0, 1, False)


@given(worlds("unreadable"), st.data())
def test_a_second_dead_letter_is_found(world: World, data: st.DataObject) -> None:
    world.letters.append(data.draw(st.sampled_from(world.letters)))
    assert not world.audit().ok


@given(worlds("unreadable"))
def test_a_verdict_beside_the_dead_letter_that_replaces_it_is_found(world: World) -> None:
    letters = [DeadLetter.model_validate_json(letter.value or b"") for letter in world.letters]
    place = next(letter.source for letter in letters if letter.verdict_id is None)
    (event,) = [one for one in world.events if one.offset == place.offset]
    of = record(event.offset, partition=event.partition, key=event.key)
    (written,) = output_records(judged(of), TOPICS, "urn:test")
    world.verdicts.append(StoredRecord(0, 900, written.key, written.value))
    assert world.audit().duplicated == 1


@given(worlds("safe"), st.data())
def test_an_outcome_without_an_event_is_found(world: World, data: st.DataObject) -> None:
    gone = data.draw(st.sampled_from(world.events))
    world.events.remove(gone)
    report = world.audit()
    assert (report.lost, report.ok) == (0, False)
    assert any("an event that is not there" in fault for fault in report.faults)


@given(worlds("failed"))
def test_an_indeterminate_verdict_without_its_dead_letter_is_found(world: World) -> None:
    letter = next(one for one in world.letters if one.key == b"z")
    world.letters.remove(letter)
    report = world.audit()
    assert (report.lost, report.duplicated) == (0, 0)
    assert report.faults == ["indeterminate verdicts and their dead letters do not match: 1 differ"]


@given(worlds("failed"))
def test_a_dead_letter_whose_verdict_is_gone_is_found(world: World) -> None:
    verdict = next(one for one in world.verdicts if one.key == b"z")
    world.verdicts.remove(verdict)
    report = world.audit()
    assert report.lost == 1
    assert report.faults


@given(worlds("ood"), st.data())
def test_a_named_risk_without_its_ood_event_is_found(world: World, data: st.DataObject) -> None:
    world.ood.remove(data.draw(st.sampled_from(world.ood)))
    report = world.audit()
    assert (report.lost, report.faults) == (0, ["named risks and OOD events do not match: 1 differ"])


@given(worlds("ood"), st.data())
def test_an_ood_event_too_many_is_found(world: World, data: st.DataObject) -> None:
    world.ood.append(data.draw(st.sampled_from(world.ood)))
    assert world.audit().faults == ["named risks and OOD events do not match: 1 differ"]


@given(SHAPES)
def test_verdicts_of_one_key_in_the_wrong_order_are_found(shape: list[tuple[str, int, bytes | None]]) -> None:
    world = World.of([("safe", 0, b"z"), *shape, ("safe", 0, b"z")])
    world.verdicts[0], world.verdicts[-1] = world.verdicts[-1], world.verdicts[0]
    report = world.audit()
    assert (report.reordered >= 1, report.lost, report.duplicated, report.ok) == (True, 0, 0, False)


@given(SHAPES, st.randoms(use_true_random=False))
def test_verdicts_of_different_keys_and_of_none_may_come_in_any_order(
    shape: list[tuple[str, int, bytes | None]], random: object
) -> None:
    keys = iter(range(1000))
    world = World.of([(kind, p, None if key is None else b"%d" % next(keys)) for kind, p, key in shape])
    random.shuffle(world.verdicts)  # type: ignore[attr-defined]
    assert world.audit().ok


@given(worlds("safe"))
def test_a_verdict_under_another_key_is_found(world: World) -> None:
    at = next(n for n, one in enumerate(world.verdicts) if one.key == b"z")
    world.verdicts[at] = replace(world.verdicts[at], key=b"other")
    (fault,) = world.audit().faults
    assert "another key" in fault


@pytest.mark.parametrize(("claimed", "instead"), [("malformed", "guard_refused"), ("guard_refused", "malformed")])
def test_a_dead_letter_whose_reason_does_not_fit_its_verdict_is_found(claimed: str, instead: str) -> None:
    world = World.of([("unreadable" if claimed == "malformed" else "failed", 0, b"z")])
    (letter,) = world.letters
    lie = (letter.value or b"").replace(f'"reason":"{claimed}"'.encode(), f'"reason":"{instead}"'.encode())
    assert lie != letter.value
    world.letters[0] = replace(letter, value=lie)
    (fault,) = world.audit().faults
    assert "other way round" in fault


@given(worlds(), st.binary(min_size=1, max_size=5))
def test_an_event_sent_twice_is_two_events_with_one_verdict_id(world: World, key: bytes) -> None:
    one, other = record(900, key=key), record(901, key=key, value=record(900).value)
    for of in (one, other):
        world.events.append(StoredRecord(0, of.offset, key, of.value))
        (written,) = output_records(judged(of), TOPICS, "urn:test")
        world.verdicts.append(StoredRecord(0, 900, written.key, written.value))
    report = world.audit()
    assert report.ok
    assert report.verdicts[-1].id == report.verdicts[-2].id


@given(SHAPES)
def test_dead_letters_of_one_key_in_the_wrong_order_are_found(shape: list[tuple[str, int, bytes | None]]) -> None:
    world = World.of([("unreadable", 0, b"z"), *shape, ("unreadable", 0, b"z")])
    world.letters[0], world.letters[-1] = world.letters[-1], world.letters[0]
    assert world.audit().reordered >= 1


def test_an_ood_event_of_another_offset_is_an_orphan() -> None:
    world = World.of([("ood", 0, b"z"), ("safe", 0, b"z")])
    (moved,) = world.ood
    world.ood[0] = replace(moved, value=(moved.value or b"").replace(b'"offset":0', b'"offset":1'))
    assert world.audit(repeats_allowed=True).faults == ["named risks and OOD events do not match: 2 differ"]


@given(worlds("safe", "ood", "unreadable"), st.integers(0, 30))
def test_where_repeats_are_allowed_a_tail_that_is_written_again_is_counted_and_is_no_fault(
    world: World, tail: int
) -> None:
    again = world.verdicts[-tail:] if tail else []
    world.verdicts.extend(again)
    world.ood.extend(world.ood[-1:] if tail else [])
    report = world.audit(repeats_allowed=True)
    assert report.ok, report.faults
    assert (report.repeated, report.revised) == (len(again), 0)
    assert bool(again) == (not world.audit().ok)


def test_where_repeats_are_allowed_another_decision_is_still_a_duplicate() -> None:
    world = World.of([("safe", 0, b"z")])
    (verdict,) = world.verdicts
    other = Verdict.model_validate_json(verdict.value or b"").model_copy(update={"id": "another"})
    world.verdicts.append(replace(verdict, value=other.model_dump_json().encode()))
    assert world.audit(repeats_allowed=True).duplicated == 1


def test_where_repeats_are_allowed_an_indeterminate_outcome_may_be_decided_later() -> None:
    world = World.of([("failed", 0, b"z")])
    (written,) = output_records(judged(record(0, key=b"z")), TOPICS, "urn:test")
    decided = Verdict.model_validate_json(written.value).model_copy(update={"id": "decided"})
    world.verdicts.append(StoredRecord(0, 1, b"z", decided.model_dump_json().encode()))
    report = world.audit(repeats_allowed=True)
    assert (report.ok, report.revised, report.repeated) == (True, 1, 0)
    assert world.audit().duplicated == 1
