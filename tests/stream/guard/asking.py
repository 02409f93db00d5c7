"""What the cache's tests share: questions, answers that name what they answer, and a cache over outages that a test moves."""

from __future__ import annotations

from schemas.answer import Answer, Reading
from schemas.events import Modality
from schemas.verdicts import Label
from stream.clock import Clock
from stream.guard.backend import Completion
from stream.guard.cache import Judged, Question, VerdictCache
from stream.guard.settings import CacheSettings
from stream.telemetry.metrics import WorkerMetrics


def question(number: int = 0, tenant: str = "default", images: tuple[str, ...] = ()) -> Question:
    return Question(tenant, "p" * 64, Modality.TEXT, f"{number:064d}", images, has_agent=False)


def judged(number: int = 0, *, rationale: str = "because", manifest: str = "sha", route: str = "") -> Judged:
    """The answer to `question(number)`."""
    text = f"answer to {number}: {rationale}"
    completion = Completion(text, "stop", 0.1, None, 10, 5, "m", "1", manifest, route)
    return Judged(completion, Answer(Label.SAFE, None, None, None, rationale, Reading.STRICT))


class Weather:
    """Outages as a test wants them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._down_since: float | None = None
        self._past = 0.0

    @property
    def up(self) -> bool:
        return self._down_since is None

    def outage_seconds(self) -> float:
        return self._past + (0.0 if self._down_since is None else self._clock.monotonic() - self._down_since)

    def falls(self) -> None:
        self._down_since = self._clock.monotonic()

    def rises(self) -> None:
        self._past, self._down_since = self.outage_seconds(), None


class Cache(VerdictCache):
    """A cache with its parts at hand."""

    def __init__(self, clock: Clock, **settings: object) -> None:
        self.weather = Weather(clock)
        self.metrics = WorkerMetrics()
        super().__init__(CacheSettings.model_validate(settings), self.weather, clock, self.metrics)

    def lookups(self, result: str) -> float:
        return self.metrics.registry.get_sample_value("proguard_cache_lookups_total", {"result": result}) or 0.0
