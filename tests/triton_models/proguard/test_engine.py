"""The transformers engine on a tiny checkpoint: the same answers whatever is in the batch, and nobody pays for another's fault."""

from __future__ import annotations

import asyncio
import io
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from schemas.answer import Reading, parse
from schemas.events import Modality
from tests.triton_models import prompts
from tests.triton_models.proguard.engines import KINDS, ask, photo, until
from triton_models.proguard.guard.engine import Conversation
from triton_models.proguard.guard.errors import BadImageError, EngineDiedError, LoadError, OverloadedError, TooLongError
from triton_models.proguard.guard.runner import Runner


@pytest.mark.parametrize("kind", KINDS)
async def test_an_answer_is_what_the_model_class_generates(make_engine: Any, checkpoint: Path, kind: str) -> None:
    asked = KINDS[kind]
    generation = await make_engine(prefill_tokens=512).generate(asked)
    processor = AutoProcessor.from_pretrained(checkpoint)
    model = AutoModelForImageTextToText.from_pretrained(checkpoint).eval()
    turns = [
        {"role": "system", "content": [{"type": "text", "text": asked.system}]},
        {"role": "user", "content": [{"type": "image"}] * len(asked.images) + [{"type": "text", "text": asked.user}]},
    ]
    text = processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    images = [Image.open(io.BytesIO(data)) for data in asked.images]
    inputs = processor(text=[text], images=images or None, return_tensors="pt")
    with torch.inference_mode():
        written = model.generate(**inputs, max_new_tokens=asked.max_tokens, do_sample=False)
    expected = written[0, inputs["input_ids"].shape[1] :].tolist()
    assert [token.id for token in generation.tokens] == [
        id for id in expected if id not in (model.generation_config.eos_token_id)
    ]
    assert generation.text == processor.tokenizer.decode(expected, skip_special_tokens=True)
    assert generation.prompt_tokens == inputs["input_ids"].shape[1]


async def test_sixty_four_at_once_answer_as_one_by_one(make_engine: Any) -> None:
    engine = make_engine()
    asked = [
        ask(
            f"{number}: " + "and so on " * (number % 5),
            *[photo(40 + number, 60, n) for n in range(number % 3)],
            max_tokens=4 + number % 20,
        )
        for number in range(61)
    ] + [KINDS["maximum pixels"], KINDS["a long policy"], KINDS["a long policy and an image"]]
    alone = [await engine.generate(conversation) for conversation in asked]
    together = await asyncio.gather(*(engine.generate(conversation) for conversation in asked))
    assert [(one.text, one.finish_reason, one.prompt_tokens) for one in alone] == [
        (other.text, other.finish_reason, other.prompt_tokens) for other in together
    ]
    assert len({one.text for one in alone}) > 32, "the answers do depend on what was asked"
    for one, other in zip(alone, together, strict=True):
        assert [token.id for token in one.tokens] == [token.id for token in other.tokens]
        for mine, theirs in zip(one.tokens, other.tokens, strict=True):
            assert (mine.likely is None) == (theirs.likely is None)
            assert mine.likely is None or mine.likely[mine.id] == pytest.approx(theirs.likely[theirs.id], abs=1e-3)


async def test_a_remembered_prefix_changes_nothing_but_the_work(make_engine: Any) -> None:
    remembering, forgetful = make_engine(), make_engine(prefix_tokens=0)
    first, again = [await remembering.generate(KINDS["a long policy"]) for _ in range(2)]
    assert remembering.state().reused_blocks > 100
    never = [await forgetful.generate(KINDS["a long policy"]) for _ in range(2)]
    assert forgetful.state().reused_blocks == 0
    assert first.text == again.text == never[0].text == never[1].text


async def test_a_request_joins_a_running_batch_and_leaves_before_it_ends(make_engine: Any) -> None:
    engine = make_engine()
    long = asyncio.create_task(engine.generate(ask("a long one", max_tokens=3000)))
    await until(lambda: engine.state().running == 1)
    short = await engine.generate(ask("a short one", max_tokens=3))
    assert not long.done()
    assert len(short.tokens) == 3
    assert short.finish_reason == "length"
    long.cancel()


