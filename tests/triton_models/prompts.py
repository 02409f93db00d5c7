"""Rendered messages for the guard's tests, by the product's own renderer."""

from __future__ import annotations

from schemas.events import Modality
from schemas.policy import Policy, default_policy
from schemas.prompt import render_system, render_user

POLICY = default_policy()
SYSTEM = render_system(POLICY, Modality.TEXT)
SYSTEM_IMAGE = render_system(POLICY, Modality.IMAGE)
SYSTEM_TEXT_IMAGE = render_system(POLICY, Modality.TEXT_IMAGE)


def without(*ids: str) -> Policy:
    """The default policy without the top categories `ids`."""
    return changed(categories=[c for c in POLICY.categories if c.id not in ids])


def changed(**fields: object) -> Policy:
    """The default policy with other `fields`, validated anew so that its digest and index are its own."""
    return Policy.model_validate({**dict(POLICY), **fields})


def system_of(policy: Policy) -> str:
    """The text prompt's system message under `policy`."""
    return render_system(policy, Modality.TEXT)


def user(text: str, agent: str | None = None) -> str:
    """A user message."""
    return render_user(text, agent)
