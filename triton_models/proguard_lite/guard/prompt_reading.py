"""The two rendered messages, read back: the policy that is shown, what is asked for, and the two turns.

Only the structure is trusted, and only as far as the renderer guarantees it: role markers that lead a line of content were
broken before, so the first line that starts with `Agent:` after `User:` is the structural one.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from .errors import BadPromptError

CATEGORIES_BEGIN = "<BEGIN UNSAFE CONTENT CATEGORIES>"
CATEGORIES_END = "<END UNSAFE CONTENT CATEGORIES>"
FORMAT_BEGIN = "<BEGIN OUTPUT FORMAT>"
FORMAT_END = "<END OUTPUT FORMAT>"
CONVERSATION_BEGIN = "<BEGIN CONVERSATION>"
CONVERSATION_END = "<END CONVERSATION>"

# A policy has tens of entries. More than this is not one, and every entry costs up to a dozen embeddings.
MAX_ENTRIES = 2000
MAX_SYNONYMS = 40

_ENTRY = re.compile(r"^ {0,8}(?P<id>C\d{1,6}(?:S\d{1,6})?): (?P<rest>\S.*)$")
_SYNONYMS = re.compile(r" \(also: (?P<list>[^()]*)\)$")
_EXAMPLE = re.compile(r"^Category:C\d+(?P<sub>S\d+)?\s*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the policy. `parent` is the id of the category above a sub-category."""

    id: str
    name: str
    description: str
    synonyms: tuple[str, ...]

    @property
    def parent(self) -> str | None:
        """`C8` of `C8S1`; None for a top category."""
        head, _, tail = self.id.partition("S")
        return head if tail else None


@dataclass(frozen=True, slots=True)
class Task:
    """What the system message says. `digest` is the SHA-256 of the categories block, so equal digests mean equal entries.

    `response` is False for images alone, where the answer has no such line. `specific` says that sub-category ids are
    asked for.
    """

    entries: tuple[Entry, ...]
    digest: str
    response: bool
    specific: bool


@dataclass(frozen=True, slots=True)
class Turns:
    """The conversation. Both may be empty, and may have several lines."""

    user: str
    agent: str


def read_system(system: str) -> Task:
    """Read a system message. Raises `BadPromptError` without a block of at least one category, or without an output format."""
    block = _between(system, CATEGORIES_BEGIN, CATEGORIES_END)
    form = _between(system, FORMAT_BEGIN, FORMAT_END)
    examples = [match["sub"] is not None for match in _EXAMPLE.finditer(form)]
    return Task(
        entries=_read_entries(block),
        digest=hashlib.sha256(block.encode("utf-8", "surrogatepass")).hexdigest(),
        response=re.search(r"^Response:", form, re.MULTILINE) is not None,
        specific=any(examples) or not examples,
    )


def read_user(user: str) -> Turns:
    """Read a user message. Raises `BadPromptError` without the conversation markers and the two role markers."""
    start = user.find(CONVERSATION_BEGIN)
    end = user.rfind(CONVERSATION_END)
    if start < 0 or end < start:
        raise BadPromptError(f"USER has no {CONVERSATION_BEGIN} … {CONVERSATION_END} block")
    body = user[start + len(CONVERSATION_BEGIN) : end].strip("\n")
    if not body.startswith("User:"):
        raise BadPromptError("USER's conversation does not begin with the User turn")
    request, marker, response = body.removeprefix("User:").partition("\nAgent:")
    if not marker:
        raise BadPromptError("USER's conversation has no Agent turn")
    return Turns(user=request.strip(), agent=response.strip())


def _between(text: str, begin: str, end: str) -> str:
    start = text.find(begin)
    stop = text.find(end, start + len(begin))
    if start < 0 or stop < 0:
        raise BadPromptError(f"SYSTEM has no {begin} … {end} block")
    return text[start + len(begin) : stop].strip("\n")


def _read_entries(block: str) -> tuple[Entry, ...]:
    entries: dict[str, Entry] = {}
    for line in block.split("\n"):
        if not line.strip():
            continue
        entry = _read_entry(line.rstrip())
        if entry.id in entries:
            raise BadPromptError(f"SYSTEM lists the category {entry.id} twice")
        entries[entry.id] = entry
        if len(entries) > MAX_ENTRIES:
            raise BadPromptError(f"SYSTEM lists more than {MAX_ENTRIES} categories")
    if not entries:
        raise BadPromptError("SYSTEM lists no category")
    return tuple(entries.values())


def _read_entry(line: str) -> Entry:
    match = _ENTRY.match(line)
    if match is None:
        raise BadPromptError("a line of SYSTEM's categories block is not a category")
    rest = match["rest"]
    synonyms: tuple[str, ...] = ()
    if listed := _SYNONYMS.search(rest):
        synonyms = tuple(phrase.strip() for phrase in listed["list"].split(";") if phrase.strip())[:MAX_SYNONYMS]
        rest = rest[: listed.start()]
    name, _, description = rest.partition(" — ")
    return Entry(match["id"], name.strip(), description.strip(), synonyms)