async def test_a_cancelled_request_leaves_the_batch_and_its_neighbours_do_not_notice(make_engine: Any) -> None:
    engine = make_engine()
    expected = [await engine.generate(ask(f"neighbour {n}", max_tokens=60)) for n in range(3)]
    long = [asyncio.create_task(engine.generate(ask(f"long {n}", max_tokens=3000))) for n in range(3)]
    await until(lambda: engine.state().running == 3)
    neighbours = [asyncio.create_task(engine.generate(ask(f"neighbour {n}", max_tokens=60))) for n in range(3)]
    await until(lambda: engine.state().running > 3)
    for task in long:
        task.cancel()
    assert [one.text for one in expected] == [one.text for one in await asyncio.gather(*neighbours)]
    await until(lambda: engine.state().running == 0)
    assert all(task.cancelled() for task in long)


async def test_a_request_that_is_cancelled_while_it_waits_is_never_begun(make_engine: Any) -> None:
    engine = make_engine(max_batch=1)
    long = asyncio.create_task(engine.generate(ask("long", max_tokens=3000)))
    await until(lambda: engine.state().running == 1)
    read = engine.state().prompt_tokens
    waiting = asyncio.create_task(engine.generate(ask("waits")))
    await until(lambda: engine.state().waiting == 1)
    waiting.cancel()
    long.cancel()
    await until(lambda: engine.state().running == engine.state().waiting == 0)
    assert engine.state().prompt_tokens == read


async def test_a_broken_image_and_a_long_prompt_fail_alone(make_engine: Any) -> None:
    engine = make_engine(max_context=400)
    bad = [
        ask("x", b"not an image"),
        ask("x", photo(90, 60)[:200]),
        ask("x", photo(2000, 4)),
        ask("word " * 500),
        ask("x", max_tokens=390),
    ]
    good = [ask(f"good {n}") for n in range(4)]
    results = await asyncio.gather(*map(engine.generate, [*bad, *good]), return_exceptions=True)
    assert [type(result) for result in results[:5]] == [BadImageError] * 3 + [TooLongError] * 2
    assert [result.text for result in results[5:]] == [(await engine.generate(one)).text for one in good]  # type: ignore[union-attr]


class CrampedRunner(Runner):
    """Has memory for some rows at a time, as a GPU has; the allocator's error is the real one's type and text."""

    rows = 3

    def extend(self, first: int, past: Any, ids: Any, *rest: Any) -> torch.Tensor:
        if first + len(ids) > self.rows:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory")
        return super().extend(first, past, ids, *rest)


async def test_newcomers_without_memory_are_refused_and_the_rest_is_right(make_engine: Any) -> None:
    asked = [ask(f"number {n}", max_tokens=40) for n in range(12)]
    roomy = make_engine()
    expected = [(await roomy.generate(one)).text for one in asked]
    engine = make_engine(runner=CrampedRunner)
    results = await asyncio.gather(*map(engine.generate, asked), return_exceptions=True)
    answered = [number for number, result in enumerate(results) if not isinstance(result, BaseException)]
    assert len(answered) >= 3
    assert [results[number].text for number in answered] == [expected[number] for number in answered]  # type: ignore[union-attr]
    assert {type(result) for number, result in enumerate(results) if number not in answered} == {OverloadedError}
    assert (await engine.generate(asked[0])).text == expected[0], "the engine lives on"


class ShrinkingRunner(Runner):
    """Runs out of memory in a step of more than one row, once."""

    failed = False

    def extend(self, first: int, past: Any, ids: Any, *rest: Any) -> torch.Tensor:
        if not self.failed and first == 0 and len(ids) > 1 and len(ids[0]) == 1 and min(past) > 60:
            self.failed = True
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().extend(first, past, ids, *rest)


async def test_a_step_without_memory_gives_up_its_newest_row_only(make_engine: Any) -> None:
    engine = make_engine(runner=ShrinkingRunner)
    older = asyncio.create_task(engine.generate(ask("older", max_tokens=400)))
    await until(lambda: engine.state().running == 1)
    with pytest.raises(OverloadedError):
        await engine.generate(ask("newer", max_tokens=400))
    assert (await older).text == (await make_engine().generate(ask("older", max_tokens=400))).text


