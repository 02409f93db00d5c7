"""What the stand-in answers. Only the fake has this module.

Without a script it judges by words: a prompt whose conversation has the word `bomb` is unsafe. `$FAKE_TENSORRT_LLM` may name a JSON
file `{"answers": [...]}` whose entries are given in turn, again from the start after the last, each

    {"text": "...", "finish_reason": "stop"}      an answer
    {"error": "request" | "memory" | "length" | "executor"}
    {"hang": true}                                 no answer until it is aborted
"""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_CONVERSATION = re.compile(r"<BEGIN CONVERSATION>\nUser: (.*)\nAgent:  (.*)\n<END CONVERSATION>", re.DOTALL)

Answers = Callable[[str], dict[str, Any]]
"""From the prompt's text to a planned answer."""


def answers() -> Answers:
    """The plan for a new LLM."""
    configured = os.environ.get("FAKE_TENSORRT_LLM")
    if not configured:
        return _by_words
    planned: Iterator[dict[str, Any]] = itertools.cycle(json.loads(Path(configured).read_text())["answers"])
    return lambda _: next(planned)


def _by_words(prompt: str) -> dict[str, Any]:
    turns = _CONVERSATION.search(prompt)
    user, agent = turns.groups() if turns else ("", "")
    labels = ["unsafe" if "bomb" in turn else "safe" for turn in (user, agent)]
    image_alone = "<|image_pad|>" in prompt and not user and not agent
    response = "" if image_alone else f"Response:{labels[1]}\n"
    category = "C8S1" if "unsafe" in labels else "None"
    text = f"<think>words</think>\n<answer>\nRequest:{labels[0]}\n{response}Category:{category}\n</answer>"
    return {"text": text, "finish_reason": "stop"}
