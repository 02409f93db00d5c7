"""Content that cannot pass for structure.

A chat model's prompt has structure in its text: chat special tokens (`<|im_start|>`), this prompt's own block markers
(`<END CONVERSATION>`), the answer's tags (`<answer>`) and the role markers at the start of a line (`Agent:`). Inside
content each of them is broken by exchanging its one decisive character for a look-alike that no tokenizer, parser or Unicode
normalisation folds back. Everything else stays as it was: a text without such a marker is returned unchanged.

Markers are searched in a *folded* view (compatibility forms composed, case folded, invisible characters dropped, every
line break the same), so that full-width, split and bidirectionally disguised markers are found where they stand.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

_OPEN = "‹"
"""U+2039, for `<`: no compatibility decomposition, so NFKC does not bring the `<` back."""
_COLON = "꞉"
"""U+A789, for the colon of a role marker: no compatibility decomposition either."""

_TAG = re.compile(
    r"<(?=\s*(?:/\s*)?(?:"
    r"\|"  # <|im_start|>, and the lone opener of one that is split over two fields
    r"|(?:begin|end)\b"  # <BEGIN …>, <END …>
    r"|(?:think(?:ing)?|answer|tool_call|tool_response|s|inst|sys|image|vision|box|object_ref|quad)\b"
    r"))"
    r"|<(?=\s*<\s*(?:/\s*)?sys)",  # <<SYS>>
)
_ROLE = re.compile(
    r"(?:^|\n)(?:[^\S\n]|[>*#_\"'`-])*"  # within one line: an attempt at every line break must not read all lines after it
    r"(?:user|agent|assistant|system|human|request|response|category|tool)[\s*_\"'`]*(:)"
)
_LINE_BREAKS = frozenset("\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029")
_DECISIVE = re.compile("[<:\\u226e\\u2a74\\ufe13\\ufe55\\ufe64\\uff1a\\uff1c]")
"""Every character whose compatibility decomposition holds a `<` or a `:`. A text without one holds no marker."""
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


def neutralise(text: str) -> str:
    """`text` with every structural marker broken. Idempotent; linear in the length of the text."""
    if _DECISIVE.search(text) is None:
        return text
    origin: Sequence[int]
    if text.isascii() and _CONTROL.search(text) is None:
        folded, origin = text.lower(), range(len(text))  # the common case: the view is the text itself
    else:
        folded, origin = _fold(text)
    exchanges: dict[int, str] = {}
    for match in _TAG.finditer(folded):
        exchanges[origin[match.start()]] = _OPEN
    for match in _ROLE.finditer(folded):
        exchanges[origin[match.start(1)]] = _COLON
    if not exchanges:
        return text
    return "".join(exchanges.get(position, character) for position, character in enumerate(text))


def _fold(text: str) -> tuple[str, Sequence[int]]:
    """The folded view, and for each of its characters the position in `text` that it comes from."""
    folded: list[str] = []
    origin: list[int] = []
    for position, character in enumerate(text):
        for image in _fold_character(character):
            folded.append(image)
            origin.append(position)
    return "".join(folded), origin


@lru_cache(maxsize=4096)
def _fold_character(character: str) -> str:
    if character in _LINE_BREAKS:
        return "\n"
    if character in "\t ":
        return character
    if unicodedata.category(character) in {"Cf", "Cc", "Mn", "Me", "Cn", "Co"} or _is_ignorable(character):
        return ""
    if character in _HOMOGLYPHS:
        return _HOMOGLYPHS[character]
    decomposed = unicodedata.normalize("NFKD", character).casefold()
    return "".join(_HOMOGLYPHS.get(c, c) for c in decomposed if unicodedata.category(c) not in {"Mn", "Me", "Cf"})


def _is_ignorable(character: str) -> bool:
    # Default-ignorable code points that are letters by category: Hangul fillers and the Braille blank.
    return character in "\u115f\u1160\u3164\uffa0\u2800"


_HOMOGLYPHS = {
    "‹": "‹",
    "꞉": "꞉",
    # Letters of other scripts that are drawn like the Latin ones in the markers' words (Unicode UTS #39, confusables).
    **dict(zip("асеіорѕтухкнгвмьԁһјԛԝ", "aceiopstyxkhrbmbdhjqw", strict=True)),  # Cyrillic
    **dict(zip("АСЕІОРЅТУХКНВМ", "aceiopstyxkhbm", strict=True)),
    **dict(zip("αεικνορτυχ", "aeiknoptux", strict=True)),  # Greek
    **dict(zip("ΑΒΕΖΗΙΚΜΝΟΡΤΥΧ", "abezhikmnoptyx", strict=True)),
    **dict(zip("օոսհցզ", "onuhgq", strict=True)),  # Armenian
    **dict(zip("ᴀʙᴄᴅᴇɢʜɪᴊᴋʟᴍɴᴏᴘʀꜱᴛᴜᴠᴡʏᴢɡɑıɩ", "abcdeghijklmnoprstuvwyzgaii", strict=True)),  # Latin small capitals, IPA
    **dict(zip("ᎪᏴᏟᎠᎬᏀᎻᎥᎫᏦᏞᎷᏢᎡᏚᎢᏙᎳᎽᏃᏒ", "abcdeghijklmprstvwyzr", strict=True)),  # Cherokee
    **dict(zip("ꓮꓐꓚꓓꓰꓖꓧꓲꓙꓗꓡꓟꓠꓳꓑꓣꓢꓔꓴꓦꓪꓫꓬꓜ", "abcdeghijklmnoprstuvwxyz", strict=True)),  # Lisu
}
