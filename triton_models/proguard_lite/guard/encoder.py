"""Texts to unit vectors, by MiniLM's int8 weights on ONNX Runtime.

The weights are quantised, the arithmetic is not: activations stay fp32, so a text has the same vector (to rounding) alone
and in any batch. That is what lets a batched answer equal the single one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

Vectors = NDArray[np.float32]

DIMENSIONS = 384
# Word pieces in a window, two of them [CLS] and [SEP]. MiniLM reads 256, but a sentence hides among so many: in half as
# many, fifty harmful words outweigh the harmless ones around them.
WINDOW = 128
# A text of up to 2,016 word pieces is read completely. Of a longer one, this many windows spread over all of it, the
# head and the tail among them, so that one event costs a bounded time.
MAX_WINDOWS = 16
# Tokenising is linear in characters, so it is bounded too: half from the head, half from the tail.
MAX_CHARACTERS = 64_000
# Bounds the memory of one run: attention takes heads x window^2 floats for each sequence.
_MAX_SEQUENCES = 32
_MAX_PADDED_TOKENS = 4096


@dataclass(frozen=True, slots=True)
class Encoded:
    """One text: `windows` is (n, 384), n >= 1, unit rows in reading order; `tokens` counts the word pieces that were read."""

    windows: Vectors
    tokens: int
    complete: bool


class TextEncoder(Protocol):
    """The seam between the guard and its sentence encoder."""

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """One `Encoded` for each text, in order. Blocks for the computation; never raises for any Unicode text."""
        ...


class MiniLM:
    """MiniLM by ONNX Runtime. Threads may share one instance."""

    def __init__(self, model: Path, tokenizer: Path, *, threads: int = 2) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Spinning threads steal the cores from the batch's own tokenising and from OCR: 73 against 247 requests a second.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        self._inputs = {declared.name for declared in self._session.get_inputs()}
        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        # An empty text is nothing but the two special pieces.
        self._cls, self._sep = self._tokenizer.encode("").ids

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """See `TextEncoder.encode`."""
        if not texts:
            return []
        pieces = self._tokenizer.encode_batch([_clipped(text) for text in texts], add_special_tokens=False)
        windows: list[list[int]] = []
        spans: list[tuple[int, int, int, bool]] = []
        for text, piece in zip(texts, pieces, strict=True):
            chosen, complete = _windows(piece.ids)
            start = len(windows)
            windows.extend([self._cls, *ids, self._sep] for ids in chosen)
            tokens = sum(len(ids) for ids in chosen)
            spans.append((start, len(windows), tokens, complete and len(text) <= MAX_CHARACTERS))
        vectors = self._run(windows)
        return [Encoded(vectors[a:b], tokens, complete) for a, b, tokens, complete in spans]

    def count(self, text: str) -> int:
        """Word pieces of `text`, without the special ones."""
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def _run(self, windows: list[list[int]]) -> Vectors:
        vectors = np.empty((len(windows), DIMENSIONS), dtype=np.float32)
        order = sorted(range(len(windows)), key=lambda index: len(windows[index]))
        batch: list[int] = []
        for index in order:
            if batch and (len(batch) == _MAX_SEQUENCES or (len(batch) + 1) * len(windows[index]) > _MAX_PADDED_TOKENS):
                vectors[batch] = self._forward([windows[i] for i in batch])
                batch = []
            batch.append(index)
        vectors[batch] = self._forward([windows[i] for i in batch])
        return vectors

    def _forward(self, windows: list[list[int]]) -> Vectors:
        width = max(len(ids) for ids in windows)
        ids = np.zeros((len(windows), width), dtype=np.int64)
        mask = np.zeros((len(windows), width), dtype=np.int64)
        for row, window in enumerate(windows):
            ids[row, : len(window)] = window
            mask[row, : len(window)] = 1
        feed: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
        if "token_type_ids" in self._inputs:
            feed["token_type_ids"] = np.zeros_like(ids)
        hidden = self._session.run(None, feed)[0]
        weights = mask[:, :, None].astype(np.float32)
        pooled = (hidden * weights).sum(axis=1) / weights.sum(axis=1)
        return unit(pooled)


def unit(vectors: Vectors) -> Vectors:
    """The rows of `vectors` at length one; a zero row stays zero."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    scaled: Vectors = (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)
    return scaled


def _clipped(text: str) -> str:
    if len(text) <= MAX_CHARACTERS:
        return text
    half = MAX_CHARACTERS // 2
    return f"{text[:half]} {text[-half:]}"


def _windows(ids: list[int]) -> tuple[list[list[int]], bool]:
    size = WINDOW - 2
    if len(ids) <= size:
        return [ids], True
    windows = [ids[start : start + size] for start in range(0, len(ids), size)]
    # A last window of a few pieces would be judged without its context: let it reach back to its full width.
    windows[-1] = ids[-size:]
    if len(windows) <= MAX_WINDOWS:
        return windows, True
    last = len(windows) - 1
    return [windows[round(step * last / (MAX_WINDOWS - 1))] for step in range(MAX_WINDOWS)], False
