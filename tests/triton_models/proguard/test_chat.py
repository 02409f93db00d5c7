"""Prompts: for benign text the processor's own ids and pixels, for hostile text no special token but the template's."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoProcessor

from tests.attacks.cases import QWEN_ADDED_TOKENS, Case
from tests.attacks.prompt_cases import PROMPT_CASES
from tests.triton_models.proguard.engines import KINDS, SYSTEM, ask, photo
from triton_models.proguard.guard.chat import Chat
from triton_models.proguard.guard.engine import Conversation


@pytest.fixture(scope="module")
def chat(checkpoint: Path) -> Chat:
    return Chat.load(checkpoint)


def processed(processor: Any, asked: Conversation) -> Any:
    """What the checkpoint's own processor makes of a conversation."""
    turns = [
        {"role": "system", "content": [{"type": "text", "text": asked.system}]},
        {"role": "user", "content": [{"type": "image"}] * len(asked.images) + [{"type": "text", "text": asked.user}]},
    ]
    text = processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    images = [Image.open(io.BytesIO(data)) for data in asked.images]
    return processor(text=[text], images=images or None, return_tensors="pt")


@pytest.mark.parametrize("kind", KINDS)
def test_ids_and_pixels_are_the_processors(chat: Chat, checkpoint: Path, kind: str) -> None:
    expected = processed(AutoProcessor.from_pretrained(checkpoint), KINDS[kind])
    prepared = chat.expand(chat.encode(KINDS[kind]))
    assert list(prepared.token_ids) == expected["input_ids"][0].tolist()
    if KINDS[kind].images:
        assert prepared.image_grid_thw.equal(expected["image_grid_thw"])  # type: ignore[union-attr]
        assert prepared.pixel_values.equal(expected["pixel_values"])  # type: ignore[union-attr]
    else:
        assert prepared.pixel_values is None


def test_pixel_limits_of_the_settings_reach_the_processor(checkpoint: Path) -> None:
    large = ask("x", photo(800, 600))
    own = len(Chat.load(checkpoint).expand(Chat.load(checkpoint).encode(large)).token_ids)
    smaller = Chat.load(checkpoint, max_pixels=28 * 28 * 4)
    assert own - 16 < len(smaller.expand(smaller.encode(large)).token_ids) < own


def test_there_is_one_placeholder_an_image_until_it_is_expanded(chat: Chat) -> None:
    encoded = chat.encode(KINDS["several images"])
    assert encoded.token_ids.count(chat.image_token_id) == len(encoded.images) == 3
    assert all(image.mode == "RGB" for image in encoded.images)


def test_the_prefix_is_the_whole_system_turn_and_nothing_of_the_users(chat: Chat) -> None:
    one, other = chat.encode(ask("one")), chat.encode(ask("entirely different", photo(60, 60)))
    assert one.prefix == other.prefix > 3
    assert one.token_ids[: one.prefix] == other.token_ids[: other.prefix]
    assert chat.tokenizer.decode(one.token_ids[: one.prefix]) == f"<|im_start|>system\n{SYSTEM}<|im_end|>"


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(system=st.text(max_size=60), user=st.text(max_size=60))
def test_any_text_without_special_tokens_gets_the_processors_ids(chat: Chat, system: str, user: str) -> None:
    assume(
        not any(token in text for token in QWEN_ADDED_TOKENS for text in (system, user))
    )  # Hypothesis reads our constants.
    asked = Conversation(system, user, (), 5)
    assert list(chat.encode(asked).token_ids) == processed(chat.processor, asked)["input_ids"][0].tolist()


def specials(chat: Chat, ids: tuple[int, ...]) -> list[str]:
    return [chat.tokenizer.convert_ids_to_tokens(id) for id in ids if id in chat.added_ids]


TEMPLATES_OWN = ["<|im_start|>", "<|im_end|>", "<|im_start|>", "<|im_end|>", "<|im_start|>"]


@pytest.mark.parametrize("case", PROMPT_CASES, ids=lambda case: case.name.encode("ascii", "backslashreplace").decode())
def test_an_attack_brings_no_special_token_into_the_ids(chat: Chat, case: Case) -> None:
    # Not rendered, so not neutralised either: this is the wall behind that one.
    for asked in (
        Conversation(case.user, case.agent, (), 5),
        Conversation(SYSTEM, f"{case.user}\n{case.agent}", (), 5),
    ):
        encoded = chat.encode(asked)
        assert specials(chat, encoded.token_ids) == TEMPLATES_OWN


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pieces=st.lists(
        st.sampled_from(
            [
                *QWEN_ADDED_TOKENS,
                " ",
                "\n",
                "a",
                "<|",
                "|>",
                "\ue000user\ue000",
                "\ue000system\ue000",
                "\ue000nudge\ue000",
            ]
        ),
        max_size=12,
    )
)
def test_special_tokens_in_text_are_its_letters(chat: Chat, pieces: list[str]) -> None:
    text = "".join(pieces)
    encoded = chat.encode(Conversation(text, text, (photo(30, 30),), 5))
    with_image = [*TEMPLATES_OWN[:3], "<|vision_start|>", "<|image_pad|>", "<|vision_end|>", *TEMPLATES_OWN[3:]]
    assert specials(chat, encoded.token_ids) == with_image
    assert chat.tokenizer.decode(encoded.token_ids) == (
        f"<|im_start|>system\n{text}<|im_end|>\n<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>{text}<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_the_placeholder_in_the_text_takes_no_image(chat: Chat) -> None:
    prepared = chat.expand(chat.encode(ask("<|image_pad|>" * 5, photo(90, 60))))
    honest = chat.expand(chat.encode(ask("x", photo(90, 60))))
    assert prepared.token_ids.count(chat.image_token_id) == honest.token_ids.count(chat.image_token_id)
