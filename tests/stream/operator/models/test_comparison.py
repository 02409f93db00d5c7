"""What two versions' answers come to."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.events import ContentEvent
from schemas.policy import default_policy
from schemas.prompt import render
from schemas.verdicts import Label
from stream.clock import SystemClock
from stream.errors import ConfigurationError
from stream.evidence.settings import EvidenceSettings
from stream.guard.errors import GuardUnavailableError
from stream.guard.reading import Labels
from stream.operator.models.comparison import Limits, Said, ask_all, compare
from stream.operator.models.golden import Sample, read_golden
from tests.stream.worker.parts import ScriptedGuard

PROMPT = render(default_policy(), ContentEvent(id="e", user_text="t", occurred_at=datetime(2026, 1, 1, tzinfo=UTC)))

said = st.builds(
    Said,
    st.none()
    | st.builds(
        Labels,
        st.sampled_from(Label),
        st.none() | st.sampled_from(Label),
        st.sampled_from([None, "C1", "C2"]),
    ),
)


@given(pairs=st.lists(st.tuples(said, said), min_size=1, max_size=40), limits=st.builds(Limits, *[st.floats(0, 1)] * 2))
def test_the_counts_are_those_of_the_pairs_and_a_limit_breaks_exactly_below_it(
    pairs: list[tuple[Said, Said]], limits: Limits
) -> None:
    samples = [Sample(f"event-{n}", PROMPT, ()) for n in range(len(pairs))]
    found = compare(samples, [old for old, _ in pairs], [new for _, new in pairs])
    readable = [(old.labels, new.labels) for old, new in pairs if old.labels and new.labels]
    assert found.new_valid == sum(new.labels is not None for _, new in pairs)
    assert (found.compared, found.agreed) == (len(readable), sum(old == new for old, new in readable))
    assert len(found.differences) == sum(old.labels != new.labels for old, new in pairs)
    assert found.same_category <= found.agreed <= found.compared <= found.new_valid <= found.samples
    valid, agreement = found.new_valid / len(pairs), found.agreed / len(readable) if readable else 0.0
    assert len(found.broken(limits)) == (valid < limits.min_format_valid) + (agreement < limits.min_agreement)


@given(old=st.lists(said, min_size=1, max_size=20))
def test_a_version_that_says_what_the_old_one_says_agrees_fully(old: list[Said]) -> None:
    samples = [Sample(f"event-{n}", PROMPT, ()) for n in range(len(old))]
    found = compare(samples, old, old)
    assert found.differences == ()
    assert found.agreed == found.compared == found.same_category


async def test_a_server_that_is_away_is_waited_for_and_then_given_up() -> None:
    guard = ScriptedGuard(GuardUnavailableError("gone"))
    samples = [Sample("event-1", PROMPT, ())]
    with pytest.raises(GuardUnavailableError):
        await ask_all(guard, samples, timeout_s=1, patience_s=0.4, clock=SystemClock())
    assert len(guard.asked) > 1


async def test_the_packaged_samples_are_questions_with_their_images() -> None:
    golden = await read_golden(None, default_policy(), EvidenceSettings(), 100_000)
    assert len(golden.samples) > 280
    assert golden.left_out < 30
    assert sum(bool(sample.images) for sample in golden.samples) > 40


async def test_a_file_without_a_question_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    with pytest.raises(ConfigurationError, match="cannot read"):
        await read_golden(file, default_policy(), EvidenceSettings(), 1000)
    file.write_bytes(b'no event\n{"id": "x"}\n\xff\n')
    with pytest.raises(ConfigurationError, match="no event"):
        await read_golden(file, default_policy(), EvidenceSettings(), 1000)
    image = b'{"id": "i", "images": [{"uri": "file:///etc/passwd"}], "occurred_at": "2026-01-01T00:00:00Z"}\n'
    long = b'{"id": "l", "user_text": "' + b"x" * 2000 + b'", "occurred_at": "2026-01-01T00:00:00Z"}\n'
    good = b'{"id": "g", "user_text": "hello", "occurred_at": "2026-01-01T00:00:00Z"}\n'
    file.write_bytes(image + long + good + b"no event\n")
    golden = await read_golden(file, default_policy(), EvidenceSettings(), 1000)
    assert ([sample.event_id for sample in golden.samples], golden.left_out) == (["g"], 3)
