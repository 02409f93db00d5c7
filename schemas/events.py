"""The content event: what a platform asks to have judged."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from schemas.base import Contract, Identifier, Instant, Sha256

EVENT_TYPE = "stream.proguard.content.submitted.v1"
"""CloudEvents type of a ContentEvent. The last part is the contract's version: an unknown one is dead-lettered, never guessed."""


class Kind(StrEnum):
    """What the content is to its platform. The guard's prompt depends on the modality, not on this."""

    CONVERSATION = "conversation"
    POST = "post"
    IMAGE = "image"


class Modality(StrEnum):
    """Which of ProGuard's three prompts fits (arXiv 2512.23573): decided by what the event holds."""

    TEXT = "text"
    IMAGE = "image"
    TEXT_IMAGE = "text_image"


class ImageRef(Contract):
    """An image by reference. With `sha256`, other bytes behind the URI are refused."""

    uri: Annotated[str, StringConstraints(min_length=1, max_length=4096)]
    sha256: Sha256 | None = None


class ContentEvent(Contract):
    """One piece of content. It holds a text, an image, or both."""

    id: Annotated[
        Identifier,
        Field(
            description="The platform's id of this event. A second event with it is judged again, under the same verdict id."
        ),
    ]
    tenant: Annotated[
        Identifier, Field(description="Whose policy applies. A tenant without a policy gets `default`.")
    ] = "default"
    kind: Kind = Kind.POST
    user_text: Annotated[str, Field(description="What the user wrote; empty for an image alone.")] = ""
    agent_text: Annotated[
        str | None, Field(description="What a model answered; absent when this is not a conversation with a model.")
    ] = None
    images: Annotated[list[ImageRef], Field(max_length=64)] = Field(default_factory=list)
    author: Annotated[
        Identifier | None, Field(description="Opaque id of the author; only used to count distinct authors.")
    ] = None
    locale: Annotated[str, StringConstraints(max_length=35)] | None = None
    occurred_at: Instant
    attributes: Annotated[
        dict[str, str], Field(max_length=64, description="The platform's own notes. Copied nowhere.")
    ] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _holds_content(self) -> Self:
        if not (self.user_text or self.agent_text or self.images):
            raise ValueError("an event needs user_text, agent_text or images")
        return self

    @property
    def modality(self) -> Modality:
        """Text when there is no image, image when there is no text, else both."""
        if not self.images:
            return Modality.TEXT
        return Modality.TEXT_IMAGE if self.user_text or self.agent_text else Modality.IMAGE
