"""Whether an answer has the strict form, without a look at the policy.

The same grammar as the service's own reading (ProGuard's published reward format: arXiv 2512.23573, repository at 969c075). It is
written a second time because a model repository travels alone; a test holds the two together.
"""

from __future__ import annotations

import re
import unicodedata

_LABELS = r"Request:(?P<request>safe|unsafe)\r?\n{response}Category:(?P<category>[^\x00-\x1f\x7f\x85\u2028\u2029]+)\r?\n</answer>\n?"
_BEGIN = r"<think>(?P<think>.*?)</think>\r?\n<answer>\r?\n"
_CONVERSATION = re.compile(_BEGIN + _LABELS.format(response=r"Response:(?P<response>safe|unsafe)\r?\n"), re.DOTALL)
_IMAGE = re.compile(_BEGIN + _LABELS.format(response=""), re.DOTALL)
_TAGS = re.compile(r"</?(?:think|answer)>", re.IGNORECASE)
_EMPTY_CONVERSATION = "<BEGIN CONVERSATION>\nUser: \nAgent:  \n<END CONVERSATION>"
"""The user message of an event without a text, to the byte: a turn of one space is a text, and its answer has a Response line."""

_ID = re.compile(r"C[0-9]+(?:S[0-9]+)?", re.ASCII)
# Like an id, but not one: an attempt that must not become the name of a new risk.
_ID_LIKE = re.compile(r"C\s*\d.*|[^\W\d_]\s*\d+(?:\s*[^\W\d_]\s*\d+)?", re.IGNORECASE)
_NAME = re.compile(r"[^\x00-\x1f\x7f<>|{}\[\]\u0085\u2028\u2029\u202a-\u202e\u2066-\u2069]+")
_EMPHASIS = " \t*_`\"'-"
MAX_NAME = 80
"""Longest name of a risk, in characters; the service reads no longer one."""


def is_image_alone(user: str, has_images: bool) -> bool:
    """Whether a prompt asks about images without a text: there are images, and both turns of the user message are empty.

    Only then has the answer no Response line.
    """
    return has_images and user == _EMPTY_CONVERSATION


def is_agent_silent(user: str) -> bool:
    """Whether the user message certainly has no agent's turn: an answer must not find one unsafe then.

    A text that imitates the line of the agent makes this False, never True.
    """
    return user.endswith("\nAgent:  \n<END CONVERSATION>") and user.count("\nAgent:") == 1


def is_well_formed(text: str, *, image_alone: bool) -> bool:
    """Whether `text` is an answer in the strict form.

    True exactly when the service reads it strictly under a policy that has every id; whether the policy has the id is not looked at.
    """
    match = (_IMAGE if image_alone else _CONVERSATION).fullmatch(text)
    if match is None or _TAGS.search(match["think"]):
        return False
    unsafe = "unsafe" in (match["request"], None if image_alone else match["response"])
    category: str = match["category"]
    if category == "None":
        return not unsafe
    return unsafe and (_ID.fullmatch(category) is not None or _is_name(category))


def _is_name(category: str) -> bool:
    bare = category.strip(_EMPHASIS).rstrip(".").strip(_EMPHASIS)
    if category != category.strip() or len(bare) > 4 * MAX_NAME:
        return False
    if bare.lower() == "none" or _ID.fullmatch(bare.upper()):
        return False  # a token of the grammar, not as the grammar writes it
    name = " ".join(unicodedata.normalize("NFC", bare).split())
    if not name or len(name) > MAX_NAME or not _NAME.fullmatch(name) or not any(c.isalpha() for c in name):
        return False
    visible = "".join(c for c in unicodedata.normalize("NFKC", name) if unicodedata.category(c) != "Cf")
    return _ID_LIKE.fullmatch(visible) is None and visible.lower() != "none"
