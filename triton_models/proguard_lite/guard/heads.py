"""The trained part: two logistic heads on the sentence vectors, and the numbers that place a text among categories.

Everything is read from one safetensors file that `training.lite.fit` wrote; the manifest beside it holds its SHA-256.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load

from .encoder import DIMENSIONS, Vectors

HEADS = "heads.safetensors"
MANIFEST = "manifest.json"
FORMAT = 1

# From this calibrated probability on, a turn is unsafe.
UNSAFE_FROM = 0.5


class BrokenWeights(RuntimeError):
    """The weights folder is incomplete, or is not the one that its manifest describes. The model must not load."""


@dataclass(frozen=True, slots=True)
class Heads:
    """The fitted numbers. `digest` is the SHA-256 of the manifest, which itself names the SHA-256 of the weights.

    The request head reads a (384,) vector. The response head reads the response's vector, the request's, and their
    elementwise product: (1152,). `mix` weighs an entry's best phrase against the mean of its phrases, `family` a
    sub-category's own nearness against that of the category above it.
    """

    request_weight: Vectors
    request_bias: float
    response_weight: Vectors
    response_bias: float
    phrase_centre: Vectors
    mix: float
    family: float
    outside_weight: Vectors
    outside_bias: float
    digest: str

    def request(self, windows: Vectors) -> float:
        """Probability of unsafe of the most suspicious of a text's (n, 384) windows."""
        return float(_sigmoid(windows @ self.request_weight + self.request_bias).max())

    def response(self, windows: Vectors, request: Vectors) -> float:
        """Probability of unsafe of the most suspicious of a response's windows, given the request's (384,) vector."""
        features = np.concatenate([windows, np.broadcast_to(request, windows.shape), windows * request], axis=1)
        return float(_sigmoid(features @ self.response_weight + self.response_bias).max())

    def outside(self, nearest: float, name: float) -> float:
        """Probability that a risk lies outside the policy: from its nearness to a category and to the nearest name."""
        logit = self.outside_weight @ np.array([nearest, name], dtype=np.float32) + self.outside_bias
        return float(_sigmoid(logit))


def load_heads(folder: Path) -> Heads:
    """The heads in `folder`. Raises `BrokenWeights` when a file is missing, altered or of another format."""
    try:
        manifest_bytes = (folder / MANIFEST).read_bytes()
        weights = (folder / HEADS).read_bytes()
    except OSError as error:
        raise BrokenWeights(f"the weights folder lacks {Path(error.filename or '').name}") from error
    manifest: dict[str, Any] = json.loads(manifest_bytes)
    if manifest.get("format") != FORMAT:
        raise BrokenWeights(f"the manifest's format is {manifest.get('format')}, not {FORMAT}")
    if manifest["weights"]["sha256"] != hashlib.sha256(weights).hexdigest():
        raise BrokenWeights(f"{HEADS} is not the file that the manifest describes")
    tensors = load(weights)
    heads = Heads(
        request_weight=tensors["request.weight"],
        request_bias=float(tensors["request.bias"][0]),
        response_weight=tensors["response.weight"],
        response_bias=float(tensors["response.bias"][0]),
        phrase_centre=tensors["category.phrase_centre"],
        mix=float(tensors["category.mix"][0]),
        family=float(tensors["category.family"][0]),
        outside_weight=tensors["outside.weight"],
        outside_bias=float(tensors["outside.bias"][0]),
        digest=hashlib.sha256(manifest_bytes).hexdigest(),
    )
    if heads.request_weight.shape != (DIMENSIONS,) or heads.response_weight.shape != (3 * DIMENSIONS,):
        raise BrokenWeights(f"{HEADS} holds heads of another shape")
    return heads


def _sigmoid(logits: Vectors) -> Vectors:
    clipped = np.clip(logits, -30.0, 30.0)
    probabilities: Vectors = 1.0 / (1.0 + np.exp(-clipped))
    return probabilities
