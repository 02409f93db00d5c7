"""The cache's slots: whoever joins, leaves or grows, everybody finds exactly the values that were written for him."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from triton_models.proguard.guard.slots import SlotCache

LAYERS, HEADS, SIZE = 2, 2, 3


def values(generator: torch.Generator, rows: int, tokens: int) -> torch.Tensor:
    return torch.rand(rows, HEADS, tokens, SIZE, generator=generator)


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("join"), st.lists(st.integers(1, 300), min_size=1, max_size=3)),
        st.tuples(st.just("step"), st.just(0)),
        st.tuples(st.just("leave"), st.integers(0, 9)),
        st.tuples(st.just("copy"), st.integers(0, 9)),
    ),
    max_size=12,
)


@settings(max_examples=60)
@given(ACTIONS)
def test_every_sequence_reads_what_was_written_for_it(actions: list[tuple[str, object]]) -> None:
    cache = SlotCache(LAYERS, HEADS, SIZE, torch.device("cpu"), torch.float32)
    generator = torch.Generator().manual_seed(0)
    written: list[list[torch.Tensor]] = []  # Of each row and layer, [heads, tokens, size].

    def extend(first: int, past: list[int], lengths: list[int]) -> None:
        longest = max(lengths)
        visible = max(past) + longest
        cache.reserve(first + len(past), visible)
        cache.aim(first, torch.tensor(past), longest, visible)
        for layer in range(LAYERS):
            new = values(generator, len(past), longest)
            keys, doubled = cache.update(new, new * 2, layer)
            for place, (before, length) in enumerate(zip(past, lengths, strict=True)):
                row = written[first + place]
                row[layer] = torch.cat([row[layer], new[place, :, :length]], dim=1)
                assert keys[place, :, : before + length].equal(row[layer])
                assert doubled[place, :, : before + length].equal(row[layer] * 2)

    for action, argument in actions:
        if action == "join":
            assert isinstance(argument, list)
            first = len(written)
            written += [[torch.empty(HEADS, 0, SIZE) for _ in range(LAYERS)] for _ in argument]
            extend(first, [0] * len(argument), argument)
        elif action == "step" and written:
            extend(0, [row[0].shape[1] for row in written], [1] * len(written))
        elif action == "leave" and written:
            assert isinstance(argument, int)
            place = argument % len(written)
            last = written.pop()
            if place < len(written):
                cache.move(len(written), place, last[0].shape[1])
                written[place] = last
        elif action == "copy" and written:
            assert isinstance(argument, int)
            source = written[argument % len(written)]
            tokens = source[0].shape[1]
            saved = cache.save(argument % len(written), tokens)
            cache.reserve(len(written) + 1, tokens)
            cache.restore(saved, len(written))
            written.append([layer.clone() for layer in source])
    if written:
        extend(0, [row[0].shape[1] for row in written], [1] * len(written))


def test_fresh_slots_hold_no_garbage_that_could_spoil_a_masked_sum() -> None:
    cache = SlotCache(LAYERS, HEADS, SIZE, torch.device("cpu"), torch.float32)
    cache.reserve(3, 10)
    cache.aim(0, torch.tensor([0]), 1, 200)
    keys, doubled = cache.update(torch.ones(1, HEADS, 1, SIZE), torch.ones(1, HEADS, 1, SIZE), 0)
    assert keys.isfinite().all()
    assert doubled.sum() == HEADS * SIZE
