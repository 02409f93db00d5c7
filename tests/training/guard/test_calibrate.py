"""Temperatures that are fitted: on made scores, into a manifest, and over a real guard on Triton."""

from __future__ import annotations

import json
import math
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient import grpc

from stream.devkit.triton import TritonServer
from tests.training.lite.test_commands import write_data
from training.guard import calibrate, score
from training.guard.fitting import HIGHEST, LOWEST, fit_temperature, quality
from training.guard.reliability import bins
from training.guard.scored import Scored, read_scored, write_scored
from triton_models.proguard.guard import manifest
from triton_models.proguard.guard.calibration import Calibration, scaled
from triton_models.proguard_lite.guard.assembly import MODEL_FOLDER

PAIRS = st.lists(st.tuples(st.booleans(), st.floats(0.0, 1.0)), min_size=2, max_size=60)


def sample(temperature: float, number: int = 4000) -> tuple[list[bool], list[float]]:
    """Scores whose honest probability is that after `temperature`, and labels drawn by it."""
    choose = random.Random(5)
    scores = [1 / (1 + math.exp(-choose.gauss(0, 3))) for _ in range(number)]
    return [choose.random() < scaled(value, temperature) for value in scores], scores


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_the_temperature_of_made_scores_is_found(temperature: float) -> None:
    assert fit_temperature(*sample(temperature)) == pytest.approx(temperature, rel=0.1)


@given(PAIRS)
def test_what_is_fitted_is_never_worse_on_its_own_data(pairs: list[tuple[bool, float]]) -> None:
    labels, scores = [label for label, _ in pairs], [value for _, value in pairs]
    temperature = fit_temperature(labels, scores)
    assert LOWEST * 0.99 <= temperature <= HIGHEST * 1.01
    assert quality(labels, scores, temperature).log_loss <= quality(labels, scores).log_loss + 1e-4


@given(PAIRS)
def test_every_event_is_in_one_bin_of_the_diagram(pairs: list[tuple[bool, float]]) -> None:
    labels, scores = [label for label, _ in pairs], [value for _, value in pairs]
    found = bins(labels, scores)
    assert sum(count for _, _, count in found) == len(pairs)
    assert sum(share * count for _, share, count in found) == pytest.approx(sum(labels))


def scored_rows(digest: str, temperature: float = 2.0) -> list[Scored]:
    labels, scores = sample(temperature, 600)
    return [
        Scored(at, "made", unsafe, None, value, None, digest)
        for at, (unsafe, value) in enumerate(zip(labels, scores, strict=True))
    ]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A folder with a manifest and no weights: calibration looks at nothing else."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    document = dict.fromkeys(("dtype", "quantisation", "calibration"))
    manifest.write(
        folder,
        {"format": 1, "name": "made", "files": {}, "processor": {}, "created_at": "2026-01-01T00:00:00Z", **document},
    )
    return folder


def run(checkpoint: Path, rows: list[Scored], *more: str) -> int:
    data = checkpoint.parent / "scored.jsonl"
    write_scored(data, rows)
    return calibrate.main(["--data", str(data), "--report", str(checkpoint.parent / "report"), *more])


