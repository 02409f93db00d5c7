"""What the tokens of a byte-level tokenizer stand for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .errors import LoadError


class Vocabulary:
    """The bytes of every token: special ones have none, ids behind the tokenizer's last one neither."""

    def __init__(self, tokenizer: Any) -> None:
        byte_of = {character: byte for byte, character in enumerate(_byte_characters())}
        added: dict[int, Any] = tokenizer.added_tokens_decoder
        self._bytes: list[bytes] = [b""] * (max(tokenizer.get_vocab().values()) + 1)
        for written, id in tokenizer.get_vocab().items():
            if id in added:
                self._bytes[id] = b"" if added[id].special else str(added[id].content).encode()
                continue
            try:
                self._bytes[id] = bytes(byte_of[character] for character in written)
            except KeyError:
                raise LoadError("the tokenizer is not a byte-level one, as Qwen2.5-VL's is") from None

    def bytes_of(self, id: int) -> bytes:
        """Empty for a special token and for an id that the tokenizer does not have."""
        return self._bytes[id] if 0 <= id < len(self._bytes) else b""

    def text_of(self, ids: Iterable[int]) -> str:
        """The decoding without special tokens; bytes that are no UTF-8 become replacement characters."""
        return b"".join(map(self.bytes_of, ids)).decode("utf-8", "replace")


def _byte_characters() -> list[str]:
    """The printable character that stands for each byte (GPT-2's `bytes_to_unicode`, openai/gpt-2 src/encoder.py)."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    characters, others = [], 0
    for byte in range(256):
        if byte in printable:
            characters.append(chr(byte))
        else:
            characters.append(chr(256 + others))
            others += 1
    return characters
