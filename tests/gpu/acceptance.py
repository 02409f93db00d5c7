"""The checks on one engine that is open, and the comparison of two."""

from __future__ import annotations

import asyncio
import json
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from schemas.answer import UnparsableError, parse
from schemas.policy import default_policy
from tests.gpu.prompts import Prompt, load, picture, prompt
from triton_models.proguard.guard.chat import Chat
from triton_models.proguard.guard.engine import Conversation, Engine, Generation
from triton_models.proguard.guard.images import decode
from triton_models.proguard.guard.scores import label_scores

MIN_LABELS = 0.98
MIN_FIRST_TOKENS = 0.95
MAX_SCORE_DIFFERENCE = 0.05
"""Two engines with one checkpoint in bfloat16: kernels round differently, and a label that is near one half may turn. More than
this is another prompt or other pixels. Chosen before anything was measured."""


@dataclass(frozen=True, slots=True)
class Given:
    """One answer, as far as engines are compared."""

    name: str
    text: str
    first_token: int | None
    request: str | None
    response: str | None
    scores: tuple[float, float]
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Rate:
    """Speed with `concurrent` requests in flight."""

    concurrent: int
    answers: int
    answers_per_s: float
    tokens_per_s: float
    p50_s: float
    p95_s: float
    first_token_p50_s: float
    same_as_alone: float
    """Share of answers that equal those that were asked for one at a time."""


@dataclass(frozen=True, slots=True)
class Stages:
    """Where the time of one megapixel goes, in seconds, with nothing else in flight."""

    decode_s: float
    scale_s: float
    first_token_s: float
    rest_s: float
    prompt_tokens: int
    answer_tokens: int


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must hold."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Parity:
    """How alike two engines answer the same prompts."""

    prompts: int
    labels: float
    first_tokens: float
    texts: float
    max_score_difference: float
    compared_scores: int


async def answer(engine: Engine, asked: Prompt, max_tokens: int) -> Generation:
    """One answer."""
    return await engine.generate(Conversation(asked.system, asked.user, asked.images, max_tokens))


def given(engine: Engine, asked: Prompt, generation: Generation) -> Given:
    """What is compared of an answer."""
    request = response = None
    try:
        read = parse(generation.text, asked.modality, default_policy().index)
        request, response = read.request.value, read.response.value if read.response else None
    except UnparsableError:
        pass  # Random weights write no answers; their tokens are compared all the same.
    return Given(
        asked.name,
        generation.text,
        generation.tokens[0].id if generation.tokens else None,
        request,
        response,
        label_scores(generation.tokens, engine.token_text),
        generation.prompt_tokens,
    )


async def answers(engine: Engine, asked: Sequence[Prompt], max_tokens: int) -> list[Given]:
    """One at a time."""
    return [given(engine, one, await answer(engine, one, max_tokens)) for one in asked]


def write_answers(path: Path, answers: Sequence[dict[str, Any]]) -> None:
    """For a comparison with an engine in another environment. A score that there is not becomes null."""
    rows = [row | {"scores": [None if math.isnan(score) else score for score in row["scores"]]} for row in answers]
    path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def read_answers(path: Path) -> list[Given]:
    """What `write_answers` wrote."""
    rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    scores = [tuple(math.nan if score is None else float(score) for score in row["scores"]) for row in rows]
    return [Given(**{**row, "scores": pair}) for row, pair in zip(rows, scores, strict=True)]


def compare(one: Sequence[Given], other: Sequence[Given]) -> Parity:
    """Both in the same order of the same prompts."""
    pairs = list(zip(one, other, strict=True))
    differences = [
        abs(a - b)
        for left, right in pairs
        for a, b in zip(left.scores, right.scores, strict=True)
        if not (math.isnan(a) or math.isnan(b))
    ]
    return Parity(
        prompts=len(pairs),
        labels=_share([(a.request, a.response) == (b.request, b.response) for a, b in pairs]),
        first_tokens=_share([a.first_token == b.first_token for a, b in pairs]),
        texts=_share([a.text == b.text for a, b in pairs]),
        max_score_difference=max(differences, default=0.0),
        compared_scores=len(differences),
    )


def parity_check(parity: Parity) -> Check:
    """Whether two engines are alike enough to stand in for one another."""
    passed = (
        parity.labels >= MIN_LABELS
        and parity.first_tokens >= MIN_FIRST_TOKENS
        and parity.max_score_difference <= MAX_SCORE_DIFFERENCE
    )
    detail = (
        f"labels {parity.labels:.3f} (at least {MIN_LABELS}), first tokens {parity.first_tokens:.3f} (at least"
        f" {MIN_FIRST_TOKENS}), scores differ by {parity.max_score_difference:.4f} (at most {MAX_SCORE_DIFFERENCE})"
    )
    return Check("parity", passed, detail)


