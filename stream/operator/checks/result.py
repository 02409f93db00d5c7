"""What a check found, in words for the person who has to act."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum


class State(StrEnum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """One check. `fix` says what to do and is empty when there is nothing to do."""

    name: str
    state: State
    detail: str
    fix: str = ""

    def as_json(self) -> dict[str, str]:
        return {**asdict(self), "state": self.state.value}


def ok(name: str, detail: str) -> Check:
    return Check(name, State.OK, detail)


def warn(name: str, detail: str, fix: str) -> Check:
    return Check(name, State.WARN, detail, fix)


def fail(name: str, detail: str, fix: str) -> Check:
    return Check(name, State.FAIL, detail, fix)


def not_checked(name: str, because: str) -> Check:
    """A check that another one's failure prevented: not known to be well, so it counts as failed."""
    return Check(name, State.FAIL, f"not checked: {because}")
