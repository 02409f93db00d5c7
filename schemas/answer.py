"""The guard's answer: the strict grammar, a tolerant second reading, and nothing else.

Strict (the published reward's format, arXiv 2512.23573 and its repository at 969c075; `Response` is absent for an image
alone)::

    <think>…</think>
    <answer>
    Request:safe|unsafe
    Response:safe|unsafe
    Category:None|C<n>|C<n>S<m>|a name
    </answer>

All safe means category None, anything unsafe means another one. The tolerant reading forgives case, spaces, Markdown
emphasis, the order of the lines and a missing think block, never a missing label or a contradiction. An id that the shown
policy does not have is not a category, and not a name either: such an answer is unparsable.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Container
from dataclasses import dataclass
from enum import StrEnum

from schemas.events import Modality
from schemas.verdicts import Label


class Reading(StrEnum):
    STRICT = "strict"
    TOLERANT = "tolerant"


@dataclass(frozen=True, slots=True)
class Answer:
    """What the guard said. At most one of `category_id` and `risk_name` is set; both are None exactly when all is safe."""

    request: Label
    response: Label | None
    category_id: str | None
    risk_name: str | None
    rationale: str
    reading: Reading


class UnparsableError(ValueError):
    """The text is not an answer. The message says which rule it breaks and never quotes it."""


MAX_NAME = 80
"""Longest risk name in characters. ProGuard is asked for about four words; more is prose, not a name."""

_STRICT_CONVERSATION = re.compile(
    r"<think>(?P<think>.*?)</think>\r?\n<answer>\r?\nRequest:(?P<request>safe|unsafe)\r?\n"
    r"Response:(?P<response>safe|unsafe)\r?\nCategory:(?P<category>[^\r\n]+)\r?\n</answer>\n?",
    re.DOTALL,
)
_STRICT_IMAGE = re.compile(
    r"<think>(?P<think>.*?)</think>\r?\n<answer>\r?\nRequest:(?P<request>safe|unsafe)\r?\n"
    r"Category:(?P<category>[^\r\n]+)\r?\n</answer>\n?",
    re.DOTALL,
)
_TAGS = re.compile(r"</?(?:think|answer)>", re.IGNORECASE)
_ANSWER = re.compile(r"<\s*answer\s*>(?P<body>.*?)<\s*/\s*answer\s*>", re.DOTALL | re.IGNORECASE)
_THINK = re.compile(r"<\s*think\s*>(?P<think>.*?)<\s*/\s*think\s*>", re.DOTALL | re.IGNORECASE)
_FIELD = re.compile(r"^(request|response|category)\s*:\s*(.*)$", re.IGNORECASE)
_EMPHASIS = " \t*_`\"'-"
_ID = re.compile(r"C\d+(?:S\d+)?", re.IGNORECASE)
_NAME = re.compile(r"[^\x00-\x1f\x7f<>|{}\[\]\u0085\u2028\u2029]+")


def parse(text: str, modality: Modality, shown_ids: Container[str]) -> Answer:
    """Read `text` as the answer to a prompt of `modality` that showed the ids in `shown_ids`.

    Raises `UnparsableError`. Never guesses a label.
    """
    strict = _parse_strict(text, modality)
    if strict is not None:
        return _checked(*strict, shown_ids=shown_ids, reading=Reading.STRICT)
    return _checked(*_parse_tolerant(text, modality), shown_ids=shown_ids, reading=Reading.TOLERANT)


_Parts = tuple[str, str, str | None, str]
"""Rationale, request, response, category as written."""


def _parse_strict(text: str, modality: Modality) -> _Parts | None:
    pattern = _STRICT_IMAGE if modality is Modality.IMAGE else _STRICT_CONVERSATION
    match = pattern.fullmatch(text)
    if match is None or _TAGS.search(match["think"]):
        return None
    if match["category"] != match["category"].strip():
        return None
    response = None if modality is Modality.IMAGE else match["response"]
    return match["think"], match["request"], response, match["category"]


def _parse_tolerant(text: str, modality: Modality) -> _Parts:
    blocks = list(_ANSWER.finditer(text))
    if len(blocks) != 1 or len(re.findall(r"<\s*answer\b", text, re.IGNORECASE)) != 1:
        raise UnparsableError("there is not exactly one answer block")
    if text[blocks[0].end() :].strip():
        raise UnparsableError("there is text after the answer block")
    fields: dict[str, str] = {}
    for line in blocks[0]["body"].splitlines():
        bare = line.strip(_EMPHASIS)
        if not bare:
            continue
        match = _FIELD.match(re.sub(r"^(\w+)[*_`\s]*:[*_`]*", r"\1:", bare))
        if match is None:
            raise UnparsableError("a line of the answer block is not a field")
        name = match[1].lower()
        if name in fields:
            raise UnparsableError(f"the field {name} appears twice")
        fields[name] = match[2].strip(_EMPHASIS)
    think = _THINK.search(text)
    for required in ("request", "category") if modality is Modality.IMAGE else ("request", "response", "category"):
        if required not in fields:
            raise UnparsableError(f"the field {required} is missing")
    if modality is Modality.IMAGE and "response" in fields:
        raise UnparsableError("an image alone has no response")
    return think["think"] if think else "", _label(fields["request"]), _optional_label(fields), fields["category"]


def _label(raw: str) -> str:
    label = raw.rstrip(".").strip().lower()
    if label not in ("safe", "unsafe"):
        raise UnparsableError("a label is neither safe nor unsafe")
    return label


def _optional_label(fields: dict[str, str]) -> str | None:
    return _label(fields["response"]) if "response" in fields else None


def _checked(
    think: str, request: str, response: str | None, category: str, *, shown_ids: Container[str], reading: Reading
) -> Answer:
    unsafe = "unsafe" in (request, response)
    stated = category if reading is Reading.STRICT else category.rstrip(".").strip()
    is_none = stated == "None" if reading is Reading.STRICT else stated.lower() == "none"
    if is_none == unsafe:
        raise UnparsableError("the labels and the category contradict each other")
    category_id = risk_name = None
    if unsafe:
        if _ID.fullmatch(stated):
            category_id = stated if reading is Reading.STRICT else stated.upper()
            if category_id not in shown_ids:
                raise UnparsableError("the category is an id that the policy does not have")
        else:
            risk_name = _name(stated)
    return Answer(
        request=Label(request),
        response=Label(response) if response else None,
        category_id=category_id,
        risk_name=risk_name,
        rationale=think.strip(),
        reading=reading,
    )


def _name(stated: str) -> str:
    name = " ".join(unicodedata.normalize("NFC", stated).split())
    if not name or len(name) > MAX_NAME or not _NAME.fullmatch(name) or not any(c.isalpha() for c in name):
        raise UnparsableError("the category is neither an id nor a name")
    if re.match(r"C\d", name, re.IGNORECASE) or name.lower() == "none":
        # `C4: Cybersecurity`, `C4S1 or C6`: an attempt at an id, which must not become the name of a new risk.
        raise UnparsableError("the category mixes an id with text")
    return name
