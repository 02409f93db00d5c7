"""The sentences and the mapping that are committed with the commands."""

from __future__ import annotations

from schemas.policy import default_policy
from training.lite.dataset import benign, category_map, own_responses, own_unsafe


def test_held_out_sentences_are_not_fitted_on() -> None:
    train = {*benign("train"), *(t for _, t in own_unsafe("train")), *(t for _, t in own_responses("train"))}
    held = [*benign("heldout"), *(t for _, t in own_unsafe("heldout")), *(t for _, t in own_responses("heldout"))]
    assert not {t.casefold().strip(" .!?") for t in train} & {t.casefold().strip(" .!?") for t in held}
    assert len(held) == len(set(held))


def test_there_are_enough_benign_sentences() -> None:
    assert len(benign("train")) >= 300
    assert len(benign("heldout")) >= 150


def test_every_mapped_category_is_one_of_the_default_policy() -> None:
    ids = default_policy().index
    targets = {target for mapping in category_map().values() for target in mapping.values()}
    targets |= {category for name in ("train", "heldout") for category, _ in own_unsafe(name)}
    assert targets - {None} <= set(ids)


def test_every_sub_category_has_examples_of_our_own() -> None:
    wanted = {id for id in default_policy().index if "S" in id}
    assert {category for category, _ in own_unsafe("train")} >= wanted
    assert {category for category, _ in own_unsafe("heldout")} >= wanted
