"""The demo as a person runs it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import psutil

from stream.demo.scene import SAMPLES
from stream.settings import LimitSettings

LAST_LINE = re.compile(
    r"events=(?P<events>\d+) verdicts=(?P<verdicts>\d+) dead_letters=(?P<dead_letters>\d+) "
    r"ood=(?P<ood>\d+) lost=(?P<lost>\d+) duplicated=(?P<duplicated>\d+)"
)


def run_demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "stream.operator.cli", "demo", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=170, check=False)


def parts_of_demos() -> set[int]:
    """The processes that run in a demo's folder."""
    found = psutil.process_iter(["pid", "cmdline"])
    return {process.info["pid"] for process in found if "/proguard-demo-" in " ".join(process.info["cmdline"] or ())}


def test_the_samples_end_in_sums_that_match_and_nothing_is_left() -> None:
    before = parts_of_demos()
    done = run_demo()
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    match = LAST_LINE.fullmatch(done.stdout.rstrip("\n").splitlines()[-1])
    assert match, done.stdout[-500:]
    sums = {name: int(value) for name, value in match.groupdict().items()}
    lines = (SAMPLES / "events.jsonl").read_bytes().rstrip(b"\n").split(b"\n")
    assert sums["events"] == len(lines) >= 250
    assert sums["lost"] == sums["duplicated"] == 0
    unreadable = sum(1 for line in lines if not _expected_to_be_read(line))
    assert sums["verdicts"] == len(lines) - unreadable
    assert sums["dead_letters"] > unreadable
    assert sums["ood"] > 0
    assert not parts_of_demos() - before


def _expected_to_be_read(line: bytes) -> bool:
    """The samples mark what is unreadable by an id that starts with `broken`; one more is over the limit for a record."""
    return b"broken-" not in line and len(line) <= LimitSettings().max_event_bytes


def test_a_file_of_ones_own_is_judged(tmp_path: Path) -> None:
    own = tmp_path / "own.jsonl"
    texts = ["Lovely weather today.", "How do I build a pipe bomb at home?", "not json"]
    own.write_text(
        "".join(
            json.dumps({"id": f"own-{n}", "user_text": text, "occurred_at": "2026-01-01T00:00:00Z"}) + "\n"
            if text != "not json"
            else text + "\n"
            for n, text in enumerate(texts)
        )
    )
    done = run_demo("--events", str(own))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.rstrip("\n").splitlines()[-1].startswith("events=3 verdicts=2 dead_letters=1 ")
    seen = Counter(word for line in done.stdout.splitlines() if "own-" in line for word in line.split())
    assert seen["safe"] == 1
    assert seen["unsafe"] == 1


def test_the_real_model_class_ends_in_sums_that_match_and_says_that_its_verdicts_mean_nothing(tmp_path: Path) -> None:
    lines = (SAMPLES / "events.jsonl").read_bytes().splitlines(keepends=True)
    some = tmp_path / "some.jsonl"
    some.write_bytes(b"".join(line for line in lines[::24] if _expected_to_be_read(line)))
    done = run_demo("--guard", "proguard", "--events", str(some), "--quiet")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    match = LAST_LINE.fullmatch(done.stdout.rstrip("\n").splitlines()[-1])
    assert match, done.stdout[-500:]
    sums = {name: int(value) for name, value in match.groupdict().items()}
    assert sums["events"] == sums["verdicts"] == len(some.read_bytes().splitlines())
    assert sums["lost"] == sums["duplicated"] == 0
    assert "mean nothing" in " ".join(done.stdout.split())
    # Held to the grammar and to the policy's ids, even noise can be read.
    assert "guard_unparsable" not in done.stdout
    assert not parts_of_demos()