def test_the_manifest_takes_the_temperatures_and_gets_another_digest(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = manifest.read(checkpoint)
    assert run(checkpoint, scored_rows(before.digest), "--manifest", str(checkpoint)) == 0
    after = manifest.read(checkpoint)
    calibration = Calibration.of_manifest(after.calibration)
    assert calibration.request == pytest.approx(2.0, rel=0.25)
    assert calibration.response == 1.0
    assert after.digest != before.digest
    assert {**after.document, "calibration": None} == before.document
    assert "Its digest changed" in capsys.readouterr().out
    diagram = (checkpoint.parent / "report" / calibrate.DIAGRAM).read_text()
    assert "T = " in diagram
    assert "share unsafe" in diagram


def test_a_temperature_that_does_not_help_on_other_events_is_not_written(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = manifest.read(checkpoint).digest
    # The even half is written too surely, the odd half not surely enough: what fits the one is wrong for the other.
    halves = scored_rows(before, 3.0), scored_rows(before, 0.3)
    rows = [halves[at % 2][at] for at in range(600)]
    assert run(checkpoint, rows, "--manifest", str(checkpoint)) == 0
    assert manifest.read(checkpoint).digest == before
    assert "No manifest was changed" in capsys.readouterr().out


def test_a_second_fit_goes_on_from_the_first(checkpoint: Path) -> None:
    raw = scored_rows(manifest.read(checkpoint).digest)
    assert run(checkpoint, raw, "--manifest", str(checkpoint)) == 0
    first = Calibration.of_manifest(manifest.read(checkpoint).calibration).request
    digest = manifest.read(checkpoint).digest
    again = [
        Scored(row.id, row.source, row.request_unsafe, None, scaled(row.request_score or 0.0, first), None, digest)
        for row in raw
    ]
    assert run(checkpoint, again, "--manifest", str(checkpoint)) == 0
    assert Calibration.of_manifest(manifest.read(checkpoint).calibration).request == pytest.approx(first, rel=0.01)
    assert first != 1.0


def test_the_same_scores_draw_the_same_diagram(checkpoint: Path) -> None:
    written = []
    for _ in range(2):
        assert run(checkpoint, scored_rows("d")) == 0
        written.append((checkpoint.parent / "report" / calibrate.DIAGRAM).read_bytes())
    assert written[0] == written[1]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (lambda digest: scored_rows("f" * 64), "score again"),
        (lambda digest: [*scored_rows(digest), *scored_rows("f" * 64)], "2 manifests"),
        (lambda digest: scored_rows(digest)[:40], "no label has"),
        (lambda digest: [], "0 manifests"),
    ],
)
def test_what_cannot_be_fitted_changes_nothing(
    checkpoint: Path, rows: Any, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = manifest.read(checkpoint).digest
    assert run(checkpoint, rows(before), "--manifest", str(checkpoint)) == 2
    assert message in capsys.readouterr().err
    assert manifest.read(checkpoint).digest == before


def test_a_line_that_is_no_scored_event_is_named(tmp_path: Path) -> None:
    path = tmp_path / "scored.jsonl"
    path.write_text(json.dumps({"id": 1}) + "\n")
    with pytest.raises(ValueError, match="line 1"):
        read_scored(path)


@pytest.fixture(scope="module")
def server(triton_env: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    folder = tmp_path_factory.mktemp("lite")
    shutil.copytree(MODEL_FOLDER, folder / "models" / "proguard_lite", ignore=shutil.ignore_patterns("__pycache__"))

    def answers(url: str) -> bool:
        with grpc.InferenceServerClient(url) as client:
            return bool(client.is_model_ready("proguard_lite"))

    with TritonServer(folder / "models", triton_env, folder, models=["proguard_lite"], ready=answers) as running:
        yield running


def test_a_guard_on_triton_is_scored_without_its_content_and_can_be_fitted(
    server: TritonServer, tmp_path: Path
) -> None:
    data, out = write_data(tmp_path / "data"), tmp_path / "scored.jsonl"
    asked = [
        "--url",
        server.grpc_url,
        "--model",
        "proguard_lite",
        "--data",
        str(data),
        "--split",
        "train",
        "--out",
        str(out),
    ]
    assert score.main(asked) == 0
    rows = read_scored(out)
    assert len(rows) == 60
    assert all(row.request_score is not None and 0.0 <= row.request_score <= 1.0 for row in rows)
    assert [row.response_score is None for row in rows] == [row.response_unsafe is None for row in rows]
    assert "bread" not in out.read_text()
    unsafe = [row.request_score or 0.0 for row in rows if row.request_unsafe]
    safe = [row.request_score or 0.0 for row in rows if not row.request_unsafe]
    assert min(unsafe) > max(safe)


def test_no_guard_is_an_error_and_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = write_data(tmp_path / "data"), tmp_path / "scored.jsonl"
    asked = ["--url", "127.0.0.1:1", "--data", str(data), "--timeout", "2", "--out", str(out)]
    assert score.main(asked) == 2
    assert "error:" in capsys.readouterr().err
    assert not out.exists()
