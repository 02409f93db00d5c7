"""The committed weights, and what happens when they are not whole."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from triton_models.proguard_lite.guard.assembly import MODEL_FOLDER, PHRASES, WEIGHTS
from triton_models.proguard_lite.guard.heads import (
    HEADS,
    MANIFEST,
    BrokenWeightsError,
    from_tensors,
    load_heads,
    to_tensors,
)
from triton_models.proguard_lite.guard.naming import read_phrases


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(WEIGHTS, tmp_path / "weights")
    return tmp_path / "weights"


def test_the_digest_is_that_of_the_manifest() -> None:
    assert load_heads(WEIGHTS).digest == hashlib.sha256((WEIGHTS / MANIFEST).read_bytes()).hexdigest()


def test_the_manifest_names_the_phrase_bank_that_was_calibrated() -> None:
    manifest = json.loads((WEIGHTS / MANIFEST).read_text(encoding="utf-8"))
    assert manifest["phrases_sha256"] == hashlib.sha256(PHRASES.read_bytes()).hexdigest()


def test_weights_survive_the_way_through_tensors() -> None:
    heads = load_heads(WEIGHTS)
    again = to_tensors(from_tensors(to_tensors(heads), heads.digest))
    assert all((tensor == again[name]).all() for name, tensor in to_tensors(heads).items())


def test_altered_weights_do_not_load(copy: Path) -> None:
    data = bytearray((copy / HEADS).read_bytes())
    data[-1] ^= 1
    (copy / HEADS).write_bytes(data)
    with pytest.raises(BrokenWeightsError, match="not the file"):
        load_heads(copy)


@pytest.mark.parametrize("missing", [HEADS, MANIFEST])
def test_missing_files_do_not_load(copy: Path, missing: str) -> None:
    (copy / missing).unlink()
    with pytest.raises(BrokenWeightsError, match=missing):
        load_heads(copy)


@pytest.mark.parametrize("manifest", ["{}", "not json", '{"format": 99}'])
def test_a_foreign_manifest_does_not_load(copy: Path, manifest: str) -> None:
    (copy / MANIFEST).write_text(manifest, encoding="utf-8")
    with pytest.raises(BrokenWeightsError):
        load_heads(copy)


def test_the_phrase_bank_is_wide_and_holds_short_names_once() -> None:
    entries = read_phrases(PHRASES)
    names = [name for name, _ in entries]
    assert len(names) >= 150
    assert len({name.casefold() for name in names}) == len(names)
    assert all(2 <= len(name.split()) <= 5 and cue for name, cue in entries)


def test_the_model_folder_holds_what_triton_and_a_reader_need() -> None:
    for needed in ("config.pbtxt", "1/model.py", "README.md"):
        assert (MODEL_FOLDER / needed).is_file()
