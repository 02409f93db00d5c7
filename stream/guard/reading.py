"""What a completion says, for those who compare guards: they have the prompt, not the event."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache

from schemas.answer import Answer, UnparsableError, parse
from schemas.events import Modality
from schemas.prompt import CONVERSATION_END, RenderedPrompt, render_user
from schemas.verdicts import Label
from stream.guard.backend import Completion

_ID_LINE = re.compile(r"^ *(C[0-9]+(?:S[0-9]+)?): ", re.MULTILINE)
_IMAGE_ALONE = render_user("", None)
_NO_AGENT = f"\nAgent:  \n{CONVERSATION_END}"


@dataclass(frozen=True, slots=True)
class Labels:
    """The labels of an answer that can be read. `response` is None for an image alone and where there was no turn to judge.

    Equal labels are equal, whatever the category: guards that agree on what is unsafe may well name it differently.
    """

    request: Label
    response: Label | None
    category: str | None = field(default=None, compare=False)
    """The id or the name given; None when all is safe."""


class ShownIds:
    """The ids that a system message shows. Where it shows no sub-categories, theirs are not wrong."""

    def __init__(self, system: str) -> None:
        self._ids = frozenset(_ID_LINE.findall(system))
        self._has_children = any("S" in id for id in self._ids)

    def __contains__(self, id: object) -> bool:
        if id in self._ids or not isinstance(id, str):
            return id in self._ids
        return not self._has_children and id.partition("S")[0] in self._ids


@lru_cache(maxsize=256)
def shown_ids(system: str) -> ShownIds:
    """The ids in this system message. Kept for the latest policies: a message is long and the same for many events."""
    return ShownIds(system)


def labels(prompt: RenderedPrompt, has_images: bool, completion: Completion) -> Labels | None:
    """What the pipeline would make a verdict of; None where it would find the answer cut off, unparsable or contradictory."""
    if completion.finish_reason != "stop":
        return None
    answer = _parsed(prompt, has_images, completion.text)
    if answer is None:
        return None
    category = answer.category_id or answer.risk_name
    if not _has_agent(prompt):
        # A turn that is not there: unsafe would be an invention, and safe is no agreement on anything.
        return None if answer.response is Label.UNSAFE else Labels(answer.request, None, category)
    return Labels(answer.request, answer.response, category)


def _parsed(prompt: RenderedPrompt, has_images: bool, text: str) -> Answer | None:
    modality = Modality.TEXT
    if has_images:
        modality = Modality.IMAGE if prompt.user == _IMAGE_ALONE else Modality.TEXT_IMAGE
    try:
        return parse(text, modality, shown_ids(prompt.system))
    except UnparsableError:
        return None


def _has_agent(prompt: RenderedPrompt) -> bool:
    return not prompt.user.endswith(_NO_AGENT)
