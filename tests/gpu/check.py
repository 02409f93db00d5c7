"""`python -m tests.gpu.check [--model CHECKPOINT]`: the acceptance of the real guard on a machine with a GPU.

With a sealed checkpoint both engines run where `tensorrt_llm` is installed, and are compared. Without one a checkpoint with the
shape of Qwen2.5-VL-7B and random weights is made, and the transformers engine runs alone. `--device cpu --tiny` tries the command out.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import gc
import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.gpu import acceptance, prompts
from tests.gpu.acceptance import Check, Given
from tests.gpu.memory import Memory
from tests.gpu.report import markdown
from tests.triton_models.proguard import trt_signatures
from triton_models.proguard.guard import manifest
from triton_models.proguard.guard.chat import Chat
from triton_models.proguard.guard.engine import Engine
from triton_models.proguard.guard.errors import GuardModelError
from triton_models.proguard.guard.opening import open_guard
from triton_models.proguard.guard.settings import Settings, load_settings

NO_GPU = 3
"""Exit status: there is no GPU, so nothing was checked."""
PRESETS = Path(__file__).resolve().parents[2] / "triton_models" / "proguard" / "presets"


@dataclass(frozen=True, slots=True)
class Plan:
    """What one run does."""

    checkpoint: Path
    random: bool
    device: str
    engines: tuple[str, ...]
    preset: str | None
    concurrent: tuple[int, ...]
    max_tokens: int
    side: int
    """Pixels of the images' sides in all but the megapixel measurement."""
    repetitions: int
    """Answers for each place in flight when speed is measured."""
    fewest: int
    """Answers at least, so that one place in flight is measured on more than one prompt."""
    triton: bool
    compare_with: Path | None = None
    """Answers of another engine to the same prompts, from a run in another environment."""

    def answers(self, places: int) -> int:
        """How many answers are measured with so many in flight."""
        return max(self.fewest, places * self.repetitions)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 when everything holds, 1 when something does not, 3 when there is no GPU."""
    options = _parser().parse_args(arguments)
    if options.device != "cpu" and not _has_gpu():
        sys.stderr.write(
            "no GPU: nothing was checked. Run `make gpu-check` on a machine with one (CUDA, seen by torch).\n"
        )
        return NO_GPU
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        plan = _plan(options, Path(folder))
        result = asyncio.run(run(plan, command=_command(arguments)))
    options.out.mkdir(parents=True, exist_ok=True)
    acceptance.write_answers(options.out / "answers.json", result.pop("answers"))
    (options.out / "gpu-check.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    report = markdown(result)
    (options.out / "gpu-check.md").write_text(report, encoding="utf-8")
    sys.stdout.write(report)
    return 0 if result["passed"] else 1


async def run(plan: Plan, *, command: str) -> dict[str, Any]:
    """Every engine in turn, one in memory at a time, then the comparison. The result can be written as JSON."""
    engines: list[dict[str, Any]] = []
    answers: list[list[Given]] = []
    for name in plan.engines:
        sys.stderr.write(f"checking {name}\n")
        found, given = await _check_engine(plan, name)
        engines.append(found)
        answers.append(given)
    others = [*answers] if plan.compare_with is None else [*answers, acceptance.read_answers(plan.compare_with)]
    checks = [acceptance.parity_check(acceptance.compare(others[0], other)) for other in others[1:]]
    served = await asyncio.to_thread(_served, plan) if plan.triton else []
    everything = [check["passed"] for engine in engines for check in engine["checks"]] + [c.passed for c in checks]
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "checkpoint": f"{manifest.read(plan.checkpoint).name} ({manifest.read(plan.checkpoint).digest[:16]})",
        "random": plan.random,
        "machine": Memory(plan.device).describe(),
        "engines": engines,
        "through_triton": served,
        "answers": [dataclasses.asdict(one) for one in answers[0]],
        "checks": [dataclasses.asdict(check) for check in checks],
        "passed": bool(everything) and all(everything),
    }


def _served(plan: Plan) -> list[dict[str, Any]]:
    """In a process of its own, as the service has it: the engines of this one are closed."""
    from tests.gpu.served import served_rates

    sys.stderr.write("measuring through Triton\n")
    rates = served_rates(
        plan.checkpoint,
        device=plan.device,
        concurrent=plan.concurrent,
        number={places: plan.answers(places) for places in plan.concurrent},
        max_tokens=plan.max_tokens,
    )
    return [{**dataclasses.asdict(rate), "first_token_p50_s": None} for rate in rates]


async def _check_engine(plan: Plan, name: str) -> tuple[dict[str, Any], list[Given]]:
    memory = Memory(plan.device)
    alone: dict[str, str] = {}
    found, given, checks = await _with_reuse(plan, name, memory, alone)
    gc.collect()
    memory.release()
    without, reused = await _without_reuse(plan, name, alone)
    checks.append(
        Check(
            "prefix reuse",
            found["reused_blocks"] > 0 and reused == 0,
            f"{found['reused_blocks']} blocks with it, {reused} without; {found['rates'][-1]['answers_per_s']:.2f} and"
            f" {without.answers_per_s:.2f} answers/s at {without.concurrent} in flight",
        )
    )
    gc.collect()
    memory.release()
    return found | {
        "checks": [dataclasses.asdict(check) for check in checks],
        "rates_without_reuse": [dataclasses.asdict(without)],
    }, given


async def _with_reuse(
    plan: Plan, name: str, memory: Memory, alone: dict[str, str]
) -> tuple[dict[str, Any], list[Given], list[Check]]:
    begun = time.perf_counter()
    engine = open_guard(_settings(plan, name)).engine
    loaded_s, loaded = time.perf_counter() - begun, memory.now()
    asked = prompts.all_prompts(side=plan.side)
    try:
        checks = [_signatures()] if name == "tensorrt_llm" else []
        checks += [
            await _guarded("health", lambda: acceptance.health(engine, asked[0], plan.max_tokens)),
            await _guarded("repeated image", lambda: acceptance.repeated_image(engine, plan.side, plan.max_tokens)),
            await _guarded("cancel", lambda: acceptance.cancellation(engine, asked[0], max_tokens=plan.max_tokens)),
        ]
        given = await acceptance.answers(engine, asked, plan.max_tokens)
        stages = await acceptance.megapixel(engine, Chat.load(plan.checkpoint), max_tokens=plan.max_tokens)
        rates = [await _rate(engine, plan, places, alone) for places in plan.concurrent]
        found = {
            "name": name,
            "load_s": loaded_s,
            "memory_loaded": loaded,
            "memory_highest": memory.highest(),
            "reused_blocks": engine.state().reused_blocks,
            "rates": [dataclasses.asdict(rate) for rate in rates],
            "megapixel": dataclasses.asdict(stages),
        }
    finally:
        await engine.aclose()
    return found, given, checks


async def _without_reuse(plan: Plan, name: str, alone: dict[str, str]) -> tuple[acceptance.Rate, int]:
    engine = open_guard(_settings(plan, name, reuse=False)).engine
    try:
        return await _rate(engine, plan, plan.concurrent[-1], dict(alone)), engine.state().reused_blocks
    finally:
        await engine.aclose()


async def _rate(engine: Engine, plan: Plan, places: int, alone: dict[str, str]) -> acceptance.Rate:
    return await acceptance.rate(engine, places, number=plan.answers(places), max_tokens=plan.max_tokens, alone=alone)


def _signatures() -> Check:
    """Whether the TensorRT-LLM that is installed has what the engine uses, and how it differs from what the tests' stand-in has."""
    import tensorrt_llm
    from tensorrt_llm import llmapi

    missing = trt_signatures.differences(tensorrt_llm, llmapi, exact=False)
    changed = trt_signatures.differences(tensorrt_llm, llmapi)
    return Check("LLM API", not missing, "; ".join(missing or changed) or "as recorded")


