"""The default names of the service's topics."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Topics:
    """Where each contract travels."""

    content: str = "content.events"
    verdicts: str = "moderation.verdicts"
    ood: str = "moderation.ood"
    emerging_risks: str = "moderation.emerging-risks"
    policies: str = "moderation.policies"
    dead_letters: str = "moderation.dead-letters"
    shadow: str = "moderation.shadow"


DEFAULT_TOPICS = Topics()
