"""The manifest: it names exactly the files that lie there, and refuses everything else with what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from triton_models.proguard.guard import manifest
from triton_models.proguard.guard.errors import ManifestError
from triton_models.proguard.seal import seal


@pytest.fixture
def sealed(checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def rename_format(folder: Path) -> None:
    path = folder / manifest.NAME
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))


HARM: dict[str, tuple[Callable[[Path], object], str]] = {
    "no manifest": (lambda folder: (folder / manifest.NAME).unlink(), "has no manifest.json"),
    "no folder": (shutil.rmtree, "no checkpoint folder"),
    "one bit of the weights": (
        lambda folder: flip(folder / "model.safetensors"),
        "model.safetensors .* SHA-256 differs",
    ),
    "one bit of the tokenizer": (lambda folder: flip(folder / "tokenizer.json"), "tokenizer.json .* SHA-256 differs"),
    "another size": (lambda folder: (folder / "config.json").write_text("{}"), "config.json has 2 bytes"),
    "a file too few": (
        lambda folder: (folder / "chat_template.jinja").unlink(),
        "chat_template.jinja is in the manifest and not",
    ),
    "a file too many": (
        lambda folder: (folder / "more.safetensors").write_bytes(b"x"),
        "more.safetensors is in the folder and not",
    ),
    "broken JSON": (lambda folder: (folder / manifest.NAME).write_text("{"), "cannot be read"),
    "another format": (rename_format, "not a manifest of format 1"),
}


@pytest.mark.parametrize("harm", HARM)
def test_a_checkpoint_that_is_not_the_sealed_one_is_refused_with_what_to_do(sealed: Path, harm: str) -> None:
    manifest.open_checkpoint(sealed)
    do, message = HARM[harm]
    do(sealed)
    with pytest.raises(ManifestError, match=message) as refused:
        manifest.open_checkpoint(sealed)
    assert harm == "no folder" or f"{manifest.SEAL} {sealed}" in str(refused.value)


def test_sealing_again_makes_it_loadable_with_another_digest(sealed: Path) -> None:
    before = manifest.open_checkpoint(sealed).digest
    flip(sealed / "model.safetensors")
    after = seal(sealed)
    assert manifest.open_checkpoint(sealed).digest == after.digest != before


def test_the_digest_is_over_what_it_says_and_not_over_how_it_is_written(sealed: Path) -> None:
    before = manifest.open_checkpoint(sealed)
    path = sealed / manifest.NAME
    path.write_text(json.dumps(dict(reversed(before.document.items()))))
    assert manifest.open_checkpoint(sealed).digest == before.digest
    calibrated = manifest.write(sealed, {**before.document, "calibration": {"method": "temperature"}})
    assert calibrated.digest != before.digest
    assert manifest.open_checkpoint(sealed).calibration == {"method": "temperature"}


def test_a_calibration_stays_with_its_weights_and_goes_with_them(sealed: Path) -> None:
    manifest.write(sealed, {**manifest.read(sealed).document, "calibration": {"method": "temperature"}})
    assert seal(sealed).calibration == {"method": "temperature"}
    flip(sealed / "model.safetensors")
    assert seal(sealed).calibration is None


def test_it_records_what_training_and_serving_must_share(sealed: Path) -> None:
    document = manifest.read(sealed).document
    assert document["processor"]["size"] == {"shortest_edge": 784, "longest_edge": 12544}
    assert len(document["processor"]["chat_template_sha256"]) == 64
    assert document["dtype"] == "float32"
    assert document["quantisation"] is None


def test_what_is_no_checkpoint_is_not_sealed(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"no readable config\.json"):
        seal(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ManifestError, match=r"no \.safetensors file"):
        seal(tmp_path)
