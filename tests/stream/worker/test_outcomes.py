from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.deadletters import REPLACES_VERDICT, Reason
from schemas.verdicts import NO_MANIFEST, Status, verdict_id
from stream.worker import outcomes
from stream.worker.outcomes import Progress
from stream.worker.reading import ATTEMPT_HEADER
from stream.worker.records import InputRecord, Outcome
from tests.stream.worker.parts import TRACE, failed, judged, live_default, record, unreadable
from tests.support.clock import ManualClock

NOW = ManualClock().now()


@given(
    st.binary(max_size=200) | st.none(),
    st.binary(max_size=20) | st.none(),
    st.lists(st.tuples(st.text(max_size=10), st.binary(max_size=10) | st.none()), max_size=4),
    st.sampled_from(sorted(REPLACES_VERDICT)),
    st.text(max_size=2000),
)
def test_an_unreadable_record_is_kept_byte_for_byte_in_one_dead_letter(
    value: bytes | None,
    key: bytes | None,
    headers: list[tuple[str, bytes | None]],
    reason: Reason,
    detail: str,
) -> None:
    of = InputRecord("content", 3, 9, key, value, tuple(headers), -1)
    outcome = outcomes.unreadable(of, Progress(0.0), reason, detail, issued_at=NOW)
    assert (outcome.verdict, outcome.ood) == (None, None)
    letter = outcome.dead_letter
    assert letter is not None
    assert (letter.value, letter.key) == (value, key)
    assert [(header.name, header.value) for header in letter.headers] == headers
    assert (letter.reason, letter.verdict_id, letter.event_id, letter.tenant) == (reason, None, None, None)
    assert letter.source == of.source
    assert len(letter.detail) <= 512


def test_an_indeterminate_outcome_is_a_verdict_that_is_not_safe_and_a_dead_letter_that_names_it() -> None:
    outcome = failed(record())
    verdict, letter = outcome.verdict, outcome.dead_letter
    assert verdict is not None
    assert letter is not None
    assert (verdict.status, verdict.reason) == (Status.INDETERMINATE, Reason.GUARD_REFUSED)
    assert (verdict.request, verdict.response, verdict.category) == (None, None, None)
    assert verdict.action == live_default().policy.rules.indeterminate != live_default().policy.rules.safe
    assert (letter.verdict_id, letter.event_id, letter.tenant) == (verdict.id, "e0", "default")
    assert (verdict.model.manifest, verdict.prompt_digest) == (NO_MANIFEST, None)
    assert outcome.ood is None


def test_a_named_risk_brings_its_ood_event_under_the_verdicts_id() -> None:
    outcome = judged(record(), risk_name="Ballot Paper Forgery")
    assert outcome.verdict is not None
    assert outcome.ood is not None
    assert (outcome.ood.id, outcome.ood.name) == (outcome.verdict.id, "Ballot Paper Forgery")
    assert outcome.ood.source == outcome.verdict.source
    assert outcome.dead_letter is None


def test_the_verdicts_id_depends_on_event_policy_and_model_alone() -> None:
    one, other = judged(record(1, value=record(0).value)), judged(record(0, partition=2))
    assert one.verdict is not None
    assert other.verdict is not None
    assert one.verdict.id == other.verdict.id == verdict_id("e0", live_default().ref.digest, NO_MANIFEST)
    assert uuid.UUID(one.verdict.id).version == 5
    ids = {verdict_id(*parts) for parts in (("e0", "d", "m"), ("e1", "d", "m"), ("e0", "c", "m"), ("e0", "d", "n"))}
    assert len(ids) == 4


def test_a_dead_letters_id_depends_on_its_place_and_its_attempt() -> None:
    def letter_id(outcome: Outcome) -> str:
        assert outcome.dead_letter is not None
        return outcome.dead_letter.id

    again = ((ATTEMPT_HEADER, b"2"),)
    ids = {
        letter_id(unreadable(record(0))),
        letter_id(unreadable(record(1))),
        letter_id(unreadable(record(0, partition=1))),
        letter_id(unreadable(record(0, headers=again))),
    }
    assert len(ids) == 4
    assert letter_id(unreadable(record(0))) == letter_id(failed(record(0)))


@pytest.mark.parametrize(
    ("header", "attempt"),
    [
        (b"2", 2),
        (b"17", 17),
        (b"0", 1),
        (b"-3", 1),
        (b"many", 1),
        (b"9999999999", 1),
        (b"", 1),
        (None, 1),
        (b"\xb2", 1),
    ],
)
def test_the_attempt_is_the_headers_and_1_where_that_makes_no_sense(header: bytes | None, attempt: int) -> None:
    letter = unreadable(record(headers=((ATTEMPT_HEADER, header),))).dead_letter
    assert letter is not None
    assert letter.attempt == attempt


def test_an_outcome_is_never_nothing() -> None:
    with pytest.raises(ValueError, match="dead letter"):
        Outcome(record(), None, None, None, TRACE, 0.0)


def test_a_redriven_events_verdict_does_not_take_the_place_of_the_first() -> None:
    first = failed(record())
    again = failed(record(headers=((ATTEMPT_HEADER, b"2"),)))
    assert first.verdict is not None
    assert again.verdict is not None
    assert again.verdict.event_id == first.verdict.event_id
    assert again.verdict.id != first.verdict.id
    assert again.verdict.id == verdict_id("e0", again.verdict.policy.digest, NO_MANIFEST, 2)
    assert again.dead_letter is not None
    assert (again.dead_letter.attempt, again.dead_letter.verdict_id) == (2, again.verdict.id)
