"""A policy as data: the category tree that the guard is shown, and what to do with its answers.

Two policies with one digest are the same policy. The digest is over canonical JSON: keys sorted, no white space,
UTF-8, every field present, numbers as `repr` writes them (the shortest text that reads back).
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterator
from functools import cached_property
from importlib import resources
from typing import Annotated, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from schemas.base import Contract, Identifier

Action = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]
"""What the platform should do: `allow`, `review` and `block` in the default policy; any word a platform understands."""

_JOINERS = "\u200c\u200d"
"""Invisible, and needed to write Persian, Hindi and emoji."""


def _visible_and_unstructured(text: str) -> str:
    """Refuses what a pattern cannot say: brackets that only a normalising reader sees, and characters that nobody sees."""
    if set("<>|") & set(unicodedata.normalize("NFKD", text)):
        raise ValueError("a bracket or a bar in another form")
    if any(
        unicodedata.category(character) in {"Cf", "Cc", "Cn", "Co", "Cs"}
        for character in text
        if character not in _JOINERS
    ):
        raise ValueError("an invisible character")
    return text


Phrase = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True, min_length=1, max_length=120, pattern=r"^[^\x00-\x1f\x7f<>|;()—\u2028\u2029\u0085]+$"
    ),
    AfterValidator(_visible_and_unstructured),
]
"""A name or synonym: one line, free of the characters that structure the prompt."""

Sentence = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True, min_length=1, max_length=1000, pattern=r"^[^\x00-\x1f\x7f<>|\u2028\u2029\u0085]+$"
    ),
    AfterValidator(_visible_and_unstructured),
]


class Threshold(Contract):
    """From this probability of unsafe on, this action."""

    at_least: Annotated[float, Field(ge=0, le=1)]
    action: Action


Thresholds = Annotated[list[Threshold], Field(max_length=16)]


class SubCategory(Contract):
    id: Annotated[str, StringConstraints(pattern=r"^C[1-9][0-9]{0,2}S[1-9][0-9]{0,2}$")]
    name: Phrase
    description: Sentence
    synonyms: Annotated[list[Phrase], Field(max_length=20)] = []
    thresholds: Annotated[Thresholds | None, Field(description="Null: those of the category above.")] = None


class Category(Contract):
    id: Annotated[str, StringConstraints(pattern=r"^C[1-9][0-9]{0,2}$")]
    name: Phrase
    description: Sentence
    synonyms: Annotated[list[Phrase], Field(max_length=20)] = []
    thresholds: Annotated[Thresholds | None, Field(description="Null: those of the policy.")] = None
    subcategories: Annotated[list[SubCategory], Field(max_length=50)] = []

    @model_validator(mode="after")
    def _children_carry_its_id(self) -> Self:
        for child in self.subcategories:
            if not child.id.startswith(f"{self.id}S"):
                raise ValueError(f"sub-category {child.id} does not belong under {self.id}")
        return self


class PromptStyle(Contract):
    """How the policy is shown to the guard. Published ProGuard weights were trained without synonyms; the embedded guard uses them."""

    synonyms: bool = True
    subcategories: bool = True


class Rules(Contract):
    """From an answer to an action.

    An unsafe answer takes the highest threshold that its score reaches, and `unsafe` when it reaches none or has no
    score. A safe answer takes `safe`, unless its score reaches one of `suspect`. So a label alone is never overruled
    downwards to `safe`.
    """

    safe: Action = "allow"
    unsafe: Action = "review"
    thresholds: Thresholds = []
    suspect: Thresholds = []
    out_of_distribution: Annotated[Action, Field(description="For a named risk that no category fits.")] = "review"
    indeterminate: Annotated[Action, Field(description="When there is no usable answer.")] = "review"

    @model_validator(mode="after")
    def _fails_closed(self) -> Self:
        if self.indeterminate == self.safe:
            raise ValueError(
                "the action for indeterminate verdicts must differ from the one for safe content: the service fails closed"
            )
        return self


class Policy(Contract):
    """A tenant's policy. `digest` identifies it in every verdict."""

    name: Identifier
    version: Identifier
    categories: Annotated[list[Category], Field(min_length=1, max_length=200)]
    rules: Rules = Rules()
    prompt: PromptStyle = PromptStyle()

    @model_validator(mode="after")
    def _ids_are_unique(self) -> Self:
        seen: set[str] = set()
        for entry in self._entries():
            if entry.id in seen:
                raise ValueError(f"category id {entry.id} appears twice")
            seen.add(entry.id)
        return self

    def _entries(self) -> Iterator[Category | SubCategory]:
        for category in self.categories:
            yield category
            yield from category.subcategories

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON, in lower-case hexadecimal."""
        return hashlib.sha256(self.canonical_json()).hexdigest()

    @cached_property
    def index(self) -> dict[str, tuple[Category, SubCategory | None]]:
        """Every id that the guard may answer, with its category and, for a sub-category, the entry itself.

        With `prompt.subcategories` off only the top ids are shown, so only they are answers.
        """
        index: dict[str, tuple[Category, SubCategory | None]] = {}
        for category in self.categories:
            index[category.id] = (category, None)
            if self.prompt.subcategories:
                for child in category.subcategories:
                    index[child.id] = (category, child)
        return index

    def canonical_json(self) -> bytes:
        """The bytes under the digest."""
        return json.dumps(
            self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=False
        ).encode()


def default_policy() -> Policy:
    """The packaged policy: ProGuard's 11 categories and 28 sub-categories (arXiv 2512.23573), described in our own words."""
    return Policy.model_validate_json(resources.files("schemas").joinpath("default_policy.json").read_bytes())
