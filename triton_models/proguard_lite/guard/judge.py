"""The guard: read messages and image text in, answers out, a batch at a time."""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from .answer import Answer, write
from .categories import Placement, PolicyIndex, means
from .encoder import Encoded, TextEncoder
from .errors import BadPromptError, GuardRequestError
from .heads import UNSAFE_FROM, Heads
from .naming import PhraseBank
from .prompt_reading import Task, Turns, read_system, read_user

# Policies and their embeddings: a tenant's policy has up to three system messages and one categories block.
MAX_POLICIES = 64
MAX_SYSTEMS = 256
# A kilobyte or two a policy is usual. This much is an attack on the encoder.
MAX_SYSTEM_CHARACTERS = 500_000


@dataclass(frozen=True, slots=True)
class Reading:
    """One request, read. `image_text` has what OCR found, None where the request has no image."""

    task: Task
    turns: Turns
    system_tokens: int
    image_text: str | None = None
    max_tokens: int | None = None


class Judge:
    """Answers batches. `read` may run on any thread; `answer` on one thread at a time."""

    def __init__(
        self, encoder: TextEncoder, count_tokens: Callable[[str], int], heads: Heads, bank: PhraseBank
    ) -> None:
        self._encoder = encoder
        self._count = count_tokens
        self._heads = heads
        self._bank = bank
        self._systems: _Recent[tuple[Task, int]] = _Recent(MAX_SYSTEMS)
        self._policies: _Recent[PolicyIndex] = _Recent(MAX_POLICIES)
        self._empty = encoder.encode([""])[0]

    @property
    def digest(self) -> str:
        """The digest of the weights' manifest."""
        return self._heads.digest

    def read(self, system: str, user: str, *, max_tokens: int | None = None) -> Reading:
        """Read the two messages. Raises `BadPromptError`."""
        if len(system) > MAX_SYSTEM_CHARACTERS:
            raise BadPromptError(f"SYSTEM has more than {MAX_SYSTEM_CHARACTERS} characters")
        key = hashlib.sha256(system.encode("utf-8", "surrogatepass")).hexdigest()
        task, tokens = self._systems.get(key, lambda: (read_system(system), self._count(system)))
        return Reading(task, read_user(user), tokens, max_tokens=max_tokens)

    def answer(self, readings: Sequence[Reading]) -> list[Answer | GuardRequestError]:
        """One outcome for each reading, in order, the same as it would have alone."""
        encoded = self._encode({text for reading in readings for text in (_request_text(reading), reading.turns.agent)})
        outcomes: list[Answer | GuardRequestError] = []
        for reading in readings:
            try:
                outcomes.append(self._answer(reading, encoded[_request_text(reading)], encoded[reading.turns.agent]))
            except GuardRequestError as error:
                outcomes.append(error)
            except Exception as error:  # One request's fault must not reach its neighbours.
                outcomes.append(GuardRequestError(f"the guard failed on this request ({type(error).__name__})"))
        return outcomes

    def _encode(self, texts: set[str]) -> dict[str, Encoded]:
        """Each distinct text once. One that the encoder chokes on is left out, and only its own requests fail."""
        fresh = sorted(texts - {""})
        encoded = {"": self._empty}
        try:
            encoded.update(zip(fresh, self._encoder.encode(fresh), strict=True))
        except Exception:
            for text in fresh:
                with contextlib.suppress(Exception):
                    encoded[text] = self._encoder.encode([text])[0]
        return encoded

    def _answer(self, reading: Reading, request: Encoded, response: Encoded) -> Answer:
        request_score = self._heads.request(request.windows)
        replied = reading.task.response and bool(reading.turns.agent)
        context = means([request])[0] if _request_text(reading) else np.zeros_like(request.windows[0])
        response_score = self._heads.response(response.windows, context) if replied else math.nan
        unsafe = (request_score >= UNSAFE_FROM, replied and response_score >= UNSAFE_FROM)
        placement = None
        outside = False
        if any(unsafe):
            # The request says what it is about more plainly than the answer does.
            placement = self._place(reading.task, request if unsafe[0] else response)
            outside = self._heads.outside(placement.evidence) >= UNSAFE_FROM
        category = None if placement is None else placement.name if outside else placement.category.id
        completion = write(
            think=_think(reading, unsafe, placement, outside, request, response),
            request=unsafe[0],
            response=unsafe[1] if reading.task.response else None,
            category=category,
        )
        return self._limited(reading, completion, request_score, response_score, request.tokens + response.tokens)

    def _place(self, task: Task, text: Encoded) -> Placement:
        index = self._policies.get(task.digest, lambda: PolicyIndex.build(task, self._encoder, self._heads, self._bank))
        return index.place(text.windows, self._heads, self._bank, specific=task.specific)

    def _limited(self, reading: Reading, completion: str, request: float, response: float, read: int) -> Answer:
        tokens = self._count(completion)
        finish = "stop"
        if reading.max_tokens is not None and tokens > reading.max_tokens:
            # Words stand for tokens here: what is cut is unreadable either way, and the reason says so.
            words = completion.split(" ")
            completion = " ".join(words[: max(1, len(words) * reading.max_tokens // tokens)])
            tokens, finish = reading.max_tokens, "length"
        return Answer(completion, finish, request, response, (reading.system_tokens + read, tokens))


def _request_text(reading: Reading) -> str:
    return "\n".join(text for text in (reading.turns.user, reading.image_text) if text)


def _think(
    reading: Reading,
    unsafe: tuple[bool, bool],
    placement: Placement | None,
    outside: bool,
    request: Encoded,
    response: Encoded,
) -> str:
    sentences: list[str] = []
    if reading.image_text is not None:
        seen = "only the writing in the image was read" if reading.image_text else "no writing was found in the image"
        sentences.append(f"This guard cannot see pictures; {seen}.")
    if not (request.complete and response.complete):
        sentences.append("The text is long; parts of it, head and tail included, were read.")
    turn = {(True, True): "Both turns are", (True, False): "The request is", (False, True): "The response is"}.get(
        unsafe
    )
    if turn is None or placement is None:
        sentences.append("Nothing that was read looks unsafe.")
    elif outside:
        sentences.append(f"{turn} likely unsafe, and no listed category is near: {_plain(placement.name)}.")
    else:
        sentences.append(f"{turn} likely unsafe; the nearest listed category is {_plain(placement.category.name)}.")
    return " ".join(sentences)


def _plain(name: str) -> str:
    return name.translate({ord("<"): None, ord(">"): None})


Value = TypeVar("Value")


class _Recent(Generic[Value]):
    """A bounded memory of what was computed last. Two threads may compute one value twice, which is harmless."""

    def __init__(self, largest: int) -> None:
        self._largest = largest
        self._values: OrderedDict[str, Value] = OrderedDict()

    def get(self, key: str, compute: Callable[[], Value]) -> Value:
        value = self._values.pop(key, None)
        if value is None:
            value = compute()
        self._values[key] = value
        while len(self._values) > self._largest:
            self._values.popitem(last=False)
        return value
