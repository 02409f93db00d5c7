"""Category removal: what makes in-taxonomy events out-of-distribution ones, for calibration and for the figure."""

from __future__ import annotations

import random

from schemas.events import Modality
from schemas.policy import Policy
from schemas.prompt import render_system
from triton_models.proguard_lite.guard.prompt_reading import Task, read_system


def without_half(policy: Policy, seed: int) -> Policy:
    """`policy` with half of its top categories, rounded down, taken away at random."""
    count = len(policy.categories)
    kept = set(random.Random(seed).sample(range(count), count - count // 2))
    # Validated anew, not `model_copy`: that would carry the cached digest and index of the whole policy along.
    return Policy.model_validate(
        {**dict(policy), "categories": [c for i, c in enumerate(policy.categories) if i in kept]}
    )


def task_of(policy: Policy) -> Task:
    """What the guard reads of `policy` in a text prompt."""
    return read_system(render_system(policy, Modality.TEXT))


def top_of(category_id: str) -> str:
    """`C8` of `C8S1` and of `C8`."""
    return category_id.partition("S")[0]


def inside(category_id: str | None, policy: Policy) -> bool:
    """Whether `policy` still has the top category of `category_id`."""
    return category_id is not None and top_of(category_id) in {category.id for category in policy.categories}
