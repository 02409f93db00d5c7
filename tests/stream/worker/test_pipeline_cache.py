"""What the verdict cache may and may not make equal, through the real pipeline."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from schemas.deadletters import Reason
from schemas.policy import default_policy
from schemas.prompt import RenderedPrompt
from schemas.verdicts import Label, Verdict, verdict_id
from stream.evidence.resolver import EvidenceResolver
from stream.evidence.settings import EvidenceSettings, StoreSettings
from stream.guard.backend import Completion
from stream.guard.errors import GuardRefusedError
from stream.guard.settings import CacheSettings
from stream.policies.source import FixedPolicies
from stream.telemetry.metrics import WorkerMetrics
from stream.worker.pipeline import Pipeline
from tests.stream.evidence.files import encode, scene
from tests.stream.worker.parts import (
    SAFE,
    ScriptedGuard,
    answer_text,
    completion,
    content,
    live_default,
    pipeline,
    record,
)

ON = CacheSettings()


async def verdict(built: Pipeline, event_id: str, text: str = "hello", **fields: object) -> Verdict:
    outcome = await built.process(record(value=content(event_id, text, **fields)))
    assert outcome.verdict is not None
    return outcome.verdict


async def test_the_same_content_is_judged_once_and_each_event_has_a_verdict_of_its_own() -> None:
    metrics = WorkerMetrics()
    built = await pipeline(guard := ScriptedGuard(completion(SAFE)), cache=ON, metrics=metrics)
    first, again = await verdict(built, "one"), await verdict(built, "two", author="somebody else")
    assert len(guard.asked) == 1
    assert (first.cached, again.cached) == (False, True)
    assert (first.id, again.id) == tuple(verdict_id(id_, live_default().ref.digest, "sha") for id_ in ("one", "two"))
    assert (first.usage.prompt_tokens, again.usage.prompt_tokens, again.usage.completion_tokens) == (10, 0, 0)
    assert set(again.timings) == {"prepare", "judge"}
    own = {"id", "event_id", "cached", "usage", "timings"}
    assert first.model_dump(exclude=own) == again.model_dump(exclude=own)


async def test_duplicates_at_the_same_time_are_judged_once() -> None:
    built = await pipeline(guard := ScriptedGuard(completion(SAFE)), cache=ON)
    verdicts = await asyncio.gather(*(verdict(built, f"e{n}") for n in range(50)))
    assert len(guard.asked) == 1
    assert sum(not found.cached for found in verdicts) == 1
    assert {found.event_id for found in verdicts} == {f"e{n}" for n in range(50)}


async def test_without_a_cache_every_event_is_judged() -> None:
    built = await pipeline(guard := ScriptedGuard(completion(SAFE)))
    assert not (await verdict(built, "one")).cached
    assert not (await verdict(built, "two")).cached
    assert len(guard.asked) == 2


async def test_what_was_cut_off_or_could_not_be_read_or_was_refused_is_judged_again() -> None:
    cut_off = completion(SAFE, finish_reason="length")
    for bad in (
        completion("nonsense"),
        cut_off,
        completion(answer_text("unsafe", "safe", "C99")),
        GuardRefusedError("no"),
    ):
        built = await pipeline(guard := ScriptedGuard(bad), cache=ON)
        assert (await verdict(built, "one")).reason is not None
        guard.says = completion(SAFE)
        judged = await verdict(built, "one")
        assert (judged.reason, judged.cached, len(guard.asked)) == (None, False, 2)


async def test_an_absent_turn_and_an_empty_one_look_the_same_to_the_guard_and_are_not_the_same_question() -> None:
    built = await pipeline(guard := ScriptedGuard(completion(answer_text("safe", "unsafe", "C1"))), cache=ON)
    assert (await verdict(built, "empty", agent_text="")).response is Label.UNSAFE
    assert (await verdict(built, "absent")).reason is Reason.GUARD_UNPARSABLE
    assert guard.asked[0][0].digest == guard.asked[1][0].digest


async def test_tenants_do_not_share_answers_unless_the_settings_say_so() -> None:
    for share, asked in ((False, 2), (True, 1)):
        cache = CacheSettings(share_between_tenants=share)
        built = await pipeline(guard := ScriptedGuard(completion(SAFE)), cache=cache)
        verdicts = [await verdict(built, "e", tenant=tenant) for tenant in ("one", "other")]
        assert len(guard.asked) == asked
        assert [found.tenant for found in verdicts] == ["one", "other"]


async def test_tenants_that_share_answers_share_them_under_one_policy_only() -> None:
    stricter = default_policy().model_copy(update={"version": "stricter"})
    policies = FixedPolicies(default_policy(), {"strict": stricter})
    cache = CacheSettings(share_between_tenants=True)
    built = await pipeline(guard := ScriptedGuard(completion(SAFE)), cache=cache, policies=policies)
    found = [await verdict(built, "e", tenant=tenant) for tenant in ("one", "strict", "other")]
    assert len(guard.asked) == 2
    assert [judged.policy.version == "stricter" for judged in found] == [False, True, False]


class Looking(ScriptedGuard):
    """Finds the picture unsafe that has a black last row, and no other."""

    def __init__(self) -> None:
        super().__init__(completion(SAFE))

    async def complete(
        self, prompt: RenderedPrompt, images: Sequence[bytes], *, timeout: float, traceparent: str | None = None
    ) -> Completion:
        self.asked.append((prompt, list(images), traceparent))
        unsafe = any(images[0] == bad for bad in self.bad)
        return completion(answer_text("unsafe" if unsafe else "safe", "safe", "C1" if unsafe else "None"))

    bad: Sequence[bytes] = ()


def twins() -> tuple[bytes, bytes]:
    """Two files of one size, with the same EXIF and the same bytes up to the last row of pixels."""
    good, exif = scene(), Image.Exif()
    exif[0x010E] = "image-4711"
    bad = good.copy()
    bad.paste("black", (0, good.height - 1, good.width, good.height))
    return encode(good, "PNG", exif=exif, compress_level=0), encode(bad, "PNG", exif=exif, compress_level=0)


async def test_two_images_that_agree_in_name_size_exif_and_first_bytes_are_judged_each_for_itself(
    tmp_path: Path,
) -> None:
    good, bad = twins()
    assert len(good) == len(bad)
    assert good[:20_000] == bad[:20_000]
    stores = {}
    for name, data in (("one", good), ("other", bad), ("third", good)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cat.png").write_bytes(data)
        stores[f"media://{name}"] = StoreSettings(kind="local", root=tmp_path / name)
    guard = Looking()
    async with EvidenceResolver(EvidenceSettings(stores=stores)) as evidence:
        built = await pipeline(guard, evidence=evidence, cache=ON)
        images = [[{"uri": f"media://{name}/cat.png"}] for name in ("one", "other", "third")]
        await verdict(built, "warm-up", "another text", images=images[1])
        guard.bad = [guard.asked.pop()[1][0]]
        found = await asyncio.gather(*(verdict(built, f"e{n}", images=image) for n, image in enumerate(images)))
        later = [await verdict(built, "later", images=image) for image in images]
    assert len(guard.asked) == 2
    for judged in (found, later):
        assert [each.request for each in judged] == [Label.SAFE, Label.UNSAFE, Label.SAFE]
    assert all(each.cached for each in later)
    assert [each.evidence[0].uri for each in later] == [f"media://{name}/cat.png" for name in ("one", "other", "third")]