async def health(engine: Engine, asked: Prompt, max_tokens: int) -> Check:
    """One answer that has tokens."""
    generation = await answer(engine, asked, max_tokens)
    detail = f"{generation.prompt_tokens} tokens read, {len(generation.tokens)} written, {generation.finish_reason}"
    return Check("health", bool(generation.tokens), detail)


async def repeated_image(engine: Engine, side: int, max_tokens: int) -> Check:
    """The same image again, then under another text, then the first request again: what a block cache with images gets wrong."""
    image = picture(side, side, 7)
    first = prompt("first", "What is this?", None, (image,))
    second = prompt("second", "Is this harmful to anybody?", "No.", (image,))
    other = prompt("other", "What is this?", None, (picture(side, side, 8),))
    texts = [(await answer(engine, asked, max_tokens)).text for asked in (first, first, second, other, first, second)]
    passed = texts[0] == texts[1] == texts[4] and texts[2] == texts[5]
    return Check(
        "repeated image",
        passed,
        "six requests with two images, each equal to its repetition" if passed else "an answer changed",
    )


async def cancellation(engine: Engine, asked: Prompt, *, max_tokens: int, patience_s: float = 30.0) -> Check:
    """A request that is taken back leaves the batch, and its neighbour's answer stays the same."""
    alone = (await answer(engine, asked, max_tokens)).text
    neighbour = asyncio.ensure_future(answer(engine, asked, max_tokens))
    doomed = asyncio.ensure_future(answer(engine, replace(asked, user=asked.user + " "), 4 * max_tokens))
    await _until(lambda: doomed.done() or engine.state().running >= 1, patience_s)
    doomed.cancel()
    await asyncio.gather(doomed, return_exceptions=True)
    same = (await neighbour).text == alone
    empty = await _until(lambda: engine.state().running == 0, patience_s)
    detail = f"the batch is empty afterwards: {empty}; the neighbour's answer is the same: {same}"
    return Check("cancel", empty and same, detail)


async def rate(engine: Engine, concurrent: int, *, number: int, max_tokens: int, alone: dict[str, str]) -> Rate:
    """Speed of `number` answers. `alone` remembers the texts of those that were asked for one at a time."""
    places = asyncio.Semaphore(concurrent)
    seconds: list[float] = []
    generations: list[Generation] = []
    same: list[bool] = []

    async def one(asked: Prompt) -> None:
        async with places:
            begun = time.perf_counter()
            generation = await answer(engine, asked, max_tokens)
            seconds.append(time.perf_counter() - begun)
            generations.append(generation)
            same.append(alone.setdefault(asked.name, generation.text) == generation.text)

    begun = time.perf_counter()
    await asyncio.gather(*map(one, load(number)))
    elapsed = time.perf_counter() - begun
    return Rate(
        concurrent=concurrent,
        answers=number,
        answers_per_s=number / elapsed,
        tokens_per_s=sum(len(generation.tokens) for generation in generations) / elapsed,
        p50_s=statistics.median(seconds),
        p95_s=quantile(seconds, 0.95),
        first_token_p50_s=statistics.median(generation.first_token_s for generation in generations),
        same_as_alone=_share(same),
    )


async def megapixel(engine: Engine, chat: Chat, *, max_tokens: int) -> Stages:
    """One image of 1,024 x 1,024 pixels alone."""
    image = picture(1024, 1024, 5)
    asked = prompt("megapixel", "", None, (image,))
    await answer(engine, asked, 1)  # The first image compiles and allocates.
    other = replace(asked, images=(picture(1024, 1024, 6),))
    begun = time.perf_counter()
    decode(other.images[0], 0)
    decoded = time.perf_counter()
    chat.expand(chat.encode(Conversation(other.system, other.user, other.images, max_tokens)))
    scaled = time.perf_counter()
    generation = await answer(engine, other, max_tokens)
    total = time.perf_counter() - scaled
    return Stages(
        decode_s=decoded - begun,
        scale_s=scaled - decoded,
        first_token_s=generation.first_token_s,
        rest_s=max(0.0, total - generation.first_token_s),
        prompt_tokens=generation.prompt_tokens,
        answer_tokens=len(generation.tokens),
    )


async def _until(condition: object, patience_s: float) -> bool:
    assert callable(condition)
    end = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > end:
            return False
        await asyncio.sleep(0.002)
    return True


def _share(outcomes: Sequence[bool]) -> float:
    return sum(outcomes) / len(outcomes) if outcomes else 1.0


def quantile(values: Sequence[float], share: float) -> float:
    """The value that `share` of the values are below."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
