"""Texts to vectors."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from triton_models.proguard_lite.guard.assembly import Parts, open_encoder
from triton_models.proguard_lite.guard.encoder import MAX_CHARACTERS, MAX_WINDOWS, WINDOW, MiniLM

_ENCODER: MiniLM = open_encoder()


def test_a_text_has_one_vector_whatever_shares_its_batch(parts: Parts) -> None:
    texts = ["short", "a somewhat longer text about nothing much", "long " * 240, "", "日本語のテキスト"]
    together = parts.encoder.encode(texts * 9)
    for position, text in enumerate(texts):
        alone = parts.encoder.encode([text])[0]
        assert np.allclose(alone.windows, together[position].windows, atol=1e-5)


def test_similar_texts_are_nearer_than_different_ones(parts: Parts) -> None:
    bread, loaf, engine = (e.windows[0] for e in parts.encoder.encode(["fresh bread", "a loaf of bread", "car engine"]))
    assert bread @ loaf > bread @ engine + 0.3


def test_a_long_text_is_read_in_bounded_time_head_and_tail_included(parts: Parts) -> None:
    long = parts.encoder.encode(["start " + "middle " * 200_000 + "end"])[0]
    assert long.windows.shape == (MAX_WINDOWS, 384)
    assert not long.complete
    assert long.tokens <= MAX_WINDOWS * (WINDOW - 2)
    fits = parts.encoder.encode(["word " * 1000])[0]
    assert fits.complete
    assert len(fits.windows) == 8


@settings(max_examples=60)
@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=300), max_size=4))
def test_any_text_has_unit_vectors(texts: list[str]) -> None:
    for encoded in _ENCODER.encode(texts):
        assert np.allclose(np.linalg.norm(encoded.windows, axis=1), 1.0, atol=1e-4)


def test_the_character_limit_keeps_both_ends(parts: Parts) -> None:
    text = "a" * MAX_CHARACTERS + " needle"
    assert not parts.encoder.encode([text])[0].complete
