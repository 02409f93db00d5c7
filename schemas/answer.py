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

_CATEGORY = r"Category:(?P<category>[^\x00-\x1f\x7f\x85\u2028\u2029]+)\r?\n</answer>\n?"
_STRICT_CONVERSATION = re.compile(
    r"<think>(?P<think>.*?)</think>\r?\n<answer>\r?\nRequest:(?P<request>safe|unsafe)\r?\n"
    r"Response:(?P<response>safe|unsafe)\r?\n" + _CATEGORY,
    re.DOTALL,
)
_STRICT_IMAGE = re.compile(
    r"<think>(?P<think>.*?)</think>\r?\n<answer>\r?\nRequest:(?P<request>safe|unsafe)\r?\n" + _CATEGORY,
    re.DOTALL,
)
_TAGS = re.compile(r"</?(?:think|answer)>", re.IGNORECASE)

# The tolerant reading looks for one tag at a time: a pattern over both tags of a block would read the whole rest of the
# text again at every opener that is never closed.
_ANSWER_BEGIN = re.compile(r"<\s*answer\b(?P<whole>\s*>)?", re.IGNORECASE)
_ANSWER_END = re.compile(r"<\s*/\s*answer\s*>", re.IGNORECASE)
_THINK_BEGIN = re.compile(r"<\s*think\s*>", re.IGNORECASE)
_THINK_END = re.compile(r"<\s*/\s*think\s*>", re.IGNORECASE)
_FIELDS = ("request", "response", "category")
_EMPHASIS = " \t*_`\"'-"
_ID = re.compile(r"C[0-9]+(?:S[0-9]+)?", re.IGNORECASE | re.ASCII)
_ID_LIKE = re.compile(r"C\s*\d.*|[^\W\d_]\s*\d+(?:\s*[^\W\d_]\s*\d+)?", re.IGNORECASE)
_NAME = re.compile(r"[^\x00-\x1f\x7f<>|{}\[\]\u0085\u2028\u2029\u202a-\u202e\u2066-\u2069]+")


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
    category = match["category"]
    if category != category.strip() or (category != _category(category) and _is_token(_category(category))):
        return None  # `none`, `c4s1`, `**C4S1**`: a token of the grammar, but not as the grammar writes it
    response = None if modality is Modality.IMAGE else match["response"]
    return match["think"], match["request"], response, category


def _parse_tolerant(text: str, modality: Modality) -> _Parts:
    rationale, body = _blocks(text)
    fields: dict[str, str] = {}
    for line in body.splitlines():
        bare = line.strip(_EMPHASIS)
        if not bare:
            continue
        label, colon, value = bare.partition(":")
        name = label.strip(_EMPHASIS).lower()
        if not colon or name not in _FIELDS:
            raise UnparsableError("a line of the answer block is not a field")
        if name in fields:
            raise UnparsableError(f"the field {name} appears twice")
        fields[name] = value.strip(_EMPHASIS)
    for required in ("request", "category") if modality is Modality.IMAGE else _FIELDS:
        if required not in fields:
            raise UnparsableError(f"the field {required} is missing")
    if modality is Modality.IMAGE and "response" in fields:
        raise UnparsableError("an image alone has no response")
    response = _label(fields["response"]) if "response" in fields else None
    return rationale, _label(fields["request"]), response, fields["category"]


def _blocks(text: str) -> tuple[str, str]:
    """The rationale and the inside of the only answer block, which ends the text."""
    begins = list(_ANSWER_BEGIN.finditer(text))
    if len(begins) != 1 or begins[0]["whole"] is None:
        raise UnparsableError("there is not exactly one answer block")
    end = _ANSWER_END.search(text, begins[0].end())
    if end is None:
        raise UnparsableError("the answer block has no end")
    if text[end.end() :].strip():
        raise UnparsableError("there is text after the answer block")
    before = text[: begins[0].start()]
    opened, closed = list(_THINK_BEGIN.finditer(before)), list(_THINK_END.finditer(before))
    if len(opened) > len(closed) or (opened and closed[-1].start() < opened[-1].start()):
        raise UnparsableError(
            "the answer block is inside the think block"
        )  # a quotation, perhaps of the content itself
    rationale = before[opened[0].end() if opened else 0 : closed[-1].start()] if closed else ""
    return rationale, text[begins[0].end() : end.start()]


def _label(raw: str) -> str:
    label = raw.rstrip(".").strip(_EMPHASIS).lower()
    if label not in ("safe", "unsafe"):
        raise UnparsableError("a label is neither safe nor unsafe")
    return label


def _category(raw: str) -> str:
    """The category as the grammar writes it: without emphasis, `None` and ids in their own case."""
    bare = raw.strip(_EMPHASIS).rstrip(".").strip(_EMPHASIS)
    if bare.lower() == "none":
        return "None"
    return bare.upper() if _ID.fullmatch(bare) else bare


def _is_token(category: str) -> bool:
    return category == "None" or _ID.fullmatch(category) is not None


def _checked(
    think: str, request: str, response: str | None, category: str, *, shown_ids: Container[str], reading: Reading
) -> Answer:
    unsafe = "unsafe" in (request, response)
    stated = _category(category)
    if (stated == "None") == unsafe:
        raise UnparsableError("the labels and the category contradict each other")
    category_id = risk_name = None
    if unsafe:
        if _is_token(stated):
            category_id = stated
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
    if len(stated) > 4 * MAX_NAME:
        raise UnparsableError("the category is neither an id nor a name")
    name = " ".join(unicodedata.normalize("NFC", stated).split())
    if not name or len(name) > MAX_NAME or not _NAME.fullmatch(name) or not any(c.isalpha() for c in name):
        raise UnparsableError("the category is neither an id nor a name")
    visible = "".join(c for c in unicodedata.normalize("NFKC", name) if unicodedata.category(c) != "Cf")
    if _ID_LIKE.fullmatch(visible) or visible.lower() == "none":
        # `C4: Cybersecurity`, `C4S1 or C6`: an attempt at an id, which must not become the name of a new risk.
        raise UnparsableError("the category mixes an id with text")
    return name
