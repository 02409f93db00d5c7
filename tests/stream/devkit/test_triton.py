"""A real tritonserver: ready means answered, and it leaves no process and no shared memory."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tritonclient.utils import InferenceServerException

from stream.devkit.process import ChildDiedError
from stream.devkit.triton import TritonServer, installation, triton_environment
from stream.errors import DevkitError
from tests.stream.devkit.parts import (
    ECHO,
    ask_echo,
    echo_answers,
    eventually,
    kill_guardian_of,
    processes_about,
    shared_memory,
    write_echo_model,
)


def echo_server(folder: Path, environment: Path) -> TritonServer:
    repository = write_echo_model(folder / "models")
    return TritonServer(repository, environment, folder / "run", models=[ECHO], ready=echo_answers)


def test_it_answers_bytes_again_after_pause_kill_and_restart_and_leaves_nothing(
    tmp_path: Path, triton_env: Path
) -> None:
    server = echo_server(tmp_path, triton_env)
    with server:
        assert ask_echo(server.grpc_url, "ünïcode ✓") == "ünïcode ✓"
        assert shared_memory(server.shm_prefix), "the prefix is not the one that the backend uses"

        server.pause()
        with pytest.raises(InferenceServerException, match="Deadline"):
            ask_echo(server.grpc_url)
        server.resume()
        assert eventually(lambda: ask_echo(server.grpc_url, "again") == "again")

        address = server.grpc_url
        server.kill()
        assert not shared_memory(server.shm_prefix)
        assert not processes_about(tmp_path)

        server.start()
        assert server.grpc_url == address
        server.restart()
        assert ask_echo(server.grpc_url) == "ping"
    assert not shared_memory(server.shm_prefix)
    assert not processes_about(tmp_path)


def test_stop_cleans_up_even_after_a_server_whose_guardian_was_killed(tmp_path: Path, triton_env: Path) -> None:
    server = echo_server(tmp_path, triton_env)
    server.start()
    kill_guardian_of(server.pid)
    server.stop()
    assert eventually(lambda: not processes_about(tmp_path))
    assert not shared_memory(server.shm_prefix)


def test_a_model_that_cannot_be_loaded_ends_the_start_at_once_with_its_reason(tmp_path: Path, triton_env: Path) -> None:
    repository = write_echo_model(tmp_path / "models", "raise RuntimeError('the weights have no manifest')")
    server = TritonServer(repository, triton_env, tmp_path / "run", models=[ECHO], ready=echo_answers)
    started = time.monotonic()
    with pytest.raises(ChildDiedError, match="the weights have no manifest"):
        server.start()
    assert time.monotonic() - started < 30
    assert not shared_memory(server.shm_prefix)
    assert not processes_about(tmp_path)


def test_a_server_that_never_answers_is_ended_and_the_last_answer_is_told(tmp_path: Path, triton_env: Path) -> None:
    repository = write_echo_model(tmp_path / "models")

    def wrong(url: str) -> bool:
        raise ValueError(f"{ask_echo(url)} is not what was asked for")

    server = TritonServer(repository, triton_env, tmp_path / "run", models=[ECHO], ready=wrong, start_timeout=3)
    with pytest.raises(DevkitError, match="ping is not what was asked for"):
        server.start()
    assert not shared_memory(server.shm_prefix)
    assert not processes_about(tmp_path)


def test_a_missing_environment_names_the_command_that_builds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PROGUARD_TRITON_ENV", raising=False)
    with pytest.raises(DevkitError, match=r"make \.venv-triton"):
        triton_environment(tmp_path)
    (tmp_path / "elsewhere" / "bin").mkdir(parents=True)
    (tmp_path / "elsewhere" / "bin" / "python").touch()
    monkeypatch.setenv("PROGUARD_TRITON_ENV", str(tmp_path / "elsewhere"))
    assert triton_environment(tmp_path) == tmp_path / "elsewhere"


def test_an_environment_without_tritonserver_is_refused(tmp_path: Path, triton_env: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to((triton_env / "bin" / "python").resolve())
    with pytest.raises(DevkitError, match="has no tritonserver"):
        installation(tmp_path)
