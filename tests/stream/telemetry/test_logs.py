from __future__ import annotations

import json
import subprocess
import sys

from stream.telemetry.logs import frames

SCRIPT = """
import sys
import structlog
from stream.telemetry.logs import configure_logs, frames
log = structlog.get_logger("before")
configure_logs(sys.argv[1], sys.argv[2])
log.debug("a.debug", n=1)
log.info("an.info", n=2, text="line one\\nline two")
log.error("an.error", n=3)
"""


def run(level: str, style: str) -> subprocess.CompletedProcess[str]:
    # A process of its own: structlog's configuration is the process's.
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, level, style], capture_output=True, text=True, timeout=60, check=True
    )


def test_json_is_one_object_a_line_on_standard_error() -> None:
    done = run("debug", "json")
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert done.stdout == ""
    assert [(line["event"], line["level"], line["n"]) for line in lines] == [
        ("a.debug", "debug", 1),
        ("an.info", "info", 2),
        ("an.error", "error", 3),
    ]
    assert all(line["timestamp"].endswith("Z") for line in lines)


def test_what_is_below_the_level_is_not_logged() -> None:
    assert [json.loads(line)["event"] for line in run("error", "json").stderr.splitlines()] == ["an.error"]


def test_a_console_that_is_no_terminal_gets_no_colours() -> None:
    text = run("info", "console").stderr
    assert "an.info" in text
    assert "\x1b" not in text


def test_frames_say_where_and_never_what() -> None:
    def innermost() -> None:
        raise ValueError("the secret words")

    try:
        innermost()
    except ValueError as error:
        found = frames(error)
    assert [frame.partition(":")[0] for frame in found] == ["test_frames_say_where_and_never_what", "innermost"]
    assert "secret" not in str(found)


def test_frames_are_bounded_and_the_innermost_are_kept() -> None:
    def down(levels: int) -> None:
        if levels == 0:
            raise ValueError
        down(levels - 1)

    try:
        down(50)
    except ValueError as error:
        found = frames(error, limit=3)
    assert [frame.partition(":")[0] for frame in found] == ["down"] * 3
