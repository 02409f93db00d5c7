"""`model list|load|unload` on a real tritonserver."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from stream.devkit.triton import TritonServer
from tests.stream.operator.models.parts import MODEL, add_version, loaded, make_repository, versioned_triton
from tests.stream.operator.parts import NOBODY, document, run


@pytest.fixture
def triton(tmp_path: Path, triton_env: Path) -> Iterator[TritonServer]:
    repository = make_repository(tmp_path)
    add_version(repository, 2)
    add_version(repository, 3, "refuses")
    with versioned_triton(repository, triton_env, tmp_path / "triton") as server:
        yield server


def command(triton: TritonServer, *arguments: str | Path) -> Result:
    return run("model", *arguments, "--url", triton.grpc_url, "--model", MODEL)


def rows(triton: TritonServer) -> dict[Any, Any]:
    result = command(triton, "list", "--json")
    return {row["version"]: row for row in document(result)["models"] if row["model"] == MODEL}


def test_list_tells_the_manifest_of_each_version_and_which_one_unpinned_requests_get(triton: TritonServer) -> None:
    assert command(triton, "load", "2").exit_code == 0
    found = rows(triton)
    assert {version: (row["manifest"], row["unpinned"]) for version, row in found.items()} == {
        1: ("manifest-1", False),
        2: ("manifest-2", True),
    }
    table = command(triton, "list")
    assert table.exit_code == 0
    assert "manifest-2" in table.stdout


def test_what_is_loaded_with_the_repository_holds_after_a_restart_and_what_is_not_does_not(
    triton: TritonServer,
) -> None:
    result = command(triton, "load", "2", "--only")
    assert result.exit_code == 0, result.stderr
    assert "restarts" in result.stderr
    assert loaded(triton.grpc_url) == [2]
    triton.restart()
    assert loaded(triton.grpc_url) == [1]
    result = command(triton, "load", "2", "--only", "--repository", triton.repository)
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    triton.restart()
    assert loaded(triton.grpc_url) == [2]


@pytest.mark.parametrize("with_repository", [True, False])
def test_a_version_that_refuses_to_load_says_why_and_what_ran_goes_on(
    triton: TritonServer, with_repository: bool
) -> None:
    where = ("--repository", triton.repository) if with_repository else ()
    config = triton.repository / MODEL / "config.pbtxt"
    before = config.read_text()
    result = command(triton, "load", "3", *where)
    assert result.exit_code == 2
    assert "there is no manifest beside the weights" in result.stderr
    assert "Traceback" not in result.stderr
    assert loaded(triton.grpc_url) == [1]
    assert config.read_text() == before
    assert "no manifest" in rows(triton)[3]["reason"]


def test_unload_returns_when_the_version_has_gone_and_list_says_that_no_guard_answers(triton: TritonServer) -> None:
    assert command(triton, "load", "2").exit_code == 0
    assert document(command(triton, "unload", "2", "--json")) == {"loaded": [1]}
    assert rows(triton)[2]["state"] == "UNAVAILABLE"
    assert document(command(triton, "unload", "--json")) == {"loaded": []}
    assert command(triton, "list").exit_code == 1
    again = command(triton, "unload", "1")
    assert again.exit_code == 2
    assert "not loaded" in again.stderr
    blind = command(triton, "load", "1")
    assert blind.exit_code == 2
    assert "--repository" in blind.stderr
    assert document(command(triton, "load", "--json")) == {"loaded": [1]}


def test_a_version_that_is_not_there_is_one_clear_line(triton: TritonServer) -> None:
    result = command(triton, "load", "7", "--repository", triton.repository)
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert loaded(triton.grpc_url) == [1]


def test_a_server_that_is_not_there_is_one_clear_line() -> None:
    result = run("model", "list", "--url", NOBODY)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert NOBODY in line


def test_an_http_address_is_one_clear_line_that_says_what_to_give() -> None:
    result = run("model", "list", "--url", "http://127.0.0.1:8000", "--model", MODEL)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert "--url" in line
