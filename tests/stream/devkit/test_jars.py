"""Half a download never counts, and two processes never download at the same time."""

from __future__ import annotations

import fcntl
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stream.devkit.jars import cache_folder, jars_folder, kafka_jars, verify
from stream.devkit.process import StartCancelledError
from stream.errors import DevkitError
from tests.stream.devkit.parts import eventually

FAKE_MAVEN = """#!/bin/sh
echo run >> "$(dirname "$0")/runs"
for argument in "$@"; do
  case "$argument" in -DoutputDirectory=*) mkdir -p "${argument#*=}"; echo half > "${argument#*=}/kafka.jar";; esac
done
echo "[INFO] Downloaded from central: kafka.jar"
%s
"""


def fake_maven(folder: Path, end: str) -> str:
    script = folder / "mvn"
    script.write_text(FAKE_MAVEN % end, encoding="utf-8")
    script.chmod(0o755)
    return str(script)


@pytest.mark.parametrize(
    ("end", "complaint"),
    [("echo '[ERROR] no route to host'; exit 1", "no route to host"), ("exit 0", "other files.*kafka.jar")],
)
def test_a_download_that_failed_or_differs_from_the_pins_leaves_nothing_in_the_cache(
    tmp_path: Path, end: str, complaint: str
) -> None:
    cache = tmp_path / "cache"
    with pytest.raises(DevkitError, match=complaint):
        kafka_jars(cache, maven=fake_maven(tmp_path, end))
    assert [path.name for path in cache.iterdir()] == ["kafka.lock"]


def test_what_a_killed_download_left_is_removed_by_the_next_one(tmp_path: Path) -> None:
    leftover = tmp_path / "cache" / "kafka-download-killed"
    leftover.mkdir(parents=True)
    with pytest.raises(DevkitError):
        kafka_jars(tmp_path / "cache", maven=fake_maven(tmp_path, "exit 1"))
    assert not leftover.exists()


def test_who_comes_second_waits_for_the_first_and_then_finds_the_jars(tmp_path: Path) -> None:
    told: list[str] = []
    with (tmp_path / "kafka.lock").open("w") as lock, ThreadPoolExecutor(1) as pool:
        fcntl.flock(lock, fcntl.LOCK_EX)
        second = pool.submit(kafka_jars, tmp_path, announce=told.append, maven=fake_maven(tmp_path, "exit 1"))
        assert eventually(lambda: any("waiting for another process" in line for line in told))
        jars_folder(tmp_path).mkdir()
        fcntl.flock(lock, fcntl.LOCK_UN)
        assert second.result(10) == jars_folder(tmp_path)
    assert not (tmp_path / "runs").exists()


def test_a_download_can_be_given_up(tmp_path: Path) -> None:
    cancelled = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        slow = fake_maven(tmp_path, "exec sleep 300")
        download = pool.submit(kafka_jars, tmp_path / "cache", cancelled=cancelled, maven=slow)
        assert eventually((tmp_path / "runs").exists)
        cancelled.set()
        with pytest.raises(StartCancelledError):
            download.result(20)


def test_without_maven_the_error_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(DevkitError, match="install Maven"):
        kafka_jars(tmp_path / "cache", maven="mvn-that-is-not-there")


def test_a_missing_a_changed_and_an_additional_jar_are_all_noticed(tmp_path: Path) -> None:
    for name in ("same.jar", "changed.jar", "additional.jar"):
        (tmp_path / name).write_bytes(b"")
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    verify(tmp_path, "".join(f"{empty}  {name}.jar\n" for name in ("same", "changed", "additional")))
    with pytest.raises(DevkitError, match=r"additional\.jar, changed\.jar, missing\.jar"):
        verify(tmp_path, f"{empty}  same.jar\n{'0' * 64}  changed.jar\n{empty}  missing.jar\n")


def test_the_cache_can_be_moved_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROGUARD_STREAM_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("PROGUARD_STREAM_CACHE")
    monkeypatch.setitem(os.environ, "HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/.cache/proguard-stream")
