"""`python -m tests.simulation.replay SEED`: run one schedule again and tell what happens in it."""

from __future__ import annotations

import argparse
import sys

from tests.simulation.mutations import MUTATIONS
from tests.simulation.plan import plan
from tests.simulation.schedule import FoundError, simulate


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.replay", description=__doc__)
    parser.add_argument("seed", type=int)
    parser.add_argument("--mutation", choices=sorted(MUTATIONS), help="break the worker in this way first")
    chosen = parser.parse_args()
    print(plan(chosen.seed))  # noqa: T201
    try:
        if chosen.mutation:
            with MUTATIONS[chosen.mutation].applied() as parts:
                report = simulate(chosen.seed, parts, trace=True)
        else:
            report = simulate(chosen.seed, trace=True)
    except FoundError as error:
        print(*error.lines, f"FAILED: {error}", sep="\n")  # noqa: T201
        return 1
    print(*report.lines, f"passed: {report.records} records, {report.commits} commits", sep="\n")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
