"""Content that was judged already: answers kept, and answers under way shared by all who ask the same."""

from __future__ import annotations

import asyncio
import sys
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import NamedTuple, Protocol

from schemas.answer import Answer
from schemas.events import Modality
from stream.clock import Clock, Deadline
from stream.guard.backend import Completion
from stream.guard.errors import GuardTimeoutError
from stream.guard.settings import CacheSettings
from stream.telemetry.metrics import WorkerMetrics


class Question(NamedTuple):
    """What an answer depends on, by digests. Equal questions get the same answer from the same model.

    The prompt's digest covers the texts and the policy as the guard reads them. `images` are the digests of the canonical bytes,
    in order: neither names nor sizes nor anything of the original file. `has_agent` tells an absent turn from an empty one,
    which look the same to the guard, but not to the parser of its answer.
    """

    tenant: str
    policy_digest: str
    modality: Modality
    prompt_digest: str
    images: tuple[str, ...]
    has_agent: bool


class Judged(NamedTuple):
    """A complete answer, and what it says."""

    completion: Completion
    answer: Answer


class Outages(Protocol):
    """When the guard was down (`stream.guard.protection.Availability`)."""

    @property
    def up(self) -> bool: ...
    def outage_seconds(self) -> float: ...


class _Ending(Enum):
    LEFT = "whoever asked was cancelled: somebody else has to ask"
    FAILED = "there is no answer that could be shared"


_Flight = asyncio.Future[Judged | _Ending]

_ENTRY_BYTES = 1_000
"""Memory of an entry beside its strings: the key with its digests, the objects, its places in the tables (measured)."""

_OUTAGE_TURN_S = 0.25
"""How often those whose time is up look whether an outage is over."""


class VerdictCache:
    """Judges the same question once.

    - An answer that is kept is given at once. Kept is what `judge` returned, never a failure; bounded by entries and by bytes
      (the one not used for longest goes first), optionally by age. One cache serves one guard client; when an answer shows another
      model, version or manifest than the one before on its route, everything kept is dropped. (Behind a canary there are two
      routes, and each keeps its model: answers of the two by turns drop nothing.)
    - A question that is being asked is not asked again: who comes later waits, within its own deadline (outages do not
      count, as for everybody). If the first one is cancelled, one of those who wait asks in its place and the others wait on. If
      it fails, the failure is its own: the others ask for themselves, at the same time, as if there were no cache. So nobody
      waits for ever, and nobody gets a failure that is not its own.
    - Tenants do not share answers, unless the settings say so.

    All calls belong to the event loop. Memory is the only cost: what is lost with the process is judged again.
    """

    def __init__(self, settings: CacheSettings, outages: Outages, clock: Clock, metrics: WorkerMetrics) -> None:
        self._settings = settings
        self._outages = outages
        self._clock = clock
        self._kept: OrderedDict[Question, tuple[Judged, int, float]] = OrderedDict()
        self._bytes = 0
        self._models: dict[str, tuple[str, str, str]] = {}
        self._forgotten: set[str] = set()
        self._flights: dict[Question, _Flight] = {}
        self._hits, self._joined, self._misses = (
            metrics.cache_lookups.labels(result) for result in ("hit", "joined", "miss")
        )

    def __len__(self) -> int:
        """Answers kept."""
        return len(self._kept)

    @property
    def bytes(self) -> int:
        """Their memory, about."""
        return self._bytes

    async def judged(
        self, question: Question, deadline: Deadline, judge: Callable[[], Awaitable[Judged]]
    ) -> tuple[Judged, bool]:
        """The answer, and whether it was had without asking the guard.

        Calls `judge` at most once. Raises what it raises; `GuardTimeoutError` when `deadline` passes while another's answer is
        waited for.
        """
        if self._settings.share_between_tenants:
            question = question._replace(tenant="")
        while True:
            kept = self._look_up(question)
            if kept is not None:
                self._hits.inc()
                return kept, True
            flight = self._flights.get(question)
            if flight is None:
                self._misses.inc()
                return await self._lead(question, judge), False
            ending = await self._follow(flight, deadline)
            if isinstance(ending, Judged):
                self._joined.inc()
                return ending, True
            if ending is _Ending.FAILED:
                self._misses.inc()
                judged = await judge()
                self._keep(question, judged)
                return judged, False

    def forget(self, route: str) -> None:
        """Drops what came by this route, and keeps nothing more of it: its guard is not trusted any longer."""
        self._forgotten.add(route)
        for question in [
            question for question, (judged, _, _) in self._kept.items() if judged.completion.route == route
        ]:
            self._drop(question)

    async def _lead(self, question: Question, judge: Callable[[], Awaitable[Judged]]) -> Judged:
        flight: _Flight = asyncio.get_running_loop().create_future()
        self._flights[question] = flight
        ending: Judged | _Ending = _Ending.FAILED
        try:
            ending = await judge()
        except asyncio.CancelledError:
            ending = _Ending.LEFT
            raise
        finally:
            # In this order: who is woken must not find the flight that has ended.
            del self._flights[question]
            flight.set_result(ending)
        self._keep(question, ending)
        return ending

    async def _follow(self, flight: _Flight, deadline: Deadline) -> Judged | _Ending:
        forgiven = self._outages.outage_seconds()
        while True:
            remaining, up = deadline.remaining(), self._outages.up
            if remaining <= 0 and up:
                raise GuardTimeoutError("the event's deadline passed before the same content was judged")
            await asyncio.wait((flight,), timeout=remaining if up else max(remaining, _OUTAGE_TURN_S))
            outage_s = self._outages.outage_seconds()
            deadline.extend(outage_s - forgiven)
            forgiven = outage_s
            if flight.done():
                return flight.result()

    def _look_up(self, question: Question) -> Judged | None:
        found = self._kept.get(question)
        if found is None:
            return None
        judged, _, until = found
        if until <= self._clock.monotonic():
            self._drop(question)
            return None
        self._kept.move_to_end(question)
        return judged

    def _keep(self, question: Question, judged: Judged) -> None:
        completion = judged.completion
        model = (completion.model, completion.version, completion.manifest)
        if completion.route in self._forgotten:
            return
        if model != self._models.get(completion.route):
            known = completion.route in self._models
            self._models[completion.route] = model
            if known:
                self._kept.clear()
                self._bytes = 0
        size = _size(question, judged)
        if size <= self._settings.max_bytes:
            if question in self._kept:
                self._drop(question)
            ttl_s = self._settings.ttl_s
            until = float("inf") if ttl_s is None else self._clock.monotonic() + ttl_s
            self._kept[question] = (judged, size, until)
            self._bytes += size
            while len(self._kept) > self._settings.max_entries or self._bytes > self._settings.max_bytes:
                self._drop(next(iter(self._kept)))

    def _drop(self, question: Question) -> None:
        _, size, _ = self._kept.pop(question)
        self._bytes -= size


def _size(question: Question, judged: Judged) -> int:
    completion, answer = judged.completion, judged.answer
    texts = sys.getsizeof(completion.text) + sys.getsizeof(answer.rationale) + sys.getsizeof(answer.risk_name or "")
    return _ENTRY_BYTES + texts + 160 * len(question.images) + sys.getsizeof(question.tenant)
