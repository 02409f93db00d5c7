from __future__ import annotations

from dataclasses import replace

import pytest

from schemas.deadletters import Reason
from stream.guard.errors import GuardRefusedError
from stream.guard.settings import CacheSettings
from stream.telemetry.metrics import WorkerMetrics
from stream.worker.counting import OutcomeCounts
from stream.worker.records import Outcome
from tests.stream.worker.parts import SAFE, ScriptedGuard, completion, content, pipeline, record


async def outcomes(*, refusing: bool = False, times: int = 1) -> list[Outcome]:
    guard = ScriptedGuard(GuardRefusedError("no") if refusing else completion(SAFE))
    built = await pipeline(guard, cache=CacheSettings())
    return [await built.process(record(value=content(f"e{number}"))) for number in range(times)]


async def test_each_outcome_of_a_batch_is_counted_by_what_became_of_it() -> None:
    metrics = WorkerMetrics()
    value = metrics.registry.get_sample_value
    batch = [*await outcomes(times=2), *await outcomes(refusing=True)]
    OutcomeCounts(metrics).count(batch, now=batch[0].began + 0.3)
    assert value("proguard_verdicts_total", {"status": "decided", "action": "allow"}) == 2
    assert value("proguard_verdicts_total", {"status": "indeterminate", "action": "review"}) == 1
    assert value("proguard_dead_letters_total", {"reason": Reason.GUARD_REFUSED.value}) == 1
    assert value("proguard_event_seconds_count") == 3


async def test_tokens_of_an_answer_from_the_cache_are_counted_once() -> None:
    metrics = WorkerMetrics()
    OutcomeCounts(metrics).count(await outcomes(times=3), now=0.0)
    value = metrics.registry.get_sample_value
    assert value("proguard_tokens_total", {"direction": "prompt"}) == 10
    assert value("proguard_tokens_total", {"direction": "completion"}) == 5


async def test_stages_are_observed_in_seconds_as_the_verdicts_say() -> None:
    metrics = WorkerMetrics()
    (outcome,) = await outcomes()
    assert outcome.verdict is not None
    verdict = outcome.verdict.model_copy(update={"timings": {"prepare": 1.5, "judge": 20.0}})
    OutcomeCounts(metrics).count([replace(outcome, verdict=verdict)] * 2, now=0.0)
    value = metrics.registry.get_sample_value
    for stage, seconds in (("prepare", 0.003), ("judge", 0.04)):
        assert value("proguard_stage_seconds_count", {"stage": stage}) == 2
        assert value("proguard_stage_seconds_sum", {"stage": stage}) == pytest.approx(seconds)
