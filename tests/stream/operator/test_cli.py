"""What holds for every command."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.stream.operator.parts import run
from tests.support.services import REPOSITORY_ROOT

COMMANDS = [
    ["worker"],
    ["doctor"],
    ["demo"],
    ["topics", "create"],
    ["events", "send"],
    ["verdicts", "tail"],
    ["redrive"],
    ["policy", "show"],
    ["policy", "validate"],
    ["policy", "digest"],
]


def test_help_lists_every_command() -> None:
    text = run("--help").stdout
    assert all(f" {command[0]} " in text for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_explains_itself(command: list[str]) -> None:
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert len(result.stdout) > 100


def test_an_unknown_command_is_refused() -> None:
    assert run("wroker").exit_code == 2


def test_the_version_is_told() -> None:
    assert run("--version").stdout.startswith("proguard-stream ")


def test_wrong_settings_are_a_red_line_and_no_traceback() -> None:
    for command in (["topics", "create"], ["verdicts", "tail"], ["events", "send", "-"]):
        result = run(*command, environment={"PROGUARD_KAFKA__GROUPID": "x"})
        assert result.exit_code == 2
        assert result.stderr == (
            "PROGUARD_KAFKA__GROUPID: there is no such setting; did you mean PROGUARD_KAFKA__GROUP_ID?\n"
        )
        assert result.stdout == ""


def test_a_reader_that_goes_away_is_no_fault_of_ours() -> None:
    show = [sys.executable, "-m", "stream.operator.cli", "policy", "show", "--json"]
    with subprocess.Popen(show, cwd=REPOSITORY_ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.close()
        assert child.stderr is not None
        errors = child.stderr.read()
        child.wait(30)
    assert b"Traceback" not in errors
    assert b"Exception" not in errors


def test_a_quick_command_does_not_load_the_guards_client() -> None:
    """Half of the start-up time and 40 MB: only the worker, the doctor and the demo pay it."""
    code = "import sys, stream.operator.cli; print(sorted({'numpy', 'grpc', 'obstore', 'uvloop'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY_ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr
