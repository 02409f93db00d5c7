"""The acceptance's result as Markdown; the JSON beside it has the same figures."""

from __future__ import annotations

from typing import Any


def markdown(result: dict[str, Any]) -> str:
    """`result` is what `check.run` made."""
    machine = result["machine"]
    lines = [
        "# Acceptance of the real guard",
        "",
        f"{result['at']}, {machine['device']}, checkpoint {result['checkpoint']}. Written by `{result['command']}`.",
    ]
    if result["random"]:
        lines += ["", "The weights are random: speed, memory and equality mean something, labels and scores do not."]
    lines += ["", "| engine | check | passed | detail |", "| --- | --- | --- | --- |"]
    for engine in result["engines"]:
        for check in engine["checks"]:
            lines.append(f"| {engine['name']} | {check['name']} | {_yes(check['passed'])} | {check['detail']} |")
    for check in result["checks"]:
        lines.append(f"| both | {check['name']} | {_yes(check['passed'])} | {check['detail']} |")
    lines += [
        "",
        "| engine | prefix reuse | in flight | answers/s | tokens/s | p50 s | p95 s | first token p50 s | same as alone |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for engine in result["engines"]:
        for reuse, rates in (("on", engine["rates"]), ("off", engine["rates_without_reuse"])):
            lines += [
                f"| {engine['name']} | {reuse} | {rate['concurrent']} | {rate['answers_per_s']:.2f} | {rate['tokens_per_s']:.0f} |"
                f" {rate['p50_s']:.3f} | {rate['p95_s']:.3f} | {rate['first_token_p50_s']:.3f} | {rate['same_as_alone']:.3f} |"
                for rate in rates
            ]
    lines += [
        f"| transformers, through Triton | on | {rate['concurrent']} | {rate['answers_per_s']:.2f} | {rate['tokens_per_s']:.0f} |"
        f" {rate['p50_s']:.3f} | {rate['p95_s']:.3f} | – | {rate['same_as_alone']:.3f} |"
        for rate in result["through_triton"]
    ]
    lines += [
        "",
        "| engine | load s | memory after loading | highest memory | blocks reused |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {engine['name']} | {engine['load_s']:.1f} | {_gib(engine['memory_loaded'])} | {_gib(engine['memory_highest'])} |"
        f" {engine['reused_blocks']} |"
        for engine in result["engines"]
    ]
    lines += [
        "",
        "One image of 1,024 x 1,024 pixels, alone:",
        "",
        "| engine | decode s | scale s | to the first token s | rest s | prompt tokens | answer tokens |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for engine in result["engines"]:
        stages = engine["megapixel"]
        if stages:
            lines.append(
                f"| {engine['name']} | {stages['decode_s']:.3f} | {stages['scale_s']:.3f} | {stages['first_token_s']:.3f} |"
                f" {stages['rest_s']:.3f} | {stages['prompt_tokens']} | {stages['answer_tokens']} |"
            )
    return "\n".join(lines) + "\n"


def _yes(passed: bool) -> str:
    return "yes" if passed else "**no**"


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
