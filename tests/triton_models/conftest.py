"""The guard, opened once for all of its tests."""

from __future__ import annotations

import pytest

from triton_models.proguard_lite.guard.assembly import Parts, open_parts
from triton_models.proguard_lite.guard.judge import Judge


@pytest.fixture(scope="session")
def parts() -> Parts:
    return open_parts()


@pytest.fixture(scope="session")
def judge(parts: Parts) -> Judge:
    return parts.judge
