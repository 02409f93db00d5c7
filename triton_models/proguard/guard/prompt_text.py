"""A prompt as text, for an engine that encodes prompts itself and finds special tokens anywhere in them.

`chat.py` gives token ids, in which content can be no special token. Where only a text can be sent, content must not spell one: in
SYSTEM, USER and the nudge, every added token's text loses its first character to a look-alike (`<|im_start|>` becomes
`‹|im_start|>`, as the service's own `schemas.neutralise` writes it). So content that spells none is encoded exactly as `chat.py` would;
content that does reads the same to a person, and costs another character there.

That is not taken on trust: the text is encoded as the engine will, and must hold the same special tokens in the same order as the
ids of `chat.py`. Otherwise the request is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from .chat import Chat, Encoded
from .engine import Conversation
from .errors import BadTensorError, LoadError

_OPEN, _LIKE = "<", "‹"
"""U+2039 has no compatibility decomposition, so no normalisation brings the `<` back."""


@dataclass(frozen=True, slots=True)
class TextPrompt:
    """`text` has one placeholder an image; `encoded` is the same prompt as `chat.py` sees it, with the decoded images."""

    text: str
    encoded: Encoded


class PromptText:
    """Writes prompts for one checkpoint. May be used from several threads at once."""

    def __init__(self, chat: Chat) -> None:
        self._chat = chat
        written = [str(token.content) for token in chat.tokenizer.added_tokens_decoder.values()]
        odd = sorted(text for text in written if not text.startswith(_OPEN))
        if odd:
            raise LoadError(
                f"the tokenizer's token {odd[0]!r} does not begin with {_OPEN!r}: it cannot be kept out of a text prompt"
            )
        self._added = re.compile("|".join(re.escape(text) for text in sorted(written, key=len, reverse=True)))

    def write(self, conversation: Conversation) -> TextPrompt:
        """The prompt. Raises `BadImageError`, and `BadTensorError` when its content would change its structure. Blocks while it
        decodes images and encodes twice: some milliseconds for a long policy."""
        plain = replace(
            conversation,
            system=self._broken(conversation.system),
            user=self._broken(conversation.user),
            nudge=None if conversation.nudge is None else self._broken(conversation.nudge),
        )
        encoded = self._chat.encode(plain)
        text = self._rendered(plain)
        ids: list[int] = self._chat.tokenizer(text, add_special_tokens=False)["input_ids"]
        if self._special(ids) != self._special(encoded.token_ids):
            raise BadTensorError("a message spells a special token of the model in a way that cannot be taken apart")
        return TextPrompt(text, encoded)

    def _broken(self, text: str) -> str:
        while self._added.search(text):  # Again, because one token's text may overlap with the next one's.
            text = self._added.sub(lambda match: _LIKE + match.group()[1:], text)
        return text

    def _special(self, ids: Any) -> list[int]:
        return [id for id in ids if id in self._chat.added_ids]

    def _rendered(self, conversation: Conversation) -> str:
        """The same turns as `chat.py` gives to the same template; the comparison above would notice any other."""
        turns = [
            {"role": "system", "content": [{"type": "text", "text": conversation.system}]},
            {
                "role": "user",
                "content": [
                    *({"type": "image"} for _ in conversation.images),
                    {"type": "text", "text": conversation.user},
                ],
            },
        ]
        if conversation.nudge is not None:
            turns.append({"role": "system", "content": [{"type": "text", "text": conversation.nudge}]})
        rendered: str = self._chat.processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return rendered