class DyingRunner(Runner):
    steps = 0

    def extend(self, *arguments: Any, **named: Any) -> torch.Tensor:
        self.steps += 1
        if self.steps > 30:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return super().extend(*arguments, **named)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_dead_engine_says_so_to_everyone_then_and_later(make_engine: Any) -> None:
    engine = make_engine(runner=DyingRunner, max_batch=4)
    results = await asyncio.gather(
        *(engine.generate(ask(f"{n}", max_tokens=400)) for n in range(8)), return_exceptions=True
    )
    assert {type(result) for result in results} == {EngineDiedError}
    with pytest.raises(EngineDiedError, match="load the model again"):
        await engine.generate(ask("later"))
    assert engine.state().running == engine.state().waiting == 0


async def test_closing_ends_what_is_under_way(make_engine: Any) -> None:
    engine = make_engine()
    long = asyncio.create_task(engine.generate(ask("long", max_tokens=3000)))
    await until(lambda: engine.state().running == 1)
    await engine.aclose()
    with pytest.raises(EngineDiedError):
        await long


CONSTRAINED = {
    Modality.TEXT: ask("hello", max_tokens=400, constrained=True),
    Modality.TEXT_IMAGE: ask("look", photo(60, 60), max_tokens=400, constrained=True),
    Modality.IMAGE: ask("", photo(60, 60), photo(90, 60, 1), max_tokens=400, constrained=True),
}


async def test_constrained_answers_are_read_strictly_beside_free_ones(make_engine: Any) -> None:
    engine = make_engine(constrained=True)
    free = ask("free", max_tokens=60)
    unmixed = await engine.generate(free)
    asked = [(modality, conversation) for modality, conversation in CONSTRAINED.items() for _ in range(4)]
    *written, beside = await asyncio.gather(
        *(engine.generate(conversation) for _, conversation in asked), engine.generate(free)
    )
    for (modality, _), generation in zip(asked, written, strict=True):
        assert generation.finish_reason == "stop"
        ids = {f"C{number}S{sub}" for number in range(100) for sub in range(10)} | set(prompts.POLICY.index)
        assert parse(generation.text, modality, _Every(ids)).reading is Reading.STRICT
    assert beside.text == unmixed.text


class _Every(set[str]):
    """A policy that has every id: which one a random model names is not the engine's doing."""

    def __contains__(self, _: object) -> bool:
        return True


async def test_the_grammar_must_be_asked_for_when_the_engine_is_made(make_engine: Any) -> None:
    with pytest.raises(LoadError, match="constrained: true"):
        await make_engine().generate(CONSTRAINED[Modality.TEXT])


async def test_labels_carry_the_unconstrained_probabilities_with_the_written_one_among_them(make_engine: Any) -> None:
    engine = make_engine(constrained=True)
    generation = await engine.generate(CONSTRAINED[Modality.TEXT])
    text = b""
    labels = 0
    for token in generation.tokens:
        line = text.rpartition(b"\n")[2]
        if re.search(rb"^Re(quest|sponse):[su]", line + engine.token_text(token.id)) and not re.search(rb":[su]", line):
            labels += 1
            assert token.likely is not None
        if token.likely is not None:
            assert token.id in token.likely
            assert len(token.likely) >= 20
            assert math.fsum(map(math.exp, token.likely.values())) <= 1.0 + 1e-3
        text += engine.token_text(token.id)
    assert labels == 2
    assert text.decode("utf-8", "replace") == generation.text


async def test_counters_say_what_was_read_and_written(make_engine: Any) -> None:
    engine = make_engine()
    generations = await asyncio.gather(*(engine.generate(ask(f"{n}")) for n in range(5)))
    state = engine.state()
    assert state.prompt_tokens == sum(one.prompt_tokens for one in generations)
    assert state.generated_tokens == sum(len(one.tokens) for one in generations)
    assert all(0 < one.first_token_s < 60 for one in generations)


async def test_a_nudge_is_read_behind_the_users_message(make_engine: Any) -> None:
    engine = make_engine()
    plain = ask("hello")
    nudged = Conversation(plain.system, plain.user, (), plain.max_tokens, nudge="Answer in the form.")
    one, other = [await engine.generate(conversation) for conversation in (plain, nudged)]
    assert other.prompt_tokens > one.prompt_tokens
    assert other.text != one.text
