"""From one version to the next, with a way back at every step.

1. **Try.** The new version is loaded under a second name (a folder of links beside the model's), so no request but ours meets it.
   Both versions are asked the same questions. A limit broken: the second name goes, nothing else has happened.
2. **Switch.** The second name goes first, so that no more than two copies are ever in memory; then the model becomes the new version, which
   Triton loads beside the old one before it lets that go. The repository's file is written before, so a server that restarts in
   between comes back with one or the other, never with none.
3. **Watch.** What unpinned requests get is asked the questions again and again and held against the old version's answers of step 1 (decoding
   is greedy: asking the old one again would give the same). A limit broken, or no answer: the old version comes back.

Without the repository's folder there is no second name: then the new version is loaded beside the old one under the model's own, and
requests without a pin meet it from step 1 on, because Triton gives them the highest version.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from stream.clock import Clock, Deadline, SystemClock
from stream.errors import ProGuardStreamError
from stream.guard.canary import Window
from stream.guard.errors import GuardError
from stream.operator.models.comparison import AT_A_TIME, Comparison, Limits, Said, ask_all, compare
from stream.operator.models.control import ModelControl
from stream.operator.models.errors import ModelControlError
from stream.operator.models.golden import Sample
from stream.operator.models.repository import ModelRepository, Rollout

_PAUSE_S = 0.5
_ROUND = 4 * AT_A_TIME
"""Questions between two looks at the clock while watching."""

Outcome = Literal["promoted", "rejected", "rolled back"]


@dataclass(frozen=True, slots=True)
class Plan:
    """How a version is promoted. `keep` leaves the old one loaded, for workers that pin it and for a rollback without a load."""

    limits: Limits
    watch_s: float
    keep: bool = False
    timeout_s: float = 10.0
    patience_s: float = 30.0
    """Seconds to wait for a server that is away, before the old version is put back."""


@dataclass(frozen=True, slots=True)
class Promotion:
    """What became of it. `why` is empty for a promoted version; `watched` are the questions asked after the switch."""

    outcome: Outcome
    why: str
    old: int
    new: int
    old_manifest: str
    new_manifest: str
    comparison: Comparison | None
    watched: int


class _AbandonedError(ProGuardStreamError):
    """The new version is not to serve; the text says why."""


class Promoter:
    """Promotes versions of the model that `control` controls. `tell` gets a line for each step."""

    def __init__(
        self,
        control: ModelControl,
        samples: Sequence[Sample],
        plan: Plan,
        *,
        repository: ModelRepository | None,
        tell: Callable[[str], None] = lambda _: None,
        clock: Clock | None = None,
    ) -> None:
        self._control = control
        self._samples = samples
        self._plan = plan
        self._repository = repository
        self._tell = tell
        self._clock = clock or SystemClock()
        self._comparison: Comparison | None = None
        self._new_manifest = ""
        self._watched = 0

    async def promote(self, new: int) -> Promotion:
        """Blocks until the new version serves and was watched, or the old one serves as before.

        Also when it is cancelled, or the server restarts meanwhile. Raises `ModelControlError` before anything was done when there is
        nothing to promote from or to, and afterwards when the old version could not be put back.
        """
        old, old_manifest = await self._serving()
        self._check(old, new)
        before = await self._control.loaded()
        noted = None if self._repository is None else self._repository.rollout()
        switched = False
        try:
            baseline = await self._try(old, new)
            switched = True
            if self._repository is not None:
                self._repository.note_rollout(Rollout(serving=new, previous=old))
            await self._switch(old, new)
            await self._watch(new, baseline)
            if self._repository is None and not self._plan.keep:
                await self._load([new])
        except _AbandonedError as fault:
            outcome: Outcome = "rolled back" if switched else "rejected"
            await self._put_back(before, noted)
            return self._result(outcome, str(fault), old, new, old_manifest)
        except BaseException:
            await asyncio.shield(self._put_back(before, noted))
            raise
        return self._result("promoted", "", old, new, old_manifest)

    async def _serving(self) -> tuple[int, str]:
        try:
            answer = await self._control.answering()
        except GuardError as error:
            raise ModelControlError(
                f"{self._control.model} does not answer, so there is nothing to promote from: {error}"
            ) from None
        return int(answer.version), answer.manifest

    def _check(self, old: int, new: int) -> None:
        if new == old:
            raise ModelControlError(f"{self._control.model} {new} is what serves already")
        if self._repository is not None:
            self._repository.require(new)
        if new < old and (self._repository is None or self._plan.keep):
            raise ModelControlError(
                f"{new} is lower than {old}, and Triton gives unpinned requests the highest version that is loaded: promote it with"
                " --repository and without --keep"
            )

    async def _try(self, old: int, new: int) -> list[Said]:
        self._tell(f"loading version {new} beside version {old}")
        trial = self._control.model
        if self._repository is not None:
            trial = self._repository.trial
            self._repository.stage(new)
        try:
            if self._repository is not None:
                await self._control.load_trial(trial, new)
            else:
                await self._control.load_only([old, new])
        except ModelControlError as error:
            raise _AbandonedError(str(error)) from None
        self._tell(f"asking both versions {len(self._samples)} questions")
        baseline = await self._ask(None, old)
        answers = await self._ask(trial, new)
        self._new_manifest = next((said.manifest for said in answers if said.manifest), "")
        if self._new_manifest and self._new_manifest == next((said.manifest for said in baseline if said.manifest), ""):
            self._tell("both answer with the same manifest: is the checkpoint named where it holds for all versions?")
        self._comparison = compare(self._samples, baseline, answers)
        faults = self._comparison.broken(self._plan.limits)
        if faults:
            raise _AbandonedError("; ".join(faults))
        return baseline

    async def _switch(self, old: int, new: int) -> None:
        self._tell(f"version {new} passes: switching")
        if self._repository is None:
            return  # both are loaded, and the new one is higher
        try:
            await self._control.unload(self._repository.trial)
        except ModelControlError as error:
            raise _AbandonedError(str(error)) from None
        self._repository.unstage()
        await self._load([old, new] if self._plan.keep else [new])

    async def _watch(self, new: int, baseline: Sequence[Said]) -> None:
        """Asks all questions once, and then goes on for as long as the plan says."""
        self._tell(f"watching version {new} for {self._plan.watch_s:g} s")
        deadline = Deadline(self._clock, self._plan.watch_s)
        size, limits = len(self._samples), self._plan.limits
        valid = Window(size, size, 1 - limits.min_format_valid)
        agreed = Window(size, size, 1 - limits.min_agreement)
        begin = 0
        while begin < size or deadline.remaining() > 0:
            asked = [number % size for number in range(begin, begin + min(_ROUND, size))]
            begin += len(asked)
            answers = await self._ask(None, None, [self._samples[number] for number in asked])
            self._watched += len(answers)
            for number, said in zip(asked, answers, strict=True):
                if said.version and said.version != str(new):
                    raise _AbandonedError(f"version {said.version} answered in the place of version {new}")
                if said.manifest and said.manifest != self._new_manifest:
                    raise _AbandonedError("it answers with another manifest than when it was tried")
                trusted = baseline[number].labels
                if not valid.add(said.labels is not None):
                    raise _AbandonedError(
                        f"{valid.bad} of the latest {len(valid)} answers after the switch cannot be read"
                    )
                if trusted is not None and said.labels is not None and not agreed.add(said.labels == trusted):
                    raise _AbandonedError(
                        f"{agreed.bad} of the latest {len(agreed)} answers after the switch have other labels"
                    )
            await asyncio.sleep(min(_PAUSE_S, max(0.0, deadline.remaining())))

    async def _ask(self, model: str | None, version: int | None, samples: Sequence[Sample] | None = None) -> list[Said]:
        guard = self._control.guard(model, version)
        try:
            return await ask_all(
                guard,
                self._samples if samples is None else samples,
                timeout_s=self._plan.timeout_s,
                patience_s=self._plan.patience_s,
                clock=self._clock,
            )
        except GuardError as error:
            what = model or self._control.model
            raise _AbandonedError(
                f"{what}{f' {version}' if version else ''} went away while it was asked: {error}"
            ) from None
        finally:
            await guard.aclose()

    async def _load(self, versions: Sequence[int]) -> None:
        try:
            await self._control.load_only(versions)
        except ModelControlError as error:
            raise _AbandonedError(str(error)) from None

    async def _put_back(self, before: Sequence[int], noted: Rollout | None) -> None:
        """Everything as it was, whatever has happened to the server meanwhile: a server may go away during this too."""
        self._tell(f"putting back version {', '.join(map(str, before))}")
        deadline = Deadline(self._clock, self._plan.patience_s)
        while True:
            try:
                await self._control.wait_for_server(max(0.0, deadline.remaining()))
                return await self._restore(before, noted)
            except ModelControlError:
                if deadline.remaining() <= 0:
                    raise
            await asyncio.sleep(_PAUSE_S)

    async def _restore(self, before: Sequence[int], noted: Rollout | None) -> None:
        if self._repository is not None:
            await self._end_trial(self._repository)
            self._repository.note_rollout(noted) if noted else self._repository.forget_rollout()
        if await self._control.loaded() != list(before) or not await self._answers():
            await self._control.load_only(before, until_gone=False)

    async def _end_trial(self, repository: ModelRepository) -> None:
        failed = [e for e in await self._control.index() if e.model == repository.trial and e.failed]
        config = repository.trial_config()
        with contextlib.suppress(ModelControlError):  # not loaded, if the server has restarted
            if failed and config is not None:
                await self._control.bury_trial(repository.trial, failed[0].version or 1, config)
            else:
                await self._control.unload(repository.trial, until_gone=False)
        repository.unstage()

    async def _answers(self) -> bool:
        try:
            await self._control.answering()
        except GuardError:
            return False
        return True

    def _result(self, outcome: Outcome, why: str, old: int, new: int, old_manifest: str) -> Promotion:
        return Promotion(outcome, why, old, new, old_manifest, self._new_manifest, self._comparison, self._watched)


async def roll_back(control: ModelControl, repository: ModelRepository | None, version: int | None) -> tuple[int, int]:
    """Back to `version`, or to what served before. Returns what served and what serves, after it has answered.

    Raises `ModelControlError` when nothing says what served before, or it does not load: then what served goes on.
    """
    loaded = await control.loaded()
    try:
        serving = int((await control.answering()).version)
    except GuardError:
        serving = max(loaded, default=0)
    wanted = version
    if wanted is None and repository is not None:
        noted = repository.rollout()
        wanted = noted.previous if noted is not None and noted.previous != serving else None
    elif wanted is None:
        others = [other for other in loaded if other != serving]
        wanted = others[0] if len(others) == 1 else None
    if wanted is None or wanted == serving:
        raise ModelControlError("nothing says what served before: name the version")
    if repository is not None:
        repository.require(wanted)
    await control.load_only([wanted])
    if repository is not None and serving:
        repository.note_rollout(Rollout(serving=wanted, previous=serving))
    return serving, wanted
