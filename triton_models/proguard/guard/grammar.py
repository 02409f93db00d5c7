"""The answer's form for engines that can be held to one: as EBNF for xgrammar, and as a regular expression.

What either produces, the service reads strictly (ProGuard's form: arXiv 2512.23573, repository at 969c075), the rule across its lines
included: everything safe means category None, anything unsafe means another. They allow less than the service reads:

- the reasoning has no `<` and at most `max_think_chars` characters, so that it cannot quote an answer and must come to an end;
- lines end in one newline, and nothing follows the answer;
- a category is an id of at most three digits a level (whether the policy lists it is not known here), or a name of 4 to 80 ASCII
  letters and spaces that is not the word none.
"""

from __future__ import annotations

MAX_NAME = 80
"""Longest name of a risk that the service reads, in characters."""
_LETTER = "[A-Za-z]"
_INNER = "[A-Za-z ]"
_ID_PARTS = ("[1-9]", "[0-9]{0,2}")


def answer_grammar(image_only: bool, max_think_chars: int) -> str:
    """The form in xgrammar's EBNF, with `root` as its start. `image_only`: without the Response line."""
    _check(max_think_chars)
    first, more = _ID_PARTS
    label = '"safe" | "unsafe"'
    if image_only:
        unsafe = '"Request:unsafe\\n"'
        safe = '"Request:safe\\n"'
    else:
        unsafe = f'"Request:unsafe\\nResponse:" ({label}) "\\n" | "Request:safe\\nResponse:unsafe\\n"'
        safe = '"Request:safe\\nResponse:safe\\n"'
    names = " | ".join(" ".join(parts) for parts in _names())
    return "\n".join(
        (
            'root ::= "<think>" think "</think>\\n<answer>\\n" labels "\\n</answer>"',
            f"think ::= [^<\\ud800-\\udfff]{{0,{max_think_chars}}}",
            'labels ::= safe "Category:None" | unsafe "Category:" category',
            f"safe ::= {safe}",
            f"unsafe ::= {unsafe}",
            "category ::= id | name",
            f'id ::= "C" {first} {more} ("S" {first} {more})?',
            f"name ::= {names}",
            "",
        )
    )


def answer_regex(image_only: bool, max_think_chars: int) -> str:
    """The same language as a regular expression, unanchored, without groups that capture and without look-around."""
    _check(max_think_chars)
    first, more = _ID_PARTS
    if image_only:
        unsafe, safe = "Request:unsafe\n", "Request:safe\n"
    else:
        unsafe = "(?:Request:unsafe\nResponse:(?:safe|unsafe)|Request:safe\nResponse:unsafe)\n"
        safe = "Request:safe\nResponse:safe\n"
    names = "|".join("".join(parts) for parts in _names())
    category = f"(?:C{first}{more}(?:S{first}{more})?|{names})"
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
