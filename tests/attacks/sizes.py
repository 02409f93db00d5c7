"""How large each attack suite is, and how large it has to be."""

from __future__ import annotations

from dataclasses import dataclass

from tests.attacks.policy_cases import POLICY_TEXTS
from tests.attacks.prompt_cases import PROMPT_CASES
from tests.stream.evidence.hostile_files import HOSTILE_FILES
from tests.stream.evidence.hostile_uris import HOSTILE_URIS

FUZZED = 10_000
THROUGH_A_WORKER = 500


@dataclass(frozen=True, slots=True)
class Suite:
    """One suite: where it is played, how many different cases it has, and the least that was promised."""

    name: str
    place: str
    cases: int
    promised: int


SUITES = (
    Suite(
        "prompt structure",
        "tests/attacks/test_prompt_structure.py",
        len({(c.user, c.agent) for c in PROMPT_CASES}),
        300,
    ),
    Suite("policy fields", "tests/attacks/test_prompt_structure.py", 3 * len(set(POLICY_TEXTS.values())), 60),
    Suite("image URIs", "tests/stream/evidence/test_uris.py", len(set(HOSTILE_URIS.values())), 100),
    Suite("image files", "tests/stream/evidence/test_hostile_files.py", len(HOSTILE_FILES), 60),
    Suite("events", "tests/attacks/test_events.py", FUZZED, 10_000),
    Suite("events through a worker", "tests/attacks/test_events.py", THROUGH_A_WORKER, 500),
)
