"""`make bench-guard`: the real guard through real Triton, at 1, 16 and 64 in flight, in one run.

Without --model it makes a tiny random checkpoint: its rates say how the scheduler and the server scale, not how fast a guard is. With a
sealed checkpoint and `--device cuda` the same script measures a real one (`make bench-guard MODEL=… DEVICE=cuda`; that has not been
run: there was no GPU).

Every request is another text. Each figure is the median of the rounds, on a line `figure=<name> value=<number>`, with `goal=` where
there is one; the rounds go to standard error. Answers that differ from those of one at a time end it with status 1.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tritonclient.grpc import aio

from schemas.events import Modality
from schemas.prompt import render_system, render_user
from tests.triton_models import prompts
from tests.triton_models.contract_suite import inputs_of
from tests.triton_models.proguard.engines import photo
from tests.triton_models.proguard.serving import MODEL, serving

IN_FLIGHT = (1, 16, 64)
RATIO_GOAL = 6.0
SHORT_SYSTEM = "You moderate a conversation. Think first, briefly, then answer."


@dataclass(frozen=True, slots=True)
class Work:
    """What is asked for: one system message, and so many images with each text."""

    name: str
    system: str
    images: tuple[bytes, ...] = ()
    goal: float | None = None


WORKS = (
    Work("short_prompt", SHORT_SYSTEM, goal=RATIO_GOAL),
    Work("one_image", SHORT_SYSTEM, images=(photo(224, 168),)),
    Work("default_policy", render_system(prompts.POLICY, Modality.TEXT)),
)


def say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def figure(name: str, value: float, goal: float | None = None) -> None:
    sys.stdout.write(f"figure={name} value={value:.2f}" + ("" if goal is None else f" goal={goal:g}") + "\n")
    sys.stdout.flush()


async def answer(client: aio.InferenceServerClient, work: Work, number: int, tokens: int) -> bytes:
    inputs = inputs_of(
        SYSTEM=[work.system],
        USER=[render_user(f"Message {number}: hello", None)],
        IMAGES=work.images,
        MAX_TOKENS=[tokens],
    )
    result = await client.infer(MODEL, inputs)
    return bytes(result.as_numpy("TEXT")[0])


async def measure(
    client: aio.InferenceServerClient, work: Work, requests: int, in_flight: int, tokens: int
) -> tuple[float, list[bytes]]:
    """Answers a second, and the answers in their order."""
    places = asyncio.Semaphore(in_flight)

    async def one(number: int) -> bytes:
        async with places:
            return await answer(client, work, number, tokens)

    started = time.perf_counter()
    answers = await asyncio.gather(*(one(number) for number in range(requests)))
    return requests / (time.perf_counter() - started), answers


async def run(url: str, works: Sequence[Work], *, requests: int, rounds: int, tokens: int) -> bool:
    """Print the figures; whether all answers were the same at every number in flight."""
    same = True
    async with aio.InferenceServerClient(url) as client:
        for work in works:
            await measure(client, work, 64, 64, tokens)  # The prefix, and memory for a whole batch.
            rates: dict[int, list[float]] = {number: [] for number in IN_FLIGHT}
            _, expected = await measure(client, work, requests, 1, tokens)
            for number in range(rounds):
                for in_flight in IN_FLIGHT:
                    rate, answers = await measure(client, work, requests, in_flight, tokens)
                    rates[in_flight].append(rate)
                    different = sum(one != other for one, other in zip(expected, answers, strict=True))
                    same = same and not different
                    say(
                        f"{work.name} round {number}: {in_flight} in flight, {rate:.1f}/s, {different} different answers"
                    )
            medians = {in_flight: statistics.median(found) for in_flight, found in rates.items()}
            for in_flight, median in medians.items():
                figure(f"{work.name}_per_s_at_{in_flight}", median)
            figure(f"{work.name}_ratio_64_to_1", medians[64] / medians[1], work.goal)
    return same


def main() -> None:
    parser = argparse.ArgumentParser(description="The real guard at 1, 16 and 64 in flight.")
    parser.add_argument("--model", type=Path, help="a sealed checkpoint; without it, a tiny random one is made")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--threads",
        type=int,
        help="of torch on a CPU; 1 for the tiny model, whose threads would wait for one another more than they compute",
    )
    parser.add_argument("--requests", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=32, help="tokens an answer; a verdict of ProGuard has about 80")
    parser.add_argument("--only", choices=[work.name for work in WORKS])
    arguments = parser.parse_args()
    works = [work for work in WORKS if arguments.only in (None, work.name)]
    settings = {"DEVICE": arguments.device, "NUDGES": "0"} | (
        {} if arguments.threads is None else {"THREADS": str(arguments.threads)}
    )
    with contextlib.ExitStack() as exits:
        folder = Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="bench-guard-")))
        checkpoint = arguments.model
        if checkpoint is None:
            from triton_models.proguard.tiny import write_tiny

            checkpoint = folder / "tiny"
            write_tiny(checkpoint)
            settings.setdefault("THREADS", "1")
            say("a tiny random checkpoint: the rates are of the scheduler and the server, not of a guard")
        server = exits.enter_context(serving(folder, checkpoint.absolute(), settings))
        same = asyncio.run(
            run(server.grpc_url, works, requests=arguments.requests, rounds=arguments.rounds, tokens=arguments.tokens)
        )
    if not same:
        sys.exit("some answers were not those of one at a time")


if __name__ == "__main__":
    main()
