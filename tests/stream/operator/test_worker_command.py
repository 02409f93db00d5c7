"""`proguard-stream worker`: what it says, how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from pydantic import BaseModel

from stream.devkit.mock_kafka import MockKafka
from stream.errors import DeliveryError
from stream.operator import worker_command
from stream.settings import WorkerSettings
from stream.settings_sources import flag, variable
from stream.worker.service import WorkerService
from tests.stream.operator.parts import NOBODY, run
from tests.support.services import REPOSITORY_ROOT


@pytest.fixture(autouse=True)
def _no_lasting_logs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Logs are set up for a whole process: here they must not outlive the stream that a test reads."""
    monkeypatch.setattr(worker_command, "configure_logs", lambda *_: None)
    monkeypatch.setenv("GRPC_EXPERIMENTS", "")
    with structlog.testing.capture_logs():
        yield


def settings_of(model: type[BaseModel], at: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str | None]]:
    """Every setting with its description."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from settings_of(kind, (*at, name))
        else:
            yield (*at, name), field.description


def test_help_shows_every_setting_with_flag_variable_and_description() -> None:
    result = run("worker", "--help")
    assert result.exit_code == 0
    text = " ".join(result.stdout.split())
    found = list(settings_of(WorkerSettings))
    assert len(found) > 45
    for path, description in found:
        assert description, f"{path} has no description"
        assert f"{flag(path)} " in text
        assert f"[env: {variable(path)}]" in text
        assert " ".join(description.split())[:40] in text
    for told in ("PROGUARD_KAFKA__GROUP_ID=NAME", "--config FILE", "PROGUARD_CONFIG", "Exit status"):
        assert told in text


def test_grpc_is_kept_in_one_thread_unless_somebody_has_said_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    worker_command._keep_grpc_in_one_thread()
    assert os.environ["GRPC_EXPERIMENTS"] == ""
    monkeypatch.delenv("GRPC_EXPERIMENTS")
    worker_command._keep_grpc_in_one_thread()
    assert os.environ["GRPC_EXPERIMENTS"] == "-event_engine_client"


def test_grpc_is_told_before_it_is_imported() -> None:
    script = (
        "import os, sys\n"
        "from stream.operator import cli, worker_command\n"
        "worker_command._keep_grpc_in_one_thread = lambda: os._exit(int('grpc' in sys.modules) + 10)\n"
        "sys.argv[1:] = ['worker']\n"
        "cli.main()\n"
    )
    assert subprocess.run([sys.executable, "-c", script], timeout=60, check=False).returncode == 10


@pytest.mark.parametrize(("experiment", "known"), [("-event_engine_client", True), ("-no_such_experiment", False)])
def test_the_grpc_of_the_lock_knows_the_experiment_that_is_turned_off(experiment: str, known: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import grpc"],
        env={**os.environ, "GRPC_EXPERIMENTS": experiment},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert ("Unknown experiment" not in done.stderr) == known


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--kafka.grup-id", "x"], "--kafka.grup-id"),
        (["stray"], "stray"),
        (["--kafka.group-id"], "expected one argument"),
        (["--limits.deadline-s", "0"], "limits.deadline_s"),
        (["--evidence.stores", "{"], "evidence.stores"),
        (["--config", "/no/such/file"], "/no/such/file"),
        (["--policy-path", "/no/such/policy"], "/no/such/policy"),
        (["--kafka.properties", "no.such.property=1", "--health.port", "0"], "no.such.property"),
    ],
)
def test_a_worker_that_cannot_start_says_why_in_one_line_and_ends_with_2(arguments: list[str], says: str) -> None:
    result = run("worker", *arguments, environment={"PROGUARD_KAFKA__BOOTSTRAP_SERVERS": NOBODY})
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    assert says in line
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("failure", "says"),
    [
        (DeliveryError("moderation.verdicts", "refused"), "could not write to moderation.verdicts: refused"),
        (RuntimeError("quotes content"), "a fault of the worker itself (RuntimeError)"),
    ],
)
def test_a_failure_while_running_ends_with_1_and_without_a_traceback(
    failure: Exception, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_service: WorkerService, **_arguments: object) -> None:
        raise failure

    monkeypatch.setattr(WorkerService, "run", fail)
    result = run("worker")
    assert result.exit_code == 1
    assert says in result.stderr
    assert "Traceback" not in result.stderr
    assert "quotes content" not in result.stderr


def test_a_signal_ends_a_real_worker_with_0(tmp_path: Path) -> None:
    mine = {name: value for name, value in os.environ.items() if not name.startswith("PROGUARD_")}
    config = tmp_path / "worker.yaml"
    with MockKafka() as kafka, contextlib.ExitStack() as stack:
        config.write_text(f"kafka: {{bootstrap_servers: '{kafka.bootstrap}'}}\nguard: {{url: '{NOBODY}'}}\n")
        command = [sys.executable, "-m", "stream.operator.cli", "worker", "--config", str(config), "--health.port", "0"]
        child = stack.enter_context(
            subprocess.Popen(command, env=mine, cwd=REPOSITORY_ROOT, stderr=subprocess.PIPE, start_new_session=True)
        )
        stack.callback(child.kill)
        assert child.stderr is not None
        started = next(line for line in map(json.loads, child.stderr) if line["event"] == "worker.started")
        with urllib.request.urlopen(f"http://127.0.0.1:{started['health_port']}/live", timeout=5) as answer:
            assert json.load(answer)["polls"]
        child.send_signal(signal.SIGTERM)
        _, log = child.communicate(timeout=60)
        assert child.returncode == 0, log
    assert b"worker.stopped" in log