async def _guarded(name: str, check: Callable[[], Any]) -> Check:
    """A check that raises has failed; the others still run."""
    try:
        result: Check = await check()
    except GuardModelError as error:
        return Check(name, False, f"{type(error).__name__}: {error}")
    return result


def _settings(plan: Plan, name: str, *, reuse: bool = True) -> Settings:
    if name == "tensorrt_llm":
        preset = load_settings(
            PRESETS / f"{plan.preset}.yaml", environment={"PROGUARD_MODEL_CHECKPOINT": str(plan.checkpoint)}
        )
        arguments = json.loads(json.dumps(dict(preset.engine_args)))
        arguments.setdefault("kv_cache_config", {})["enable_block_reuse"] = reuse
        return dataclasses.replace(preset, engine_args=arguments)
    settings = Settings(str(plan.checkpoint), device=plan.device, max_batch=max(plan.concurrent))
    return settings if reuse else dataclasses.replace(settings, prefix_tokens=0)


def _plan(options: argparse.Namespace, folder: Path) -> Plan:
    random = options.model is None or options.tiny
    checkpoint = folder / "checkpoint" if random else options.model
    if options.tiny:
        from triton_models.proguard.tiny import write_tiny

        write_tiny(checkpoint)
    elif random:
        from tests.gpu.shaped import write_shaped

        sys.stderr.write("writing a checkpoint with the shape of Qwen2.5-VL-7B and random weights (16.6 GB)\n")
        write_shaped(checkpoint, device=options.device)
    engines = options.engines or ("transformers", *(() if random or not _has("tensorrt_llm") else ("tensorrt_llm",)))
    return Plan(
        checkpoint=checkpoint,
        random=random,
        device=options.device,
        engines=tuple(engines),
        preset=options.preset,
        concurrent=tuple(options.concurrent),
        max_tokens=options.max_tokens,
        side=56 if options.tiny else 448,
        repetitions=1 if options.tiny else 4,
        fewest=2 if options.tiny else 8,
        triton=_has("pytriton") and not options.no_triton,
        compare_with=options.compare_with,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.gpu.check", description=__doc__)
    parser.add_argument("--model", type=Path, help="folder of a sealed checkpoint; without it random weights are made")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, or cpu to try the command out")
    parser.add_argument("--tiny", action="store_true", help="a tiny random checkpoint instead of the 7B-shaped one")
    parser.add_argument(
        "--engines", nargs="+", choices=("transformers", "tensorrt_llm"), help="default: what is installed"
    )
    parser.add_argument(
        "--preset", default="h100-7b", help="which of triton_models/proguard/presets TensorRT-LLM runs with"
    )
    parser.add_argument("--concurrent", nargs="+", type=int, default=(1, 16, 64), help="requests in flight")
    parser.add_argument("--max-tokens", type=int, default=96, help="tokens of an answer: a verdict has 60 to 120")
    parser.add_argument("--compare-with", type=Path, help="answers.json of another run with the same checkpoint")
    parser.add_argument("--no-triton", action="store_true", help="leave out the measurement through tritonserver")
    parser.add_argument(
        "--out", type=Path, default=Path("gpu-check"), help="folder for gpu-check.json and gpu-check.md"
    )
    return parser


def _command(arguments: Sequence[str] | None) -> str:
    given = sys.argv[1:] if arguments is None else arguments
    # Names of files on the machine that ran it say nothing to a reader.
    return " ".join(["python -m tests.gpu.check", *(Path(part).name if "/" in part else part for part in given)])


def _has_gpu() -> bool:
    import torch

    return bool(torch.cuda.is_available())


def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


if __name__ == "__main__":
    sys.exit(main())
