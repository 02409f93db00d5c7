"""From a conversation to what the checkpoint was trained to read: token ids and pixels.

The ids are those of the checkpoint's own processor (`apply_chat_template`, then the processor itself), with one difference:
special tokens exist only where the template writes them. What SYSTEM and USER say is plain text, so `<|im_start|>` or
`<|image_pad|>` in it becomes the pieces of its letters.

How: the template is rendered once for each shape of conversation, with markers where the texts go, and cut at its special
tokens. Each stretch between two of them is filled in and encoded by the same tokenizer without its added tokens. A stretch is
encoded whole, so merges over the edge of template and text are the processor's.
"""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from tokenizers import Tokenizer

from .engine import Conversation
from .errors import LoadError
from .images import decode

# Private-use characters, which no template says.
_SYSTEM, _USER, _NUDGE = "\ue000system\ue000", "\ue000user\ue000", "\ue000nudge\ue000"
_MARKER = re.compile("|".join((_SYSTEM, _USER, _NUDGE)))
_REMEMBERED_SYSTEMS = 64
"""System messages whose ids are kept: a few policies times three modalities, each some thousand tokens."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """A prompt. `token_ids` have one placeholder an image, not yet expanded to the image's tokens (see `Chat.expand`)."""

    token_ids: tuple[int, ...]
    prefix: int
    """How many of the first ids depend on nothing but the system message: its whole turn."""
    images: tuple[Image.Image, ...]
    """RGB, in order, at their own size: the processor scales them."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A prompt as the model's forward pass takes it."""

    token_ids: tuple[int, ...]
    """Every placeholder as often as its image has tokens."""
    prefix: int
    pixel_values: Any | None
    """float32 [patches, channels x frames x 14 x 14] of all images; None without images."""
    image_grid_thw: Any | None
    """int64 [images, 3]: frames, rows and columns of patches."""


_Part = int | str
"""A special token's id, or a stretch of text with markers in it."""


class Chat:
    """Encodes prompts for one checkpoint. May be used from several threads at once."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        self.tokenizer: Any = processor.tokenizer
        added: dict[int, Any] = self.tokenizer.added_tokens_decoder
        self.added_ids = frozenset(added)
        self._id_of = {str(token.content): id for id, token in added.items()}
        self._special = re.compile("|".join(re.escape(text) for text in sorted(self._id_of, key=len, reverse=True)))
        self._plain = _without_added_tokens(self.tokenizer.backend_tokenizer)
        for text in self._id_of:
            if self.added_ids.intersection(self._plain.encode(text, add_special_tokens=False).ids):
                raise LoadError(f"the tokenizer writes {text!r} in plain text as a special token: it cannot be used safely")
        self._shape = functools.lru_cache(maxsize=256)(self._read_template)
        self._system_ids = functools.lru_cache(maxsize=_REMEMBERED_SYSTEMS)(self._text_ids)
        self.image_token_id: int = processor.image_token_id

    @classmethod
    def load(cls, checkpoint: Path, *, min_pixels: int | None = None, max_pixels: int | None = None) -> Chat:
        """Open the processor of `checkpoint`; pixel limits that are None are the checkpoint's own. Raises `LoadError`."""
        from transformers import AutoProcessor

        try:
            processor = AutoProcessor.from_pretrained(checkpoint, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise LoadError(f"the processor of {checkpoint.name} cannot be opened: {error}") from error
        size = processor.image_processor.size
        processor.image_processor.size = type(size)(
            **{
                **dict(size),
                **({} if min_pixels is None else {"shortest_edge": min_pixels}),
                **({} if max_pixels is None else {"longest_edge": max_pixels}),
            }
        )
        return cls(processor)

    def encode(self, conversation: Conversation) -> Encoded:
        """The prompt of `conversation`: images first, then the text, in the user's turn. Raises `BadImageError`. Blocks while it decodes."""
        images = tuple(decode(data, number) for number, data in enumerate(conversation.images))
        texts = {_SYSTEM: conversation.system, _USER: conversation.user, _NUDGE: conversation.nudge or ""}
        ids: list[int] = []
        prefix = 0
        open_system = False
        for part in self._shape(len(images), conversation.nudge is not None):
            if isinstance(part, int):
                ids.append(part)
                if open_system:
                    prefix, open_system = len(ids), False
                continue
            # In one pass: a text that says a marker is not looked through again.
            filled = _MARKER.sub(lambda marker: texts[marker.group()], part)
            open_system = _SYSTEM in part
            ids += self._system_ids(filled) if open_system else self._text_ids(filled)
        return Encoded(tuple(ids), prefix, images)

    def expand(self, encoded: Encoded) -> Prepared:
        """Scale the images, cut them into patches, and repeat each placeholder. Blocks for milliseconds per megapixel."""
        if not encoded.images:
            return Prepared(encoded.token_ids, encoded.prefix, None, None)
        images = self.processor.image_processor(images=list(encoded.images), return_tensors="pt")
        grids = images["image_grid_thw"]
        merged = self.processor.image_processor.merge_size**2
        counts = iter((grids.prod(-1) // merged).tolist())
        ids: list[int] = []
        for id in encoded.token_ids:
            ids += [id] * (int(next(counts)) if id == self.image_token_id else 1)
        return Prepared(tuple(ids), encoded.prefix, images["pixel_values"], grids)

    def _text_ids(self, text: str) -> tuple[int, ...]:
        return tuple(self._plain.encode(text, add_special_tokens=False).ids)

    def _read_template(self, images: int, nudged: bool) -> tuple[_Part, ...]:
        turns = [
            {"role": "system", "content": [{"type": "text", "text": _SYSTEM}]},
            {"role": "user", "content": [{"type": "image"}] * images + [{"type": "text", "text": _USER}]},
        ]
        if nudged:
            turns.append({"role": "system", "content": [{"type": "text", "text": _NUDGE}]})
        rendered = self.processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        parts: list[_Part] = []
        end = 0
        for match in self._special.finditer(rendered):
            parts += [rendered[end : match.start()], self._id_of[match.group()]]
            end = match.end()
        parts.append(rendered[end:])
        for marker in (_SYSTEM, _USER, *((_NUDGE,) if nudged else ())):
            if rendered.count(marker) != 1:
                raise LoadError("the checkpoint's chat template does not write each message once: it cannot be used")
        return tuple(part for part in parts if part != "")


def _without_added_tokens(tokenizer: Tokenizer) -> Tokenizer:
    """The same normaliser, splitting and merges, but nothing that is looked for before them."""
    document = json.loads(tokenizer.to_str())
    document["added_tokens"] = []
    document["post_processor"] = None  # It may name special tokens; the template writes ours.
    document["truncation"] = document["padding"] = None
    return Tokenizer.from_str(json.dumps(document))
