"""The trained part: two small heads on the sentence vectors, and the numbers that place a text among categories.

Everything is read from one safetensors file that `training.lite.fit` wrote; the manifest beside it holds its SHA-256.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load

from .concepts import Concepts
from .encoder import DIMENSIONS, Vectors

HEADS = "heads.safetensors"
MANIFEST = "manifest.json"
FORMAT = 1

# From this calibrated probability on, a turn is unsafe.
UNSAFE_FROM = 0.5


class BrokenWeightsError(RuntimeError):
    """The weights folder is incomplete, or is not the one that its manifest describes. The model must not load."""


@dataclass(frozen=True, slots=True)
class Perceptron:
    """One hidden layer: probability = sigmoid(output . relu(hidden x + hidden_bias) + output_bias), calibrated."""

    hidden: Vectors
    hidden_bias: Vectors
    output: Vectors
    output_bias: float

    def probabilities(self, features: Vectors) -> Vectors:
        """(rows,) probabilities of unsafe for (rows, features)."""
        active = np.maximum(features @ self.hidden + self.hidden_bias, 0.0)
        return _sigmoid(active @ self.output + self.output_bias)


@dataclass(frozen=True, slots=True)
class Heads:
    """The fitted numbers. `digest` is the SHA-256 of the manifest, which itself names the SHA-256 of the weights.

    The request head reads a (384,) vector. The response head reads the response's vector, the request's, and their
    elementwise product: (1152,). `mix` weighs an entry's best phrase against the mean of its phrases, `family` a
    sub-category's own nearness against that of the category above it, `learned` and `learned_name` what the concepts say
    against nearness.
    """

    request_head: Perceptron
    response_head: Perceptron
    phrase_centre: Vectors
    mix: float
    family: float
    learned: float
    learned_name: float
    concepts: Concepts
    outside_weight: Vectors
    outside_bias: float
    digest: str

    def request(self, windows: Vectors) -> float:
        """Probability of unsafe of the most suspicious of a text's (n, 384) windows."""
        return float(self.request_head.probabilities(windows).max())

    def response(self, windows: Vectors, request: Vectors) -> float:
        """Probability of unsafe of the most suspicious of a response's windows, given the request's (384,) vector."""
        features = np.concatenate([windows, np.broadcast_to(request, windows.shape), windows * request], axis=1)
        return float(self.response_head.probabilities(features).max())

    def outside(self, evidence: tuple[float, ...]) -> float:
        """Probability that a risk lies outside the policy, from a placement's evidence."""
        logit = self.outside_weight @ np.array(evidence, dtype=np.float32) + np.float32(self.outside_bias)
        return float(_sigmoid(logit))


def load_heads(folder: Path) -> Heads:
    """The heads in `folder`. Raises `BrokenWeightsError` when a file is missing, altered or of another format."""
    try:
        manifest_bytes = (folder / MANIFEST).read_bytes()
        weights = (folder / HEADS).read_bytes()
        manifest: dict[str, Any] = json.loads(manifest_bytes)
    except OSError as error:
        raise BrokenWeightsError(f"the weights folder lacks {Path(error.filename or '').name}") from error
    except ValueError as error:
        raise BrokenWeightsError(f"{MANIFEST} is not JSON") from error
    if manifest.get("format") != FORMAT:
        raise BrokenWeightsError(f"the manifest's format is {manifest.get('format')}, not {FORMAT}")
    if manifest["weights"]["sha256"] != hashlib.sha256(weights).hexdigest():
        raise BrokenWeightsError(f"{HEADS} is not the file that the manifest describes")
    return from_tensors(load(weights), hashlib.sha256(manifest_bytes).hexdigest())


def from_tensors(tensors: Mapping[str, Vectors], digest: str) -> Heads:
    """Heads from the named tensors of the weights file, the inverse of `to_tensors`."""
    numbers = {name: float(tensors[name][0]) for name in _NUMBERS}
    return Heads(
        request_head=_perceptron(tensors, "request", DIMENSIONS),
        response_head=_perceptron(tensors, "response", 3 * DIMENSIONS),
        phrase_centre=tensors["category.phrase_centre"],
        mix=numbers["category.mix"],
        family=numbers["category.family"],
        learned=numbers["category.learned"],
        learned_name=numbers["category.learned_name"],
        concepts=Concepts(**{name: tensors[f"concepts.{name}"] for name in _CONCEPTS}),
        outside_weight=tensors["outside.weight"],
        outside_bias=numbers["outside.bias"],
        digest=digest,
    )


def to_tensors(heads: Heads) -> dict[str, Vectors]:
    """What the weights file holds, all fp32."""
    tensors = {
        "category.phrase_centre": heads.phrase_centre,
        "category.mix": _number(heads.mix),
        "category.family": _number(heads.family),
        "category.learned": _number(heads.learned),
        "category.learned_name": _number(heads.learned_name),
        "outside.weight": heads.outside_weight,
        "outside.bias": _number(heads.outside_bias),
        **{f"concepts.{name}": getattr(heads.concepts, name) for name in _CONCEPTS},
    }
    for name, head in (("request", heads.request_head), ("response", heads.response_head)):
        tensors[f"{name}.hidden"] = head.hidden
        tensors[f"{name}.hidden_bias"] = head.hidden_bias
        tensors[f"{name}.output"] = head.output
        tensors[f"{name}.output_bias"] = _number(head.output_bias)
    return {name: np.ascontiguousarray(tensor, dtype=np.float32) for name, tensor in tensors.items()}


_CONCEPTS = ("wording", "weight", "bias", "members")
_NUMBERS = ("category.mix", "category.family", "category.learned", "category.learned_name", "outside.bias")


def _perceptron(tensors: Mapping[str, Vectors], name: str, width: int) -> Perceptron:
    hidden = tensors[f"{name}.hidden"]
    if hidden.shape[0] != width:
        raise BrokenWeightsError(f"the {name} head reads {hidden.shape[0]} numbers, not {width}")
    bias = float(tensors[f"{name}.output_bias"][0])
    return Perceptron(hidden, tensors[f"{name}.hidden_bias"], tensors[f"{name}.output"], bias)


def _number(value: float) -> Vectors:
    return np.array([value], dtype=np.float32)


def _sigmoid(logits: Any) -> Vectors:
    probabilities: Vectors = 1.0 / (1.0 + np.exp(-np.clip(logits, -30.0, 30.0)))
    return probabilities
