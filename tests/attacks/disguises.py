"""Ways to write a marker so that it does not look like one to a filter, and does to somebody behind it."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

from tests.attacks.cases import (
    BAD_CHARACTERS,
    CONFUSABLES,
    NORMALISATION,
    OWN,
    SELECTORS,
    SMUGGLING,
    TROJAN_BIDI,
    TROJAN_HOMOGLYPH,
)


def _each(invisible: str) -> Callable[[str], str]:
    return lambda marker: invisible.join(marker)


def _after_first(inserted: str) -> Callable[[str], str]:
    return lambda marker: marker[0] + inserted + marker[1:]


def _table(plain: str, drawn: str) -> Callable[[str], str]:
    table = dict(zip(plain, drawn, strict=True))
    return lambda marker: "".join(table.get(character, character) for character in marker)


def _full_width(marker: str) -> str:
    return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in marker)


def _mathematical(start: int) -> Callable[[str], str]:
    """Letters from one of the mathematical alphabets (capitals at `start`, small letters 26 further)."""

    def write(marker: str) -> str:
        letters = []
        for c in marker:
            if "A" <= c <= "Z":
                letters.append(chr(start + ord(c) - ord("A")))
            elif "a" <= c <= "z":
                letters.append(chr(start + 26 + ord(c) - ord("a")))
            else:
                letters.append(c)
        return "".join(letters)

    return write


def _tags(marker: str) -> str:
    """The marker, and itself again in invisible tag characters between its letters."""
    return "".join(c + chr(0xE0000 + ord(c)) for c in marker)


DISGUISES: dict[str, tuple[str, Callable[[str], str]]] = {
    "plain": (OWN, str),
    "lower_case": (OWN, str.lower),
    "swapped_case": (OWN, str.swapcase),
    "inner_space": (OWN, _after_first(" ")),
    "inner_tab": (OWN, _after_first("\t")),
    "inner_line_break": (OWN, lambda marker: marker[0] + "\n" + marker[1:] if marker[0] == "<" else marker),
    "zero_width_space": (BAD_CHARACTERS, _each("\u200b")),
    "zero_width_joiner": (BAD_CHARACTERS, _each("\u200d")),
    "word_joiner": (BAD_CHARACTERS, _after_first("\u2060")),
    "byte_order_mark": (BAD_CHARACTERS, _after_first("\ufeff")),
    "soft_hyphen": (BAD_CHARACTERS, _each("\u00ad")),
    "hangul_filler": (BAD_CHARACTERS, _after_first("\u3164")),
    "braille_blank": (BAD_CHARACTERS, _after_first("\u2800")),
    "mongolian_separator": (BAD_CHARACTERS, _after_first("\u180e")),
    "deleted_character": (
        BAD_CHARACTERS,
        lambda marker: marker[:2] + "x\x08" + marker[2:] if marker[0] != "<" else _after_first("\x08")(marker),
    ),
    "null": (OWN, _each("\x00")),
    "escape": (OWN, _after_first("\x1b")),
    "right_to_left_override": (TROJAN_BIDI, lambda marker: f"\u202e{marker}\u202c"),
    "right_to_left_inside": (TROJAN_BIDI, _after_first("\u202e")),
    "isolates": (TROJAN_BIDI, lambda marker: f"\u2067\u2066{_after_first(chr(0x2069))(marker)}"),
    "combining_acute": (BAD_CHARACTERS, _each("\u0301")),
    "combining_long_solidus": (NORMALISATION, _after_first("\u0338")),
    "enclosing_circle": (BAD_CHARACTERS, _each("\u20dd")),
    "zalgo": (BAD_CHARACTERS, _each("\u0315\u031b\u0340\u0341")),
    "tag_characters": (SMUGGLING, _tags),
    "tag_cancel": (SMUGGLING, _after_first("\U000e007f")),
    "variation_selector": (SELECTORS, _each("\ufe0f")),
    "variation_selector_supplement": (SELECTORS, _each("\U000e0101")),
    "full_width": (NORMALISATION, _full_width),
    "small_forms": (NORMALISATION, _table("<>:", "﹤﹥﹕")),
    "vertical_colon": (NORMALISATION, _table("<>:", "＜＞︓")),
    "mathematical_bold": (NORMALISATION, _mathematical(0x1D400)),
    "mathematical_monospace": (NORMALISATION, _mathematical(0x1D670)),
    "cyrillic": (TROJAN_HOMOGLYPH, _table("aceopsxyiAEOCTMNH", "асеорѕхуіАЕОСТМNН")),
    "greek": (CONFUSABLES, _table("aeikonrtuAEIKONTUH", "αεικονrτυΑΕΙΚΟΝΤUΗ")),
    "armenian": (CONFUSABLES, _table("onuhg", "օոսհց")),
    "small_capitals": (CONFUSABLES, _table("aegnrstu", "ᴀᴇɢɴʀꜱᴛᴜ")),
    "decomposed": (NORMALISATION, lambda marker: unicodedata.normalize("NFD", _each("\u0323")(marker))),
}
