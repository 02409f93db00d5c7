"""The jars of a Kafka broker: resolved by Maven from `pom.xml`, pinned by `kafka-jars.sha256`, kept in a cache."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from stream.devkit.process import Announce, ChildProcess, StartCancelledError, silent
from stream.errors import DevkitError

KAFKA_VERSION = "4.1.0"
DOWNLOAD_SECONDS = 600.0
LOCK_POLL_SECONDS = 0.2
ANNOUNCE_EVERY_FILES = 25


def cache_folder() -> Path:
    """`$PROGUARD_STREAM_CACHE`, or `~/.cache/proguard-stream`. Not created."""
    configured = os.environ.get("PROGUARD_STREAM_CACHE")
    return Path(configured).expanduser() if configured else Path.home() / ".cache" / "proguard-stream"


def jars_folder(cache: Path) -> Path:
    """Where `kafka_jars` puts what it resolved. The folder exists only when it is complete and verified."""
    pinned = hashlib.sha256(_resource("kafka-jars.sha256").encode()).hexdigest()
    return cache / f"kafka-{KAFKA_VERSION}-{pinned[:12]}"


def kafka_jars(
    cache: Path, *, announce: Announce = silent, cancelled: threading.Event | None = None, maven: str = "mvn"
) -> Path:
    """The folder with the broker's jars, downloaded on the first call (43 MB) and returned at once on every later one.

    Processes that call it at the same time take turns. A download counts only when every file is there with its pinned
    SHA-256: it happens in a folder beside the final one, which is then renamed. Raises DevkitError when Maven is missing
    or fails (with the end of its output) or a file differs, `StartCancelledError` when the event is set.
    """
    final = jars_folder(cache)
    if final.is_dir():
        return final
    if shutil.which(maven) is None:
        raise DevkitError("Apache Kafka's jars are resolved by Maven, and there is no `mvn` on the PATH: install Maven")
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / "kafka.lock", announce, cancelled or threading.Event()):
        if not final.is_dir():
            _download(final, announce, cancelled, maven)
    return final


def verify(folder: Path, pinned: str) -> None:
    """Raises DevkitError unless `folder` holds exactly the files of `pinned` (`sha256sum`'s format)."""
    expected = {name: digest for digest, name in (line.split() for line in pinned.splitlines())}
    found = {path.name: _sha256(path) for path in folder.glob("*.jar")}
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if wrong:
        raise DevkitError(f"Maven resolved other files for Kafka than the pinned ones: {', '.join(wrong)}")


def _download(final: Path, announce: Announce, cancelled: threading.Event | None, maven: str) -> None:
    for leftover in final.parent.glob(
        "kafka-download-*"
    ):  # of a process that was killed: only the lock's owner is here
        shutil.rmtree(leftover, ignore_errors=True)
    announce(f"Kafka: downloading Apache Kafka {KAFKA_VERSION} by Maven (43 MB, once, into {final.parent})")
    scratch = Path(tempfile.mkdtemp(prefix="kafka-download-", dir=final.parent))
    try:
        (scratch / "pom.xml").write_text(_resource("pom.xml"), encoding="utf-8")
        jars = scratch / "jars"
        command: list[str | Path] = [maven, "--batch-mode", "--strict-checksums", "-f", scratch / "pom.xml"]
        goal = ["dependency:copy-dependencies", f"-DoutputDirectory={jars}"]
        log = scratch / "mvn.log"
        with ChildProcess([*command, *goal], name="mvn", log=log, discard_if_orphaned=[scratch]) as child:
            status = _follow(child, announce, cancelled)
        if status != 0:
            raise DevkitError(f"Maven could not resolve Kafka's jars (status {status}):\n{child.log_tail()}")
        verify(jars, _resource("kafka-jars.sha256"))
        jars.rename(final)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    announce("Kafka: downloaded and verified")


def _follow(child: ChildProcess, announce: Announce, cancelled: threading.Event | None) -> int:
    told = 0

    def tell() -> bool:
        nonlocal told
        fetched = child.log.read_text(encoding="utf-8", errors="replace").count("Downloaded from")
        if fetched >= told + ANNOUNCE_EVERY_FILES:
            told = fetched
            announce(f"Kafka: {fetched} files fetched")
        return False

    return child.wait(DOWNLOAD_SECONDS, cancelled=cancelled, meanwhile=tell)


@contextlib.contextmanager
def _locked(path: Path, announce: Announce, cancelled: threading.Event) -> Iterator[None]:
    """The kernel's lock on a file: it goes with its owner, so that a killed download never blocks the next one."""
    deadline = time.monotonic() + DOWNLOAD_SECONDS
    told = False
    with path.open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not told:
                    announce("Kafka: waiting for another process that is downloading the same jars")
                    told = True
            else:
                break
            if time.monotonic() >= deadline:
                raise DevkitError(f"another process has held {path} for {DOWNLOAD_SECONDS:g} s")
            if cancelled.wait(LOCK_POLL_SECONDS):
                raise StartCancelledError("the download of Kafka's jars was given up")
        yield


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _resource(name: str) -> str:
    return (files("stream.devkit") / name).read_text(encoding="utf-8")
