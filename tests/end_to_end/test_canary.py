"""A canary in a real worker, on real Kafka and a real Triton with two versions of a guard."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from stream.demo.audit import AuditReport
from stream.devkit.kafka import KafkaBroker
from tests.end_to_end.harness import Stage, running
from tests.stream.operator.models.parts import MODEL, add_version, make_repository, versioned_triton
from tests.stream.operator.parts import run

EVENTS = 400


@contextmanager
def stage_with(character: str, broker: KafkaBroker, environment: Path, folder: Path) -> Iterator[Stage]:
    """A stage whose worker asks version 1, and version 2 of this character for half of the events."""
    repository = make_repository(folder)
    add_version(repository, 2, character)
    with ExitStack() as stack:
        triton = stack.enter_context(versioned_triton(repository, environment, folder / "triton"))
        loaded = run("model", "load", 2, "--url", triton.grpc_url, "--model", MODEL)
        assert loaded.exit_code == 0, loaded.output
        yield Stage.on(
            broker,
            triton.http_url,
            folder,
            PROGUARD_GUARD__MODEL=MODEL,
            PROGUARD_GUARD__VERSION="1",
            PROGUARD_GUARD__CANARY__VERSION="2",
            PROGUARD_GUARD__CANARY__SHARE="0.5",
            PROGUARD_GUARD__CANARY__COMPARE_SHARE="1",
        )


@dataclass(frozen=True, slots=True)
class Judged:
    """The books after `EVENTS` events, and the canary's metrics."""

    report: AuditReport
    on: float
    answered: float
    off: dict[str, float]


def judge_all(stage: Stage) -> Judged:
    with running(stage.worker()) as worker:
        stage.send_events(EVENTS)
        report = stage.all_answered()
        return Judged(
            report,
            worker.metric("proguard_canary_on"),
            worker.metric("proguard_canary_requests_total", result="answered"),
            {why: worker.metric("proguard_canary_off_total", why=why) for why in ("format", "agreement", "failures")},
        )


def test_a_good_canary_gives_its_share_of_the_verdicts_under_its_own_manifest(
    kafka_broker: KafkaBroker, triton_env: Path, tmp_path: Path
) -> None:
    with stage_with("good", kafka_broker, triton_env, tmp_path) as stage:
        judged = judge_all(stage)
    report = judged.report
    by_manifest = Counter((verdict.model.version, verdict.model.manifest) for verdict in report.verdicts)
    assert set(by_manifest) == {("1", "manifest-1"), ("2", "manifest-2")}
    assert abs(by_manifest["2", "manifest-2"] - EVENTS / 2) < 4 * (EVENTS / 4) ** 0.5
    assert (report.lost, report.duplicated, report.faults) == (0, 0, [])
    assert judged.on == 1
    assert judged.answered == by_manifest["2", "manifest-2"]


@pytest.mark.parametrize(
    ("character", "why"), [("garbled", "format"), ("crashes", "failures"), ("flipped", "agreement")]
)
def test_a_bad_canary_is_switched_off_and_costs_no_event_its_verdict(
    kafka_broker: KafkaBroker, triton_env: Path, tmp_path: Path, character: str, why: str
) -> None:
    with stage_with(character, kafka_broker, triton_env, tmp_path) as stage:
        judged = judge_all(stage)
    report = judged.report
    assert judged.on == 0
    assert judged.off == {"format": 0, "agreement": 0, "failures": 0} | {why: 1}
    assert {verdict.status for verdict in report.verdicts} == {"decided"}
    assert (report.lost, report.duplicated, report.faults) == (0, 0, [])
    by_version = Counter(verdict.model.version for verdict in report.verdicts)
    assert by_version["1"] > EVENTS / 2
    assert by_version["2"] < (1 if character == "garbled" else EVENTS / 4)
