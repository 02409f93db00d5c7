"""The answer's form for engines that can be held to one: as EBNF for xgrammar, and as a regular expression.

What either produces, the service reads strictly (ProGuard's form: arXiv 2512.23573, repository at 969c075), the rule across its lines
included: everything safe means category None, anything unsafe means another. They allow less than the service reads:

- the reasoning has no `<` and at most `max_think_chars` characters, so that it cannot quote an answer and must come to an end;
- lines end in one newline, and nothing follows the answer;
- a category is one of the ids that the policy in the prompt lists (without a list: any of at most three digits a level), or a name of 4
  to 80 ASCII letters and spaces that is not the word none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .form import is_agent_silent, is_image_alone

MAX_NAME = 80
"""Longest name of a risk that the service reads, in characters."""
_LETTER = "[A-Za-z]"
_INNER = "[A-Za-z ]"
_ID_PARTS = ("[1-9]", "[0-9]{0,2}")


_CATEGORIES = re.compile(r"<BEGIN UNSAFE CONTENT CATEGORIES>\n(.*?)\n<END UNSAFE CONTENT CATEGORIES>", re.DOTALL)
_LISTED = re.compile(r"^ *(C[0-9]{1,3}(?:S[0-9]{1,3})?): ", re.MULTILINE | re.ASCII)


def listed_ids(system: str) -> tuple[str, ...] | None:
    """The ids that a rendered system message lists (`schemas.prompt`: one category a line), in order; None without such a block."""
    block = _CATEGORIES.search(system)
    return None if block is None else tuple(dict.fromkeys(_LISTED.findall(block[1])))


@dataclass(frozen=True, slots=True)
class Allowed:
    """What a prompt allows its answer to be."""

    image_only: bool = False
    """Images without a text: there is no Response line."""
    agent_silent: bool = False
    """The agent has said nothing: its Response is safe."""
    ids: tuple[str, ...] | None = None
    """The only ids that a category may be; None for any."""

    @classmethod
    def by(cls, system: str, user: str, has_images: bool) -> Allowed:
        """What the rendered messages of a prompt allow."""
        return cls(is_image_alone(user, has_images), is_agent_silent(user), listed_ids(system))


ANYTHING = Allowed()


def answer_grammar(allowed: Allowed, max_think_chars: int) -> str:
    """The form in xgrammar's EBNF, with `root` as its start."""
    _check(max_think_chars)
    label = '"safe" | "unsafe"'
    if allowed.image_only:
        unsafe = '"Request:unsafe\\n"'
        safe = '"Request:safe\\n"'
    elif allowed.agent_silent:
        unsafe = '"Request:unsafe\\nResponse:safe\\n"'
        safe = '"Request:safe\\nResponse:safe\\n"'
    else:
        unsafe = f'"Request:unsafe\\nResponse:" ({label}) "\\n" | "Request:safe\\nResponse:unsafe\\n"'
        safe = '"Request:safe\\nResponse:safe\\n"'
    names = " | ".join(" ".join(parts) for parts in _names())
    no_id = allowed.ids == ()
    return "\n".join(
        (
            'root ::= "<think>" think "</think>\\n<answer>\\n" labels "\\n</answer>"',
            f"think ::= [^<\\ud800-\\udfff]{{0,{max_think_chars}}}",
            'labels ::= safe "Category:None" | unsafe "Category:" category',
            f"safe ::= {safe}",
            f"unsafe ::= {unsafe}",
            f"category ::= {'name' if no_id else 'id | name'}",
            *([] if no_id else [f"id ::= {_id_rule(allowed.ids)}"]),
            f"name ::= {names}",
            "",
        )
    )


def _id_rule(ids: tuple[str, ...] | None) -> str:
    first, more = _ID_PARTS
    if ids is None:
        return f'"C" {first} {more} ("S" {first} {more})?'
    return " | ".join(f'"{id}"' for id in ids)


def answer_regex(allowed: Allowed, max_think_chars: int) -> str:
    """The same language as a regular expression, unanchored, without groups that capture and without look-around."""
    _check(max_think_chars)
    first, more = _ID_PARTS
    safe = "Request:safe\n" if allowed.image_only else "Request:safe\nResponse:safe\n"
    if allowed.image_only:
        unsafe = "Request:unsafe\n"
    elif allowed.agent_silent:
        unsafe = "Request:unsafe\nResponse:safe\n"
    else:
        unsafe = "(?:Request:unsafe\nResponse:(?:safe|unsafe)|Request:safe\nResponse:unsafe)\n"
    names = "|".join("".join(parts) for parts in _names())
    listed = f"C{first}{more}(?:S{first}{more})?" if allowed.ids is None else "|".join(allowed.ids)
    category = f"(?:{listed}|{names})" if listed else f"(?:{names})"
    think = f"[^<]{{0,{max_think_chars}}}"
    return f"<think>{think}</think>\n<answer>\n(?:{safe}Category:None|{unsafe}Category:{category})\n</answer>"


def _names() -> list[tuple[str, ...]]:
    """The alternatives of a name, each a row of character classes: neither notation can say "but not `none`" any shorter.

    A name leaves the word `none` at its first, second, third or fourth letter, or goes on behind it.
    """
    word = ("[Nn]", "[Oo]", "[Nn]", "[Ee]")
    other = ("[A-MO-Za-mo-z]", "[A-NP-Za-np-z ]", "[A-MO-Za-mo-z ]", "[A-DF-Za-df-z ]")
    shortest = len(word)
    rows: list[tuple[str, ...]] = []
    for at, leaving in enumerate(other):
        # `at` letters of the word, the one that leaves it, and a last letter that is no space.
        least, most = max(0, shortest - at - 2), MAX_NAME - at - 2
        rows.append((*word[:at], leaving, f"{_INNER}{{{least},{most}}}", _LETTER))
    rows.append((*word[:-1], "[A-DF-Za-df-z]"))
    rows.append((*word, f"{_INNER}{{0,{MAX_NAME - len(word) - 1}}}", _LETTER))
    return rows


def _check(max_think_chars: int) -> None:
    if max_think_chars < 1:
        raise ValueError("max_think_chars must be at least 1")
