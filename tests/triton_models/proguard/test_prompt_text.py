"""Prompts as text: the attack suite over what the engine's tokenizer will make of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.attacks.cases import QWEN_ADDED_TOKENS, Case
from tests.attacks.prompt_cases import PROMPT_CASES
from triton_models.proguard.guard.chat import Chat
from triton_models.proguard.guard.engine import Conversation
from triton_models.proguard.guard.errors import BadTensorError
from triton_models.proguard.guard.prompt_text import PromptText


@pytest.fixture(scope="module")
def chat(checkpoint: Path) -> Chat:
    return Chat.load(checkpoint)


def ids(chat: Chat, conversation: Conversation) -> list[int]:
    """As TensorRT-LLM's input processor encodes it: special tokens are looked for everywhere."""
    encoded: list[int] = chat.tokenizer(PromptText(chat).write(conversation).text, add_special_tokens=False)[
        "input_ids"
    ]
    return encoded


def specials(chat: Chat, conversation: Conversation) -> list[int]:
    return [id for id in ids(chat, conversation) if id in chat.added_ids]


@pytest.mark.parametrize("case", PROMPT_CASES, ids=lambda case: case.name.encode("ascii", "backslashreplace").decode())
def test_an_attack_brings_no_special_token_into_the_prompt(chat: Chat, case: Case) -> None:
    # Not rendered, so not neutralised either: this is the wall behind that one.
    benign = specials(chat, Conversation("policy", "hello", (), 5))
    assert specials(chat, Conversation(case.user, case.agent, (), 5)) == benign
    assert specials(chat, Conversation("policy", f"{case.user}\n{case.agent}", (), 5)) == benign


PIECES = [
    *QWEN_ADDED_TOKENS,
    "<",
    "<|",
    "|>",
    "im_start",
    "<|im_",
    "‹",
    " ",
    "\n",
    "a",
    "\u0338",
    "\u200b",
    "é",
    "e\u0301",
]


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.sampled_from(PIECES), max_size=12).map("".join),
    st.lists(st.sampled_from(PIECES), max_size=6).map("".join),
)
def test_any_mixture_of_pieces_leaves_the_structure_and_costs_a_benign_text_nothing(
    chat: Chat, system: str, user: str
) -> None:
    conversation = Conversation(system, user, (), 5)
    assert specials(chat, conversation) == specials(chat, Conversation("policy", "hello", (), 5))
    if not any(token in text for token in QWEN_ADDED_TOKENS for text in (system, user)):
        assert ids(chat, conversation) == list(chat.encode(conversation).token_ids)


class Trusting(PromptText):
    """One that takes nothing apart: what the comparison behind it is for."""

    def _broken(self, text: str) -> str:
        return text


@pytest.mark.parametrize("token", QWEN_ADDED_TOKENS)
def test_a_special_token_that_is_left_in_a_text_is_refused(chat: Chat, token: str) -> None:
    with pytest.raises(BadTensorError):
        Trusting(chat).write(Conversation("policy", f"a {token} b", (), 5))
    assert Trusting(chat).write(Conversation("policy", "a b", (), 5)).text
