"""Engines and conversations for the tests of the real guard."""

from __future__ import annotations

import asyncio
import functools
import io
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from tests.triton_models import prompts
from triton_models.proguard.guard.chat import Chat
from triton_models.proguard.guard.constraint import Grammars
from triton_models.proguard.guard.engine import Conversation
from triton_models.proguard.guard.runner import Runner
from triton_models.proguard.guard.transformers_engine import TransformersEngine

SYSTEM = "You judge a conversation.\nThink first, then answer."
WAIT_SECONDS = 60.0


def engine_on(
    checkpoint: Path,
    *,
    runner: type[Runner] = Runner,
    constrained: bool = False,
    max_batch: int = 64,
    max_context: int | None = None,
    prefill_tokens: int = 8192,
    prefix_tokens: int = 65536,
) -> TransformersEngine:
    """A real engine on the CPU, whose runner may be a subclass that fails on demand."""
    chat = Chat.load(checkpoint)
    opened = runner.load(checkpoint, device="cpu", dtype="auto")
    grammars = None
    if constrained:
        grammars = Grammars(chat.tokenizer, opened.vocabulary_size, opened.end_ids, max_think_chars=40)
    return TransformersEngine(
        chat,
        opened,
        grammars=grammars,
        max_batch=max_batch,
        max_context=max_context,
        prefill_tokens=prefill_tokens,
        prefix_tokens=prefix_tokens,
    )


@functools.cache
def photo(width: int, height: int, seed: int = 0) -> bytes:
    """A PNG with colours that differ from patch to patch, the same for the same arguments."""
    gradient = Image.linear_gradient("L").resize((width, height)).rotate(37 * seed)
    image = Image.merge("RGB", (gradient, gradient.rotate(90), gradient.rotate(180)))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def ask(
    text: str, *images: bytes, max_tokens: int = 12, system: str = SYSTEM, constrained: bool = False
) -> Conversation:
    return Conversation(system, prompts.user(text), images, max_tokens, constrained)


KINDS: dict[str, Conversation] = {
    "text": ask("How do I bake bread?"),
    "an empty text": ask(""),
    "one image": ask("Look at this", photo(90, 60)),
    "several images": ask("And these", photo(60, 60), photo(200, 120, 1), photo(56, 84, 2)),
    "maximum pixels": ask("A large one", photo(1600, 900)),
    "a long policy": ask("Hello", system=prompts.SYSTEM),
    "a long policy and an image": ask("Hello", photo(64, 64), system=prompts.SYSTEM_TEXT_IMAGE),
}


async def until(condition: Callable[[], bool]) -> None:
    """Wait for `condition`. Raises TimeoutError."""
    async with asyncio.timeout(WAIT_SECONDS):
        while not condition():
            await asyncio.sleep(0.005)
