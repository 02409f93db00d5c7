"""`python -m training.guard.score --url HOST:PORT --data DIR --out scored.jsonl`: what a guard on Triton says to labelled events."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from tritonclient.utils import InferenceServerException

from schemas.events import Modality
from schemas.policy import default_policy
from schemas.prompt import render_system, render_user
from training.guard.asking import ask_all
from training.guard.scored import Scored, write_scored
from training.lite.dataset import Row, read_dataset


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask and write. Exit status 2 when the data cannot be read or the guard does not answer."""
    parser = argparse.ArgumentParser(prog="python -m training.guard.score", description=__doc__)
    parser.add_argument("--url", required=True, help="the guard's gRPC address, host:port")
    parser.add_argument("--model", default="proguard", help="the model's name on Triton")
    parser.add_argument("--data", type=Path, required=True, help="folder with text/*.jsonl.gz (see training/lite)")
    parser.add_argument("--split", choices=("train", "test"), default="test", help="which half was not trained on")
    parser.add_argument("--each", type=int, default=200, help="rows of each source, label and kind, at most")
    parser.add_argument("--concurrent", type=int, default=32, help="requests in flight")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds for one answer")
    parser.add_argument("--out", type=Path, required=True, help="JSON Lines file to write")
    options = parser.parse_args(arguments)
    try:
        rows = chosen(read_dataset(options.data, options.split).rows, options.each)
        found = asyncio.run(_score(rows, options))
    except (OSError, ValueError, KeyError, InferenceServerException) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    write_scored(options.out, found)
    sys.stderr.write(f"{len(found)} events scored by {found[0].manifest[:16] if found else 'nobody'}\n")
    return 0


def chosen(rows: Sequence[Row], each: int) -> list[tuple[int, Row]]:
    """At most `each` rows of every source and pair of labels, with their numbers; always the same ones."""
    groups: dict[tuple[str, bool, bool | None], list[tuple[int, Row]]] = defaultdict(list)
    for number, row in enumerate(rows):
        if row.request or row.response:
            groups[row.source, row.request_unsafe, row.response_unsafe].append((number, row))
    choose = random.Random(0)
    return sorted(
        (pair for key in sorted(groups, key=repr) for pair in choose.sample(groups[key], min(each, len(groups[key])))),
        key=lambda pair: pair[0],
    )


async def _score(rows: Sequence[tuple[int, Row]], options: argparse.Namespace) -> list[Scored]:
    system = render_system(default_policy(), Modality.TEXT)
    prompts = [(system, render_user(row.request, row.response)) for _, row in rows]
    scores = await ask_all(
        options.url, options.model, prompts, concurrent=options.concurrent, timeout_s=options.timeout
    )
    return [
        Scored(
            id=number,
            source=row.source,
            # A source without the requests' texts labels nothing that the guard was shown.
            request_unsafe=row.request_unsafe if row.request else None,
            response_unsafe=row.response_unsafe,
            request_score=given.request,
            # A guard scores the empty turn too; there is nothing to compare it with.
            response_score=given.response if row.response else None,
            manifest=given.manifest,
        )
        for (number, row), given in zip(rows, scores, strict=True)
    ]


if __name__ == "__main__":
    sys.exit(main())
